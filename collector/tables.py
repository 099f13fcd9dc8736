"""Tables that commands print: with lines and colours on a terminal, plain columns in a pipe."""

import sys

from rich.console import Console
from rich.table import Table

# A pipe has no width, and rich would cut lines at 80.
_PIPE_WIDTH = 10_000


def output() -> Console:
    """Standard output, as wide as its terminal, or as wide as needed where there is none."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def new_table(console: Console, title: str | None = None) -> Table:
    """A table without columns yet; what is no terminal gets nothing but words under their names."""
    if console.is_terminal:
        return Table(title=title, title_justify="left")
    return Table(box=None, pad_edge=False)
