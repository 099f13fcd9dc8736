"""The text of a node's settings file, for people to read and change: pure."""

import re

import msgspec

from contract.errors import SettingsError
from contract.settings import decode_settings
from node.settings import NodeSettings

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_COMMENT_COLUMN = 46
_ID_LENGTH = 32

Value = str | int | bool | None


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has decided; None leaves a key to its default."""

    id: str
    model_folder: str
    group: str | None = None
    state_folder: str | None = None
    spec: str | None = None
    channel: int | None = None
    host: str | None = None
    port: int | None = None
    tls: bool | None = None
    ca_file: str | None = None
    username: str | None = None
    password_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    release_keys_file: str | None = None


def settings_text(answers: Answers, *, origin: str) -> str:
    """A settings file that says these things, checked by the decoder that the node uses.

    Args:
        answers: what to say.
        origin: what to call the file in an error.

    Raises:
        SettingsError: a value is not what the node takes, or some contradict each other.
    """
    text = "\n".join(_lines(answers))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SettingsError(
            origin, ["expected names and paths in UTF-8, got one that is not"]
        ) from error
    # Without the environment: the file has to do by itself.
    decode_settings(NodeSettings, text, {}, origin=origin)
    return text


def toml_string(text: str) -> str:
    """A text as a basic string of TOML."""
    return f'"{"".join(_escaped(character) for character in text)}"'


def valid_id(host_name: str) -> str | None:
    """An id made of a computer's name: `Press_07.local` gives `press-07`; None if nothing is left.

    The rule is that of `contract.topics.NODE_ID_PATTERN`.
    """
    name = re.sub(r"[^a-z0-9]+", "-", host_name.partition(".")[0].lower())
    return name.strip("-")[:_ID_LENGTH].strip("-") or None


def _lines(answers: Answers) -> list[str]:
    return [
        "# Settings of an earshot node, written by `earshot node init`. Every key can be set in",
        "# the environment instead: [mqtt] host is EARSHOT_MQTT_HOST. What is commented out shows",
        "# the default or an example; node/node.example.toml has the rest.",
        "",
        "[node]",
        _key("id", answers.id, "", "unique in the fleet; also its MQTT client id"),
        _key("group", answers.group, "line-2", "nodes that get the same releases"),
        _key("state_folder", answers.state_folder, "state", "what it learns; no sound"),
        "",
        "[model]",
        _key("folder", answers.model_folder, "", "a release folder"),
        "",
        "[source]",
        _key("spec", answers.spec, "microphone:default", "see `earshot node devices`"),
        _key("channel", answers.channel, 0, "one channel, from 0; else all are mixed"),
        "",
        "[mqtt]",
        _key("host", answers.host, "localhost", "the broker"),
        _key("port", answers.port, 1883, "8883 with tls = true"),
        _key("tls", answers.tls, False, "encrypted"),
        _key("ca_file", answers.ca_file, "/etc/earshot/ca.crt", "else the system's authorities"),
        _key("username", answers.username, answers.id, "the node's id, with an ACL per node"),
        _key("password_file", answers.password_file, "/etc/earshot/password", "mode 0600"),
        _key(
            "certificate_file",
            answers.certificate_file,
            f"/etc/earshot/{answers.id}.crt",
            "instead of a password",
        ),
        _key("key_file", answers.key_file, f"/etc/earshot/{answers.id}.key", "of the certificate"),
        "",
        "[update]",
        _key(
            "keys_file",
            answers.release_keys_file,
            "/etc/earshot/release-keys.pem",
            "whose releases it takes; without: none",
        ),
        "",
    ]


def _key(name: str, value: Value, example: Value, comment: str) -> str:
    """`name = value  # comment`, or the same with an example, commented out."""
    line = f"# {name} = {_toml(example)}" if value is None else f"{name} = {_toml(value)}"
    return f"{line:<{_COMMENT_COLUMN}}  # {comment}"


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return toml_string(value) if isinstance(value, str) else str(value)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return character
