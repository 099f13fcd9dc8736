"""Stands in for the sounddevice package in the capture program's process.

It has the few names that `node.capture` uses. A test puts this directory on PYTHONPATH and says in
EARSHOT_FAKE_SOUND what the one microphone, "Fake Mic: USB Audio (hw:7,0)", does:

    blocks:N   hears N blocks and then stops; every third lost input before it
    quiet      opens and never hears anything
    endless    hears as fast as it is read
    busy       refuses to open, as a device in use does
    host:N     refuses to open with ALSA's error number N
    broken     fails while PortAudio is initialised

It also prints on standard output and standard error, as sound libraries do.
"""

import os
import struct
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_BEHAVIOUR, _, _NUMBER = os.environ["EARSHOT_FAKE_SOUND"].partition(":")

os.write(1, b"a C library prints where it should not\n")
os.write(2, b"ALSA lib confmisc.c:855:(parse_card) cannot find card '0'\n")

default = SimpleNamespace(device=(1, 0))


class PortAudioError(Exception):
    """As sounddevice's: text, PortAudio's code, and maybe (host API, its code, its text)."""


if _BEHAVIOUR == "broken":
    raise PortAudioError("Error initializing PortAudio: Insufficient memory", -9992)


def query_hostapis() -> tuple[dict[str, Any], ...]:
    return ({"name": "ALSA"},)


def query_devices() -> list[dict[str, Any]]:
    common = {"hostapi": 0, "default_samplerate": 16000.0}
    speaker = {"index": 0, "name": "Loudspeaker (hw:0,0)", "max_input_channels": 0}
    microphone = {"index": 1, "name": "Fake Mic: USB Audio (hw:7,0)", "max_input_channels": 2}
    return [speaker | common, microphone | common]


class RawInputStream:
    """Block k holds the number k in the first channel and k + 0.5 in the second, over 1024."""

    def __init__(
        self,
        *,
        device: int,
        samplerate: float,
        channels: int,
        dtype: str,
        blocksize: int,
        latency: float,
        callback: Callable[[bytes, int, Any, Any], None],
        finished_callback: Callable[[], None],
    ) -> None:
        if (device, dtype) != (1, "float32") or latency <= 0:
            raise ValueError(f"Expected microphone 1 as float32, got {device} as {dtype}")
        if _BEHAVIOUR == "busy":
            raise PortAudioError("Error opening RawInputStream: Device unavailable", -9985)
        if _BEHAVIOUR == "host":
            host = (0, int(_NUMBER), os.strerror(-int(_NUMBER)))
            raise PortAudioError("Error opening RawInputStream", -9999, host)
        self.samplerate = samplerate
        self._channels = channels
        self._frames = blocksize
        self._callback = callback
        self._finished = finished_callback

    def start(self) -> None:
        if _BEHAVIOUR != "quiet":
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        block = 0
        while _BEHAVIOUR == "endless" or block < int(_NUMBER):
            frame = [block / 1024, (block + 0.5) / 1024, *[0.0] * self._channels][: self._channels]
            sound = struct.pack(f"={self._channels}f", *frame) * self._frames
            times = SimpleNamespace(currentTime=5.0, inputBufferAdcTime=4.75)
            status = SimpleNamespace(input_overflow=block % 3 == 2)
            self._callback(sound, self._frames, times, status)
            block += 1
        self._finished()
        sys.stderr.write("ALSA lib pcm.c:8570:(snd_pcm_recover) overrun occurred\n")
