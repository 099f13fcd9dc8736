"""What a person at the terminal sees of the work, on standard error: a progress bar, and notes."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")


class Progress(Protocol):
    """Passes items through and shows how far it is."""

    def __call__(
        self, items: Iterable[_Item], what: str, total: int | None = None
    ) -> Iterator[_Item]:
        """Yield the items; `total` for those that have no length."""
        ...


def silent(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
    """Pass the items through and show nothing."""
    yield from items


def on_terminal(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
    """Show a bar if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    # Imported late: it is not needed in a pipe, and `--help` stays quick.
    from rich.console import Console
    from rich.progress import track

    if total is None and isinstance(items, Sized):
        total = len(items)
    yield from track(items, what, total=total, console=Console(stderr=True), transient=True)


def note(text: str) -> None:
    """Tell the person at the terminal, on standard error."""
    print(f"earshot training: {text}", file=sys.stderr)  # noqa: T201 - it is what this is for
