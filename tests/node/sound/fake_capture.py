"""Stands in for the capture program: `python fake_capture.py SCENARIO [what the parent adds]`.

It packs the records with numbers of its own, not with `node.sound.capture`, so that a mistake there
is not repeated here. Channel c of frame i of the first block is ((i + c) % 16 - 8) / 8.
"""

import json
import os
import signal
import struct
import sys

FRAMES = 32
HELLO, SOUND, PROBLEM, UNKNOWN = 1, 2, 3, 200


def main() -> None:
    scenario, _, number = sys.argv[1].partition(":")
    options = sys.argv[2:]
    if options == ["--list"]:
        listing(scenario)
        return
    device = options[options.index("--device") + 1]
    if options != ["--device", device, "--rate", "native", "--channels", "all"]:
        raise SystemExit(f"Expected the options of the parent, got {options}")
    if scenario == "mute":
        wait_for_parent()
    if scenario == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        device = str(os.getpid())
    if scenario == "refused":
        fault = {"reason": "busy", "message": f"Microphone {device} is in use:\nstop the other"}
        write(record(PROBLEM, json.dumps(fault).encode()))
        raise SystemExit(1)
    if scenario == "text":
        write(b"Traceback (most recent call last): this is not a record\n")
        raise SystemExit(1)
    if scenario == "oversize":
        write(struct.pack("<4sB3xIIQII", b"EAR1", HELLO, 1 << 31, 0, 0, 0, 0))
        wait_for_parent()
    if scenario == "headless":
        write(sound(channels=1))
        wait_for_parent()

    channels = int(number or 1)
    write(hello(device, channels), drop_by_drop=scenario == "drops")
    while scenario == "noisy":
        chat()
    if scenario == "silent":
        wait_for_parent()
    if scenario == "chatty":
        chat()
    if scenario == "future":
        write(record(UNKNOWN, b"what a later version says"))
    write(sound(channels=channels), drop_by_drop=scenario == "drops")
    if scenario == "killed":
        sys.stderr.write("ALSA lib pcm_hw.c: something it said\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "truncated":
        write(sound(channels=channels)[:-1])
        raise SystemExit(0)
    if scenario == "lopsided":
        write(record(SOUND, bytes(8), frames=3))
    if scenario == "unplugged":
        fault = {"reason": "stopped", "message": f"Microphone {device} stopped: plug it in"}
        write(record(PROBLEM, json.dumps(fault).encode()))
        raise SystemExit(1)
    if scenario == "lossy":
        write(sound(channels=channels, overruns=2))
        write(sound(channels=channels, overruns=2, dropped=5))
    if scenario == "stubborn":
        signal.pause()
    wait_for_parent()


def listing(scenario: str) -> None:
    microphone = {
        "key": "usb-id:0d8c:0014:A1",
        "name": "USB Audio Device: - (hw:1,0)",
        "host_api": "ALSA",
        "default_sample_rate_hz": 48000,
        "max_input_channels": 1,
        "is_default": True,
        "aliases": ["alsa:Device:0"],
        "added_by_a_later_version": 1,
    }
    fault = {"reason": "no_portaudio", "message": "run `sudo apt install libportaudio2`"}
    texts = {
        "one": json.dumps({"microphones": [microphone]}),
        "none": json.dumps({"microphones": []}),
        "refused": json.dumps({"problem": fault}),
        "neither": "{}",
        "text": "hello?",
    }
    if scenario == "mute":
        signal.pause()
    if scenario == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    write(texts[scenario].encode())


def hello(device: str, channels: int) -> bytes:
    fields = {
        "identity": device,
        "name": "Fake",
        "host_api": "ALSA",
        "sample_rate_hz": 16000,
        "channels": channels,
        "sample_format": "float32",
    }
    return record(HELLO, json.dumps(fields).encode())


def sound(*, channels: int, overruns: int = 0, dropped: int = 0) -> bytes:
    values = [((i + c) % 16 - 8) / 8 for i in range(FRAMES) for c in range(channels)]
    payload = struct.pack(f"={len(values)}f", *values)
    return record(SOUND, payload, frames=FRAMES, overruns=overruns, dropped=dropped)


def record(
    kind: int, payload: bytes, *, frames: int = 0, overruns: int = 0, dropped: int = 0
) -> bytes:
    captured_ns = 1_234_567_890_123 if frames else 0
    fields = (kind, len(payload), frames, captured_ns, overruns, dropped)
    return struct.pack("<4sB3xIIQII", b"EAR1", *fields) + payload


def write(data: bytes, *, drop_by_drop: bool = False) -> None:
    pieces = [data[i : i + 1] for i in range(len(data))] if drop_by_drop else [data]
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def chat() -> None:
    for _ in range(5000):
        sys.stderr.write("ALSA lib pcm.c:2664:(snd_pcm_open_noupdate) Unknown PCM cards.pcm\n")
    sys.stderr.flush()


def wait_for_parent() -> None:
    sys.stdin.buffer.read()
    raise SystemExit(0)


if __name__ == "__main__":
    main()
