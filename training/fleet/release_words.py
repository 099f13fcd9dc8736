"""A release in words: what it is, what it decides on, and whose word is behind it."""

import base64
import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from contract.command_line import typed
from contract.errors import ReleaseError, SignatureError
from contract.printable import printable
from contract.release import (
    ENVELOPE_NAME,
    MANIFEST_NAME,
    Calibration,
    Manifest,
    Model,
    ReleaseFile,
    Threshold,
)
from contract.signature import MAX_ENVELOPE_BYTES, verified
from contract.signed_manifest import PAYLOAD_TYPE
from node.scoring.release_store import read_release
from training.fleet.keys import default_key_file, public_half, read_public_key_file
from training.fleet.rollout_tables import counted


class Described(NamedTuple):
    """A release in words."""

    lines: list[str]
    refused: bool
    """Nodes that trust the given keys would not take it on."""


class _SignatureWords(NamedTuple):
    text: str
    refused: bool


def describe_release(
    folder: Path,
    *,
    keys: Path | None,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> Described:
    """Read a release with everything that can be checked, and say what it is.

    Args:
        folder: the release's.
        keys: public keys that count; None takes those of whoever asks, if there are any.
        now_us: the time, to tell whether it is too old.

    Raises:
        ReleaseError: it is damaged.
        SignatureError: its signed manifest is damaged, or another release's.
        KeyFileError: the keys that were given cannot be read.
    """
    manifest = read_release(folder).manifest
    signature = _signature(folder, keys)
    expired = manifest.not_after_us is not None and now_us() > manifest.not_after_us
    rows = [
        ("release", f"{manifest.label} in {folder}"),
        ("", manifest.description),
        ("made", _utc(manifest.created_us)),
        ("valid", _validity(manifest, expired=expired)),
        ("signed", signature.text),
        ("manifest", f"sha256 {hashlib.sha256(_read(folder / MANIFEST_NAME)).hexdigest()}"),
        *(("file", _file(file)) for file in manifest.files),
        *(("model", _model(model)) for model in manifest.models),
        ("hears", _features(manifest)),
        ("decides on", _STATISTICS[manifest.statistic]),
        ("threshold", _threshold(manifest.threshold)),
        ("on site", _calibration(manifest.calibration)),
        ("self-test", _self_test(manifest)),
        ("runs in", ", ".join(manifest.runtimes) or "no library that is known"),
        ("trained", manifest.training.command),
    ]
    return Described(
        [printable(f"{what:<11}{text}") for what, text in rows], signature.refused or expired
    )


class _Signer(msgspec.Struct):
    keyid: str


class _Claimed(msgspec.Struct):
    """What an envelope says of itself, whoever wrote it."""

    payload: str
    signatures: tuple[_Signer, ...]


def _signature(folder: Path, keys: Path | None) -> _SignatureWords:
    """Who has signed it, checked as far as keys are at hand."""
    path = folder / ENVELOPE_NAME
    if not path.exists():
        return _SignatureWords(
            "no: nodes take it from a folder, not over MQTT;"
            f" `{typed(f'training release {folder} ...')}` signs",
            refused=False,
        )
    envelope = _read(path)
    own = public_half(default_key_file())
    source = keys or (own if own.exists() else None)
    trusted = False
    try:
        verified(envelope, PAYLOAD_TYPE, {} if source is None else read_public_key_file(source))
        trusted = True
    except SignatureError as error:
        if error.reason != "unknown_key":
            raise SignatureError(error.reason, f"{path}: {error}") from error
    claimed = msgspec.json.decode(envelope, type=_Claimed)
    if base64.b64decode(claimed.payload) != _read(folder / MANIFEST_NAME):
        raise ReleaseError(f"{path}: is signed, but for another manifest than {MANIFEST_NAME}")
    by = "by " + ", ".join(signer.keyid for signer in claimed.signatures)
    if trusted:
        return _SignatureWords(f"{by}, trusted by {source}", refused=False)
    if source is None:
        return _SignatureWords(f"{by}, not checked: no public key at hand (--keys)", refused=False)
    return _SignatureWords(
        f"{by}, not trusted by {source}: nodes with it refuse this", refused=True
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_ENVELOPE_BYTES + 1)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot read: {error.strerror}") from error


def _validity(manifest: Manifest, *, expired: bool) -> str:
    if manifest.not_after_us is None:
        return "for ever"
    until = f"until {_utc(manifest.not_after_us)}"
    return f"{until}: too old, nodes refuse it" if expired else until


def _file(file: ReleaseFile) -> str:
    messages = counted(file.chunks, "chunk")
    return f"{file.name}, {file.size_bytes} bytes in {messages}, sha256 {file.sha256}"


def _model(model: Model) -> str:
    parts = [f"{model.file}: {model.quantisation or 'quantisation not known'}"]
    if model.parameters is not None:
        parts.append(f"{model.parameters} parameters")
    parts.append(f"gives a {model.output}, of which the {_ERRORS[model.error]} counts")
    if model.operators:
        parts.append(f"operators {' '.join(model.operators)}")
    return ", ".join(parts)


def _features(manifest: Manifest) -> str:
    features = manifest.features
    rate_hz = features.sample_rate_hz
    rows, frames = features.shape
    return (
        f"{features.window_samples / rate_hz:g} s every {manifest.window_hop_samples / rate_hz:g} s"
        f" at {rate_hz} Hz, as {rows} x {frames} {_KINDS[features.kind]} ({features.n_mels} mel"
        f" bands of {features.fmin_hz:g} to {features.top_frequency_hz:g} Hz, spectra of"
        f" {features.n_fft} every {features.frame_hop_samples} samples)"
    )


def _threshold(threshold: Threshold) -> str:
    if threshold.false_alarm_rate is None:
        return f"{threshold.value:.4g}, {_METHODS[threshold.method]}"
    return (
        f"{threshold.value:.4g}, which {threshold.false_alarm_rate:.2g} of"
        f" {threshold.calibration_windows} normal windows of {_METHODS[threshold.method]} exceed"
    )


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "cannot be calibrated: no normal sound was at hand"
    expected = calibration.log_statistic
    return (
        f"calibrated with means of {calibration.block_seconds} s, for"
        f" {calibration.false_alarms_per_week:g} false alarms a week; log statistic of normal sound"
        f" in training {expected.mean:.3g} ± {expected.sd:.2g}"
    )


def _self_test(manifest: Manifest) -> str:
    if manifest.self_test is None:
        return f"none; `{typed('training release')}` makes one"
    expected = manifest.self_test
    return (
        f"the probe sound gives {expected.statistic:.6g} ± {expected.relative_tolerance:.1%}"
        f" (score {expected.statistic / manifest.threshold.value:.3g})"
    )


def _utc(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


_STATISTICS = {
    "error": "the model's error",
    "exp_sum_log_z": "exp of the sum of all models' standardised log errors",
}
_ERRORS = {"mse": "mean square", "time_mean_mse": "mean square of the mean over time"}
_KINDS = {"mfcc": "MFCC", "logmel": "log-mel bands in dB"}
_METHODS = {
    "held_out": "files that the model has not heard",
    "sessions_left_out": "sessions that the models have not heard",
    "given": "given by a person",
}
