"""The capture program: one microphone in, framed records out on standard output.

    python -m node.sound.capture --device KEY|default --rate HZ|native --channels N|all
    python -m node.sound.capture --list

It is a process of its own because PortAudio reads the list of devices once, when it is
initialised: only a fresh process finds a microphone that was unplugged and came back. It keeps to
the standard library and sounddevice's raw streams, without NumPy, to stay small. The other end is
`node.sound.microphone`.

Records. Each is a header of 32 bytes, little-endian, and then its payload:

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

The program ends when its standard input or output closes, so it never outlives its parent.

Not here: resampling, mixing, restarting. To change the format, change the magic, this text, and
the golden records in tests/node/sound/test_capture.py.
"""

import argparse
import errno
import importlib
import json
import os
import queue
import re
import struct
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, NoReturn

ProblemReason = Literal["no_portaudio", "no_device", "busy", "bad_format", "stopped"]

MAGIC: Final = b"EAR1"
HEADER: Final = struct.Struct("<4sB3xIIQII")
MAX_PAYLOAD_BYTES: Final = 8 << 20
"""50 ms of 64 channels at 192 kHz are 2.4 MB; a larger size is a reader out of step."""

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
_MAX_TEXT: Final = 64
"""Serial numbers and names come from whatever is plugged in."""

_PA_INVALID_DEVICE: Final = -9996
_PA_DEVICE_UNAVAILABLE: Final = -9985
_PA_BAD_FORMAT: Final = frozenset({-9998, -9997, -9994})
"""Invalid channel count, invalid sample rate, sample format not supported."""


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


@dataclass(frozen=True, slots=True)
class Card:
    """An ALSA sound card, as Linux describes it in /proc and /sys."""

    number: int
    """Changes when cards are plugged in another order: never part of a key."""
    card_id: str
    usb_path: str | None = None
    """Host controller and ports, as the kernel names them: `0000:01:00.0-1.3`."""
    usb_id: str | None = None
    """The USB `vendor:product`, in hexadecimal; None if it is no USB device."""
    serial: str | None = None
    capture_devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Microphone:
    """An input device, as PortAudio lists it."""

    index: int
    """PortAudio's number of the device; it means nothing in another process."""
    name: str
    host_api: str
    default_sample_rate_hz: int
    max_input_channels: int
    is_default: bool
    key: str = ""
    aliases: tuple[str, ...] = ()
    """Other keys by which this device can be asked for."""


class Block(NamedTuple):
    """A block of samples that PortAudio's callback leaves for the writer."""

    sound: bytes
    frames: int
    captured_monotonic_ns: int
    overruns: int
    dropped_blocks: int


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


def read_cards(proc_root: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> list[Card]:
    """The sound cards that Linux knows; empty elsewhere.

    /sys comes first: Docker hides /proc/asound, and /proc/asound/cards cuts long names. Both
    give the same keys.
    """
    cards = _cards_of_sys(sys_root)
    for number, card in _cards_of_proc(proc_root).items():
        cards[number] = _merged(cards[number], card) if number in cards else card
    return [cards[number] for number in sorted(cards)]


def card_keys(card: Card, device: int) -> list[str]:
    """What a capture device of a card can be called, the most lasting first.

    A serial number goes with the microphone, the path stays with the port, and the card id is
    the kernel's choice, which may depend on the order of plugging in.
    """
    part = f",{device}" if device else ""
    keys = []
    if card.usb_id and card.serial:
        keys.append(f"usb-id:{card.usb_id}:{card.serial}{part}")
    if card.usb_path:
        keys.append(f"usb-path:{card.usb_path}{part}")
    keys.append(f"alsa:{card.card_id}:{device}")
    return keys


def identified(microphones: Sequence[Microphone], cards: Iterable[Card]) -> list[Microphone]:
    """The same microphones with their keys.

    The key is the first that no other microphone shares: many cheap ones have one serial number.
    """
    by_number = {card.number: card for card in cards}
    candidates = [_candidates(microphone, by_number) for microphone in microphones]
    shared = Counter(key for keys in candidates for key in keys)
    return [
        _with_keys(microphone, [key for key in keys if shared[key] == 1] or keys[-1:])
        for microphone, keys in zip(microphones, candidates, strict=True)
    ]


def selected(microphones: Sequence[Microphone], cards: Iterable[Card], device: str) -> Microphone:
    """The microphone that `device` names: one of its keys, or `default`.

    Raises:
        CaptureError: none or several have that key (`no_device`), or the card is there and
            PortAudio cannot open it (`busy`).
    """
    if device == "default":
        found = [microphone for microphone in microphones if microphone.is_default]
    else:
        found = [m for m in microphones if device in (m.key, *m.aliases)]
    if len(found) == 1:
        return found[0]
    if device in {
        key for card in cards for d in card.capture_devices for key in card_keys(card, d)
    }:
        raise CaptureError(
            "busy",
            f"Microphone {device} is plugged in but does not open: stop the other program that"
            " uses it, or add this user to the group 'audio'",
        )
    if not microphones:
        raise CaptureError(
            "no_device", f"Expected microphone {device}, found no microphone at all: plug it in"
        )
    known = ", ".join(microphone.key for microphone in microphones)
    raise CaptureError(
        "no_device",
        f"Expected one microphone {device}, got {len(found)}: plug it in, or choose one of those"
        f" that are here ({known})",
    )


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
        self._queue: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
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
            Block(bytes(sound), frames, captured_ns, self._overruns, self._dropped_blocks)
        )

    def finish(self) -> None:
        """Takes PortAudio's word that no more blocks will come."""
        self._queue.put(None)

    def next(self, timeout_seconds: float) -> Block:
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


def _described(microphone: Microphone) -> dict[str, Any]:
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
            " `pip install 'earshot[node]'`",
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


def _microphones(sounddevice: Any, cards: Iterable[Card]) -> list[Microphone]:
    host_apis = [host_api["name"] for host_api in sounddevice.query_hostapis()]
    default_index = sounddevice.default.device[0]
    microphones = [
        Microphone(
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


def _all_channels(microphone: Microphone) -> int:
    if microphone.host_api == "ALSA" and microphone.max_input_channels >= _PLUGIN_CHANNELS:
        return 2
    return microphone.max_input_channels


def _open_error(
    error: Exception, microphone: Microphone, *, rate_hz: float, channels: int
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


def _with_keys(microphone: Microphone, keys: Sequence[str]) -> Microphone:
    return replace(microphone, key=keys[0], aliases=tuple(keys[1:]))


def _candidates(microphone: Microphone, cards: dict[int, Card]) -> list[str]:
    keys = []
    name = microphone.name
    place = re.search(r"\s*\(hw:(\d+),(\d+)\)$", name)
    if microphone.host_api == "ALSA" and place:
        name = name[: place.start()]
        if card := cards.get(int(place[1])):
            keys = card_keys(card, int(place[2]))
    return [*keys, f"name:{name}", f"name:{name}, {microphone.host_api}"]


def _merged(first: Card, second: Card) -> Card:
    return Card(
        number=first.number,
        card_id=first.card_id or second.card_id,
        usb_path=first.usb_path or second.usb_path,
        usb_id=first.usb_id or second.usb_id,
        serial=first.serial or second.serial,
        capture_devices=first.capture_devices or second.capture_devices,
    )


def _cards_of_sys(root: Path) -> dict[int, Card]:
    sound = root / "class" / "sound"
    cards = {}
    for entry in sound.glob("card*"):
        number = entry.name.removeprefix("card")
        if not number.isdecimal():
            continue
        usb = _usb_device(entry / "device", root)
        cards[int(number)] = Card(
            number=int(number),
            card_id=_text(entry / "id") or "",
            usb_path=_usb_path(usb) if usb else None,
            usb_id=_usb_id(usb) if usb else None,
            serial=_text(usb / "serial") if usb else None,
            capture_devices=_device_numbers(sound, rf"pcmC{number}D(\d+)c"),
        )
    return cards


def _usb_device(entry: Path, root: Path) -> Path | None:
    """The nearest directory above that is a USB device; above that are hubs and controllers."""
    place, top = entry.resolve(), root.resolve()
    for directory in (place, *place.parents):
        if directory == top or not directory.is_relative_to(top):
            return None
        if (directory / "idVendor").is_file():
            return directory
    return None


def _usb_id(device: Path) -> str | None:
    vendor, product = _text(device / "idVendor"), _text(device / "idProduct")
    return f"{vendor}:{product}" if vendor and product else None


def _usb_path(device: Path) -> str | None:
    """The kernel's `usb_make_path`, without its "usb-": bus numbers change, this does not."""
    ports = device.name.partition("-")[2]
    for directory in device.parents:
        if re.fullmatch(r"usb\d+", directory.name):
            return f"{directory.parent.name}-{ports}"
    return None


def _cards_of_proc(root: Path) -> dict[int, Card]:
    asound = root / "asound"
    try:
        text = (asound / "cards").read_text(errors="replace")
    except OSError:
        return {}
    cards = {}
    for entry in re.finditer(r"^ *(\d+) \[(.{15})\]: .*\n(.*)$", text, re.MULTILINE):
        number = int(entry[1])
        # The speed after it says that the kernel had room for the whole path.
        path = re.search(r" at usb-(\S+), \w+ speed", entry[3])
        card_directory = asound / f"card{number}"
        cards[number] = Card(
            number=number,
            card_id=entry[2].strip(),
            usb_path=path[1] if path else None,
            usb_id=_text(card_directory / "usbid"),
            capture_devices=_device_numbers(card_directory, r"pcm(\d+)c"),
        )
    return cards


def _device_numbers(directory: Path, pattern: str) -> tuple[int, ...]:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError:
        return ()
    return tuple(sorted(int(match[1]) for name in names if (match := re.fullmatch(pattern, name))))


def _text(file: Path) -> str | None:
    """A one-line attribute without spaces and controls, or None."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return "_".join(words)[:_MAX_TEXT] or None


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
