"""Stands in for the sounddevice package in the capture program's process.

It has the few names that `node.sound.capture` uses. A test puts this directory on PYTHONPATH and
says in EARSHOT_FAKE_SOUND what the one microphone, "Fake Mic: USB Audio (hw:7,0)", does:

    blocks:N   hears N blocks at once and then stops; every third lost input before it
    live:N     the same in real time, with exact time stamps and without losses
    stalls:N   hears N blocks at once, and then nothing for good
    quiet      opens and never hears anything
    endless    hears as fast as it is read
    hangs      does not even answer while PortAudio is initialised
    absent     is not plugged in
    busy       refuses to open, as a device in use does
    host:N     refuses to open with ALSA's error number N
    broken     fails while PortAudio is initialised

Behind it, after a space, may follow `rate:HZ` (its own rate, else 16 000) and `name:WORD` (another
microphone is plugged in instead). With `script:FILE` each start of the program does what the next
line of the file says, and the last line for ever.

It also prints on standard output and standard error, as sound libraries do.
"""

import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def _behaviour() -> str:
    behaviour = os.environ["EARSHOT_FAKE_SOUND"]
    if not behaviour.startswith("script:"):
        return behaviour
    script = Path(behaviour.removeprefix("script:"))
    with script.with_suffix(".starts").open("ab") as starts:
        starts.write(b".")
    lines = script.read_text().splitlines()
    return lines[min(script.with_suffix(".starts").stat().st_size, len(lines)) - 1]


_WORDS = dict(word.partition(":")[::2] for word in _behaviour().split())
_BEHAVIOUR, _NUMBER = next(iter(_WORDS.items()))
_RATE_HZ = float(_WORDS.get("rate", 16000))
_NAME = _WORDS.get("name", "Fake")

os.write(1, b"a C library prints where it should not\n")
os.write(2, b"ALSA lib confmisc.c:855:(parse_card) cannot find card '0'\n")

default = SimpleNamespace(device=(1, 0))


class PortAudioError(Exception):
    """As sounddevice's: text, PortAudio's code, and maybe (host API, its code, its text)."""


if _BEHAVIOUR == "hangs":
    threading.Event().wait()
if _BEHAVIOUR == "broken":
    raise PortAudioError("Error initializing PortAudio: Insufficient memory", -9992)


def query_hostapis() -> tuple[dict[str, Any], ...]:
    return ({"name": "ALSA"},)


def query_devices() -> list[dict[str, Any]]:
    common = {"hostapi": 0, "default_samplerate": _RATE_HZ}
    speaker = {"index": 0, "name": "Loudspeaker (hw:0,0)", "max_input_channels": 0}
    microphone = {"index": 1, "name": f"{_NAME} Mic: USB Audio (hw:7,0)", "max_input_channels": 2}
    return [speaker | common, *([] if _BEHAVIOUR == "absent" else [microphone | common])]


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
        started = time.monotonic()
        while _BEHAVIOUR == "endless" or block < int(_NUMBER):
            frame = [block / 1024, (block + 0.5) / 1024, *[0.0] * self._channels][: self._channels]
            sound = struct.pack(f"={self._channels}f", *frame) * self._frames
            age_seconds = 0.25
            if _BEHAVIOUR == "live":
                block_seconds = self._frames / self.samplerate
                captured = started + block * block_seconds
                time.sleep(max(0.0, captured + block_seconds - time.monotonic()))
                age_seconds = time.monotonic() - captured
            times = SimpleNamespace(currentTime=5.0, inputBufferAdcTime=5.0 - age_seconds)
            lossy = _BEHAVIOUR != "live" and block % 3 == 2
            self._callback(sound, self._frames, times, SimpleNamespace(input_overflow=lossy))
            block += 1
        if _BEHAVIOUR == "stalls":
            return
        self._finished()
        sys.stderr.write("ALSA lib pcm.c:8570:(snd_pcm_recover) overrun occurred\n")
