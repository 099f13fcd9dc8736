"""What the outbox keeps, how long, and how safely: the node's settings, in its own words."""

from typing import Literal

import msgspec


class OutboxRules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one outbox."""

    receipts: Literal["collector", "broker"] = "collector"
    """Whose word lets go of a window: that of a collector that has stored it, or the broker's."""
    durable: Literal["late", "always"] = "late"
    """Whether a window goes to the disk only if no receipt comes in time, or at once."""
    tail_seconds: float = 5.0
    """How old a window may become in memory alone."""
    max_windows: int = 10_000
    """How many windows may be in memory alone; then one is given up for each that comes."""
    max_bytes: int = 128 * 1024 * 1024
    """How large the file may become; then windows in it are given up."""
    max_age_seconds: float = 168 * 3600.0
    """A window that has waited for longer is given up."""
    resend_seconds: float = 600.0
    """How long a receipt may take before the window is sent again."""
