"""Tables for a terminal by rich: what does not fit goes on in the next line of its column.

A pipe has no width: there every row is one line, however long.
"""

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 10_000


def table_rows(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, indent: int = 0
) -> list[str]:
    """Rows below their heads.

    Args:
        heads: of the columns.
        rows: as many cells each.
        words: columns at the left that hold words; the others are numbers, and end at the right.
        indent: spaces before each line.
    """
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if number < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    text = io.StringIO()
    Console(file=text, width=width - indent, color_system=None).print(table)
    return [f"{' ' * indent}{line}".rstrip() for line in text.getvalue().splitlines()]
