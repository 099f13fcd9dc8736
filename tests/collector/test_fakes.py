"""The store in memory does what tests of the service lean on."""

import pytest

from collector.sinks.sink import PointsRejectedError
from tests.collector.fakes import MemorySink
from tests.rig.examples import window_points


def test_sink_stores_all_of_a_batch_or_nothing() -> None:
    """A refused point keeps its batch out; writing a point twice keeps one."""
    sink = MemorySink()
    sink.refuses = lambda point: point.fields["seq"] == 2

    with pytest.raises(PointsRejectedError):
        sink.write(window_points(1, 2))
    sink.write(window_points(1, 3))
    sink.write(window_points(3))

    assert sink.seqs() == [1, 3]
