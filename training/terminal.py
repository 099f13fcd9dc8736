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
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int = 1,
    indent: int = 0,
    width: int | None = None,
) -> list[str]:
    """Give rows below their heads, in columns.

    Args:
        heads: of the columns.
        rows: as many cells each.
        words: columns at the left that hold words; the others are numbers, and end at the right.
        indent: spaces before each line.
        width: of the lines at most, unless a number is wider; None takes the terminal's.
    """
    body = [list(row) for row in rows]
    columns = [[row[number] for row in body] for number in range(len(heads))]
    natural = [max(map(len, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    width -= indent
    fits = sum(natural) + 2 * (len(heads) - 1) <= width
    table = Table(box=None, pad_edge=False, padding=(0, 2 if fits else 1, 0, 0))
    least = len(heads) - 1
    for number, (head, cells) in enumerate(zip(heads, columns, strict=True)):
        shown = head if fits else "\n".join(head.split())
        if number < words:
            # Words go on below; a number is never cut.
            longest = max(map(len, _words([head, *cells])), default=0)
            table.add_column(Text(shown), min_width=longest)
        else:
            longest = max(map(len, [*shown.split("\n"), *cells]))
            table.add_column(Text(shown), justify="right", no_wrap=True)
        least += longest
    for row in body:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=max(width, least), color_system=None).print(table)
    return [f"{' ' * indent}{line}".rstrip() for line in text.getvalue().splitlines()]


def _words(cells: Iterable[str]) -> list[str]:
    return [word for cell in cells for word in cell.split()]
