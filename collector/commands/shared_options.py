"""Options that several commands have, and what they mean."""

import argparse
import os
from pathlib import Path

from collector import settings
from contract.broker_options import broker_variables
from contract.command_line import add_settings_option, settings_file
from contract.settings import MqttSettings

_SETTINGS_NAME = "collector.toml"


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Let a command be told of a settings file."""
    add_settings_option(parser, _SETTINGS_NAME)


def settings_path(options: argparse.Namespace) -> Path | None:
    """The settings file that was named, or found; None is none."""
    return settings_file(options.config, _SETTINGS_NAME)


def broker_settings(options: argparse.Namespace) -> MqttSettings:
    """Where the broker is: by the options first, then the environment, then the settings file.

    Raises:
        SettingsError: with every problem found.
    """
    return settings.load_broker(settings_path(options), {**os.environ, **broker_variables(options)})


def positive_number(text: str) -> float:
    """A finite number above 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
