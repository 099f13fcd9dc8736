"""What several commands have in common: which node this is, its parts, the example's model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from contract.command_line import add_settings_option, settings_file

if TYPE_CHECKING:
    from node.scoring.release_store import Release
    from node.scoring.runtime import Runtime
    from node.settings import NodeSettings
    from node.sound.source import AudioSource


SETTINGS_NAME: Final = "node.toml"

EXAMPLE_MODEL: Final = Path(__file__).parents[2] / "models" / "fan-synthetic"
"""A release for calculated fans; it lies beside the code in a checkout, on a Pi and in a wheel."""


class Parts(NamedTuple):
    """The parts that a node is made of; none of them is opened yet."""

    settings: "NodeSettings"
    source: "AudioSource"
    release: "Release"
    runtime: "Runtime"


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings file, and the options that win over what it says."""
    add_settings_option(parser, SETTINGS_NAME)
    parser.add_argument("--source", metavar="SPEC", help="microphone:KEY, synthetic:..., or a path")
    parser.add_argument("--fast", action="store_true", help="recordings faster than real time")
    parser.add_argument("--model", metavar="DIR", help="release folder")
    parser.add_argument("--id", metavar="NODE", help="the node's id")


def node_settings(options: argparse.Namespace) -> "NodeSettings":
    """Read the settings, with what the command line says in their place.

    Raises:
        SettingsError: with every problem found.
    """
    from node.settings import load_settings

    given = {
        "EARSHOT_SOURCE_SPEC": options.source,
        "EARSHOT_SOURCE_FAST": "true" if options.fast else None,
        "EARSHOT_MODEL_FOLDER": options.model,
        "EARSHOT_NODE_ID": options.id,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    return load_settings(settings_file(options.config, SETTINGS_NAME), overrides)


def node_parts(settings: "NodeSettings") -> Parts:
    """Make the parts that the settings ask for.

    Raises:
        ReleaseError, SourceError: they cannot be had.
    """
    from node.scoring.runtime import find_runtime
    from node.sound.choose import choose_source

    release = _release_that_runs(settings)
    source = choose_source(
        settings.source.spec,
        channel=settings.source.channel,
        fast=settings.source.fast,
        model_rate_hz=release.manifest.features.sample_rate_hz,
    )
    return Parts(settings, source, release, find_runtime())


def _release_that_runs(settings: "NodeSettings") -> "Release":
    """The release of [model] folder, or the one that an update has put in its place."""
    from node.scoring.release_store import read_release

    folder = Path(settings.model.folder)
    if settings.update.keys_file is None:
        return read_release(folder)
    from node.updates.slots import SlotStore

    return SlotStore(settings.state_folder, folder, now_us=lambda: 0).look()
