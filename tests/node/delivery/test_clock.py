"""Time stamps that never go back, boots that have names, and whether the clock is trusted."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.states import Clock
from node.delivery.clock import Settled, Stamp, WindowClock, new_boot_id, system_clock

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
AT_NS = 1_795_358_112_500_000_000


class FakeTime:
    """A wall clock and a monotonic one that go on only when told, and what the first is worth."""

    def __init__(self) -> None:
        self.wall = AT_NS
        self.monotonic = 77_000_000_000
        self.state = Clock.SYNCED

    def wall_ns(self) -> int:
        return self.wall

    def monotonic_ns(self) -> int:
        return self.monotonic

    def pass_ns(self, duration: int) -> None:
        self.wall += duration
        self.monotonic += duration

    def clock(self) -> WindowClock:
        return WindowClock(self.wall_ns, self.monotonic_ns, lambda: self.state)


def decoded(ulid: str) -> int:
    return sum(CROCKFORD.index(c) << 5 * place for place, c in enumerate(reversed(ulid)))


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
@settings(max_examples=100, deadline=None, database=None)
def test_boot_id_is_a_ulid(at_ms: int, chance: bytes) -> None:
    """26 characters of Crockford's base 32 hold 48 bits of milliseconds and 80 of chance."""
    boot = new_boot_id(at_ms, chance)

    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", boot)
    assert decoded(boot) == at_ms << 80 | int.from_bytes(chance, "big")


def test_boot_id_is_as_in_the_specification() -> None:
    """The time part of the ULID specification's own example comes out."""
    assert new_boot_id(1_469_918_176_385, bytes(10)) == "01ARYZ6S41" + "0" * 16


def test_boot_ids_sort_by_time() -> None:
    """A later boot's id sorts behind an earlier one's, whatever chance says."""
    assert new_boot_id(1000, b"\xff" * 10) < new_boot_id(1001, bytes(10))


def starts(clock: WindowClock, *captured_ns: int) -> list[int]:
    return [clock.stamp(seq, each, 2_000_000).start_us for seq, each in enumerate(captured_ns)]


def test_capture_time_becomes_wall_time() -> None:
    """A window captured some time ago is stamped that much before now."""
    time = FakeTime()
    stamp = time.clock().stamp(0, time.monotonic - 2_000_000_000, 2_000_000)

    assert stamp == Stamp(AT_NS // 1000 - 2_000_000, Clock.SYNCED)


def test_now_is_the_wall_clock_in_microseconds() -> None:
    """Now is what the wall clock says; whether that can be trusted is told apart."""
    time = FakeTime()
    clock = time.clock()

    time.pass_ns(1_999)

    assert clock.now_us() == clock.synced_us() == AT_NS // 1000 + 1
    time.state = Clock.UNSYNCED
    assert clock.synced_us() is None


def test_stamps_rise_when_captures_coincide() -> None:
    """Two windows of the same instant get different stamps, one microsecond apart."""
    time = FakeTime()

    assert starts(time.clock(), *[time.monotonic] * 3) == [AT_NS // 1000 + k for k in range(3)]


def test_clock_that_is_set_back_is_not_followed_back() -> None:
    """Stamps go on at half the pace until it has caught up, unsynced while more than 1 s off."""
    time = FakeTime()
    clock = time.clock()
    first = clock.stamp(0, time.monotonic, 2_000_000)
    time.wall -= 10_000_000_000
    stamps = []
    for seq in range(1, 25):
        time.pass_ns(1_000_000_000)
        stamps.append(clock.stamp(seq, time.monotonic, 2_000_000))
    moved = [stamp.start_us - first.start_us for stamp in stamps]

    assert moved[:20] == [500_000 * k for k in range(1, 21)]
    assert moved[20:] == [11_000_000, 12_000_000, 13_000_000, 14_000_000]
    assert [stamp.clock for stamp in stamps] == [Clock.UNSYNCED] * 17 + [Clock.SYNCED] * 7


def test_clock_that_is_set_back_by_years_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    """Once it is synchronised: else windows would go on for years from a time to come."""
    time = FakeTime()
    time.wall += 10**18
    clock = time.clock()
    clock.stamp(0, time.monotonic, 2_000_000)
    time.wall -= 10**18
    time.state = Clock.UNSYNCED
    unsure = clock.stamp(1, time.monotonic, 2_000_000)
    time.state = Clock.SYNCED
    time.pass_ns(1_000_000_000)
    sure = clock.stamp(2, time.monotonic, 2_000_000)
    time.pass_ns(1_000_000_000)
    clock.stamp(3, time.monotonic, 2_000_000)

    assert unsure == Stamp((AT_NS + 10**18) // 1000 + 1, Clock.UNSYNCED)
    assert sure == Stamp(AT_NS // 1000 + 1_000_000, Clock.SYNCED)
    assert caplog.text.count("the clock was wrong") == 1


def test_clock_that_is_set_forward_is_followed() -> None:
    """Once NTP has set the clock, windows have the right time."""
    time = FakeTime()
    clock = time.clock()
    clock.stamp(0, time.monotonic, 2_000_000)

    time.wall += 86_400_000_000_000

    assert starts(clock, time.monotonic) == [time.wall // 1000]


@given(
    st.lists(
        st.tuples(st.integers(0, 10**10), st.integers(-(10**13), 10**13), st.integers(0, 10**10)),
        min_size=1,
    ),
    st.none() | st.integers(0, 2 * AT_NS // 1000),
    st.sampled_from([0.0, 5.0]),
    st.lists(st.booleans()),
)
@settings(max_examples=200, deadline=None, database=None)
def test_stamps_always_rise(
    steps: list[tuple[int, int, int]], above: int | None, wait: float, synced: list[bool]
) -> None:
    """Whatever happens to the wall clock, each stamp is later than the one before.

    Unless that one was more than an hour ahead of a clock that is synchronised now.
    """
    time = FakeTime()
    clock = time.clock()
    time.state = Clock.UNSYNCED
    clock.begin(above_us=above, wait_seconds=wait)
    final: dict[int, int] = {}
    wrong: set[int] = set()
    for seq, (passed, stepped, ago) in enumerate(steps):
        time.pass_ns(passed)
        time.wall += stepped
        time.state = Clock.SYNCED if seq < len(synced) and synced[seq] else Clock.UNSYNCED
        settled = clock.settle()
        if settled is not None:
            final |= {each: stamp.start_us for each, stamp in settled.stamps.items()}
        if time.state is Clock.SYNCED:
            wrong |= {each for each, us in final.items() if us - clock.now_us() > 3_600_000_000}
        final[seq] = clock.stamp(seq, time.monotonic - ago, 2_000_000).start_us

    assert list(final) == list(range(len(steps)))
    assert all(final[seq - 1] < final[seq] for seq in range(1, len(steps)) if seq - 1 not in wrong)


@pytest.mark.parametrize("state", [Clock.SYNCED, Clock.UNSYNCED])
def test_next_start_stamps_above_the_last(state: Clock) -> None:
    """A clock that starts behind the last stamp gives later ones, at half the pace."""
    time = FakeTime()
    time.state = state
    clock = time.clock()
    above = AT_NS // 1000 + 10_000_000

    clock.begin(above_us=above, wait_seconds=0.0)
    first = clock.stamp(0, time.monotonic, 2_000_000)
    time.pass_ns(1_000_000_000)
    second = clock.stamp(1, time.monotonic, 2_000_000)

    assert first == Stamp(above + 1, Clock.UNSYNCED)
    assert second == Stamp(above + 500_001, Clock.UNSYNCED)


def test_last_stamp_far_in_the_future_is_nonsense(caplog: pytest.LogCaptureFixture) -> None:
    """Where the clock is right now, it was wrong then: this start does not follow it."""
    time = FakeTime()
    clock = time.clock()

    clock.begin(above_us=AT_NS // 1000 + 3_600_000_001, wait_seconds=0.0)

    assert starts(clock, time.monotonic) == [AT_NS // 1000]
    assert "the clock was wrong" in caplog.text


def test_last_stamp_in_the_future_is_believed_while_the_clock_is_not() -> None:
    """Until it is synchronised nobody can say which of the two is wrong."""
    time = FakeTime()
    time.state = Clock.UNSYNCED
    clock = time.clock()
    above = AT_NS // 1000 + 86_400_000_000

    clock.begin(above_us=above, wait_seconds=120.0)
    provisional = starts(clock, time.monotonic)
    time.state = Clock.SYNCED
    settled = clock.settle()

    assert provisional == [above + 1]
    assert settled is not None
    assert settled.stamps == {0: Stamp(AT_NS // 1000, Clock.SYNCED)}


def test_windows_wait_for_the_clock_and_are_stamped_once() -> None:
    """As it becomes synchronised, those before get the time that they were heard at."""
    time = FakeTime()
    time.state = Clock.UNSYNCED
    time.wall = 1_000_000_000
    clock = time.clock()
    clock.begin(above_us=None, wait_seconds=120.0)
    began = time.monotonic
    provisional = []
    for seq in range(3):
        provisional.append(clock.stamp(seq, time.monotonic, 2_000_000))
        assert clock.settle() is None
        time.pass_ns(1_000_000_000)
    time.wall = AT_NS
    time.state = Clock.SYNCED
    offset = AT_NS - time.monotonic

    settled = clock.settle()
    after = clock.stamp(3, time.monotonic, 2_000_000)

    right = [(began + offset) // 1000 + k * 1_000_000 for k in range(3)]
    assert [stamp.clock for stamp in provisional] == [Clock.UNSYNCED] * 3
    assert settled is not None
    assert settled.stamps == {seq: Stamp(us, Clock.SYNCED) for seq, us in enumerate(right)}
    assert settled.ends_us == {
        stamp.start_us + 2_000_000: us + 2_000_000
        for stamp, us in zip(provisional, right, strict=True)
    }
    assert after == Stamp(right[-1] + 1_000_000, Clock.SYNCED)
    assert not clock.waits
    assert clock.settle() is None


def test_wait_for_the_clock_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """After that windows keep what they have, also when the clock is set later."""
    time = FakeTime()
    time.state = Clock.UNSYNCED
    clock = time.clock()
    clock.begin(above_us=None, wait_seconds=120.0)
    clock.stamp(0, time.monotonic, 2_000_000)
    time.pass_ns(119_999_999_999)
    before = clock.settle()
    time.pass_ns(1)

    settled = clock.settle()
    time.state = Clock.SYNCED

    assert before is None
    assert settled == Settled({}, {})
    assert clock.settle() is None
    assert "not synchronised" in caplog.text


@pytest.mark.parametrize(("state", "wait"), [(Clock.SYNCED, 120.0), (Clock.UNSYNCED, 0.0)])
def test_nothing_waits_where_the_clock_is_right_or_does_not_matter(
    state: Clock, wait: float
) -> None:
    """Windows go out at once, marked with what the clock is."""
    time = FakeTime()
    time.state = state
    clock = time.clock()

    clock.begin(above_us=None, wait_seconds=wait)

    assert not clock.waits
    assert clock.settle() is None
    assert clock.stamp(0, time.monotonic, 2_000_000).clock is state


def test_system_clock_is_asked() -> None:
    """The kernel says synced or unsynced, never that time is simulated."""
    assert system_clock() in (Clock.SYNCED, Clock.UNSYNCED)


def test_stamp_is_never_negative() -> None:
    """A clock before 1970 gives stamps that a message can carry."""
    clock = WindowClock(lambda: 0, lambda: 10**12)

    assert clock.stamp(0, 0, 2_000_000).start_us == 0


@pytest.mark.parametrize("at_ms", [2**48, 2**60])
def test_time_beyond_the_ulid_wraps(at_ms: int) -> None:
    """A clock gone wild still gives 26 characters."""
    assert len(new_boot_id(at_ms, bytes(10))) == 26
