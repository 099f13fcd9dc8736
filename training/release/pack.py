"""A trained run packed for a fleet: its next version, tried with the probe sound, signed.

What is packed are the run's models and figures as they are; nothing is trained or measured anew.
"""

import math
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import msgspec

from contract.command_line import typed
from contract.errors import ReleaseError
from contract.features import FeatureExtractor
from contract.release import (
    ENVELOPE_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    Model,
    SelfTest,
    decode_manifest,
)
from contract.signature import Signer
from contract.signed_manifest import sign_manifest
from node.scoring.probe import probe
from node.scoring.release_store import Release, read_release
from training.errors import DestinationError
from training.release.release_folder import MEASURED_NAMES, check_destination, put_release
from training.release.runtime_trial import RuntimeTrial
from training.release.runtimes import try_runtimes
from training.staging import staged_folder

Note = Callable[[str], None]

# What processors that are not at hand may differ by: the libraries do by 1e-6 with float weights,
# and by 3 % where their int8 kernels round apart. What computes something else is far off.
_LEAST_TOLERANCE = 0.05
_TOLERANCE_PER_SPREAD = 2.0
# The recipe `duo`, whose statistic multiplies the errors of two models, comes to 15 % in int8.
_MOST_SPREAD = 0.2
_DAY_US = 86_400_000_000


class PackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to pack, and as what."""

    trained: Path
    out: Path
    name: str | None
    """None is the run's."""
    version: int | None
    """None is the next of that name."""
    description: str | None
    """None is the run's."""
    valid_days: int
    overwrite: bool
    tflite_python: Path | None
    """Python of the environment that has tflite-runtime."""


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was packed, the key that has signed it, and which libraries have run it."""

    manifest: Manifest
    key_id: str
    trials: tuple[RuntimeTrial, ...]


def pack_release(
    request: PackRequest,
    signer: Signer,
    *,
    note: Note,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> Packed:
    """Write a signed release folder, whole or not at all.

    Raises:
        DestinationError: it may not or cannot be written there, or its version is taken.
        ReleaseError: the run is damaged, or its models do not stand the self-test.
    """
    _check_places(request)
    run = read_release(request.trained)
    name = request.name or run.manifest.name
    created_us = now_us()
    manifest = msgspec.structs.replace(
        run.manifest,
        name=name,
        version=_version(request, name, note),
        description=request.description or run.manifest.description,
        created_us=created_us,
        not_after_us=created_us + request.valid_days * _DAY_US,
    )
    trials = _try_probe(request, manifest, note)
    manifest = msgspec.structs.replace(
        manifest,
        self_test=_self_test(manifest, trials),
        models=tuple(_tried(model, run, trials) for model in manifest.models),
    )
    envelope = sign_manifest(manifest, signer)
    with staged_folder(request.out) as staging:
        put_release(staging, Release(manifest, run.files))
        (staging / ENVELOPE_NAME).write_bytes(envelope)
        for measured in MEASURED_NAMES:
            if (request.trained / measured).is_file():
                shutil.copyfile(request.trained / measured, staging / measured)
    return Packed(manifest=manifest, key_id=signer.key_id, trials=tuple(trials))


def packed_lines(packed: Packed, out: Path) -> list[str]:
    """What was packed, and what to do with it."""
    manifest = packed.manifest
    assert manifest.self_test is not None
    return [
        f"{manifest.label} in {out}: {manifest.models_bytes / 1e6:.2f} MB, signed by"
        f" {packed.key_id[:12]}; the probe gives {manifest.self_test.statistic:.4g} in"
        f" {', '.join(manifest.runtimes)}",
        f"next: {typed(f'fleet push {shlex.quote(str(out))} --to all')}",
    ]


def _check_places(request: PackRequest) -> None:
    out, trained = request.out.resolve(), request.trained.resolve()
    if out in (trained, *trained.parents):
        raise DestinationError(f"{request.out}: holds the run itself, which would be lost")
    check_destination(request.out, overwrite=request.overwrite)


def _version(request: PackRequest, name: str, note: Note) -> int:
    """The one asked for, or the next; two manifests never have the same version."""
    # Hidden ones are what an interrupted command has left.
    neighbours = request.out.absolute().parent.glob(f"[!.]*/{MANIFEST_NAME}")
    folders = {request.trained.absolute(), *(path.parent for path in neighbours)}
    taken: dict[int, Path] = {}
    for folder in sorted(folders):
        try:
            manifest = _read_manifest(folder)
        except ReleaseError as error:
            note(f"{folder} does not count for the version: {error}")
            continue
        if manifest.name == name:
            taken[manifest.version] = folder
    highest = max(taken, default=0)
    if request.version is None:
        return highest + 1
    if request.version <= highest:
        raise DestinationError(
            f"Expected a version of {name} above {highest}, which {taken[highest]} has, got"
            f" {request.version}: nodes never go back to a lower one by themselves"
        )
    return request.version


def _read_manifest(folder: Path) -> Manifest:
    try:
        with (folder / MANIFEST_NAME).open("rb") as stream:
            return decode_manifest(stream.read(MAX_MANIFEST_BYTES + 1))
    except OSError as error:
        raise ReleaseError(f"cannot read {MANIFEST_NAME}: {error.strerror}") from error


def _try_probe(request: PackRequest, manifest: Manifest, note: Note) -> list[RuntimeTrial]:
    """What the libraries at hand make of the probe; at least one has run it."""
    features = FeatureExtractor(manifest.features)(probe(manifest.features))
    (trials,) = try_runtimes([request.trained], features[None], tflite_python=request.tflite_python)
    ran = [trial for trial in trials if trial.outcome == "ran"]
    if not ran:
        raise ReleaseError(f"{request.trained}: {trials[0].reason}")
    for trial in trials:
        if trial.outcome != "ran":
            note(f"{trial.runtime} {trial.outcome}: {trial.reason}; nodes with it refuse this")
    return ran


def _self_test(manifest: Manifest, trials: Sequence[RuntimeTrial]) -> SelfTest:
    found = {}
    for trial in trials:
        assert trial.statistics is not None
        value = float(trial.statistics[0])
        if not 0 < value < math.inf:
            raise ReleaseError(
                f"{manifest.label}: expected a positive statistic of the probe sound in"
                f" {trial.runtime}, got {value}"
            )
        found[trial.runtime] = value
    first = next(iter(found.values()))
    spread = max(abs(value / first - 1) for value in found.values())
    if spread > _MOST_SPREAD:
        raise ReleaseError(
            f"{manifest.label}: expected statistics of the probe sound within"
            f" {_MOST_SPREAD:.0%} of each other, got"
            f" {', '.join(f'{value:.4g} in {runtime}' for runtime, value in found.items())}:"
            " take another quantisation"
        )
    return SelfTest(
        statistic=first,
        relative_tolerance=max(_LEAST_TOLERANCE, round(_TOLERANCE_PER_SPREAD * spread, 3)),
    )


def _tried(model: Model, run: Release, trials: Sequence[RuntimeTrial]) -> Model:
    return msgspec.structs.replace(
        model,
        runtimes=tuple(trial.runtime for trial in trials),
        operators=operator_versions(run.content(model)),
    )


def operator_versions(graph: bytes) -> tuple[str, ...]:
    """Kinds of operators of a TFLite graph with their versions, `FULLY_CONNECTED@12`.

    Empty where ai-edge-litert, whose schema reads them, is not installed.
    """
    try:
        # 20,000 lines without types.
        schema = import_module("ai_edge_litert.schema_py_generated")
    except ImportError:
        return ()
    model = schema.Model.GetRootAsModel(graph, 0)
    kinds = {number: kind for kind, number in vars(schema.BuiltinOperator).items()}
    found = set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Kinds up to 127 are in the old field, and may be in both.
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if kind == "CUSTOM":
            kind = code.CustomCode().decode()
        found.add(f"{kind}@{code.Version()}")
    return tuple(sorted(found))
