"""The clock that tests step: what a program under it reads."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rig.stepped_clock import SteppedClock

_READ = """
import ctypes, time
room = ctypes.create_string_buffer(512)
print(time.time_ns(), time.monotonic_ns(), ctypes.CDLL(None).adjtimex(room), flush=True)
"""
_PROGRAM = f"import sys\nfor _ in sys.stdin:\n    exec({_READ!r})\n"


def test_clock_is_stepped_while_the_program_runs(tmp_path: Path) -> None:
    """The time of day jumps, the monotonic clock does not, and synchronised is what we say."""
    clock = SteppedClock(tmp_path / "clock")
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env=clock.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def read() -> tuple[float, float, int]:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write("\n")
            program.stdin.flush()
            wall_ns, monotonic_ns, state = map(int, program.stdout.readline().split())
            return wall_ns / 1e9 - time.time(), monotonic_ns / 1e9 - time.monotonic(), state

        before = read()
        clock.step(-7200)
        clock.synchronise(synced=False)
        after = read()
        program.stdin.close()

    assert before == pytest.approx((0, 0, 0), abs=60)
    assert after == pytest.approx((-7200, 0, 5), abs=60)
    assert (before[2], after[2]) == (0, 5)
