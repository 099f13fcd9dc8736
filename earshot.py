"""Hear machines, and say when one starts to sound wrong: `earshot GROUP COMMAND`.

Each group is a program with its own commands; `earshot GROUP` lists them.
"""

import sys
from collections.abc import Sequence

from contract import command_line

SUMMARY = "a fleet of listening nodes, from the microphone to the dashboard"

COMMANDS = {
    "node": "node.commands",
    "collector": "collector.commands",
    "training": "training.commands",
    "fleet": "training.fleet.commands",
    "demo": "demo.command",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; None takes the process's own arguments."""
    return command_line.run("earshot", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
