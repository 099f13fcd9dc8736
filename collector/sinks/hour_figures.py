"""Hours of windows, and what a store counts of one. Pure.

When an hour is counted is the business of `collector.ledger.hours`.
"""

from collections.abc import Sequence

from contract.records import WindowHour

HOUR_US = 3600 * 1_000_000


def hour_of(time_us: int) -> int:
    """When the hour began in which this time lies; both in microseconds since 1970, UTC."""
    return time_us - time_us % HOUR_US


def window_hour(node: str, hour_us: int, model: str, answer: Sequence[float | None]) -> WindowHour:
    """An hour of one model, as a store has counted it.

    Args:
        node: its id.
        hour_us: when the hour began, in microseconds since 1970, UTC.
        model: of the windows.
        answer: how many windows, scored and flagged; the score's mean and maximum, the means of mse
            and level. None where there is nothing to count.
    """
    windows, scored, flagged = (int(count or 0) for count in answer[:3])
    score_mean, score_max, mse_mean, level_mean_dbfs = (
        None if value is None else float(value) for value in answer[3:]
    )
    return WindowHour(
        node=node,
        model=model,
        start_us=hour_us,
        windows=windows,
        scored=scored,
        flagged=flagged,
        score_mean=score_mean,
        score_max=score_max,
        mse_mean=mse_mean,
        level_mean_dbfs=level_mean_dbfs,
    )
