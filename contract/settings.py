"""Settings of any of the programs: one TOML text plus environment overrides, decoded once.

A program declares its settings as a frozen struct of sections, each a frozen struct of values.
`[mqtt] host` in the file is `EARSHOT_MQTT_HOST` in the environment, which wins. Every problem is
reported together, with its name, the value that came and what was expected. Reading the file and
the environment is the caller's; nothing here does.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar, get_args

import msgspec

from contract.errors import SettingsError

ENVIRONMENT_PREFIX = "EARSHOT_"

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=604_800.0)]

Settings = TypeVar("Settings", bound=msgspec.Struct)


class MqttSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is and how to be let in.

    Raises:
        ValueError: settings that contradict each other.
    """

    host: Annotated[str, msgspec.Meta(min_length=1)] = "localhost"
    port: Port | None = None
    """None is 8883 with TLS and 1883 without."""
    tls: bool = False
    ca_file: str | None = None
    """Certificate authority of the broker (PEM); None trusts the system's. Needs `tls`."""
    certificate_file: str | None = None
    key_file: str | None = None
    """Client certificate and its key (PEM), for brokers that ask for one."""
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    """A file that holds nothing but the password; keeps it out of settings and environment."""
    keepalive_seconds: Annotated[int, msgspec.Meta(ge=5, le=1200)] = 30
    """A dead link is noticed after 1.5 times this."""

    def __post_init__(self) -> None:
        problems = []
        if not self.tls and (self.ca_file or self.certificate_file):
            problems.append("ca_file and certificate_file need tls = true")
        if (self.certificate_file is None) != (self.key_file is None):
            problems.append("certificate_file and key_file go together")
        if self.password is not None and self.password_file is not None:
            problems.append("give password or password_file, not both")
        if self.username is None and (self.password or self.password_file):
            problems.append("a password needs a username")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def port_in_use(self) -> int:
        """The port to connect to."""
        return self.port or (8883 if self.tls else 1883)

    @property
    def address(self) -> str:
        """Host and port, for messages to people."""
        return f"{self.host}:{self.port_in_use}"

    def __rich_repr__(self) -> Any:
        yield "address", self.address

    def __repr__(self) -> str:
        # The generated one would print the password.
        return f"MqttSettings({self.address}, username={self.username!r}, tls={self.tls})"


def decode_settings(
    kind: type[Settings],
    toml: str,
    environment: Mapping[str, str],
    *,
    origin: str,
    other_sections: bool = False,
) -> Settings:
    """Settings from a TOML text, overridden by environment variables.

    Args:
        kind: struct whose fields are structs (the file's sections).
        toml: the file's text; empty for settings from the environment alone.
        environment: for example `os.environ`; names look like `EARSHOT_MQTT_HOST`.
        origin: what to call the file in an error.
        other_sections: whether the file may be another program's, with sections of its own; one
            that is spelled nearly as one of ours is still a problem.

    Raises:
        SettingsError: with every problem found.
    """
    try:
        document = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(origin, [f"not valid TOML: {error}"]) from error
    problems: list[str] = []
    sections = {field.name: field for field in msgspec.structs.fields(kind)}
    ours = {
        name: table
        for name, table in document.items()
        if not other_sections or difflib.get_close_matches(name, sections, n=1)
    }
    problems += _unknown_keys(ours, sections, "section")
    # Other programs' sections may be in the same environment; only what looks like ours is told.
    for variable in environment:
        found = variable.removeprefix(ENVIRONMENT_PREFIX).partition("_")[0].lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and found not in sections:
            problems += [
                f"unknown environment variable: {variable}"
                f" (did you mean {ENVIRONMENT_PREFIX}{close.upper()}_...?)"
                for close in difflib.get_close_matches(found, sections, n=1)
            ]
    decoded: dict[str, object] = {}
    for name, field in sections.items():
        table = document.get(name, {})
        if not isinstance(table, dict):
            problems.append(f"{name}: expected a section [{name}], got {type(table).__name__}")
            continue
        section = _decode_section(field.type, name, table, environment, problems)
        if section is not None:
            decoded[name] = section
    if problems:
        raise SettingsError(origin, problems)
    return kind(**decoded)


def _decode_section(
    kind: Any,
    section: str,
    table: Mapping[str, object],
    environment: Mapping[str, str],
    problems: list[str],
) -> object:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    found = len(problems)
    problems += _unknown_keys(table, fields, f"key in [{section}]")
    prefix = f"{ENVIRONMENT_PREFIX}{section.upper()}_"
    variables = {name: prefix + name.upper() for name in fields}
    overrides = {key: key for key in environment if key.startswith(prefix)}
    problems += _unknown_keys(overrides, variables.values(), "environment variable", prefix)
    values: dict[str, object] = {}
    for name, field in fields.items():
        variable = variables[name]
        try:
            if variable in environment:
                label, value = variable, environment[variable]
                values[name] = msgspec.convert(value, field.type, strict=False)
            elif name in table:
                label, value = f"{section}.{name}", str(table[name])
                values[name] = msgspec.convert(table[name], field.type)
            elif field.required:
                problems.append(f"{section}.{name} is missing (or {variable})")
        except (msgspec.ValidationError, ValueError) as error:
            shown = "a secret" if "password" in name or "token" in name else repr(value[:80])
            expected = _expectation(field.type) or str(error).rstrip(".")
            problems.append(f"{label}: {expected}, got {shown}")
    if len(problems) > found:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        problems.append(f"[{section}]: {error}")
        return None


def _expectation(annotation: Any) -> str | None:
    """What a value should be, in words for people, where its type has some."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, msgspec.Meta) and part.description:
            return f"Expected {part.description}"
        if isinstance(part, type) and issubclass(part, StrEnum):
            return f"Expected {' or '.join(part)}"
        if part is not annotation and (found := _expectation(part)):
            return found
    return None


def _unknown_keys(
    given: Mapping[str, object], known: Iterable[str], what: str, prefix: str = ""
) -> list[str]:
    # Compared without what all of them begin with: else every name is close to every other.
    names = [name.removeprefix(prefix) for name in known]
    problems = []
    for key in given:
        name = key.removeprefix(prefix)
        if name in names:
            continue
        close = difflib.get_close_matches(name, names, n=1)
        known_names = ", ".join(prefix + known_name for known_name in sorted(names))
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {known_names}"
        problems.append(f"unknown {what}: {key} ({hint})")
    return problems
