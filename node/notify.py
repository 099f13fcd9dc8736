"""What the node tells systemd: that it is up, that it is alive, what it is doing, that it ends.

The protocol is one datagram a message to the socket that $NOTIFY_SOCKET names (sd_notify(3)). It
is spoken here because no library fits: sdnotify is of 2017, systemd-python and cysystemd are
compiled against libsystemd, and systemd-watchdog has left Python 3.11 behind.

Not here: when the node is alive. Whoever accounts for windows says so.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final, Self

logger = logging.getLogger(__name__)

_PARTS_OF_WATCHDOG: Final = 4
"""systemd asks for two signs of life in its interval; with four, one may be lost."""
_SEND_SECONDS: Final = 0.2
"""systemd reads at once or is in trouble; the thread that says this also listens to the machine."""
_MAX_TEXT: Final = 200
"""Status texts carry what brokers and sound drivers say."""


class Notifier:
    """Tells systemd, where there is one; never raises because there is none (any more).

    Args:
        address: of systemd's socket: a path, or a name that begins with "@"; None is nobody.
        watchdog_seconds: a service that is silent for so long is killed; None is never.
        monotonic: for example `time.monotonic`.
    """

    def __init__(
        self,
        address: str | None,
        watchdog_seconds: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.watchdog_seconds: Final = watchdog_seconds
        self._address = address
        self._monotonic = monotonic
        self._alive_due = -float("inf")
        self._ready_untold: str | None = None
        self._failing = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """What systemd has put into `os.environ`, and out of it: children are not the service.

        A capture process that inherited it could feed the watchdog of a parent that hangs.
        """
        address = environment.pop("NOTIFY_SOCKET", None)
        interval_us = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", None)
        is_ours = process is None or process == str(os.getpid())
        watchdog_seconds = (
            int(interval_us) / 1e6
            if is_ours and interval_us.isdecimal() and int(interval_us)
            else None
        )
        return cls(address or None, watchdog_seconds)

    def ready(self, status: str) -> None:
        """The service is up, and what it does now."""
        self._ready_untold = "READY=1\n" + _status(status)
        self._tell_ready()

    def alive(self) -> None:
        """A window was scored or accounted for; call it as often as that happens."""
        if self._ready_untold is not None:
            self._tell_ready()
        if self.watchdog_seconds is None or self._monotonic() < self._alive_due:
            return
        if self._send("WATCHDOG=1"):
            self._alive_due = self._monotonic() + self.watchdog_seconds / _PARTS_OF_WATCHDOG

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(_status(text))

    def stopping(self) -> None:
        """The service ends by itself: from here on the watchdog waits no more."""
        self._ready_untold = None
        self._send("STOPPING=1\n" + _status("delivering what is left"))

    def _tell_ready(self) -> None:
        if self._ready_untold is not None and self._send(self._ready_untold):
            self._ready_untold = None

    def _send(self, message: str) -> bool:
        """Whether it was delivered, or nobody wants it."""
        if self._address is None:
            return True
        # "@name" is Linux's abstract namespace: no file, a zero byte in front.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(_SEND_SECONDS)
                channel.sendto(message.encode("utf-8", "replace"), address)
        except OSError as error:
            if not self._failing:
                logger.warning("systemd does not hear us at %s: %s", self._address, error)
            self._failing = True
            return False
        if self._failing:
            logger.info("systemd hears us again")
        self._failing = False
        return True


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())[:_MAX_TEXT]
