"""Messages that could not be stored, whole, in a file: `dead-letters.jsonl` in the state folder.

One JSON object a line: `at_us` (microseconds since 1970, UTC), `collector`, `topic`, `reason` and
`detail` as on the topic for dead letters, `payload_bytes`, and `payload`, the bytes in base64. Of a
message that was understood and whose point the store refused, it is the message encoded anew.

    jq -r 'select(.reason == "malformed") | .payload' dead-letters.jsonl | base64 -d

The file is on the disk before its messages are acknowledged. When it has reached its size it
becomes `dead-letters.jsonl.1`, in place of the one before. A message that comes again, because the
connection broke, is there twice.
"""

import base64
import errno
import json
import logging
import os
from io import FileIO
from pathlib import Path

from collector.state_folder import DEAD_LETTERS
from contract.messages import DeadLetter

logger = logging.getLogger(__name__)

_MEGABYTE = 1024 * 1024


class DeadLetterFile:
    """The file; opened with the first letter.

    Args:
        folder: the state folder.
        megabytes: of the file before it is put aside; twice as much at most is used.
    """

    def __init__(self, folder: Path, *, megabytes: float) -> None:
        self._path = folder / DEAD_LETTERS
        self._bound = round(megabytes * _MEGABYTE)
        self._file: FileIO | None = None
        self._is_dirty = False
        self._failed = False

    def append(self, letter: DeadLetter, payload: bytes) -> None:
        """Write a letter; a full disk is told once, and the topic has the letter all the same."""
        # In ASCII: a stranger's line ends and control characters break no line and no terminal.
        line = json.dumps(
            {
                "at_us": letter.at_us,
                "collector": letter.collector,
                "topic": letter.topic,
                "reason": letter.reason,
                "detail": letter.detail,
                "payload_bytes": len(payload),
                "payload": base64.b64encode(payload).decode(),
            }
        ).encode()
        try:
            file = self._with_room_for(len(line) + 1)
            _write(file, line + b"\n")
        except OSError as error:
            self._say(error)
            self.close()
        else:
            self._is_dirty = True

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        if self._file is None or not self._is_dirty:
            return
        self._is_dirty = False
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._say(error)
        else:
            self._failed = False

    def close(self) -> None:
        """Close the file; the next letter opens it again."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._say(error)
            self._file = None

    def _with_room_for(self, size: int) -> FileIO:
        if self._file is None:
            self._file = self._opened()
        if self._file.tell() > 0 and self._file.tell() + size > self._bound:
            self.sync()
            self.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._opened()
        return self._file

    def _opened(self) -> FileIO:
        # Unbuffered: a write that failed must not come again at the next one, or at the close.
        file = FileIO(self._path, "ab+")
        try:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                # A crash or a full disk has left half a line: the next one begins after it.
                if file.read(1) != b"\n":
                    _write(file, b"\n")
        except OSError:
            file.close()
            raise
        return file

    def _say(self, error: OSError) -> None:
        level = logging.DEBUG if self._failed else logging.ERROR
        self._failed = True
        logger.log(
            level,
            "%s: dead letters are published, but cannot be kept here: %s",
            self._path,
            error.strerror,
        )


def _write(file: FileIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
