"""Outboxes and windows for the tests of what delivers them."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from contract.messages import Receipt, Window
from contract.states import Clock, DiscardReason, MachineState, Problem
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules

NODE = "press-07"
BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"
NEXT_BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBD"

NORMAL = Window(
    node=NODE,
    boot=BOOT,
    seq=0,
    start_us=0,
    duration_us=2_000_000,
    mse=1.0,
    statistic=1.0,
    threshold=2.0,
    score=0.5,
    anomaly=False,
    state=MachineState.NORMAL,
    problem=None,
    model="fan@1",
    level_dbfs=-30.0,
    clipped=0.0,
    overruns=0,
    clock=Clock.SYNCED,
    latency_ms=4.0,
)
FLAGGED = msgspec.structs.replace(NORMAL, mse=3.0, statistic=3.0, score=1.5, anomaly=True)
UNSCORED = msgspec.structs.replace(
    NORMAL, mse=None, statistic=None, score=None, anomaly=None, problem=Problem.ERROR
)
UNHEARD = msgspec.structs.replace(UNSCORED, problem=Problem.MIC_GONE, level_dbfs=None)
IN_ALARM = msgspec.structs.replace(NORMAL, state=MachineState.ALARM)
KINDS = {".": NORMAL, "x": FLAGGED, "?": UNSCORED, "-": UNHEARD, "!": IN_ALARM}

FULL, EXPIRED = DiscardReason.FULL, DiscardReason.EXPIRED
REFUSED, DAMAGED = DiscardReason.REFUSED, DiscardReason.DAMAGED


def window(kind: str, seq: int, boot: str = BOOT) -> Window:
    return msgspec.structs.replace(KINDS[kind], seq=seq, start_us=seq, boot=boot)


def filled(kinds: str, *, max_windows: int = 1000) -> Outbox:
    """In memory, where the broker's word lets go of a window."""
    outbox = Outbox(
        BOOT,
        node=NODE,
        hop_seconds=1.0,
        rules=OutboxRules(receipts="broker", max_windows=max_windows),
    )
    fill(outbox, kinds)
    return outbox


def fill(outbox: Outbox, kinds: str, *, first: int = 0, boot: str = BOOT) -> None:
    for seq, kind in enumerate(kinds, first):
        outbox.add(window(kind, seq, boot), float(seq))


def in_memory() -> Outbox:
    """In memory, where windows wait for receipts."""
    return Outbox(BOOT, node=NODE, hop_seconds=1.0)


def on_disk(folder: Path, *, boot: str = BOOT, **rules: Any) -> Outbox:
    return on_file(OutboxFile(folder / "outbox.db"), boot=boot, **rules)


def on_file(file: OutboxFile, *, boot: str = BOOT, **rules: Any) -> Outbox:
    return Outbox(boot, node=NODE, hop_seconds=1.0, file=file, rules=OutboxRules(**rules))


def waiting(outbox: Outbox, limit: int = 1000) -> list[int]:
    return [entry.window.seq for entry in outbox.outgoing.late(limit)]


def everything(outbox: Outbox) -> list[Window]:
    """All that waits, sent and never confirmed."""
    found: list[Window] = []
    while entries := outbox.outgoing.late(50):
        found += [entry.window for entry in entries]
        outbox.outgoing.sent(entries[0].window.boot, [entry.window.seq for entry in entries])
    return found


def receipt(
    first: int, last: int, holes: Sequence[tuple[int, int]] = (), boot: str = BOOT
) -> Receipt:
    return Receipt(
        node=NODE, boot=boot, at_us=1, stored_from=first, stored_up_to=last, holes=tuple(holes)
    )


def discarded_by(outbox: Outbox, reason: DiscardReason) -> int:
    """Windows given up for a reason since the process began, as `health` says it."""
    count: int = getattr(outbox.figures(0.0), f"discarded_{reason}")
    return count


def account_of(outbox: Outbox, boot: str = BOOT) -> dict[str, int]:
    account = outbox.account(boot, at_us=0)
    return {
        name: getattr(account, name)
        for name in ("produced", "waiting", "discarded", "tail_windows", "ended")
    }


def saved_rows(folder: Path) -> list[int]:
    """Numbers of the windows that another process would find."""
    database = sqlite3.connect(folder / "outbox.db")
    try:
        return [seq for (seq,) in database.execute("SELECT seq FROM windows ORDER BY boot, seq")]
    finally:
        database.close()
