"""The clock of one program, to be stepped and synchronised by a test, while the program runs."""

import os
import struct
import subprocess
from pathlib import Path
from typing import Final

from tests.rig.installed import require

_SOURCE: Final = Path(__file__).with_name("clock_shim.c")


class SteppedClock:
    """A clock that begins as ours, and as synchronised.

    Args:
        folder: for its files; made if absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._library = folder / "clock_shim.so"
        self._file = folder / "clock"
        self._offset_ns, self._synced = 0, True
        self._write()
        command = [require("cc"), "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(self._library), str(_SOURCE)], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """For the program whose clock it is."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIM": str(self._file)}

    def step(self, seconds: float) -> None:
        """Set the clock to so many seconds from ours; the monotonic clock goes on as it did."""
        self._offset_ns = round(seconds * 1e9)
        self._write()

    def synchronise(self, *, synced: bool) -> None:
        """Let the kernel say that somebody keeps the clock in step, or that nobody does."""
        self._synced = synced
        self._write()

    def _write(self) -> None:
        # In place: the program has mapped this very file.
        file = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, struct.pack("=qq", self._offset_ns, self._synced), 0)
        finally:
            os.close(file)
