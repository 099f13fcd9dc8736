"""`python -m node COMMAND` is `earshot node COMMAND`: see `node.commands`."""

import sys
from collections.abc import Sequence

from contract import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; None takes the process's own arguments."""
    return command_line.run("node.commands", ["node"], arguments)


if __name__ == "__main__":
    sys.exit(main())
