"""Orders to the fleet: given, looked at again, and seen through ring by ring.

Every program that speaks for an operator does it here, so that each order has a higher serial than
the last, and two operators at one address notice each other.

A ring is followed by the next one when some node has shown what the release does there: after one
in which nobody is online, or in which no node stands although none before has committed it, the
rollout ends, and a person decides how it goes on.
"""

import time
from collections.abc import Callable, Collection, Sequence
from enum import Enum

import msgspec

from contract import topics
from contract.command_line import typed
from contract.desired import Desired
from contract.errors import EarshotError
from contract.settings import MqttSettings
from contract.signature import Signer, TrustedKeys
from contract.signed_desired import sign_desired
from training.fleet.broker import BrokerTroubleError, Operator, retained
from training.fleet.fleet import HEARD, Fleet
from training.fleet.rings import RingProgress, Rollout, Standing
from training.fleet.rollout_screen import Screen
from training.fleet.rollout_tables import ended_lines, rollout_table

EXIT_NOT_ALL = 1
"""Some nodes have not committed it, the rollout has ended early, or another operator came
between."""
EXIT_TIMED_OUT = 3
"""Some nodes have not answered in time; the order stands."""

# One that we overwrote in the same moment is put back once; more often, somebody fights us.
_TRIES = 3
_LOOK_SECONDS = 0.5


class OvertakenError(EarshotError):
    """Somebody else has given an order for the same nodes since: look what it says."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """How long nodes are waited for, and what ends it."""

    timeout_seconds: float
    """How long to wait for each ring."""
    stop_share: float | None = None
    """A ring in which more than this share of the nodes fails ends the rollout."""


class Desk(msgspec.Struct, frozen=True):
    """What an operator works with: a connection, what the fleet says, and a screen."""

    operator: Operator
    fleet: Fleet
    screen: Screen


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to get to the fleet, and whose word counts there."""

    broker: MqttSettings
    trusted: TrustedKeys
    settle_seconds: float = 1.0


def at_desk(access: Access, screen: Screen, work: Callable[[Desk], int]) -> int:
    """Connect, do the work, and give its exit code.

    Raises:
        EarshotError: of the broker, or what the work raises; being overtaken is an exit code.
    """
    fleet = Fleet(access.trusted)
    operator = Operator(
        access.broker,
        HEARD,
        fleet.take,
        note=screen.note,
        settle_seconds=access.settle_seconds,
    )
    with operator:
        try:
            return work(Desk(operator, fleet, screen))
        except OvertakenError as error:
            screen.note(str(error))
            return EXIT_NOT_ALL


def now_us() -> int:
    """The time, in microseconds since 1970."""
    return time.time_ns() // 1000


def give(desk: Desk, signer: Signer, order: Desired) -> Desired:
    """Publish an order with a new serial, and make sure that the broker keeps it and no other.

    Raises:
        OvertakenError: another order has come after it.
        SerialsUsedUpError: none can follow the last one.
        BrokerTroubleError: the broker does not keep it.
    """
    at_us = now_us()
    serial = desk.fleet.next_serial(order.to, now_us=at_us)
    order = msgspec.structs.replace(order, at_us=at_us, serial=serial)
    if beyond := desk.fleet.beyond(order):
        desk.screen.note(
            f"{', '.join(beyond)} claim to obey an order for {order.to} that is more than a day"
            " ahead of this clock; if that is true, they will not hear this one"
        )
    envelope, topic = sign_desired(order, signer), topics.desired(order.to)
    for _ in range(_TRIES):
        for _publication in desk.operator.put([retained(topic, envelope)]):
            pass
        present = desk.fleet.orders.get(order.to) if desk.operator.read(topic) else None
        if present is None:
            raise BrokerTroubleError(
                f"the broker has taken {topic} and does not give it back: may we read it?"
            )
        # Not what was read: another may have come since, and was heard.
        if present.envelope == envelope:
            return order
        check_not_overtaken(desk.fleet, order)
    raise OvertakenError(
        f"an older order for {order.to} has overwritten this one {_TRIES} times: is another push"
        " under way?"
    )


def check_not_overtaken(fleet: Fleet, order: Desired) -> None:
    """Raise if the order that lies at the address is another, and not an older one.

    Raises:
        OvertakenError: it is.
    """
    present = fleet.orders.get(order.to)
    if present is None:
        return
    if present.desired is None:
        raise OvertakenError(
            f"somebody has put another order for {order.to} in the place of this one, not signed by"
            f" a key that we trust ({present.trouble})"
        )
    if present.desired.serial >= order.serial and present.desired != order:
        wanted = present.desired.wanted
        raise OvertakenError(
            f"another push has overtaken this one: {order.to} should now run"
            f" {wanted.release if wanted else 'what a wider address says'}"
            f" ({present.desired.percent:g} %, serial {present.desired.serial})"
        )


def carry_out(
    desk: Desk,
    signer: Signer,
    order: Desired,
    percents: Sequence[float],
    waiting: Waiting | None,
    *,
    excepted: Collection[str] = (),
) -> int:
    """Order a release, share by share if nodes are waited for, and give the exit code.

    Args:
        desk: connected.
        signer: who orders.
        order: what; percent, serial and time are set here.
        percents: shares of the nodes, rising; several need `waiting`.
        waiting: None only orders the first.
        excepted: nodes that are waited for only once they have begun.
    """
    assert order.wanted is not None, "nobody can be seen to do nothing any more"
    label = order.wanted.release
    rollout = Rollout(desk.fleet, order.to, label, excepted=excepted)
    ending = _Ending.SETTLED
    for number, percent in enumerate(percents, 1):
        order = give(desk, signer, msgspec.structs.replace(order, percent=percent))
        rollout.begin(percent, order.serial)
        desk.screen.note(f"{label} is ordered for {percent:g} % of {order.to}")
        if waiting is None:
            return 0
        ending = _see_through(desk, rollout, order, waiting, rings=len(percents))
        if ending is not _Ending.SETTLED:
            break
        if number < len(percents) and not rollout.shown():
            ending = _Ending.NOT_SHOWN
            desk.screen.note(_not_shown(rollout, order.to, percents[number:], excepted))
            break
    if ending is _Ending.STOPPED:
        give(desk, signer, msgspec.structs.replace(order, percent=0.0))
        desk.screen.note(f"stopped: no node at {order.to} follows it any more")
    return _ended(desk, rollout, ending)


def see_through(
    desk: Desk, order: Desired, waiting: Waiting, *, excepted: Collection[str] = ()
) -> int:
    """Wait for an order that was given before, and give the exit code."""
    assert order.wanted is not None, "nobody can be seen to do nothing any more"
    rollout = Rollout(desk.fleet, order.to, order.wanted.release, excepted=excepted)
    rollout.begin(order.percent, order.serial)
    return _ended(desk, rollout, _see_through(desk, rollout, order, waiting, rings=1))


class _Ending(Enum):
    SETTLED = "settled"
    STOPPED = "stopped"
    NOT_SHOWN = "not shown"
    TIMED_OUT = "timed out"


def _see_through(
    desk: Desk, rollout: Rollout, order: Desired, waiting: Waiting, *, rings: int
) -> _Ending:
    deadline = time.monotonic() + waiting.timeout_seconds
    with desk.screen.rings(rings) as show:
        while True:
            desk.operator.listen(_LOOK_SECONDS)
            check_not_overtaken(desk.fleet, order)
            progress = rollout.progress()
            show(progress, rollout.rows())
            limit = waiting.stop_share
            if limit is not None and any(ring.failed_share > limit for ring in progress):
                return _Ending.STOPPED
            if not progress[-1].awaited:
                if not progress[-1].total:
                    desk.screen.note(f"nobody is waited for: {_nobody(progress[-1])}")
                return _Ending.SETTLED
            if time.monotonic() > deadline:
                return _Ending.TIMED_OUT


def _ended(desk: Desk, rollout: Rollout, ending: _Ending) -> int:
    rows = rollout.rows()
    desk.screen.print(rollout_table(rows))
    desk.screen.print_lines(ended_lines(rows, timed_out=ending is _Ending.TIMED_OUT))
    if ending is _Ending.TIMED_OUT:
        return EXIT_TIMED_OUT
    asked = [row.standing for row in rows if row.ring is not None]
    failed = any(standing.failed for standing in asked)
    # All of them away: the order stands, and nothing is known of the release.
    unheard = Standing.OFFLINE in asked and Standing.COMMITTED not in asked
    return EXIT_NOT_ALL if failed or unheard or ending is not _Ending.SETTLED else 0


def _nobody(progress: RingProgress) -> str:
    ring = progress.ring
    stand = ", ".join(f"{many} {standing}" for standing, many in sorted(progress.phases.items()))
    return f"ring {ring.number}, up to {ring.percent:g} %, has " + (stand or "no nodes")


def _not_shown(
    rollout: Rollout, address: str, later: Sequence[float], excepted: Collection[str]
) -> str:
    """What a person does about a ring that nobody has proven anything in."""
    text = "ended before the next ring, as this one has shown nothing of the release; "
    percents = list(later)
    if (first := rollout.first_to_come()) is not None:
        node, percent = first
        percents = [percent, *(each for each in later if each > percent)]
        text += f"the first node online is {node}, at {percent:g} %: "
    words = f"fleet promote --to {address} --wait --percent "
    words += ",".join(f"{each:g}" for each in percents)
    words += f" --except {','.join(sorted(excepted))}" if excepted else ""
    return f"{text}go on with `{typed(words)}`"
