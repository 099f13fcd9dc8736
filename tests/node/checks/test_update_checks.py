"""What `node check` says of updates: whose, and whether there is room."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node.checks.update_checks import update_findings
from node.findings import Finding, Grade
from node.settings import UpdateSection
from tests.rig.signers import SECOND, SIGNER, TRUSTED

ROOT = Path(__file__).parents[3]
needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Both keys, as an operator leaves them."""
    path = tmp_path / "release keys.pem"
    path.write_bytes(SIGNER.public_pem + SECOND.public_pem)
    path.chmod(0o644)
    return path


def check(keys_file: Path | None, state_folder: Path, *, disk_mb: int = 64) -> list[Finding]:
    update = UpdateSection(
        keys_file=None if keys_file is None else str(keys_file), disk_mb=disk_mb, max_release_mb=1
    )
    return list(update_findings(update, state_folder))


def test_node_without_keys_says_how_to_take_updates(tmp_path: Path) -> None:
    """That is a choice, and so no warning."""
    (finding,) = check(None, tmp_path)

    assert finding.grade is Grade.OK
    assert "takes none" in finding.found
    assert "[update] keys_file" in finding.found


def test_keys_are_named_by_their_ids(keys: Path, tmp_path: Path) -> None:
    """So that an operator can compare them with what signs."""
    whose, room = check(keys, tmp_path)

    assert (whose.grade, room.grade) == (Grade.OK, Grade.OK)
    assert whose.found == (
        f"takes releases and orders signed by {min(TRUSTED)[:12]} or {max(TRUSTED)[:12]}"
    )


def test_one_key_is_enough(keys: Path, tmp_path: Path) -> None:
    """The second one is for the day when the first is lost."""
    keys.write_bytes(SIGNER.public_pem)

    (whose, _) = check(keys, tmp_path)

    assert whose.found == f"takes releases and orders signed by {SIGNER.key_id[:12]}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expected 1 to 2 public keys in PEM, got 0"),
        (SIGNER.public_pem * 3, "got 3"),
        (SIGNER.public_pem + b"x" * 100_000, "something behind them"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "Ed25519 public keys"),
    ],
)
def test_file_of_something_else_is_a_problem(
    keys: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    """It is named, with what was expected and where keys come from."""
    keys.write_bytes(content)

    (finding,) = check(keys, tmp_path)

    assert (finding.check, finding.grade) == ("updates", Grade.PROBLEM)
    assert finding.found.startswith(f"{keys}: ")
    assert words in finding.found
    assert finding.advice is not None
    assert "fleet keys show" in finding.advice


def test_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a folder, is told with the system's reason."""
    (nowhere,) = check(tmp_path / "none.pem", tmp_path)
    (folder,) = check(tmp_path, tmp_path)

    assert nowhere.grade is folder.grade is Grade.PROBLEM
    assert nowhere.found == f"{tmp_path}/none.pem: cannot be read: No such file or directory"
    assert folder.found == f"{tmp_path}: cannot be read: Is a directory"


@needs_permissions
def test_file_of_somebody_else_is_a_problem(keys: Path, tmp_path: Path) -> None:
    """Root may have left it closed to the node's user."""
    keys.chmod(0)

    (finding,) = check(keys, tmp_path)

    assert finding.found == f"{keys}: cannot be read: Permission denied"


def test_keys_that_anybody_may_change_are_a_problem(keys: Path, tmp_path: Path) -> None:
    """Whoever writes that file decides what runs here."""
    keys.chmod(0o666)

    whose, _ = check(keys, tmp_path)

    assert whose.grade is Grade.PROBLEM
    assert whose.advice == f"chmod o-w '{keys}'"


def test_room_counts_what_releases_take_already(keys: Path, tmp_path: Path) -> None:
    """Releases and downloads share one budget; nothing else in the folder is counted."""
    state = tmp_path / "state"
    for name in ("releases/fan-1-abc/model.tflite", "downloads/abc.part", "elsewhere/big"):
        (state / name).parent.mkdir(parents=True)
        (state / name).write_bytes(bytes(1024 * 1024))

    _, room = check(keys, state)

    assert (room.check, room.grade) == ("update room", Grade.OK)
    assert "2 of 64 MB used" in room.found


def test_disk_without_room_is_a_warning(keys: Path, tmp_path: Path) -> None:
    """The node runs on; its next update may not."""
    more_than_is_free_mb = shutil.disk_usage(tmp_path).free // 1024 // 1024 * 2

    _, room = check(keys, tmp_path / "not" / "made", disk_mb=more_than_is_free_mb)

    assert room.grade is Grade.WARNING
    assert "may not fit" in room.found
    assert not (tmp_path / "not").exists()


def test_node_without_keys_loads_no_cryptography(tmp_path: Path) -> None:
    """It costs 12 MB; who takes no updates pays nothing."""
    code = (
        "import sys; from pathlib import Path; from node.settings import UpdateSection;"
        "from node.checks.update_checks import update_findings;"
        "list(update_findings(UpdateSection(), Path('/')));"
        "sys.exit('cryptography' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)

    assert done.returncode == 0
