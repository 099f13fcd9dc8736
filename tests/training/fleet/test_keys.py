"""Key files: made once, read with care, shown."""

import stat
from pathlib import Path

import pytest

from contract.errors import KeyFileError, SignatureError
from contract.signature import read_public_keys, verified
from tests.rig.signers import SECOND, SIGNER
from tests.training.conftest import RunTraining
from training.fleet.keys import (
    ask_new_passphrase,
    create_key,
    default_key_file,
    load_signer,
    public_half,
    public_pems,
    read_passphrase,
    read_public_key_file,
)

PHRASE = "correct horse"


def nobody_is_asked(prompt: str) -> str:
    """Answer that there is no need for a pass phrase."""
    raise AssertionError(prompt)


def test_what_is_made_signs_and_its_public_half_trusts(tmp_path: Path) -> None:
    """A message signed with the file is verified with the one beside it, and by no other key."""
    created = create_key(tmp_path / "mine.pem", None)

    signer = load_signer(created.private, None, nobody_is_asked)
    envelope = signer.sign(b"hello", "text/plain")

    trusted = read_public_key_file(created.public)
    assert created.public == tmp_path / "mine.pub.pem"
    assert list(trusted) == [created.key_id] == [signer.key_id]
    assert verified(envelope, "text/plain", trusted) == b"hello"
    with pytest.raises(SignatureError):
        verified(envelope, "text/plain", read_public_keys(SIGNER.public_pem))


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """The private key has mode 0600, a folder made for it 0700; all may read the public half."""
    created = create_key(tmp_path / "config/earshot/key.pem", None)

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(created.private) == 0o600
    assert mode(created.public) & 0o022 == 0
    assert mode(created.private.parent) == 0o700
    assert sorted(path.name for path in created.private.parent.iterdir()) == [
        "key.pem",
        "key.pub.pem",
    ]


@pytest.mark.parametrize("there", ["key.pem", "key.pub.pem"])
def test_never_overwrites(tmp_path: Path, there: str) -> None:
    """Neither half is replaced, and then nothing is written."""
    (tmp_path / there).write_text("the only copy")

    with pytest.raises(KeyFileError, match="never overwritten"):
        create_key(tmp_path / "key.pem", None)

    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "the only copy"


def test_not_in_a_repository(tmp_path: Path) -> None:
    """A place inside a Git work tree is refused, unless it is meant."""
    (tmp_path / ".git").mkdir()
    path = tmp_path / "deep/in/it/key.pem"

    with pytest.raises(KeyFileError, match="--anyway"):
        create_key(path, None)
    assert not (tmp_path / "deep").exists()

    create_key(path, None, in_repository=True)
    assert path.exists()


def test_pass_phrase_is_asked_for_or_read(tmp_path: Path) -> None:
    """It comes from a person or a file's first line; a key that has none asks nobody."""
    key = create_key(tmp_path / "key.pem", PHRASE.encode())
    phrase_file = tmp_path / "phrase"
    phrase_file.write_text(f"{PHRASE}\r\nsomething else\n")
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return PHRASE

    asked = load_signer(key.private, None, ask)
    read = load_signer(key.private, phrase_file, nobody_is_asked)

    assert key.encrypted
    assert asked.key_id == read.key_id == key.key_id
    assert prompts == [f"pass phrase of {key.private}: "]


def test_wrong_or_missing_pass_phrase(tmp_path: Path) -> None:
    """One line says which key it is, and how to give the phrase where there is no terminal."""
    key = create_key(tmp_path / "key.pem", PHRASE.encode()).private
    (tmp_path / "empty").touch()

    with pytest.raises(KeyFileError, match=r"key\.pem: .*another pass phrase"):
        load_signer(key, None, lambda prompt: "horse correct")
    with pytest.raises(KeyFileError, match=r"key\.pem: is encrypted.*--passphrase-file"):
        load_signer(key, None, None)
    with pytest.raises(KeyFileError, match="it is empty"):
        load_signer(key, tmp_path / "empty", None)
    with pytest.raises(KeyFileError, match=r"nowhere: no such file$"):
        read_passphrase(tmp_path / "nowhere")


def test_new_pass_phrase_is_typed_twice() -> None:
    """Twice the same is taken; a slip, nothing at all, or nobody there is an error."""
    answers = iter([PHRASE, PHRASE, PHRASE, "slip", ""])

    def ask(prompt: str) -> str:
        return next(answers)

    assert ask_new_passphrase(ask) == PHRASE.encode()
    for message in ("differ", "got none"):
        with pytest.raises(KeyFileError, match=message):
            ask_new_passphrase(ask)
    with pytest.raises(KeyFileError, match="--passphrase-file"):
        ask_new_passphrase(None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_key_that_others_can_reach_is_not_used(tmp_path: Path, mode: int) -> None:
    """As ssh does; the command that puts it right is in the message."""
    key = create_key(tmp_path / "key.pem", None).private
    key.chmod(mode)

    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}.*chmod 600 {key}"):
        load_signer(key, None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SIGNER.public_pem, "Expected an Ed25519 private key"),
        (b"", "Expected an Ed25519 private key"),
        (None, "earshot fleet keys create` makes one"),
    ],
)
def test_file_without_a_private_key(tmp_path: Path, content: bytes | None, message: str) -> None:
    """One line says which file it is and what was expected."""
    key = tmp_path / "key.pem"
    if content is not None:
        key.write_bytes(content)
        key.chmod(0o600)

    with pytest.raises(KeyFileError, match=message) as caught:
        load_signer(key, None, None)

    assert str(caught.value).startswith(f"{key}: ")


def test_private_key_is_no_public_one(tmp_path: Path) -> None:
    """Whoever names the private half by mistake learns the other's name."""
    key = create_key(tmp_path / "key.pem", None).private

    with pytest.raises(KeyFileError, match=r"expected public ones: key\.pub\.pem"):
        read_public_key_file(key)


def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is below XDG_CONFIG_HOME, or ~/.config where that is not an absolute path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for chosen, folder in (("/chosen", Path("/chosen")), ("relative", tmp_path / ".config")):
        monkeypatch.setenv("XDG_CONFIG_HOME", chosen)

        assert default_key_file() == folder / "earshot/release-key.pem"


def test_public_pems_of_private_and_public_files(tmp_path: Path) -> None:
    """Either half gives the same; a file of two gives both."""
    created = create_key(tmp_path / "key.pem", None)
    both = tmp_path / "both.pem"
    both.write_bytes(SIGNER.public_pem + SECOND.public_pem)

    expected = {created.key_id: created.public.read_text()}
    assert public_pems(created.private, None, None) == expected
    assert public_pems(public_half(created.private), None, None) == expected
    assert list(public_pems(both, None, None)) == [SIGNER.key_id, SECOND.key_id]


def test_create_and_show_on_the_command_line(tmp_path: Path, run_training: RunTraining) -> None:
    """What `create` prints leads on; what `show` prints is a file that nodes can be given."""
    key, phrase = tmp_path / "key.pem", tmp_path / "phrase"
    phrase.write_text(PHRASE)
    arguments = ["--out", key, "--passphrase-file", phrase]

    created = run_training(["keys", "create", *arguments])
    shown = run_training(["keys", "show", key, "--passphrase-file", phrase])

    assert (created.returncode, created.stderr) == (0, "")
    assert (shown.returncode, shown.stderr) == (0, "")
    (key_id,) = read_public_keys(shown.stdout.encode())
    assert f"key {key_id}\n" in shown.stdout
    for word in (key_id, str(key), "keys_file", "key.pub.pem SECOND.pub.pem > release-keys.pem"):
        assert word in created.stdout
    assert PHRASE not in created.stdout
    again = run_training(["keys", "create", *arguments])
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
