"""One file of a release on its way: chunk after chunk into `SHA.part`, over any interruption.

Which chunks to ask for, and when to give up, is decided elsewhere.
"""

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from contract.errors import EarshotError
from contract.release import CHUNK_BYTES, ReleaseFile
from node.updates.release_folders import UpdateStoreError
from node.whole_file import make_folder, sync_folder

MAX_AHEAD = 8
"""Chunks that came before their turn and are kept in memory: 256 KiB."""


class ChunkError(EarshotError):
    """Something else came than the manifest says.

    Args:
        text: what.
        fresh: False where part of it was there from an earlier run, which a power cut may have
            spoilt: another attempt from the start makes sense.
    """

    def __init__(self, text: str, *, fresh: bool = True) -> None:
        self.fresh = fresh
        super().__init__(text)


class Download:
    """A file that comes in chunks; goes on where an earlier run has ended.

    Args:
        folder: for the part; made if it is not there.
        file: what to fetch, of a checked manifest.

    Raises:
        UpdateStoreError: the folder cannot be made, or the part not be opened.
    """

    def __init__(self, folder: Path, file: ReleaseFile) -> None:
        self.file = file
        self._path = _part(folder, file)
        self._ahead: dict[int, bytes] = {}
        try:
            make_folder(folder)
            self._next = self._resume()
        except OSError as error:
            raise self._trouble(error) from error
        self._fresh = self._next == 0

    @property
    def progress(self) -> float:
        """Share of the chunks that are there, 0 to 1."""
        return self._next / self.file.chunks

    @property
    def done(self) -> bool:
        """Whether all chunks are there."""
        return self._next == self.file.chunks

    def next_chunks(self, count: int) -> list[int]:
        """The chunks that are missing next, in order, at most so many."""
        end = min(self.file.chunks, self._next + MAX_AHEAD + 1)
        return [chunk for chunk in range(self._next, end) if chunk not in self._ahead][:count]

    def add(self, chunk: int, payload: bytes) -> bool:
        """Take a chunk in.

        Returns:
            Whether it was of use: False if it was there already, is no chunk of this file, or came
            too far ahead of its turn.

        Raises:
            ChunkError: it has the wrong size.
            UpdateStoreError: it cannot be written; the part is as it was.
        """
        if not self._next <= chunk < min(self.file.chunks, self._next + MAX_AHEAD + 1):
            return False
        expected = self.file.chunk_bytes(chunk)
        if len(payload) != expected:
            raise ChunkError(
                f"{self.file.name}: expected {expected} bytes in chunk {chunk}, got {len(payload)}"
            )
        if chunk in self._ahead:
            return False
        if chunk != self._next:
            self._ahead[chunk] = payload
            return True
        content = [payload]
        while chunk + len(content) in self._ahead:
            content.append(self._ahead[chunk + len(content)])
        self._append(b"".join(content))
        for taken in range(chunk, chunk + len(content)):
            self._ahead.pop(taken, None)
        self._next = chunk + len(content)
        return True

    def finish(self) -> Path:
        """The whole file, checked.

        Raises:
            ChunkError: it is another file than the manifest says; the part has gone.
            UpdateStoreError: it cannot be read.
        """
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise self._trouble(error) from error
        found = hashlib.sha256(content).hexdigest()
        if len(content) != self.file.size_bytes or found != self.file.sha256:
            fresh = self._fresh
            self.discard()
            raise ChunkError(
                f"{self.file.name}: expected {self.file.size_bytes} bytes with SHA-256"
                f" {self.file.sha256[:12]}..., got {len(content)} with {found[:12]}...",
                fresh=fresh,
            )
        return self._path

    def discard(self) -> None:
        """Give up what has come, and begin the file anew."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._ahead.clear()
        self._next = 0
        self._fresh = True

    def _resume(self) -> int:
        """How many chunks are there; what a power cut has left of another is cut off."""
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            size = os.fstat(descriptor).st_size
            if size == self.file.size_bytes:
                return self.file.chunks
            chunks = size // CHUNK_BYTES if size < self.file.size_bytes else 0
            os.ftruncate(descriptor, chunks * CHUNK_BYTES)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return chunks

    def _append(self, content: bytes) -> None:
        before = self._next * CHUNK_BYTES
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.lseek(descriptor, before, os.SEEK_SET)
                _write_all(descriptor, content)
                os.ftruncate(descriptor, before + len(content))
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
            finally:
                os.close(descriptor)
            if not before:
                sync_folder(self._path.parent)
        except OSError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: OSError) -> UpdateStoreError:
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with suppress(OSError):
                free = f" ({shutil.disk_usage(self._path.parent).free / 1e6:.1f} MB free)"
        return UpdateStoreError(
            f"{error.strerror}{free}: {self.file.name} cannot be stored in {self._path.parent}"
        )


def part_bytes(folder: Path, file: ReleaseFile) -> int:
    """How much of a file an earlier download has left."""
    try:
        return _part(folder, file).stat().st_size
    except OSError:
        return 0


def _part(folder: Path, file: ReleaseFile) -> Path:
    return folder / f"{file.sha256}.part"


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
