"""The capture program: one microphone in, framed records out on standard output.

    python -m node.sound.capture --device KEY|default --rate HZ|native --channels N|all
    python -m node.sound.capture --list

It is a process of its own because PortAudio reads the list of devices once, when it is
initialised: only a fresh process finds a microphone that was unplugged and came back. It keeps to
the standard library and sounddevice's raw streams, without NumPy, to stay small. The other end is
`node.sound.microphone`.

What a record is, is said in `node.sound.capture_records`. The program ends when its standard input
or output closes, so it never outlives its parent.

Not here: resampling, mixing, restarting.
"""

import argparse
import errno
import importlib
import json
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from node.sound.capture_records import CaptureError, ProblemReason, RecordKind, encode_record
from node.sound.cards import Card, read_cards
from node.sound.input_devices import InputDevice, identified, selected

BLOCK_SECONDS: Final = 0.05
"""Twenty callbacks a second cost a Pi little; scoring works in whole seconds."""
LATENCY_SECONDS: Final = 0.25
"""Asked of PortAudio, whose default on ALSA (35 ms) overruns when a Pi is busy scoring."""
QUEUE_BLOCKS: Final = 200
"""10 s: a parent may be busy that long before sound is dropped; 1.9 MB a channel at 48 kHz."""
STALL_SECONDS: Final = 5.0
"""PortAudio can go quiet for good without ending the stream (PortAudio issues 930 and 1037)."""
_MAX_AGE_SECONDS: Final = 10.0
"""Drivers report time stamps of other clocks; an older block than this is one of those."""
_PLUGIN_CHANNELS: Final = 32
"""ALSA's plugins (default, pulse) claim 32 to 128 channels whatever the microphone has."""

_PA_INVALID_DEVICE: Final = -9996
_PA_DEVICE_UNAVAILABLE: Final = -9985
_PA_BAD_FORMAT: Final = frozenset({-9998, -9997, -9994})
"""Invalid channel count, invalid sample rate, sample format not supported."""


class _QueuedBlock(NamedTuple):
    """A block of samples that PortAudio's callback leaves for the writer."""

    sound: bytes
    frames: int
    captured_monotonic_ns: int
    overruns: int
    dropped_blocks: int


def reason_of(pa_code: int, host_code: int | None) -> ProblemReason:
    """The reason behind a PortAudio error and the error of ALSA that came with it, if any."""
    if pa_code == _PA_DEVICE_UNAVAILABLE or host_code in (-errno.EBUSY, -errno.EACCES):
        return "busy"
    if pa_code in _PA_BAD_FORMAT or host_code == -errno.EINVAL:
        return "bad_format"
    if pa_code == _PA_INVALID_DEVICE or host_code in (-errno.ENODEV, -errno.ENOENT):
        return "no_device"
    return "stopped"


class Recorder:
    """The PortAudio callback: copies, counts, and never waits.

    When the queue is full the new block is dropped, so that the counters of the next block tell
    exactly where sound is missing.
    """

    def __init__(self, *, rate_hz: float, queue_blocks: int = QUEUE_BLOCKS) -> None:
        self._rate_hz = rate_hz
        self._queue_blocks = queue_blocks
        self._queue: queue.SimpleQueue[_QueuedBlock | None] = queue.SimpleQueue()
        self._overruns = 0
        self._dropped_blocks = 0

    def __call__(self, sound: Any, frames: int, times: Any, status: Any) -> None:
        """Takes a block from PortAudio's thread."""
        now_ns = time.monotonic_ns()
        self._overruns += bool(status.input_overflow)
        if self._queue.qsize() >= self._queue_blocks:
            self._dropped_blocks += 1
            return
        age_seconds = times.currentTime - times.inputBufferAdcTime
        shortest_seconds = frames / self._rate_hz
        if not shortest_seconds <= age_seconds <= _MAX_AGE_SECONDS:
            age_seconds = shortest_seconds
        captured_ns = now_ns - round(age_seconds * 1e9)
        self._queue.put(
            _QueuedBlock(bytes(sound), frames, captured_ns, self._overruns, self._dropped_blocks)
        )

    def finish(self) -> None:
        """Takes PortAudio's word that no more blocks will come."""
        self._queue.put(None)

    def next(self, timeout_seconds: float) -> _QueuedBlock:
        """The oldest block that waits; None when none came in time.

        Raises:
            EOFError: the stream has ended.
            TimeoutError: nothing came in time.
        """
        try:
            block = self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            raise TimeoutError from None
        if block is None:
            raise EOFError
        return block


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the capture program and return its exit status."""
    options = _parser().parse_args(arguments)
    out = _claim_stdout()
    try:
        if options.list:
            return _list(out)
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        _stream(out, options)
    except CaptureError as problem:
        fault = json.dumps({"reason": problem.reason, "message": str(problem)}).encode()
        out.write(encode_record(RecordKind.PROBLEM, fault))
        out.flush()
        return 1
    except BrokenPipeError:
        return 0


def _stream(out: BinaryIO, options: argparse.Namespace) -> NoReturn:
    sounddevice = _load_sounddevice()
    cards = read_cards()
    microphone = selected(_microphones(sounddevice, cards), cards, options.device)
    rate_hz = options.rate or microphone.default_sample_rate_hz
    channels = options.channels or _all_channels(microphone)
    recorder = Recorder(rate_hz=rate_hz)
    try:
        stream = sounddevice.RawInputStream(
            device=microphone.index,
            samplerate=rate_hz,
            channels=channels,
            dtype="float32",
            blocksize=round(rate_hz * BLOCK_SECONDS),
            latency=LATENCY_SECONDS,
            callback=recorder,
            finished_callback=recorder.finish,
        )
        stream.start()
    except sounddevice.PortAudioError as error:
        raise _open_error(error, microphone, rate_hz=rate_hz, channels=channels) from error
    hello = {
        "identity": microphone.key,
        "name": microphone.name,
        "host_api": microphone.host_api,
        "sample_rate_hz": round(stream.samplerate),
        "channels": channels,
        "sample_format": "float32",
    }
    out.write(encode_record(RecordKind.HELLO, json.dumps(hello).encode()))
    out.flush()
    _forward(recorder, out, microphone.key, stall_seconds=options.stall_seconds)


def _forward(recorder: Recorder, out: BinaryIO, identity: str, *, stall_seconds: float) -> NoReturn:
    while True:
        try:
            sound, frames, captured_ns, overruns, dropped = recorder.next(stall_seconds)
        except EOFError:
            raise CaptureError(
                "stopped", f"Microphone {identity} stopped: check that it is plugged in"
            ) from None
        except TimeoutError:
            raise CaptureError(
                "stopped",
                f"Microphone {identity} gave no sound for {stall_seconds:g} s: check its plug and"
                " the power supply",
            ) from None
        record = encode_record(
            RecordKind.SOUND,
            sound,
            frames=frames,
            captured_monotonic_ns=captured_ns,
            overruns=overruns,
            dropped_blocks=dropped,
        )
        out.write(record)
        out.flush()


def _list(out: BinaryIO) -> int:
    try:
        microphones = _microphones(_load_sounddevice(), read_cards())
    except CaptureError as problem:
        fault = {"problem": {"reason": problem.reason, "message": str(problem)}}
        out.write(json.dumps(fault, indent=2).encode() + b"\n")
        out.flush()
        return 1
    listed = {"microphones": [_described(microphone) for microphone in microphones]}
    out.write(json.dumps(listed, indent=2).encode() + b"\n")
    out.flush()
    return 0


def _described(microphone: InputDevice) -> dict[str, Any]:
    fields = asdict(microphone)
    del fields["index"]
    return fields


def _load_sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise CaptureError(
            "no_portaudio",
            f"The Python package sounddevice does not load ({error}): run"
            " `pip install 'earshot-fleet[node]'`",
        ) from error
    except OSError as error:
        raise CaptureError(
            "no_portaudio",
            f"PortAudio does not load ({error}): run `sudo apt install libportaudio2`",
        ) from error
    except Exception as error:
        # Importing also initialises PortAudio, and its error class is in the module that failed.
        raise CaptureError(
            "no_portaudio", f"PortAudio does not start ({error}): check ALSA's configuration"
        ) from error


def _microphones(sounddevice: Any, cards: Iterable[Card]) -> list[InputDevice]:
    host_apis = [host_api["name"] for host_api in sounddevice.query_hostapis()]
    default_index = sounddevice.default.device[0]
    microphones = [
        InputDevice(
            index=device["index"],
            name=device["name"],
            host_api=host_apis[device["hostapi"]],
            default_sample_rate_hz=round(device["default_samplerate"]),
            max_input_channels=device["max_input_channels"],
            is_default=device["index"] == default_index,
        )
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0
    ]
    return identified(microphones, cards)


def _all_channels(microphone: InputDevice) -> int:
    if microphone.host_api == "ALSA" and microphone.max_input_channels >= _PLUGIN_CHANNELS:
        return 2
    return microphone.max_input_channels


def _open_error(
    error: Exception, microphone: InputDevice, *, rate_hz: float, channels: int
) -> CaptureError:
    text, pa_code, host = (*error.args, None, None)[:3]
    reason = reason_of(pa_code or 0, host[1] if host else None)
    cause = f"{text} {host[2] if host else ''}".strip()
    not_allowed = host is not None and host[1] == -errno.EACCES
    todo = {
        "busy": "add this user to the group 'audio'"
        if not_allowed
        else "stop the other program that uses it",
        "bad_format": f"choose a rate and channels that it has (up to"
        f" {microphone.max_input_channels} channels, {microphone.default_sample_rate_hz} Hz)",
    }.get(reason, "plug it out and in again")
    return CaptureError(
        reason,
        f"Microphone {microphone.key} does not open at {rate_hz:g} Hz with {channels} channels"
        f" ({cause}): {todo}",
    )


def _claim_stdout() -> BinaryIO:
    """Standard output for records alone: whatever a C library prints goes to standard error."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def _exit_with_parent() -> NoReturn:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="node.sound.capture", description="Capture one microphone."
    )
    parser.add_argument("--list", action="store_true", help="print the microphones as JSON")
    parser.add_argument("--device", default="default", help="a key of --list, or default")
    parser.add_argument("--rate", type=_count_or("native"), default=None, metavar="HZ|native")
    parser.add_argument("--channels", type=_count_or("all"), default=None, metavar="N|all")
    parser.add_argument("--stall-seconds", type=float, default=STALL_SECONDS)
    return parser


def _count_or(word: str) -> Callable[[str], int | None]:
    def count(text: str) -> int | None:
        if text == word:
            return None
        if not text.isdecimal() or int(text) == 0:
            raise argparse.ArgumentTypeError(f"Expected a positive number or {word}, got {text!r}")
        return int(text)

    return count


if __name__ == "__main__":
    try:
        status = main()
    except Exception:  # a bug; sounddevice's exit handler must not run then either
        traceback.print_exc()
        status = 1
    # Without Pa_Terminate, which can hang when the device has gone; the kernel closes it anyway.
    os._exit(status)
