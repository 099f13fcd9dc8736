"""How a node's update stands, told on `update`: each step once, under the order that it follows."""

import hashlib
import logging
from collections.abc import Callable

import msgspec

from contract.messages import Result, Update
from contract.session import Received
from contract.states import UpdatePhase
from node.delivery.publisher import Answer, Asked
from node.updates.order_book import OrderBook
from node.updates.orders import NOTHING_ORDERED, StandingOrder
from node.updates.slots import SlotStore
from node.updates.trial import TrialReport

logger = logging.getLogger(__name__)

# Of each phase, so many steps are told.
_STEPS = 10
_MAX_REPORTED = 100


class UpdateReport:
    """Tells of one node's updates.

    Args:
        store: what is on the disk.
        orders: whose order each message names.
        node: the node's id.
        boot: id of this start.
        tell: publishes a message.
        now_us: microseconds since 1970.
    """

    def __init__(
        self,
        store: SlotStore,
        orders: OrderBook,
        *,
        node: str,
        boot: str,
        tell: Callable[[Update | Answer], None],
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._orders = orders
        self._node = node
        self._boot = boot
        self._publish = tell
        self._now_us = now_us
        self.trial = TrialReport()
        """Of the trial that is under way, or was the last."""
        self._told: Update | None = None
        self._reported: dict[bool, set[str]] = {}
        """Orders that were refused and said to be, those that somebody has signed and others:
        retained ones come at each connection."""

    def tell(self, phase: UpdatePhase, progress: float, reason: str | None) -> None:
        """Tell of a step, unless that was the last word.

        Args:
            phase: of the update.
            progress: within the phase, 0 to 1.
            reason: why it was rejected or rolled back, or what the phase waits for.
        """
        steps = int(min(progress, 1.0) * _STEPS) / _STEPS
        update = self._update(self._orders.standing, phase, steps, reason)
        told = self._told
        if told is not None and msgspec.structs.replace(told, at_us=update.at_us) == update:
            return
        self._told = update
        self._publish(update)

    def tell_rest(self) -> None:
        """Tell that nothing is under way."""
        nothing = self._orders.standing.target is None
        self.tell(UpdatePhase.IDLE if nothing else UpdatePhase.COMMITTED, 1.0, None)

    def tell_again(self) -> None:
        """Tell the last word anew: the phase is as it was, who has ordered it may not be."""
        told = self._told
        if told is not None:
            self.tell(told.phase, told.progress, told.reason)

    def tell_refused_order(self, message: Received, reason: str, *, signed: bool) -> None:
        """Tell, once, that an order is not followed; then, anew, how the update stands.

        Args:
            message: the order.
            reason: why.
            signed: whether somebody whose word counts has signed it.
        """
        key = hashlib.sha256(message.topic.encode() + message.payload).hexdigest()
        # Those that nobody has signed cannot use up what is kept for an operator's own.
        reported = self._reported.setdefault(signed, set())
        if key in reported or len(reported) >= _MAX_REPORTED:
            return
        reported.add(key)
        logger.warning("an order on %s is refused: %s", message.topic, reason)
        why = f"an order is refused: {reason}"
        self._publish(self._update(NOTHING_ORDERED, UpdatePhase.REJECTED, 1.0, why))
        # What is retained says how the node is, not what somebody has tried.
        standing, self._told = self._told, None
        if standing is None:
            self.tell_rest()
        else:
            self.tell(standing.phase, standing.progress, standing.reason)

    def answer(self, asked: Asked, note: str, *, done: bool) -> None:
        """Tell what became of a command."""
        result = Result(
            node=self._node,
            boot=self._boot,
            at_us=self._now_us(),
            verb=asked.verb,
            done=done,
            note=note[:200],
        )
        self._publish(Answer(result, asked.correlation))

    def _update(
        self, order: StandingOrder, phase: UpdatePhase, progress: float, reason: str | None
    ) -> Update:
        state, target, trial = self._store.state, order.target, self.trial
        return Update(
            node=self._node,
            boot=self._boot,
            at_us=self._now_us(),
            running=state.current.release,
            previous=None if state.previous is None else state.previous.release,
            wanted=None if target is None else target.release,
            phase=phase,
            progress=progress,
            reason=None if reason is None else reason[:200],
            obeying=order.address,
            serial=order.serial,
            threshold=None if target is None else target.threshold,
            trial_windows=trial.windows,
            trial_flagged=trial.flagged,
            running_flagged=min(trial.running_flagged, trial.windows),
            trial_score=trial.score,
            trial_latency_p95_ms=trial.latency_p95_ms,
        )
