"""Alarms over clips that are joined as a stream."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from training.errors import TrainingError
from training.judge.stream import alarms, detection_delays, false_alarms, poisson_interval


def ratios(flags: str) -> npt.NDArray[np.float64]:
    """Make ratios: `#` above the threshold, `.` below."""
    return np.array([1.5 if flag == "#" else 0.5 for flag in flags])


@pytest.mark.parametrize(
    ("flags", "ringing"),
    [
        ("###.....", "..####.."),  # stays while two of the last five are left
        ("##.#", "...#"),
        ("##....##", "........"),  # three of five, not of six
        ("#....#", "......"),
        ("", ""),
    ],
)
def test_alarm_by_hand(flags: str, ringing: str) -> None:
    """Three of the last five windows raise the alarm, and one of five ends it."""
    assert alarms(ratios(flags) > 1).tolist() == [mark == "#" for mark in ringing]


@given(st.lists(st.booleans(), max_size=40))
def test_alarm_rests_on_flags(flags: list[bool]) -> None:
    """An alarm begins only with three flags in the last five, and lasts only with two."""
    ringing = alarms(flags)

    for index, rings in enumerate(ringing):
        flagged = sum(flags[max(0, index - 4) : index + 1])
        begins = rings and not (index and ringing[index - 1])
        assert not rings or flagged >= (3 if begins else 2)
        assert rings or flagged < 3


def test_false_alarms_by_hand() -> None:
    """Two episodes in one hour are 48 a day, with the exact interval of two events."""
    quiet = np.full(880, 0.5)
    clips = [
        quiet,
        ratios("####................"),
        quiet,
        ratios("....####............"),
        quiet[:20],
    ]

    found = false_alarms(clips, hop_seconds=2.0)

    assert found is not None
    # 1820 windows of 2 s.
    assert (found.episodes, found.hours) == pytest.approx((2, 1820 * 2 / 3600))
    assert found.per_day == pytest.approx(2 * 86_400 / 3640)
    # Garwood's interval of 2 events: 0.242 to 7.225.
    days = 3640 / 86_400
    assert found.per_day_interval == pytest.approx((0.2422 / days, 7.2247 / days), rel=1e-3)


def test_episode_that_spans_a_join_is_one() -> None:
    """The vote goes on over the join: flags of two clips add up, and one episode stays one."""
    found = false_alarms([ratios(".....##"), ratios("##...")], hop_seconds=1.0)

    assert found is not None
    assert found.episodes == 1
    assert false_alarms([ratios(".....##")], hop_seconds=1.0) != found


def test_alarm_from_the_first_windows_on_counts() -> None:
    """A stream that rings all the time is one episode."""
    found = false_alarms([ratios("######")], hop_seconds=1.0)

    assert found is not None
    assert found.episodes == 1


def test_quiet_stream_still_has_an_upper_end() -> None:
    """No alarm in one day of sound shows less than 3.7 a day, not none."""
    found = false_alarms([np.full(86_400, 0.5)], hop_seconds=1.0)

    assert found is not None
    assert (found.episodes, found.per_day, found.hours) == (0, 0, 24)
    assert found.per_day_interval == pytest.approx((0, -math.log(0.025)))


@pytest.mark.parametrize("clips", [[], [np.empty(0)]])
def test_no_sound_no_rate(clips: list[npt.NDArray[np.float64]]) -> None:
    """Without a window there is no rate."""
    assert false_alarms(clips, hop_seconds=1.0) is None


@pytest.mark.parametrize("events", [0, 1, 2, 5, 30])
def test_poisson_interval_is_exact(events: int) -> None:
    """At each end the events seen, or more extreme ones, have a chance of 2.5 %."""
    low, high = poisson_interval(events)

    assert poisson.cdf(events, high) == pytest.approx(0.025)
    if events:
        assert poisson.sf(events - 1, low) == pytest.approx(0.025)
    else:
        assert low == 0


def test_delays_by_hand() -> None:
    """The delay is to the end of the window that raises the alarm, from the splice on."""
    found = detection_delays(
        [ratios(".....")],
        [
            ratios("###.."),  # third window: 2 + 2 * 1 = 4 s
            ratios(".###."),  # fourth: 5 s
            ratios("#.##."),  # fourth: 5 s
            ratios("#...#"),  # never
        ],
        hop_seconds=1.0,
        window_seconds=2.0,
    )

    assert found is not None
    assert (found.splices, found.ringing_before, found.never_detected) == (4, 0, 0.25)
    assert found.median_seconds == 5
    # Nine of ten splices are not detected at all.
    assert found.p90_seconds is None


def test_flags_before_the_splice_count_in_the_vote() -> None:
    """What the normal sound has flagged shortens the delay, as it would on a node."""
    found = detection_delays(
        [ratios("...##")], [ratios("#....")], hop_seconds=1.0, window_seconds=2.0
    )

    assert found is not None
    assert (found.median_seconds, found.p90_seconds) == (2, 2)


def test_alarm_before_the_splice_is_no_detection() -> None:
    """A splice whose normal part rings already shows no delay and is counted apart."""
    found = detection_delays(
        [ratios("..###"), ratios(".....")],
        [ratios("#####")] * 3,
        hop_seconds=1.0,
        window_seconds=2.0,
    )

    assert found is not None
    # Normal clips are used in turn: the first and the third splice ring.
    assert (found.ringing_before, found.splices, found.median_seconds) == (2, 1, 4)


def test_no_quiet_splice_no_delay() -> None:
    """If the alarm rings before each splice there is no delay to tell."""
    found = detection_delays(
        [ratios("#####")], [ratios("#####")], hop_seconds=1.0, window_seconds=2.0
    )

    assert found is not None
    assert (found.splices, found.median_seconds, found.never_detected) == (0, None, None)


def test_no_splice_without_both_labels() -> None:
    """Without normal or without anomalous clips there is no splice."""
    clips = [ratios("...")]

    assert detection_delays([], clips, hop_seconds=1.0, window_seconds=2.0) is None
    assert detection_delays(clips, [], hop_seconds=1.0, window_seconds=2.0) is None


def test_ratio_that_is_no_number_is_refused() -> None:
    """A window without a number would count as quiet: it is refused."""
    with pytest.raises(TrainingError, match=r"finite statistic / threshold .* got nan"):
        false_alarms([np.array([0.5, np.nan])], hop_seconds=1.0)
