"""What a collector makes and stores, and never sends; and which messages have a table of their own.

These have the shape of messages, so that a store takes both in one way. They grow as messages do,
see `contract.messages`: a column that an older file lacks is added, and empty in its old rows.
"""

from typing import Any, ClassVar

import msgspec

from contract.messages import (
    Birth,
    BootId,
    CollectorStatus,
    Count,
    Discards,
    Event,
    Health,
    Message,
    ModelLabel,
    NodeId,
    State,
    Status,
    TimeUs,
    Update,
    Window,
)
from contract.states import BootEnd
from contract.topics import Kind


class LedgerEntry(Discards, frozen=True, kw_only=True):
    """The account of one boot beside what is stored of it; made by the collector, never sent."""

    KIND: ClassVar[Kind] = Kind.LEDGER

    node: NodeId
    boot: BootId
    at_us: TimeUs
    """Strictly increasing, so that two boots of one node are two points."""
    produced: Count
    stored: Count
    waiting: Count
    rejected: Count
    """Refused by the store itself: they are among the dead letters, with its reason."""
    in_transit: Count
    """Neither stored nor accounted for, and not for long: still on its way, as far as is known."""
    missing: Count
    """Neither stored nor accounted for, for longer than a node takes to send again."""
    lost_tail: Count
    """Windows that went with the memory of a boot that was lost, as far as they are known."""
    tail_windows: Count
    """How many windows went, at most, with the memory of a boot that was lost, known or not."""
    end: BootEnd


class Pipeline(Message, frozen=True, kw_only=True):
    """How a collector itself is; made by the collector, never sent. Counts since its start."""

    KIND: ClassVar[Kind] = Kind.PIPELINE
    TAGS: ClassVar[tuple[str, ...]] = ("id",)

    id: NodeId
    at_us: TimeUs
    uptime_s: float
    received: Count
    """Messages."""
    stored_points: Count
    stored_windows: Count
    """Windows written, those included that came again."""
    batches: Count
    write_errors: Count
    """Writes that failed and were tried again."""
    dead_letters: Count
    dropped: Count
    """Messages given up that the broker, or the node, sends again."""
    receipts: Count
    waiting_messages: Count
    """Received and not yet stored."""
    reconnects: Count
    connected: bool
    storing: bool
    """Whether the last write has worked."""
    lag_p50_s: float | None
    """Median time from the end of a live window to its being stored, since the last figures."""
    lag_p95_s: float | None
    missing_windows: Count
    """Over all ledgers, now."""
    memory_rss_bytes: Count


class WindowHour(Message, frozen=True, kw_only=True):
    """All stored windows of one node and model that began within one hour, in a few figures.

    Made by the collector, never sent; for comparisons over years, when the windows are long gone.
    """

    KIND: ClassVar[Kind] = Kind.WINDOW_HOUR
    TIME: ClassVar[str] = "start_us"
    TAGS: ClassVar[tuple[str, ...]] = ("node", "model")

    node: NodeId
    model: ModelLabel
    start_us: TimeUs
    """The hour's beginning, in UTC."""
    windows: Count
    scored: Count
    """How many of these have a score; the others could not be judged."""
    flagged: Count
    """How many of these are anomalies."""
    score_mean: float | None
    score_max: float | None
    mse_mean: float | None
    level_mean_dbfs: float | None
    """Mean of the windows' levels, each in dB."""


STORED: tuple[type[Message], ...] = (
    Window,
    Status,
    Birth,
    State,
    Event,
    Health,
    Update,
    CollectorStatus,
    LedgerEntry,
    Pipeline,
    WindowHour,
)
"""Messages with a measurement of their own; a backlog is stored as its windows."""


def stored_fields(message: type[Message]) -> dict[str, Any]:
    """Names and types of the fields that are stored, without the time and the schema."""
    return {
        field.name: field.type
        for field in msgspec.structs.fields(message)
        if field.name not in ("schema", message.TIME)
    }
