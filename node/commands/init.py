"""`earshot node init`: asks what a node has to know, and writes its settings.

On a terminal it asks for what the options do not say. With --yes, or without a terminal, it asks
nothing: the options and the defaults are what there is. Nothing is written before everything is
known to be valid, and nothing that is there is overwritten without --force.
"""

import argparse
import getpass
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from contract.command_line import SYSTEM_FOLDER, typed
from contract.errors import EarshotError
from node.commands.node_arguments import EXAMPLE_MODEL, SETTINGS_NAME

if TYPE_CHECKING:
    from node.commands.questions import Questions
    from node.settings_text import Answers

_T = TypeVar("_T")

SUMMARY = "ask for the settings and write them"

_PRIVATE = 0o600
_INSTALLED = Path("/opt/earshot")
"""Where the installer for the Pi puts this code."""
_SERVICE_STATE = Path("/var/lib/earshot")
"""What the service may write to."""
_CODE = Path(__file__).resolve()


class InitError(EarshotError):
    """The answers do not suffice or are not valid: nothing was written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    parser.add_argument(
        "--out", type=Path, default=Path(SETTINGS_NAME), metavar="FILE", help="default: node.toml"
    )
    parser.add_argument("--id", metavar="NODE", help="the node's id (default: the host's name)")
    parser.add_argument("--group", metavar="GROUP", help="nodes that get the same releases")
    parser.add_argument("--broker", metavar="HOST[:PORT]", help="default: localhost")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, help="encrypt")
    parser.add_argument("--ca-file", metavar="FILE", help="the broker's authority (PEM)")
    parser.add_argument("--certificate-file", metavar="FILE", help="client certificate (PEM)")
    parser.add_argument("--key-file", metavar="FILE", help="its key (PEM)")
    parser.add_argument("--username", metavar="NAME")
    parser.add_argument(
        "--password-file", metavar="FILE", help="a file with nothing but the password in it"
    )
    parser.add_argument(
        "--microphone", metavar="KEY", help="of `earshot node devices`, or synthetic:..."
    )
    parser.add_argument("--channel", type=int, metavar="N", help="one channel, from 0 (else: mix)")
    parser.add_argument("--model", metavar="DIR", help="release folder")
    parser.add_argument(
        "--state-folder",
        metavar="DIR",
        help="what the node learns (default: `state` beside the file)",
    )
    parser.add_argument(
        "--release-keys",
        metavar="FILE",
        help="public keys, one or two in PEM, whose updates it takes (default: none)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    """Ask for what the options do not say, check it all, and write the settings."""
    from node.commands.questions import Questions
    from node.settings_text import settings_text

    out: Path = options.out
    _check_place(out, overwrites=options.force)
    given = _given(options)
    password = None
    if options.yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        answers = _defaults(given)
    else:
        try:
            answers, password = _asked(
                given, Questions(input, getpass.getpass, print), _password_path(out)
            )
        except KeyboardInterrupt:
            raise InitError("Interrupted: nothing was written") from None
    if password is not None and not options.force and _password_path(out).exists():
        raise InitError(f"{_password_path(out)} is there already: --force overwrites it")
    if answers.state_folder is None:
        # The service may not write beside its settings.
        installed = _CODE.is_relative_to(_INSTALLED)
        parent = _SERVICE_STATE if installed else out.absolute().parent
        answers = msgspec.structs.replace(answers, state_folder=str(parent / "state"))
    text = settings_text(answers, origin=str(out))
    if password is not None:
        _write(_password_path(out), password + "\n")
    _write(out, text)
    _tell_next(out, answers)
    return 0


def _check_place(out: Path, *, overwrites: bool) -> None:
    folder = out.absolute().parent
    try:
        if not folder.is_dir():
            raise InitError(f"{out}: cannot be written: expected a folder {folder}, got none")
        if out.exists() and not overwrites:
            raise InitError(
                f"{out} is there already: choose another --out, or --force overwrites it"
            )
    except OSError as error:
        raise InitError(f"{out}: cannot be written: {error.strerror}") from error


def _given(options: argparse.Namespace) -> dict[str, object]:
    """The options that were given, checked, by the names of `Answers`."""
    given: dict[str, object] = {
        "id": _checked("--id", options.id, _node_id),
        "group": _checked("--group", options.group, _node_id),
        "tls": options.tls,
        "ca_file": _checked("--ca-file", options.ca_file, _readable),
        "certificate_file": _checked("--certificate-file", options.certificate_file, _readable),
        "key_file": _checked("--key-file", options.key_file, _readable),
        "username": options.username,
        "password_file": _checked("--password-file", options.password_file, _readable),
        "spec": _checked("--microphone", options.microphone, _spec),
        "channel": options.channel,
        "model_folder": _checked("--model", options.model, _release),
        "state_folder": _checked("--state-folder", options.state_folder, _folder),
        "release_keys_file": _checked("--release-keys", options.release_keys, _release_keys),
    }
    broker = _checked("--broker", options.broker, _broker)
    if broker is not None:
        given["host"], given["port"] = broker
    if options.tls is None and (options.ca_file or options.certificate_file):
        given["tls"] = True
    return {name: value for name, value in given.items() if value is not None}


def _defaults(given: dict[str, object]) -> "Answers":
    """What was given, and what can be guessed without asking."""
    from node.settings_text import Answers, valid_id

    known = dict(given)
    missing = []
    guessed_id = valid_id(socket.gethostname())
    if "id" not in known and guessed_id is None:
        missing.append("--id")
    known.setdefault("id", guessed_id)
    if "model_folder" not in known:
        try:
            known["model_folder"] = _release(str(EXAMPLE_MODEL))
        except EarshotError:
            missing.append("--model")
    if missing:
        raise InitError(f"Expected {' and '.join(missing)}, got no such option and nobody to ask")
    known.setdefault("spec", "microphone:default")
    known.setdefault("host", "localhost")
    return msgspec.convert(known, Answers)


def _asked(
    given: dict[str, object], questions: "Questions", password_file: Path
) -> "tuple[Answers, str | None]":
    """What was given, and for the rest the answers; a typed password apart from them."""
    from node.settings_text import Answers, valid_id

    known, password = dict(given), None
    questions.say("Enter takes what stands in brackets; Ctrl-C ends without writing.")
    if "id" not in known:
        guess = valid_id(socket.gethostname())
        known["id"] = questions.ask("Id of this node", _node_id, default=guess)
    if "group" not in known:
        known["group"] = questions.ask(
            "Group of nodes that get the same releases (empty: none)", _or_none(_node_id)
        )
    if "spec" not in known:
        known["spec"], channels = _ask_microphone(questions)
        if channels > 1 and "channel" not in known:
            known["channel"] = questions.ask(
                f"Channel, 0 to {channels - 1} (empty: all mixed)", _or_none(_channel_of(channels))
            )
    if "model_folder" not in known:
        known["model_folder"] = questions.ask(
            "Folder of the release to score with", _release, default=str(EXAMPLE_MODEL)
        )
    if "host" not in known:
        known["host"], known["port"] = questions.ask(
            "Broker, HOST or HOST:PORT", _broker, default="localhost"
        )
    if "tls" not in known:
        # A user who has the broker's usual port for TLS means it.
        known["tls"] = questions.ask_yes("Encrypt (TLS)", default=known.get("port") == 8883)
    if known["tls"]:
        _ask_certificates(known, questions)
    if "username" not in known and "certificate_file" not in known:
        known["username"] = questions.ask("User name at the broker (empty: none)", _or_none(_text))
    if known.get("username") and "password_file" not in known:
        password = questions.ask_secret(f"Password (kept in {password_file}; empty: none)") or None
        if password is not None:
            known["password_file"] = str(password_file)
    known = {name: value for name, value in known.items() if value is not None}
    return msgspec.convert(known, Answers), password


def _ask_certificates(known: dict[str, object], questions: "Questions") -> None:
    if "ca_file" not in known:
        known["ca_file"] = questions.ask(
            "Authority of the broker's certificate, a PEM file (empty: the system's)",
            _or_none(_readable),
        )
    if "certificate_file" not in known:
        certificate = questions.ask(
            "This node's own certificate, a PEM file (empty: none)", _or_none(_readable)
        )
        if certificate is not None:
            known["certificate_file"] = certificate
    if "certificate_file" in known and "key_file" not in known:
        known["key_file"] = questions.ask("Its key, a PEM file", _readable)


def _ask_microphone(questions: "Questions") -> tuple[str, int]:
    """What to hear, and how many channels it has (1 where that is not known)."""
    from node.sound.errors import SourceError
    from node.sound.microphone import Microphone, list_microphones

    questions.say("Looking for microphones...")
    microphones: list[Microphone] = []
    try:
        microphones = list_microphones()
    except SourceError as error:
        questions.say(f"No microphone can be listed: {error}")
    else:
        if not microphones:
            questions.say("No microphone is plugged in (or none that may be opened).")
    default = next((str(n) for n, m in enumerate(microphones, 1) if m.is_default), "")
    chosen = questions.ask_choice(
        "Microphone, by number or by KEY (or synthetic:fan)" if microphones else "Microphone's KEY",
        [
            f"{m.key}  ({m.name}, {m.max_input_channels} channels, {m.default_sample_rate_hz} Hz)"
            for m in microphones
        ],
        _spec,
        default or ("1" if microphones else "microphone:default"),
    )
    if isinstance(chosen, str):
        return chosen, 1
    found = microphones[chosen]
    return _spec(found.key), found.max_input_channels


def _checked(option: str, text: str | None, parse: Callable[[str], _T]) -> _T | None:
    """An option's value, if it was given."""
    if text is None:
        return None
    try:
        return parse(text)
    except (ValueError, EarshotError) as error:
        raise InitError(f"{option}: {error}") from error


def _or_none(parse: Callable[[str], _T]) -> Callable[[str], _T | None]:
    return lambda text: parse(text) if text else None


def _text(text: str) -> str:
    return text


def _node_id(text: str) -> str:
    from contract.topics import checked_id

    return checked_id(text)


def _broker(text: str) -> tuple[str, int | None]:
    """`host`, `host:8883`, `[::1]:8883`, `::1`."""
    wrong = ValueError(f"Expected HOST or HOST:PORT, such as broker.local:8883, got {text[:80]!r}")
    if "/" in text or any(character.isspace() for character in text):
        raise wrong
    host, colon, port = text.rpartition(":")
    bare_address = text.count(":") > 1 and not text.startswith("[")
    if not colon or bare_address or text.endswith("]"):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host or (colon and not bare_address and not text.endswith("]") and not port):
        raise wrong
    if not port:
        return host, None
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
        raise ValueError(f"Expected a port of 1 to 65535, got {port[:20]!r}")
    return host, int(port)


def _spec(text: str) -> str:
    """A source from a microphone's key or from a whole source."""
    from contract.feature_params import FeatureParams
    from node.sound.choose import MICROPHONE, SYNTHETIC, choose_source

    if not text.strip():
        raise ValueError("Expected a microphone's key, got nothing")
    if text.startswith(SYNTHETIC):
        rate_hz = FeatureParams().sample_rate_hz
        choose_source(text, channel=None, fast=False, model_rate_hz=rate_hz)
        return text
    return text if text.startswith(MICROPHONE) else MICROPHONE + text


def _channel_of(channels: int) -> Callable[[str], int]:
    def channel(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) < channels):
            raise ValueError(f"Expected 0 to {channels - 1}, got {text[:20]!r}")
        return int(text)

    return channel


def _readable(text: str) -> str:
    try:
        with Path(text).expanduser().open("rb"):
            return _absolute(text)
    except OSError as error:
        raise ValueError(f"{text}: cannot be read: {error.strerror}") from error


def _release(text: str) -> str:
    from node.scoring.release_store import read_release

    folder = _absolute(text)
    read_release(Path(folder))
    return folder


def _release_keys(text: str) -> str:
    from node.updates.trusted_keys import read_keys_file

    path = _absolute(text)
    read_keys_file(Path(path))
    return path


def _folder(text: str) -> str:
    if not text:
        raise ValueError("Expected a folder, got nothing")
    return _absolute(text)


def _absolute(text: str) -> str:
    """A path that means the same wherever the node is started; links in it stay links."""
    return str(Path(text).expanduser().absolute())


def _password_path(out: Path) -> Path:
    return out.absolute().with_suffix(".password")


def _write(path: Path, text: str) -> None:
    """All of the file or none of it; for its owner alone, since it may hold or name secrets."""
    from node.whole_file import write_whole

    try:
        write_whole(path, text.encode(), mode=_PRIVATE)
    except OSError as error:
        raise InitError(f"{path}: cannot be written: {error.strerror}") from error


def _tell_next(out: Path, answers: "Answers") -> None:
    print(f"{out}: settings of {answers.id}, hearing {answers.spec or 'microphone:default'}")
    print("Next:")
    is_found = out.absolute() in (Path(SETTINGS_NAME).absolute(), SYSTEM_FOLDER / SETTINGS_NAME)
    config = "" if is_found else f" --config {shlex.quote(str(out))}"
    for command, why in (
        ("check", "look at everything once: level, broker, clock, disk"),
        ("run", "hear, score and publish"),
        ("calibrate", "while it runs and the machine is healthy: set the limits for this place"),
    ):
        print(f"  {typed(f'node {command}{config}'):<48}  {why}")
