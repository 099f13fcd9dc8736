"""The true capture program on the true PortAudio and ALSA, without a sound card.

ALSA's `file` plugin reads raw sound from a named pipe, so the test decides what the microphone
hears and when: the device waits while the pipe is empty, and is as fast as the reader otherwise.
ALSA_CONFIG_PATH replaces the machine's whole configuration, so no real device is touched.

Not here: real time (`test_healing.py`), real overruns, USB. They need hardware.
"""

import ctypes.util
import fcntl
import importlib.util
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from node.sound import capture, capture_records
from node.sound.capture_records import RecordHeader, RecordKind
from node.sound.errors import SourceError
from node.sound.healing import HealingSource
from node.sound.microphone import MicrophoneSource, list_microphones
from node.sound.source import Block
from tests.rig.capture_processes import capture_process_ids
from tests.rig.installed import REQUIRE_SERVERS
from tests.rig.waiting import wait_until

ROOT = Path(__file__).parents[2]
DEVICE = "name:earshot_pipe"
RATE_HZ = 44100
"""What PortAudio takes as the default of a device that has every rate."""
TIMEOUT_SECONDS = 20.0
END_SECONDS = 2.0
"""After this a child would have to be killed."""
PIPE_BYTES = 1 << 20
"""As much as an unprivileged user may ask for."""

ALSA_CONFIGURATION = """
pcm.null { type null }
pcm.default { type null }
pcm.earshot_pipe {
    type file
    slave.pcm "null"
    file "/dev/null"
    infile "%s"
    format "raw"
}
"""


@pytest.fixture(autouse=True)
def _portaudio() -> None:
    missing = [
        package
        for package, present in {
            "libportaudio2": ctypes.util.find_library("portaudio"),
            "libasound2": ctypes.util.find_library("asound"),
            "the Python package sounddevice": importlib.util.find_spec("sounddevice"),
        }.items()
        if not present
    ]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get(REQUIRE_SERVERS) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_SERVERS}=1 forbids to skip", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What the microphone hears is written here."""
    fifo = tmp_path / "sound"
    os.mkfifo(fifo)
    configuration = tmp_path / "asound.conf"
    configuration.write_text(ALSA_CONFIGURATION % fifo)
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(configuration))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Also for reading, or opening would wait for the other end; PortAudio tries it as it lists.
    descriptor = os.open(fifo, os.O_RDWR)
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield descriptor
    os.close(descriptor)


def stereo(*, blocks: int, block_frames: int) -> npt.NDArray[np.float32]:
    """Shape (frames, 2): noise on the left, a tone on the right."""
    frames = blocks * block_frames
    noise = np.random.default_rng(7).uniform(-1.0, 1.0, frames)
    tone = np.sin(np.arange(frames) * 0.05)
    return np.stack([noise, tone], axis=1).astype(np.float32)


def heard(microphone: MicrophoneSource, samples: int) -> npt.NDArray[np.float32]:
    blocks: list[npt.NDArray[np.float32]] = []
    while sum(map(len, blocks)) < samples:
        block = microphone.read(TIMEOUT_SECONDS)
        assert block is not None
        blocks.append(block.samples)
    return np.concatenate(blocks)


def start(*options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "node.sound.capture", "--device", DEVICE, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def record(process: subprocess.Popen[bytes]) -> tuple[RecordHeader, bytes]:
    assert process.stdout is not None
    header = capture_records.decode_header(process.stdout.read(capture_records.HEADER.size))
    return header, process.stdout.read(header.payload_bytes)


def problem(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    header, payload = record(process)
    assert header.kind == RecordKind.PROBLEM
    fault = json.loads(payload)
    return fault["reason"], fault["message"]


@pytest.mark.usefixtures("pipe")
def test_devices_of_alsa_are_listed() -> None:
    """PortAudio's devices come with keys, and the default is marked."""
    microphones = {microphone.key: microphone for microphone in list_microphones()}

    assert set(microphones) == {DEVICE, "name:default"}
    assert microphones[DEVICE].default_sample_rate_hz == RATE_HZ
    assert [key for key, m in microphones.items() if m.is_default] == ["name:default"]


@pytest.mark.parametrize("channel", [None, 0, 1])
def test_known_sound_is_captured_sample_for_sample(pipe: int, channel: int | None) -> None:
    """What goes into ALSA comes out of `read`, from the first sample and without a gap."""
    block_frames = round(RATE_HZ * capture.BLOCK_SECONDS)
    sound = stereo(blocks=40, block_frames=block_frames)
    os.write(pipe, sound.tobytes())

    with MicrophoneSource(DEVICE, channel=channel) as microphone:
        samples = heard(microphone, len(sound))

        assert (microphone.identity, microphone.sample_rate_hz) == (DEVICE, RATE_HZ)
        assert microphone.overruns == 0
        assert microphone.read(0.1) is None
    expected = sound.mean(axis=1) if channel is None else sound[:, channel]
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-7)


def unread_bytes(pipe: int) -> int:
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]


def test_dropped_blocks_are_counted_where_they_are_missing(pipe: int) -> None:
    """With nobody reading, the counter grows by just the blocks that are missing."""
    rate_hz, block_frames, batch = 40960, 2048, 8
    last = capture.QUEUE_BLOCKS + 20 * batch

    def say(first: int) -> None:
        # ALSA reads two blocks at once and takes what there is; whole pages of the pipe, and
        # batches written at once, keep it from ever finding less.
        ids = np.arange(first, first + batch, dtype=np.float32) / 1024
        os.write(pipe, np.repeat(ids, 2 * block_frames).tobytes())

    numbers, drops = [], []
    with start("--rate", str(rate_hz), "--channels", "2") as process:
        assert record(process)[0].kind == RecordKind.HELLO
        for first in range(0, last, batch):
            say(first)
        wait_until(lambda: unread_bytes(pipe) == 0, "a device that has heard everything")
        while last not in numbers:
            header, payload = record(process)
            sound = np.frombuffer(payload, np.float32)
            assert (sound == sound[0]).all()
            numbers.append(round(float(sound[0]) * 1024))
            drops.append(header.dropped_blocks)
            if len(numbers) == 100:
                # The queue has room again, and this comes after the gap.
                say(last)
        process.kill()

    assert drops[0] == 0
    assert drops[-1] > 100
    np.testing.assert_array_equal(np.diff(numbers) - 1, np.diff(drops))


@pytest.mark.usefixtures("pipe")
def test_device_that_falls_silent_is_given_up() -> None:
    """PortAudio's thread hangs in the driver; the program ends all the same."""
    with start("--stall-seconds", "0.2") as process:
        assert record(process)[0].kind == RecordKind.HELLO

        assert problem(process)[0] == "stopped"
        assert process.wait(TIMEOUT_SECONDS) == 1


@pytest.mark.usefixtures("pipe")
def test_leaving_does_not_wait_for_a_hanging_device() -> None:
    """The context ends the child while PortAudio's thread hangs in the driver."""
    with MicrophoneSource(DEVICE, channel=None) as microphone:
        assert microphone.read(0.05) is None
        left_at = time.monotonic()

    assert time.monotonic() - left_at < END_SECONDS


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "node.sound.capture", "--device", sys.argv[1]],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.read(40)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("pipe")
def test_program_does_not_outlive_a_killed_parent() -> None:
    """Not even while PortAudio's thread hangs in the driver."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, DEVICE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        child_id = int(parent.stdout.readline())
        child = os.pidfd_open(child_id)
        maps = Path(f"/proc/{child_id}/maps").read_text()

        parent.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([child], [], [], TIMEOUT_SECONDS)

    os.close(child)
    assert ended
    assert "libportaudio" in maps
    assert "numpy" not in maps


@pytest.mark.usefixtures("pipe")
def test_format_that_the_device_lacks_is_refused() -> None:
    """PortAudio's own error becomes `bad_format` with what the device has."""
    with start("--channels", "200") as process:
        reason, message = problem(process)

    assert reason == "bad_format"
    assert "up to 128 channels" in message


@pytest.mark.usefixtures("pipe")
def test_microphone_that_is_not_there_is_refused() -> None:
    """The error names those that are."""
    with (
        pytest.raises(SourceError, match=DEVICE) as caught,
        MicrophoneSource("usb-id:1:2:3", channel=None),
    ):
        pass
    assert caught.value.reason == "no_device"


def next_block(microphone: HealingSource) -> Block:
    blocks: list[Block | None] = [None]

    def has_come() -> bool:
        blocks[0] = microphone.read(0.1)
        return blocks[0] is not None

    wait_until(has_come, "sound", seconds=TIMEOUT_SECONDS)
    assert blocks[0] is not None
    return blocks[0]


def hear_until_outage(microphone: HealingSource) -> str:
    def is_out() -> bool:
        microphone.read(0.1)
        return microphone.outage is not None

    wait_until(is_out, "an outage", seconds=TIMEOUT_SECONDS)
    return microphone.outage or ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_sound_goes_on_after_the_program_was_killed_or_stopped(
    pipe: int, how: signal.Signals
) -> None:
    """A fresh program opens the device that the old one held, and the loss is told."""
    sound = stereo(blocks=20, block_frames=round(RATE_HZ * capture.BLOCK_SECONDS)).tobytes()

    with HealingSource(DEVICE, channel=None, stall_seconds=3.0, wait_seconds=(0.05,)) as microphone:
        os.write(pipe, sound)
        first = next_block(microphone)
        (child,) = capture_process_ids()
        os.kill(child, how)
        hear_until_outage(microphone)
        os.write(pipe, sound)
        again = next_block(microphone)

        assert (first.lost, again.lost) == (False, True)
        assert (microphone.identity, microphone.reopened) == (DEVICE, 1)
        assert child not in capture_process_ids()


def test_sound_goes_on_when_the_device_is_there_again(pipe: int, tmp_path: Path) -> None:
    """PortAudio's list is read anew: a device that went away is found when it is back."""
    sound = stereo(blocks=20, block_frames=round(RATE_HZ * capture.BLOCK_SECONDS)).tobytes()
    configuration = tmp_path / "asound.conf"
    plugged_in = configuration.read_text()

    with HealingSource(DEVICE, channel=None, wait_seconds=(0.05,)) as microphone:
        os.write(pipe, sound)
        next_block(microphone)
        (child,) = capture_process_ids()
        configuration.write_text(plugged_in.replace("earshot_pipe", "another"))
        os.kill(child, signal.SIGKILL)
        wait_until(
            lambda: "here (name:another" in hear_until_outage(microphone),
            "an outage that names what is there",
            seconds=TIMEOUT_SECONDS,
        )
        configuration.write_text(plugged_in)
        os.write(pipe, sound)
        again = next_block(microphone)

        assert again.lost
        assert microphone.identity == DEVICE
