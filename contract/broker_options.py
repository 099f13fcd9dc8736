"""The broker on a command line: options that programs share, as the variables that settings know.

So one place judges what a file, the environment and the command line say (`contract.settings`), and
an option goes by the name that its setting has everywhere.
"""

import argparse
from collections.abc import Mapping

import msgspec

from contract.settings import ENVIRONMENT_PREFIX, MqttSettings, decode_settings

_OPTIONS = ("ca_file", "certificate_file", "key_file", "username", "password_file")


class _OfAnyProgram(msgspec.Struct, frozen=True, kw_only=True):
    mqtt: MqttSettings


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Let a command be told where the broker is, beside its settings file and the environment."""
    broker = parser.add_argument_group("broker")
    broker.add_argument("--broker", type=host_and_port, metavar="HOST[:PORT]")
    broker.add_argument("--tls", action="store_true", help="encrypt, and check the certificate")
    broker.add_argument("--ca-file", help="the broker's authority, if not one of the system's")
    broker.add_argument("--certificate-file", help="client certificate, with --key-file")
    broker.add_argument("--key-file", help="of the client certificate")
    broker.add_argument("--username")
    broker.add_argument("--password-file", help="a file that holds nothing but the password")


def broker_variables(options: argparse.Namespace) -> dict[str, str]:
    """What the command line says of the broker, as environment variables."""
    found = {name: getattr(options, name) for name in _OPTIONS}
    if options.broker is not None:
        found["host"], found["port"] = options.broker
    if options.tls:
        found["tls"] = "true"
    return {
        f"{ENVIRONMENT_PREFIX}MQTT_{name.upper()}": text for name, text in found.items() if text
    }


def decode_broker(toml: str, environment: Mapping[str, str], *, origin: str) -> MqttSettings:
    """Where the broker is, from the settings file of any program: its other sections are its own.

    Args:
        toml: the file's text; empty for the environment alone.
        environment: with `broker_variables` in it, which win.
        origin: what to call the file in an error.

    Raises:
        SettingsError: with every problem found.
    """
    return decode_settings(
        _OfAnyProgram, toml, environment, origin=origin, other_sections=True
    ).mqtt


def host_and_port(text: str) -> tuple[str, str]:
    """The two of `host`, `host:port`, or an IPv6 address in brackets; no port is an empty one.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    if not host or (colon and port and not port.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected host or host:port, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), port
