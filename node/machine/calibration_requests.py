"""Calibrations that a running node was asked for: begun, followed, resumed after a restart.

Who asks (a person on this computer, an operator over MQTT, the node itself after an update) and how
the answer travels is known elsewhere; what calibrating means is `node.machine.calibration`'s.
"""

import logging
from collections.abc import Callable

from contract.states import MachineState
from node.machine.alarm_state import ABNORMAL
from node.machine.machine_watch import MachineWatch
from node.machine.site import keep_outcome, obey
from node.machine.site_store import (
    CalibrationAnswer,
    CalibrationRequest,
    CalibrationStatus,
    SiteStore,
)

logger = logging.getLogger(__name__)


class CalibrationRequests:
    """Carries out requests, and keeps in the state folder how far each of them is.

    Args:
        watch: of the machine, by the release that runs.
        store: the node's memory.
        now_us: microseconds since 1970.
        recalibrate: whether a node that was calibrated calibrates anew with another release.
    """

    def __init__(
        self,
        watch: MachineWatch,
        store: SiteStore,
        *,
        now_us: Callable[[], int],
        recalibrate: bool,
    ) -> None:
        self._watch = watch
        self._store = store
        self._now_us = now_us
        self._recalibrate = recalibrate
        self._under_way: CalibrationRequest | None = None
        """What has asked for the calibration that is under way."""

    def obey(self, request: CalibrationRequest) -> tuple[bool, str]:
        """Carry out a request; gives whether that was possible, and what to say of it."""
        done, note = obey(self._watch, self._store, request)
        # A request that was refused changes nothing about the one that is under way.
        if done:
            self._under_way = request if self._watch.is_calibrating else None
            self._store.keep_pending(self._under_way)
            self._keep_status(request)
        return done, note

    def obey_person_here(self) -> None:
        """Carry out what `earshot node calibrate` has left in the state folder, if it has."""
        request = self._store.take_request()
        if request is None:
            return
        done, note = self.obey(request)
        logger.info("calibration, asked for here: %s", note)
        self._store.keep_answer(CalibrationAnswer(asked_us=request.at_us, done=done, note=note))

    def resume(self) -> None:
        """Begin a calibration anew that the last run did not end: its sound is not kept."""
        pending = self._store.pending()
        if pending is None:
            return
        done, note = self.obey(pending)
        logger.info("calibration, begun before the restart: %s", note)
        if not done:
            self._store.keep_pending(None)

    def follow(self) -> None:
        """After each window: keep how far the calibration is, and what came of one that ended."""
        request = self._under_way
        if request is None:
            return
        if not self._watch.is_calibrating:
            self._under_way = None
            keep_outcome(self._watch, self._store, made_us=self._now_us())
            self._store.keep_pending(None)
            logger.info("calibration %s: %s", self._watch.phase, self._watch.note)
        self._keep_status(request)

    def follow_release(self, watch: MachineWatch, machine: MachineState) -> None:
        """Another release runs: its limits of an earlier time hold, or it is calibrated anew.

        The limits of before are of another model, and its threshold knows nothing of this place.

        Args:
            watch: of the machine, by that release.
            machine: its state, by the release before.
        """
        was_calibrated = self._watch.site_limits is not None
        self._watch = watch
        if watch.site_limits is not None:
            # What was begun for the other one is over.
            self._under_way = None
            self._store.keep_pending(None)
            return
        if self._under_way is None and was_calibrated and self._recalibrate:
            if machine in ABNORMAL:
                logger.warning("not calibrated anew: the machine is in %s", machine)
                return
            self._store.keep_pending(
                CalibrationRequest(action="start", minutes=None, at_us=self._now_us())
            )
        self.resume()

    def _keep_status(self, request: CalibrationRequest) -> None:
        self._store.keep_status(
            CalibrationStatus(
                asked_us=request.at_us, phase=self._watch.phase, note=self._watch.note
            )
        )
