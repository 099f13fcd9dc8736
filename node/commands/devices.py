"""`earshot node devices`: the microphones, by the names that settings take."""

import argparse

SUMMARY = "list microphones by stable identity"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run(options: argparse.Namespace) -> int:
    """Print the microphones; give 1 if there is none."""
    from node.sound.microphone import list_microphones

    microphones = list_microphones()
    if not microphones:
        print("No microphone is plugged in (or none that may be opened: see `arecord -l`).")
        return 1
    for microphone in microphones:
        default = ", the default" if microphone.is_default else ""
        print(f"microphone:{microphone.key}")
        print(
            f"    {microphone.name} ({microphone.host_api}{default}):"
            f" {microphone.max_input_channels} channels at {microphone.default_sample_rate_hz} Hz"
        )
        for alias in microphone.aliases:
            print(f"    also microphone:{alias}")
    return 0
