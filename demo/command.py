"""The whole fleet on this machine: three virtual machines, one of which develops a fault.

A broker, a collector and three nodes are started, a signed update goes out to them while they
listen, and at the end every window is counted. Ctrl-C ends it.
"""

import argparse
from pathlib import Path

from node.commands.node_arguments import EXAMPLE_MODEL

SUMMARY = "see it work: a whole fleet on this machine, without any hardware"

REQUIREMENTS = "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long the demo takes, and with what it runs."""
    parser.add_argument(
        "--seconds", type=_positive, help="end by itself after so long, and what the update takes"
    )
    parser.add_argument(
        "--fault-after", type=float, default=20.0, metavar="SECONDS", help="default: 20"
    )
    parser.add_argument("--broker", choices=("mosquitto", "iotcore"), help="which broker to start")
    parser.add_argument(
        "--model",
        type=Path,
        default=EXAMPLE_MODEL,
        metavar="DIR",
        help="release folder (default: the example's)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep database and logs in this folder"
    )


def run(options: argparse.Namespace) -> int:
    """Show the fleet; give 0 if every window was stored and the update ended as it was meant to."""
    from demo.show import run_demo

    return run_demo(options)


def _positive(text: str) -> float:
    seconds = float(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return seconds
