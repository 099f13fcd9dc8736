"""A microphone without a sound card: true PortAudio and ALSA, whose device reads a named pipe.

Not here: what only hardware has, an interrupt for each block of sound and a USB driver; and time:
where ALSA finds half of what it asks the pipe for, the rest passes as heard, too.
"""

import ctypes.util
import importlib.util
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np

_RATE_HZ = 44_100
_BLOCK_SECONDS = 0.05
_CONFIGURATION = """
pcm.null { type null }
pcm.default { type null }
pcm.earshot_bench {
    type file
    slave.pcm "null"
    file "/dev/null"
    infile "%s"
    format "raw"
}
"""


class PipeMicrophone(msgspec.Struct, frozen=True):
    """How to hear it."""

    source: str
    environment: Mapping[str, str]


@contextmanager
def pipe_microphone() -> Iterator[PipeMicrophone | None]:
    """A microphone that hears noise as fast as it is spoken; None without PortAudio or ALSA."""
    present = (
        ctypes.util.find_library("portaudio"),
        ctypes.util.find_library("asound"),
        importlib.util.find_spec("sounddevice"),
    )
    if not all(present):
        yield None
        return
    with tempfile.TemporaryDirectory() as scratch:
        pipe, configuration = Path(scratch) / "sound", Path(scratch) / "asound.conf"
        os.mkfifo(pipe)
        configuration.write_text(_CONFIGURATION % pipe)
        # Also for reading, or opening would wait for the other end.
        descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        ended = threading.Event()
        speaker = threading.Thread(target=_speak, args=(descriptor, ended), daemon=True)
        speaker.start()
        try:
            yield PipeMicrophone(
                "microphone:name:earshot_bench", {"ALSA_CONFIG_PATH": str(configuration)}
            )
        finally:
            ended.set()
            speaker.join()
            os.close(descriptor)


def _speak(descriptor: int, ended: threading.Event) -> None:
    frames = round(_RATE_HZ * _BLOCK_SECONDS)
    # Two channels: what the capture program takes of a device that claims more.
    noise = np.random.default_rng(7).normal(0.0, 0.05, (frames, 2)).astype(np.float32).tobytes()
    next_at = time.monotonic()
    while not ended.wait(max(0.0, next_at - time.monotonic())):
        # Nobody listens yet, or the listener is behind: a real microphone loses that, too.
        with suppress(BlockingIOError):
            os.write(descriptor, noise)
        next_at += _BLOCK_SECONDS
