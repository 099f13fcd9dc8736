"""What a person sees while nodes take on a release: a bar per ring, or lines where there is no
terminal.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment

from contract.printable import printable
from training.fleet.rings import RingProgress, RolloutRow, phase

Show = Callable[[Sequence[RingProgress], Sequence[RolloutRow]], None]

_PIPE_WIDTH = 200
"""A pipe has no width, and rich would cut lines at 80."""


class _Careful(Console):
    """Writes what nodes say, and obeys none of it; all that is shown comes by here."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """As a console does, with a question mark for what is not printable."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                lines = segment.text.split("\n")
                yield segment._replace(text="\n".join(map(printable, lines)))


class Screen:
    """Tables go to standard output; what happens meanwhile, to standard error."""

    def __init__(self) -> None:
        self._out = _Careful(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
        self._err = _Careful(stderr=True, highlight=False, soft_wrap=True)
        self._said: dict[str, str] = {}
        self._bars: Progress | None = None

    def note(self, text: str) -> None:
        """Write one line to standard error, whatever line breaks are in the text."""
        self._err.print(f"earshot fleet: {' '.join(text.split())}", markup=False)

    def print(self, shown: RenderableType) -> None:
        """Write a table, or a text, to standard output."""
        self._out.print(shown, markup=False)

    def print_lines(self, lines: Iterable[str]) -> None:
        """Write lines to standard output, each as one, however long it is."""
        for line in lines:
            self._out.print(printable(line), markup=False, soft_wrap=True)

    @contextmanager
    def chunks(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar for what is sent; gives what to call for each message that has arrived."""
        if not self._err.is_terminal:
            yield lambda: None
            return
        with Progress(console=self._err, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)

    @contextmanager
    def rings(self, count: int) -> Iterator[Show]:
        """Show a bar for each ring; gives what to call with each look at them."""
        if not self._err.is_terminal:
            yield lambda _progress, rows: self._say(rows)
            return
        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[phases]}"),
            TimeElapsedColumn(),
            console=self._err,
        )
        tasks = [bars.add_task("", total=None, visible=False, phases="") for _ in range(count)]

        def show(progress: Sequence[RingProgress], rows: Sequence[RolloutRow]) -> None:
            self._say(row for row in rows if row.standing.failed)
            for task, ring in zip(tasks, progress, strict=False):
                bars.update(
                    task,
                    visible=True,
                    description=f"ring {ring.ring.number} of {count}, {ring.ring.percent:g} %",
                    total=ring.total,
                    completed=ring.settled,
                    phases=", ".join(f"{name} {n}" for name, n in sorted(ring.phases.items())),
                )

        with bars:
            yield show

    def _say(self, rows: Iterable[RolloutRow]) -> None:
        for row in rows:
            text = changed_line(row)
            if row.ring is not None and self._said.get(row.node) != text:
                self._said[row.node] = text
                self.note(text)


def changed_line(row: RolloutRow) -> str:
    """A node in a rollout in one line, without what changes all the time."""
    text = f"ring {row.ring}, {row.node}: {phase(row)}"
    if row.nearer is not None:
        return f"{text} ({row.nearer})"
    if row.update is None:
        return text
    if not row.online:
        text += ", went away"
    return text + (f" ({row.update.reason})" if row.update.reason else "")
