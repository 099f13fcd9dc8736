"""Records in which the capture program gives its sound: a format of bytes, both ways. Pure.

Each record is a header of 32 bytes, little-endian, and then its payload:

    offset  size  field
    0       4     magic: "EAR" and the version of the format, "1"
    4       1     kind: 1 hello, 2 sound, 3 problem; readers pass over kinds they do not know
    5       3     zero
    8       4     payload size in bytes
    12      4     frames in the payload (sound)
    16      8     time of the first frame, monotonic clock, nanoseconds (sound)
    24      4     overruns so far: blocks before which PortAudio says that input was lost
    28      4     dropped so far: blocks that found the queue full because nobody was reading

The first record is a hello or a problem. A hello is JSON: `identity`, `name`, `host_api`,
`sample_rate_hz` (the rate that was opened), `channels`, `sample_format` ("float32"). Sound is
float32, frames interleaved, -1..1, in the byte order of the machine that both ends run on. Float32
rather than int16 because PortAudio converts every integer format up to 24 bits to it without loss:
the quiet 24-bit words of an I2S microphone would lose bits in int16. It costs 192 kB/s at 48 kHz.
A problem is JSON, `reason` and `message`, and is the last record; the exit status is then 1.

To change the format, change the magic, this text, and the golden records in
tests/node/sound/test_capture.py. Standard library alone: the capture program has to stay small.
"""

import struct
from enum import IntEnum
from typing import Final, Literal, NamedTuple

ProblemReason = Literal["no_portaudio", "no_device", "busy", "bad_format", "stopped"]
MAGIC: Final = b"EAR1"
HEADER: Final = struct.Struct("<4sB3xIIQII")
MAX_PAYLOAD_BYTES: Final = 8 << 20
"""50 ms of 64 channels at 192 kHz are 2.4 MB; a larger size is a reader out of step."""


class RecordKind(IntEnum):
    """What a record on standard output holds."""

    HELLO = 1
    SOUND = 2
    PROBLEM = 3


class RecordHeader(NamedTuple):
    """The fields of a header, in the order of the format."""

    kind: int
    payload_bytes: int
    frames: int
    captured_monotonic_ns: int
    overruns: int
    dropped_blocks: int


class CaptureError(Exception):
    """Why there is no sound, and in one line what to do about it."""

    def __init__(self, reason: ProblemReason, message: str) -> None:
        self.reason: ProblemReason = reason
        super().__init__(message)


def encode_record(
    kind: RecordKind,
    payload: bytes,
    *,
    frames: int = 0,
    captured_monotonic_ns: int = 0,
    overruns: int = 0,
    dropped_blocks: int = 0,
) -> bytes:
    """The bytes of one record: its header, then the payload."""
    header = HEADER.pack(
        MAGIC, kind, len(payload), frames, captured_monotonic_ns, overruns, dropped_blocks
    )
    return header + payload


def decode_header(data: bytes) -> RecordHeader:
    """The record header that lies in exactly `HEADER.size` bytes.

    Raises:
        ValueError: not a header of this format, or a payload beyond `MAX_PAYLOAD_BYTES`.
    """
    magic, *fields = HEADER.unpack(data)
    header = RecordHeader(*fields)
    if magic != MAGIC:
        raise ValueError(f"Expected a record that starts with {MAGIC!r}, got {magic!r}")
    if header.payload_bytes > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"Expected at most {MAX_PAYLOAD_BYTES} payload bytes, got {header.payload_bytes}"
        )
    return header
