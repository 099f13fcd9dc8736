"""What processes take of memory, from what Linux says of them."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

_PROC = Path("/proc")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process or, added up, of several. A MiB is what the reference design calls MB."""

    peak_rss_mib: float
    """Most that has been resident at once; several processes count what they share again."""
    pss_mib: float | None
    """Proportional share, now: what several processes share is counted once, and what others than
    these share as well, in part. None where the kernel does not tell."""


def memory_of(process: int | str = "self") -> Memory:
    """The memory that one process takes.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        status = (_PROC / str(process) / "status").read_text()
    except OSError as error:
        raise ProcessLookupError(process) from error
    pss = None
    with suppress(OSError):
        pss = _kib((_PROC / str(process) / "smaps_rollup").read_text(), "Pss")
    peak = _kib(status, "VmHWM")
    if peak is None:
        # What is left of a process that nobody has waited for yet.
        raise ProcessLookupError(process)
    return Memory(
        peak_rss_mib=round(peak / 1024, 1), pss_mib=None if pss is None else round(pss / 1024, 1)
    )


def total(parts: Iterable[Memory]) -> Memory:
    """The memory that all of these processes take together."""
    listed = list(parts)
    shares = [part.pss_mib for part in listed]
    known = [share for share in shares if share is not None]
    return Memory(
        peak_rss_mib=round(sum(part.peak_rss_mib for part in listed), 1),
        pss_mib=round(sum(known), 1) if len(known) == len(shares) else None,
    )


def family(process: int) -> list[int]:
    """The process and all that descend from it."""
    parents = dict(_parents())
    found = [process]
    # Grows while it is gone through.
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError, ValueError):
                # The name in brackets may hold anything, brackets and spaces too.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry.name), int(fields[1])


def _kib(text: str, label: str) -> int | None:
    found = re.search(rf"^{label}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else None
