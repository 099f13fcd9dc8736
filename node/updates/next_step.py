"""What an updater does next, by what is ordered and what the node knows. Pure.

Doing it (to fetch, to test, to try out, to switch) is `node.updates.updater`'s.
"""

from enum import StrEnum

from contract.desired import Wanted
from node.updates.orders import StandingOrder
from node.updates.update_state import Refused, UpdateState


class NextStep(StrEnum):
    """What to do about the order that stands."""

    PROVE = "prove"
    """Nothing yet: what runs has to prove itself first; then it is asked again."""
    REST = "rest"
    """Nothing: no other release is wanted than the one that runs."""
    GO_ON = "go on"
    """The release that is wanted is on its way in."""
    BEGIN = "begin"
    """Bring the release in that is wanted."""


def next_step(
    state: UpdateState,
    order: StandingOrder,
    under_way: Wanted | None,
    *,
    now_us: int,
    retry_seconds: float,
) -> NextStep | Refused:
    """What follows from the order that stands.

    Args:
        state: what the node knows of its releases.
        order: the one that stands.
        under_way: the release that is on its way in, if one is.
        now_us: microseconds since 1970.
        retry_seconds: how long after passing trouble a release is tried again.

    Returns:
        The step, or why the release that is wanted is not tried, or not yet tried again.
    """
    target = order.target
    if not state.confirmed:
        return NextStep.PROVE
    if target is None or target.manifest_sha256 == state.current.manifest_sha256:
        return NextStep.REST
    if under_way is not None and under_way.manifest_sha256 == target.manifest_sha256:
        return NextStep.GO_ON
    refused = _refusal_of(target, state, order, now_us=now_us, retry_seconds=retry_seconds)
    return NextStep.BEGIN if refused is None else refused


def thresholds_by(state: UpdateState, order: StandingOrder) -> dict[str, float]:
    """The thresholds that operators have given, by the manifests' SHA-256, after this order.

    A threshold is bound to its release: it waits until that runs, and goes with it.
    """
    thresholds = dict(state.thresholds)
    target = order.target
    if target is not None:
        thresholds.pop(target.manifest_sha256, None)
        if target.threshold is not None:
            thresholds[target.manifest_sha256] = target.threshold
    elif order.address is None:
        thresholds.pop(state.current.manifest_sha256, None)
    return thresholds


def _refusal_of(
    target: Wanted,
    state: UpdateState,
    order: StandingOrder,
    *,
    now_us: int,
    retry_seconds: float,
) -> Refused | None:
    """An order anew tries what was refused before; passing trouble is tried again by itself."""
    serial = order.serial or 0
    for refused in reversed(state.refused):
        if refused.manifest_sha256 == target.manifest_sha256 and refused.serial >= serial:
            waited_us = now_us - refused.at_us
            # Before it was refused: then the clock was wrong, now or then.
            due = waited_us < 0 or waited_us >= retry_seconds * 1e6
            return None if refused.retry and due else refused
    return None
