"""What `python -m bench.week` calls growth; the week itself takes too long for a test."""

import msgspec
import numpy as np

from bench.week import Growth, Sample, growth

HOURS = 168


def week(**per_hour: float) -> list[Sample]:
    """Samples of a week in which these fields grow by so much an hour; RSS is never quite still."""
    chance = np.random.default_rng(1)
    flat = Sample(
        hour=0,
        elapsed_seconds=0.0,
        rss_kib=128_000,
        pss_kib=99_000,
        python_blocks=229_000,
        open_files=9,
        threads=3,
        state_files=3,
        state_bytes=2400,
        queues={},
        machine="normal",
    )
    samples = []
    for hour in range(HOURS + 1):
        # A process that starts grows, and that is no leak.
        settled = 4000 if hour > 3 else 0
        grown = {name: getattr(flat, name) + int(hour * by) for name, by in per_hour.items()}
        sample = msgspec.structs.replace(flat, hour=hour, **grown)
        rss = sample.rss_kib + settled + int(chance.integers(-200, 200))
        samples.append(msgspec.structs.replace(sample, rss_kib=rss))
    return samples


def test_week_without_growth_has_no_findings() -> None:
    """Neither the growth of the first hours nor noise is one."""
    found = growth(week())

    assert found.findings == []
    assert abs(found.rss_kib_per_day) < 4 * found.rss_kib_per_day_se


def test_memory_that_grows_is_found() -> None:
    """2 MiB in six days are a finding, with a slope that is far from its error."""
    found = growth(week(rss_kib=20))

    assert "memory grew by 2.8 MiB" in found.findings
    assert found.rss_kib_per_day > 20 * found.rss_kib_per_day_se


def test_small_objects_that_are_kept_are_found() -> None:
    """One for every thirty-six windows, long before it is seen in the memory of the process."""
    (finding,) = growth(week(python_blocks=100)).findings

    assert "14400 more blocks" in finding


def test_everything_else_that_grows_is_found() -> None:
    """Files, bytes in them, open files and threads."""
    found: Growth = growth(week(state_files=0.05, state_bytes=40, open_files=0.05, threads=0.05))

    assert len(found.findings) == 3
    assert "state folder" in found.findings[0]
