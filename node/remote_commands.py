"""Who answers `calibrate` and `rollback` over MQTT: an operator's commands, each with its result.

The publisher receives them and sends the answers. Orders to take another release are no commands:
they are signed, retained, and the updater's (`node.updates`).
"""

import logging
from collections.abc import Callable

from contract.messages import Result
from node.delivery.publisher import Answer, Asked
from node.machine.calibration_requests import CalibrationRequests
from node.machine.site_store import CalibrationRequest

logger = logging.getLogger(__name__)


class RemoteCommands:
    """Obeys one node's commands.

    Args:
        calibrations: carries out `calibrate`.
        roll_back: carries out `rollback`, and answers by itself when that is done; None on a node
            that takes no updates.
        node: the node's id.
        boot: id of this start.
        now_us: microseconds since 1970.
    """

    def __init__(
        self,
        calibrations: CalibrationRequests,
        roll_back: Callable[[Asked], None] | None,
        *,
        node: str,
        boot: str,
        now_us: Callable[[], int],
    ) -> None:
        self._calibrations = calibrations
        self._roll_back = roll_back
        self._node = node
        self._boot = boot
        self._now_us = now_us

    def obey(self, asked: Asked) -> Answer | None:
        """Carry out a command; gives its answer, or None where that comes later."""
        if asked.verb == "calibrate":
            done, note = self._calibrate(asked)
        elif self._roll_back is not None:
            self._roll_back(asked)
            return None
        else:
            done, note = False, "this node takes no updates: [update] keys_file is not set"
        logger.info("%s, asked for over the network: %s", asked.verb, note)
        return Answer(
            Result(
                node=self._node,
                boot=self._boot,
                at_us=self._now_us(),
                verb=asked.verb,
                done=done,
                note=note[:200],
            ),
            asked.correlation,
        )

    def _calibrate(self, asked: Asked) -> tuple[bool, str]:
        minutes, at_us = asked.command.minutes, asked.command.at_us
        return self._calibrations.obey(
            CalibrationRequest(
                action="cancel" if minutes == 0 else "start", minutes=minutes, at_us=at_us
            )
        )
