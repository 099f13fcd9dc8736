"""Time stamps that never go back, boots that have names, and whether the clock is trusted."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.messages import Clock
from node.clock import WindowClock, new_boot_id, system_clock

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
AT_NS = 1_795_358_112_500_000_000


class FakeTime:
    """A wall clock and a monotonic one that go on only when told."""

    def __init__(self) -> None:
        self.wall = AT_NS
        self.monotonic = 77_000_000_000

    def wall_ns(self) -> int:
        return self.wall

    def monotonic_ns(self) -> int:
        return self.monotonic

    def pass_ns(self, duration: int) -> None:
        self.wall += duration
        self.monotonic += duration

    def clock(self) -> WindowClock:
        return WindowClock(self.wall_ns, self.monotonic_ns)


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


def test_capture_time_becomes_wall_time() -> None:
    """A window captured some time ago is stamped that much before now."""
    time = FakeTime()

    assert time.clock().start_us(time.monotonic - 2_000_000_000) == AT_NS // 1000 - 2_000_000


def test_now_is_the_wall_clock_in_microseconds() -> None:
    """Now is what the wall clock says."""
    time = FakeTime()
    clock = time.clock()

    time.pass_ns(1_999)

    assert clock.now_us() == AT_NS // 1000 + 1


def test_stamps_rise_when_captures_coincide() -> None:
    """Two windows of the same instant get different stamps, one microsecond apart."""
    time = FakeTime()
    clock = time.clock()

    stamps = [clock.start_us(time.monotonic) for _ in range(3)]

    assert stamps == [AT_NS // 1000 + k for k in range(3)]


def test_clock_that_is_set_back_does_not_turn_time() -> None:
    """After a step back of the wall clock stamps still rise, until it has caught up."""
    time = FakeTime()
    clock = time.clock()
    before = clock.start_us(time.monotonic)

    time.wall -= 3_600_000_000_000
    stepped = clock.start_us(time.monotonic)
    time.pass_ns(3_601_000_000_000)
    caught_up = clock.start_us(time.monotonic)

    assert stepped == before + 1
    assert caught_up == time.wall // 1000


def test_clock_that_is_set_forward_is_followed() -> None:
    """Once NTP has set the clock, windows have the right time."""
    time = FakeTime()
    clock = time.clock()
    clock.start_us(time.monotonic)

    time.wall += 86_400_000_000_000

    assert clock.start_us(time.monotonic) == time.wall // 1000


@given(
    st.lists(
        st.tuples(st.integers(0, 10**10), st.integers(-(10**13), 10**13), st.integers(0, 10**10)),
        min_size=1,
    )
)
@settings(max_examples=100, deadline=None, database=None)
def test_stamps_always_rise(steps: list[tuple[int, int, int]]) -> None:
    """Whatever happens to the wall clock, each stamp is later than the one before."""
    time = FakeTime()
    clock = time.clock()
    stamps = []
    for passed, stepped, ago in steps:
        time.pass_ns(passed)
        time.wall += stepped
        stamps.append(clock.start_us(time.monotonic - ago))

    assert all(one < other for one, other in pairwise(stamps))


def test_system_clock_is_asked() -> None:
    """The kernel says synced or unsynced, never that time is simulated."""
    assert system_clock() in (Clock.SYNCED, Clock.UNSYNCED)


def test_stamp_is_never_negative() -> None:
    """A clock before 1970 gives stamps that a message can carry."""
    clock = WindowClock(lambda: 0, lambda: 10**12)

    assert clock.start_us(0) == 0


@pytest.mark.parametrize("at_ms", [2**48, 2**60])
def test_time_beyond_the_ulid_wraps(at_ms: int) -> None:
    """A clock gone wild still gives 26 characters."""
    assert len(new_boot_id(at_ms, bytes(10))) == 26
