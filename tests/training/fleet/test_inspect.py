"""Releases in words, and how far they can be trusted."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from contract.errors import EarshotError, KeyFileError, ReleaseError, SignatureError
from contract.release import ENVELOPE_NAME, MANIFEST_NAME, encode_manifest
from contract.signed_manifest import sign_manifest
from node.scoring.release_store import Release, read_release
from tests.rig.signers import SECOND, SIGNER, STRANGER
from tests.training.conftest import ROOT, RunTraining
from training.fleet.release_words import Described, describe_release
from training.release.pack import PackRequest, pack_release
from training.release.release_folder import put_release

RUN = ROOT / "models/fan-synthetic"
CREATED_US = 1_800_000_000_000_000  # 2027-01-15 08:00:00 UTC
DAY_US = 86_400_000_000


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give whoever asks a home of their own, without keys."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "earshot"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write the keys that nodes trust."""
    path = tmp_path / "release-keys.pem"
    path.write_bytes(SIGNER.public_pem + SECOND.public_pem)
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Pack a release."""
    out = tmp_path / "models/fan"
    request = PackRequest(
        trained=RUN,
        out=out,
        name="fan",
        version=7,
        description=None,
        valid_days=1,
        overwrite=False,
        tflite_python=None,
    )
    pack_release(request, SIGNER, note=lambda text: None, now_us=lambda: CREATED_US)
    return out


def described(folder: Path, keys: Path | None = None, *, days: float = 0.5) -> Described:
    """Describe it so many days after it was made."""
    return describe_release(folder, keys=keys, now_us=lambda: CREATED_US + round(days * DAY_US))


def row(found: Described, what: str) -> str:
    """Look up the row of that name."""
    (line,) = [line for line in found.lines if line.startswith(f"{what} ")]
    return line.removeprefix(what).strip()


def test_says_what_there_is_to_know(packed: Path, keys: Path) -> None:
    """Name, dates, signer, files, features, decision, self-test, libraries and training."""
    found = described(packed, keys)

    manifest = read_release(packed).manifest
    assert manifest.self_test is not None
    assert row(found, "release") == f"fan@7 in {packed}"
    assert row(found, "made") == "2027-01-15 08:00:00 UTC"
    assert row(found, "valid") == "until 2027-01-16 08:00:00 UTC"
    assert row(found, "signed") == f"by {SIGNER.key_id}, trusted by {keys}"
    (file,) = manifest.files
    assert row(found, "file") == f"profile.tflite, 18256 bytes in 1 chunk, sha256 {file.sha256}"
    assert row(found, "hears").startswith("2 s every 1 s at 16000 Hz, as 40 x 63 MFCC ")
    assert row(found, "threshold") == (
        "0.03407, which 0.001 of 5184 normal windows of sessions that the models have not heard"
        " exceed"
    )
    assert "FULLY_CONNECTED@1" in row(found, "model")
    assert f"{manifest.self_test.statistic:.6g} ± 5.0%" in row(found, "self-test")
    assert row(found, "runs in") == ", ".join(manifest.runtimes)
    assert row(found, "trained") == manifest.training.command
    assert not found.refused


def test_signer_that_is_not_trusted(packed: Path, tmp_path: Path) -> None:
    """It is said, and counts as refused."""
    keys = tmp_path / "others.pem"
    keys.write_bytes(STRANGER.public_pem)

    found = described(packed, keys)

    assert row(found, "signed").startswith(f"by {SIGNER.key_id}, not trusted by {keys}")
    assert found.refused


def test_own_key_counts_when_none_is_given(packed: Path, own_folder: Path) -> None:
    """The public half in its usual place; without it nothing is claimed."""
    without = described(packed)
    own_folder.mkdir(parents=True)
    (own_folder / "release-key.pub.pem").write_bytes(SIGNER.public_pem)
    with_own = described(packed)

    assert "not checked" in row(without, "signed")
    assert not without.refused
    assert "release-key.pub.pem" in row(with_own, "signed")
    assert ", trusted by" in row(with_own, "signed")


def test_too_old(packed: Path, keys: Path) -> None:
    """After its time nodes refuse it."""
    found = described(packed, keys, days=1.5)

    assert row(found, "valid").endswith("too old, nodes refuse it")
    assert found.refused


def test_unsigned_release() -> None:
    """What training wrote has no signature, no end and no self-test; that is no damage."""
    found = described(RUN)

    assert row(found, "signed").startswith("no: ")
    assert row(found, "valid") == "for ever"
    assert row(found, "self-test").startswith("none; ")
    assert not found.refused


def test_strangers_text_does_not_reach_the_terminal(tmp_path: Path) -> None:
    """Control characters of a description are not printed."""
    found = read_release(RUN)
    manifest = msgspec.structs.replace(found.manifest, description="\x1b[2Jnice\nsigned  by you")
    put_release(tmp_path / "odd", Release(manifest, found.files))

    lines = described(tmp_path / "odd").lines

    assert "?[2Jnice?signed  by you" in lines[1]


def change_manifest(folder: Path) -> None:
    """Write another threshold, and all of it canonical."""
    found = read_release(folder)
    threshold = msgspec.structs.replace(found.manifest.threshold, value=9.0)
    manifest = msgspec.structs.replace(found.manifest, threshold=threshold)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


def space_manifest(folder: Path) -> None:
    """Leave what it says, and change its bytes."""
    (folder / MANIFEST_NAME).write_bytes((folder / MANIFEST_NAME).read_bytes() + b"\n")


def sign_another(folder: Path) -> None:
    """Take the envelope of another version."""
    manifest = msgspec.structs.replace(read_release(folder).manifest, version=8)
    (folder / ENVELOPE_NAME).write_bytes(sign_manifest(manifest, SIGNER))


def change_payload(folder: Path) -> None:
    """Keep the signature, change what was signed."""
    change_manifest(folder)
    other = json.loads(sign_manifest(read_release(folder).manifest, STRANGER))
    envelope = json.loads((folder / ENVELOPE_NAME).read_bytes())
    envelope["payload"] = other["payload"]
    (folder / ENVELOPE_NAME).write_text(json.dumps(envelope))


def cut_envelope(folder: Path) -> None:
    """Leave half of it."""
    content = (folder / ENVELOPE_NAME).read_bytes()
    (folder / ENVELOPE_NAME).write_bytes(content[: len(content) // 2])


def fill_envelope(folder: Path) -> None:
    """Make it larger than any."""
    (folder / ENVELOPE_NAME).write_bytes(b" " * 9000)


def change_model(folder: Path) -> None:
    """Flip one bit."""
    content = bytearray((folder / "profile.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "profile.tflite").write_bytes(content)


def lose_model(folder: Path) -> None:
    """Take it away."""
    (folder / "profile.tflite").unlink()


DAMAGES: dict[Callable[[Path], None], tuple[type[EarshotError], str]] = {
    change_manifest: (ReleaseError, "for another manifest"),
    space_manifest: (ReleaseError, "for another manifest"),
    sign_another: (ReleaseError, "for another manifest"),
    cut_envelope: (SignatureError, "Expected a signed envelope"),
    fill_envelope: (SignatureError, "at most 8192 bytes"),
    change_model: (ReleaseError, "SHA-256"),
    lose_model: (ReleaseError, "cannot read profile.tflite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(packed: Path, keys: Path, damage: Callable[[Path], None]) -> None:
    """It says where and what, also without keys."""
    damage(packed)

    error, message = DAMAGES[damage]
    for given in (keys, None):
        with pytest.raises(error, match=message) as caught:
            described(packed, given)
        assert str(packed) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_signature_that_does_not_fit(packed: Path, keys: Path) -> None:
    """Envelope and manifest agree, and yet nobody has signed that; it takes the key to see it."""
    change_payload(packed)

    with pytest.raises(SignatureError, match=f"{ENVELOPE_NAME}: the signature does not fit"):
        described(packed, keys)
    assert "not checked" in row(described(packed), "signed")


def test_keys_that_cannot_be_read(packed: Path, tmp_path: Path) -> None:
    """Keys that were named are not silently left out."""
    with pytest.raises(KeyFileError, match=r"nowhere\.pem: no such file"):
        described(packed, tmp_path / "nowhere.pem")


def test_exit_codes(packed: Path, keys: Path, tmp_path: Path, run_training: RunTraining) -> None:
    """1 for what nodes would refuse, 2 and one line for what is damaged."""
    found = [run_training(["inspect", packed, "--keys", keys])]
    others = tmp_path / "others.pem"
    others.write_bytes(STRANGER.public_pem)
    found.append(run_training(["inspect", packed, "--keys", others]))
    change_model(packed)
    found.append(run_training(["inspect", packed, "--keys", keys]))

    assert [done.returncode for done in found] == [0, 1, 2]
    assert found[0].stdout.startswith("release    fan@7 in ")
    assert "not trusted by" in found[1].stdout
    assert (found[2].stdout, len(found[2].stderr.splitlines())) == ("", 1)
