"""`python -m demo` is `earshot demo`: see `demo.command`."""

import sys
from collections.abc import Sequence

from contract import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and give its exit code; None takes the process's own arguments."""
    return command_line.run("demo.command", ["demo"], arguments)


if __name__ == "__main__":
    sys.exit(main())
