"""What the collector counts of itself, and when that means trouble."""

import pytest

from collector.metrics import Metrics
from contract.states import Clock
from tests.rig.examples import START_US, window

STALL_S = 60.0


def well() -> Metrics:
    metrics = Metrics()
    metrics.disconnected_at = None
    return metrics


def test_collector_that_is_connected_and_moves_is_healthy() -> None:
    """Also when nothing has come for long: machines may be switched off."""
    metrics = well()

    assert metrics.trouble(now_seconds=metrics.turned_at + 59.0, stall_seconds=STALL_S) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("turned_at", "the program has not moved for 61 s"),
        ("disconnected_at", "no connection to the broker for 61 s"),
        ("waiting_since", "messages wait and cannot be stored for 61 s"),
    ],
)
def test_trouble_counts_when_it_lasts(name: str, text: str) -> None:
    """And not before."""
    metrics = well()
    began = metrics.turned_at
    metrics.turned_at = began + 100.0
    setattr(metrics, name, began + 100.0)

    assert metrics.trouble(now_seconds=began + 159.0, stall_seconds=STALL_S) is None
    metrics.turned_at = metrics.turned_at if name == "turned_at" else began + 161.0
    assert metrics.trouble(now_seconds=began + 161.0, stall_seconds=STALL_S) == text


def test_lag_is_that_of_windows_whose_time_can_be_believed() -> None:
    """Median and 95th percentile, from a window's end to its being stored; told once."""
    metrics = Metrics()
    for lag in range(1, 101):
        metrics.note_stored(window(0), now_us=START_US + 2_000_000 + lag * 10_000)
    metrics.note_stored(window(0, clock=Clock.UNSYNCED), now_us=START_US + 10**12)

    first, second = (metrics.pipeline("main", now_us=START_US) for _ in range(2))

    assert (first.lag_p50_s, first.lag_p95_s) == (0.51, 0.96)
    assert (second.lag_p50_s, second.lag_p95_s) == (None, None)
    assert second.at_us == first.at_us + 1
