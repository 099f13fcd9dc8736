"""The broker on a command line."""

import argparse

import pytest

from contract.broker_options import (
    add_broker_options,
    broker_variables,
    decode_broker,
    host_and_port,
)
from contract.errors import SettingsError
from contract.settings import MqttSettings


def said(*words: str) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    add_broker_options(parser)
    return broker_variables(parser.parse_args(words))


def test_each_option_becomes_its_variable() -> None:
    """Settings judge them under the names that the environment has."""
    words = ["--broker", "hall:8884", "--tls", "--ca-file", "ca", "--certificate-file", "crt"]
    words += ["--key-file", "key", "--username", "ann", "--password-file", "secret"]

    settings = decode_broker("", said(*words), origin="command line")

    assert settings == MqttSettings(
        host="hall",
        port=8884,
        tls=True,
        ca_file="ca",
        certificate_file="crt",
        key_file="key",
        username="ann",
        password_file="secret",
    )


def test_nothing_said_changes_nothing() -> None:
    """A variable that is not there leaves file and environment their say."""
    assert said() == {}


def test_command_line_beats_environment_beats_file() -> None:
    """The nearest word counts, each setting for itself."""
    file = '[mqtt]\nhost = "file"\nport = 1\nusername = "file"\n'
    environment = {"EARSHOT_MQTT_HOST": "environment", "EARSHOT_MQTT_PORT": "2"}

    settings = decode_broker(file, {**environment, **said("--broker", "line")}, origin="x")

    assert (settings.host, settings.port, settings.username) == ("line", 2, "file")


def test_sections_of_other_programs_are_theirs() -> None:
    """The file of a collector or a node tells where the broker is, whatever else it has."""
    file = '[node]\nid = "press-07"\n[sink]\nkind = 4\n[mqtt]\nhost = "hall"\n'

    assert decode_broker(file, {}, origin="x").host == "hall"


def test_a_section_spelled_nearly_right_is_no_other_programs() -> None:
    """Nobody is sent to localhost because of a slip."""
    with pytest.raises(SettingsError, match=r"did you mean mqtt\?"):
        decode_broker('[mqqt]\nhost = "hall"\n', {}, origin="x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hall", ("hall", "")),
        ("hall:1884", ("hall", "1884")),
        ("[::1]:1884", ("::1", "1884")),
        ("[::1]", ("::1", "")),
        ("10.0.0.1", ("10.0.0.1", "")),
    ],
)
def test_host_and_port_are_taken_apart(text: str, expected: tuple[str, str]) -> None:
    """With and without a port, IPv6 in brackets."""
    assert host_and_port(text) == expected


@pytest.mark.parametrize("text", ["", ":1883", "hall:http"])
def test_what_is_no_host_is_refused(text: str) -> None:
    """The command line says so before anything is tried."""
    with pytest.raises(argparse.ArgumentTypeError, match="expected host or host:port"):
        host_and_port(text)
