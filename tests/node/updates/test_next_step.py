"""What an updater does next: decided from values alone."""

import pytest

from contract.desired import Wanted
from contract.states import UpdatePhase
from node.updates.next_step import NextStep, next_step, thresholds_by
from node.updates.orders import NOTHING_ORDERED, StandingOrder
from node.updates.update_state import Refused, Slot, UpdateState, refusing

FACTORY = Slot(release="fan@1", manifest_sha256="1" * 64, factory=True)
RUNNING = UpdateState(factory=FACTORY, current=FACTORY, previous=None)
NOW_US = 10_000_000_000
RETRY_SECONDS = 60.0


def wanted(version: int, threshold: float | None = None) -> Wanted:
    return Wanted(release=f"fan@{version}", manifest_sha256=f"{version}" * 64, threshold=threshold)


def order(target: Wanted | None, serial: int = 5) -> StandingOrder:
    return StandingOrder(address="all", serial=serial, target=target, allow_older=False)


def refused(*, serial: int = 5, retry: bool = False, at_us: int = NOW_US) -> Refused:
    return Refused(
        manifest_sha256="2" * 64,
        serial=serial,
        phase=UpdatePhase.REJECTED,
        reason="the disk is full",
        at_us=at_us,
        retry=retry,
    )


def step(
    state: UpdateState, standing: StandingOrder, under_way: Wanted | None = None
) -> NextStep | Refused:
    return next_step(state, standing, under_way, now_us=NOW_US, retry_seconds=RETRY_SECONDS)


def test_release_that_is_wanted_is_begun_once() -> None:
    """Nothing to do for what runs or is on its way; another one is begun."""
    assert step(RUNNING, NOTHING_ORDERED) is NextStep.REST
    assert step(RUNNING, order(wanted(1))) is NextStep.REST
    assert step(RUNNING, order(wanted(2))) is NextStep.BEGIN
    assert step(RUNNING, order(wanted(2)), wanted(2)) is NextStep.GO_ON
    assert step(RUNNING, order(wanted(2)), wanted(3)) is NextStep.BEGIN


def test_what_runs_proves_itself_before_anything_else() -> None:
    """Whatever is ordered meanwhile waits."""
    new = Slot(release="fan@3", manifest_sha256="3" * 64)
    state = UpdateState(factory=FACTORY, current=new, previous=FACTORY, confirmed=False)

    assert {step(state, order(wanted(version))) for version in (1, 2, 3)} == {NextStep.PROVE}


@pytest.mark.parametrize(
    ("refusal", "is_tried"),
    [
        (refused(), False),
        (refused(serial=6), False),
        (refused(serial=4), True),
        (refused(retry=True, at_us=NOW_US - 59_000_000), False),
        (refused(retry=True, at_us=NOW_US - 60_000_000), True),
        (refused(retry=True, at_us=NOW_US + 1), True),
        (refused(retry=False, at_us=0), False),
    ],
    ids=[
        "refused",
        "under a later order",
        "ordered anew",
        "a moment ago",
        "long enough ago",
        "by a clock that was ahead",
        "for good",
    ],
)
def test_what_was_refused_is_tried_again_when_that_makes_sense(
    refusal: Refused, *, is_tried: bool
) -> None:
    """An order anew, or passing trouble that has had its time; until then the refusal stands."""
    assert step(refusing(RUNNING, refusal), order(wanted(2))) == (
        NextStep.BEGIN if is_tried else refusal
    )


def test_threshold_is_bound_to_its_release() -> None:
    """It comes with an order that gives one, and goes with the next that does not, or with all."""
    ordered = thresholds_by(RUNNING, order(wanted(2, 0.5)))
    state = UpdateState(factory=FACTORY, current=FACTORY, previous=None, thresholds={"1" * 64: 2.0})

    assert ordered == {"2" * 64: 0.5}
    assert thresholds_by(state, order(wanted(2, 0.5))) == {"1" * 64: 2.0, "2" * 64: 0.5}
    assert thresholds_by(state, order(wanted(1))) == {}
    assert thresholds_by(state, order(None)) == {"1" * 64: 2.0}
    assert thresholds_by(state, NOTHING_ORDERED) == {}
