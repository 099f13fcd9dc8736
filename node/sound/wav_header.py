"""How long a WAV file's sound is: what its header states, and what is really there.

Who writes to a pipe, or is killed, cannot go back to fill in the length, and leaves a placeholder
or what was true some time ago. libsndfile believes the header as far as the file goes: it would
pass a broken copy for a short recording, and half of a recording for all of it. Reads the file's
headers alone, never its sound.
"""

from pathlib import Path
from typing import BinaryIO, Final

import msgspec

_RIFF_BYTES: Final = 12
_CHUNK_BYTES: Final = 8
_ODD_BYTES: Final = 4096
"""So much after the sound, and less, may be padding to a disk's sector or a player's tag."""

# Lengths that stand for "not known": SoX writes 0x7FFFF000, arecord 0x80000000 less what is no
# whole frame, ffmpeg and others 0xFFFFFFFF, some less their header; some leave 0.
_SIGNED_UNKNOWN: Final = range(0x7FFF_0000, 0x8000_0001)
_UNSIGNED_UNKNOWN: Final = 0xFFFF_FF00


class WavData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` chunk of a WAV file, in bytes."""

    size_at: int
    """Where in the file the chunk's size stands: 4 bytes, little-endian."""
    begins_at: int
    """Where in the file its sound begins."""
    stated: int
    """Its size, as the header states it."""
    to_the_end: int
    """How much of the file lies behind the header."""
    unexplained: int
    """How much lies behind the stated end that is no chunk of the file format."""

    @property
    def is_open_ended(self) -> bool:
        """Whether the header leaves the length open: then the sound goes on to the file's end."""
        placeholder = self.stated in _SIGNED_UNKNOWN or self.stated >= _UNSIGNED_UNKNOWN
        return self.unexplained > 0 if self.stated == 0 else self._misses and placeholder

    @property
    def missing(self) -> int:
        """How much of the stated sound the file does not hold; 0 where the length is open."""
        return 0 if self.is_open_ended else max(0, self.stated - self.to_the_end)

    @property
    def left_out(self) -> int:
        """How much sound lies behind the stated end, as far as can be told; else 0."""
        is_sound = not self.is_open_ended and self.unexplained > _ODD_BYTES
        return self.unexplained if is_sound else 0

    @property
    def _misses(self) -> bool:
        return self.stated > self.to_the_end


def read_wav_data(path: Path) -> WavData | None:
    """The `data` chunk of a file; None where it is no RIFF WAV file, or has no such chunk.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(_RIFF_BYTES)[:4] != b"RIFF":
            return None
        size = path.stat().st_size
        while True:
            place = file.tell()
            header = file.read(_CHUNK_BYTES)
            if len(header) < _CHUNK_BYTES:
                return None
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                begins_at = place + _CHUNK_BYTES
                return WavData(
                    size_at=place + 4,
                    begins_at=begins_at,
                    stated=length,
                    to_the_end=max(0, size - begins_at),
                    unexplained=_unexplained(file, begins_at + length, size),
                )
            file.seek(place + _CHUNK_BYTES + length + length % 2)


def _unexplained(file: BinaryIO, end: int, size: int) -> int:
    """How much of the file is left where no further chunk begins, from the end of one on."""
    while True:
        # A chunk of odd length is followed by a byte of padding, which some writers leave out.
        place = next((at for at in (end + end % 2, end) if _begins_chunk(file, at, size)), None)
        if place is None:
            return max(0, size - end)
        file.seek(place + 4)
        end = place + _CHUNK_BYTES + int.from_bytes(file.read(4), "little")


def _begins_chunk(file: BinaryIO, place: int, size: int) -> bool:
    file.seek(place)
    header = file.read(_CHUNK_BYTES)
    name, length = header[:4], int.from_bytes(header[4:], "little")
    is_name = len(header) == _CHUNK_BYTES and all(0x20 <= byte < 0x7F for byte in name)
    return is_name and place + _CHUNK_BYTES + length <= size
