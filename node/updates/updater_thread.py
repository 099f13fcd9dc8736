"""The thread that carries an updater out, and the mailbox before it.

Disks and self-tests are slow, and neither the ear nor the connection must wait for them: they hand
over what has happened and go on. What is done about it, `node.updates.updater` says.
"""

import logging
import queue
import threading
import time
from contextlib import suppress

from contract.release import CHUNK_BYTES
from contract.session import Received
from node.updates.updater import Happening, Updater

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class UpdaterThread:
    """Gives an updater what happens, one thing after another.

    Args:
        updater: the thread's own from now on.
    """

    def __init__(self, updater: Updater) -> None:
        self._updater = updater
        self._mail: queue.SimpleQueue[Happening | str] = queue.SimpleQueue()
        """What has happened, or the topic on which a message waits."""
        self._arrived: dict[str, Received] = {}
        self._arrived_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)

    @property
    def waiting(self) -> int:
        """How much has happened that the updater has not seen yet."""
        return self._mail.qsize()

    def start(self) -> None:
        """Begin to follow orders."""
        self._thread.start()

    def give(self, happening: Happening) -> None:
        """Hand over what has happened; never blocks.

        Of messages from the broker the newest on each topic waits, and none that is larger than
        any of ours: whoever may write to the broker must not fill this computer's memory.
        """
        if not isinstance(happening, Received):
            self._mail.put(happening)
        elif len(happening.payload) <= CHUNK_BYTES:
            with self._arrived_lock:
                is_new = happening.topic not in self._arrived
                self._arrived[happening.topic] = happening
            if is_new:
                self._mail.put(happening.topic)

    def stop(self, *, well: bool) -> None:
        """End the thread; what is half done goes on at the next start.

        Args:
            well: whether the program ends because it should: else a release that is on trial, or
                not confirmed, is held to have brought it down.
        """
        self._updater.stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
        if well:
            self._updater.ended_well()

    def step(self, *, timeout_seconds: float) -> None:
        """Handle one thing that has happened, and see what is due."""
        with suppress(queue.Empty):
            self._updater.handle(self._next(timeout_seconds))
        self._updater.look_at_clock(time.monotonic())

    def _next(self, timeout_seconds: float) -> Happening:
        mail = self._mail.get(timeout=timeout_seconds)
        if not isinstance(mail, str):
            return mail
        with self._arrived_lock:
            return self._arrived.pop(mail)

    def _run(self) -> None:
        while not self._updater.stopping.is_set():
            try:
                self.step(timeout_seconds=_POLL_SECONDS)
            except Exception as error:
                # The thread's outermost loop: the running model stays, and the operator is told.
                logger.exception("the update failed")
                self._updater.give_up(f"the update failed, which is a bug: {error!r}")
