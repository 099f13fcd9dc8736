"""The text of a settings file."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import SettingsError
from contract.settings import decode_settings
from contract.topics import checked_id
from node.settings import NodeSettings
from node.settings_text import Answers, settings_text, toml_string, valid_id


@given(st.text())
def test_any_text_survives(text: str) -> None:
    """What was written as a string of TOML is read as the same string."""
    assert tomllib.loads(f"x = {toml_string(text)}") == {"x": text}


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_answers_survive(folder: str, username: str) -> None:
    """Names and paths come out of the decoder as they went in, whatever is in them."""
    answers = Answers(id="press-07", model_folder=folder, username=username)

    text = settings_text(answers, origin="node.toml")

    settings = decode_settings(NodeSettings, text, {}, origin="node.toml")
    assert (settings.model.folder, settings.mqtt.username) == (folder, username)


def test_few_answers_leave_the_defaults() -> None:
    """What nobody has said is commented out, and so the node's own default."""
    text = settings_text(Answers(id="press-07", model_folder="models/fan"), origin="node.toml")

    settings = decode_settings(NodeSettings, text, {}, origin="node.toml")
    assert settings == NodeSettings(node=settings.node, model=settings.model)
    assert '# host = "localhost"' in text
    assert "[update]\n# keys_file = " in text


def test_every_answer_is_written() -> None:
    """All keys that can be asked for reach the settings."""
    answers = Answers(
        id="press-07",
        model_folder="models/fan",
        group="line-2",
        state_folder="/var/lib/earshot",
        spec="microphone:usb:1-1.2",
        channel=0,
        host="broker",
        port=8884,
        tls=True,
        ca_file="ca.crt",
        username="press-07",
        password_file="password",
        certificate_file="press-07.crt",
        key_file="press-07.key",
        release_keys_file="release-keys.pem",
    )

    settings = decode_settings(
        NodeSettings, settings_text(answers, origin="node.toml"), {}, origin="node.toml"
    )

    assert (settings.node.group, settings.node.state_folder) == ("line-2", "/var/lib/earshot")
    assert (settings.source.spec, settings.source.channel) == ("microphone:usb:1-1.2", 0)
    assert (settings.mqtt.address, settings.mqtt.tls) == ("broker:8884", True)
    assert settings.mqtt.ca_file == "ca.crt"
    assert settings.mqtt.password_file == "password"
    assert (settings.mqtt.certificate_file, settings.mqtt.key_file) == (
        "press-07.crt",
        "press-07.key",
    )
    assert settings.update.keys_file == "release-keys.pem"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (Answers(id="Press 07", model_folder="m"), "node.id"),
        (Answers(id="a", model_folder="m", channel=900), "source.channel"),
        (Answers(id="a", model_folder="m", ca_file="x"), "need tls = true"),
        (Answers(id="a", model_folder="m", release_keys_file=""), "update.keys_file"),
        (Answers(id="a", model_folder="m\udcff"), "UTF-8"),
    ],
)
def test_wrong_answers_are_refused(answers: Answers, words: str) -> None:
    """No text comes of answers that the node would refuse."""
    with pytest.raises(SettingsError, match=words):
        settings_text(answers, origin="node.toml")


@pytest.mark.parametrize(
    ("host_name", "expected"),
    [
        ("Press_07.local", "press-07"),
        ("raspberrypi", "raspberrypi"),
        ("--x--", "x"),
        ("ÄÖ", None),
        ("", None),
        ("a" * 31 + "-b", "a" * 31),
    ],
)
def test_id_of_a_host(host_name: str, expected: str | None) -> None:
    """A host's name becomes an id, or nothing."""
    assert valid_id(host_name) == expected


@given(st.text())
def test_id_of_any_host_is_valid(host_name: str) -> None:
    """Whatever a computer is called, its id is one of the contract's, or there is none."""
    found = valid_id(host_name)

    assert found is None or checked_id(found) == found
