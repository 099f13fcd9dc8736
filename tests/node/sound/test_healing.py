"""A microphone that heals: the true capture program, on a PortAudio whose faults are scripted."""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from node.sound import healing
from node.sound.errors import SourceError
from node.sound.framing import FramedWindow, Framer
from node.sound.healing import WAIT_SECONDS, HealingSource
from node.sound.source import AudioSource, Block
from tests.rig.capture_processes import capture_process_ids
from tests.rig.waiting import wait_until

ROOT = Path(__file__).parents[3]
FAKE_PORTAUDIO = Path(__file__).parents[1] / "fake_portaudio"
FAKE_CAPTURE = Path(__file__).parent / "fake_capture.py"
KEY = "name:Fake Mic: USB Audio"
TIMEOUT_SECONDS = 30.0
READ_SECONDS = 0.05

Script = Callable[..., Path]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """What each start of the capture program does; the last line for ever."""

    def write(*lines: str) -> Path:
        file = tmp_path / "faults.txt"
        file.write_text("\n".join(lines))
        monkeypatch.setenv("EARSHOT_FAKE_SOUND", f"script:{file}")
        return file.with_suffix(".starts")

    monkeypatch.setenv("PYTHONPATH", f"{FAKE_PORTAUDIO}{os.pathsep}{ROOT}")
    return write


def source(
    device: str = KEY,
    *,
    channel: int | None = 0,
    stall_seconds: float = TIMEOUT_SECONDS,
    wait_seconds: tuple[float, ...] = (0.0,),
) -> HealingSource:
    return HealingSource(
        device, channel=channel, stall_seconds=stall_seconds, wait_seconds=wait_seconds
    )


def next_block(microphone: AudioSource) -> Block:
    """Reads until there is one, as a node does."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        block = microphone.read(READ_SECONDS)
        if block is not None:
            return block
    raise TimeoutError(f"Expected sound, got: {microphone.outage}")


def heard(microphone: AudioSource, count: int) -> list[Block]:
    return [next_block(microphone) for _ in range(count)]


def numbers(blocks: list[Block]) -> list[int]:
    """Which block of its start each is, as the fake counts them."""
    return [round(float(block.samples[0]) * 1024) for block in blocks]


def wait_for_outage(microphone: AudioSource) -> str:
    """Reads until there is one; gives what it says."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while microphone.outage is None and time.monotonic() < deadline:
        assert microphone.read(READ_SECONDS) is None
    assert microphone.outage is not None
    assert "\n" not in microphone.outage
    return microphone.outage


def test_microphone_that_never_fails_is_as_without_healing(script: Script) -> None:
    """Sound, identity, rate and losses are the microphone's own."""
    script("stalls:4 rate:44100")

    with source("default") as microphone:
        blocks = heard(microphone, 4)

        assert (microphone.identity, microphone.sample_rate_hz) == (KEY, 44_100)
        assert (microphone.outage, microphone.reopened, microphone.overruns) == (None, 0, 1)
    assert numbers(blocks) == [0, 1, 2, 3]
    assert [block.lost for block in blocks] == [False, False, True, False]
    assert [block.continuous for block in blocks] == [True, True, False, True]


def test_microphone_that_is_not_there_at_boot_is_waited_for(script: Script) -> None:
    """Entering does not fail; what is asked for is named, and the first sound says it is late."""
    starts = script("absent", "absent", "busy", "stalls:2 rate:48000")

    with source("default", wait_seconds=(0.2, 0.0)) as microphone:
        assert (microphone.identity, microphone.sample_rate_hz) == ("default", 0)
        assert microphone.outage is not None
        assert "found no microphone at all: plug it in" in microphone.outage
        blocks = heard(microphone, 2)

        assert (microphone.identity, microphone.sample_rate_hz) == (KEY, 48_000)
        assert microphone.reopened == 0
        outage: str | None = microphone.outage
    assert outage is None
    assert [block.lost for block in blocks] == [True, False]
    assert starts.stat().st_size == 4


def test_unplugged_microphone_is_heard_again_at_its_new_rate(script: Script) -> None:
    """After a re-plug the first block says that sound was lost, and only it; losses add up."""
    script("blocks:4 rate:44100", "absent", "stalls:4 rate:48000")

    with source() as microphone:
        before = heard(microphone, 4)
        rate_before, overruns_before = microphone.sample_rate_hz, microphone.overruns
        after = heard(microphone, 4)

        assert (rate_before, microphone.sample_rate_hz) == (44_100, 48_000)
        assert (overruns_before, microphone.overruns) == (1, 2)
        assert (microphone.reopened, microphone.outage) == (1, None)
    assert numbers(before) == numbers(after) == [0, 1, 2, 3]
    assert [block.lost for block in before] == [False, False, True, False]
    assert [block.lost for block in after] == [True, False, True, False]
    assert [block.continuous for block in after] == [False, True, False, True]
    assert len(after[0].samples) == 2400


def test_stalled_stream_is_started_anew(script: Script) -> None:
    """A program that lives and gives no sound is ended by the node, which says so."""
    starts = script("stalls:1", "quiet", "stalls:1")

    with source(stall_seconds=1.0) as microphone:
        next_block(microphone)
        outage = wait_for_outage(microphone)
        again = next_block(microphone)

    assert "gave no sound for 1 s" in outage
    assert again.lost
    assert starts.stat().st_size >= 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_capture_program_that_is_killed_or_stopped_is_started_anew(
    script: Script, how: signal.Signals
) -> None:
    """Whatever somebody does to the capture program, the node hears on and leaves none behind."""
    script("stalls:1")

    with source(stall_seconds=1.0) as microphone:
        next_block(microphone)
        (child,) = capture_process_ids()
        os.kill(child, how)
        wait_for_outage(microphone)
        again = next_block(microphone)

        assert again.lost
        assert child not in capture_process_ids()
    assert capture_process_ids() == []


def test_stopped_program_is_ended_on_leaving(script: Script) -> None:
    """A program that cannot obey is no reason to stay."""
    script("stalls:1")

    with source() as microphone:
        next_block(microphone)
        (child,) = capture_process_ids()
        os.kill(child, signal.SIGSTOP)

    assert capture_process_ids() == []


def test_default_does_not_become_another_microphone(script: Script) -> None:
    """Another default is not heard: the node waits for its own microphone and says so."""
    script("blocks:2", "stalls:2 name:Other", "stalls:2")

    with source("default", wait_seconds=(0.0, 0.5)) as microphone:
        heard(microphone, 2)
        outage = wait_for_outage(microphone)
        while "Other" not in outage:
            assert microphone.read(READ_SECONDS) is None
            outage = wait_for_outage(microphone)
        again = heard(microphone, 2)

        assert microphone.identity == KEY
    assert f"Expected one microphone {KEY}, got 0" in outage
    assert "those that are here (name:Other Mic: USB Audio)" in outage
    assert "waits for the one it heard first, restart it to take another" in outage
    assert [block.lost for block in again] == [True, False]


@pytest.mark.parametrize(
    ("behaviour", "channel", "reason"),
    [
        ("broken", None, "no_portaudio"),
        ("stalls:1", 5, "bad_format"),
        ("host:-22", 0, "bad_format"),
    ],
)
def test_what_time_does_not_cure_ends_the_start(
    script: Script, behaviour: str, channel: int | None, reason: str
) -> None:
    """A wrong setting or installation is told at once, not waited for."""
    script(behaviour)

    with pytest.raises(SourceError) as caught, source(channel=channel):
        pass

    assert caught.value.reason == reason
    assert capture_process_ids() == []


def test_what_time_does_not_cure_at_the_start_is_waited_for_later(script: Script) -> None:
    """A node that has heard gives up for no reason: libraries are replaced, and come back."""
    script("blocks:1", "broken", "host:-22", "busy", "stalls:1")

    with source() as microphone:
        blocks = heard(microphone, 2)

        assert microphone.reopened == 1
    assert [block.lost for block in blocks] == [False, True]


def test_reading_does_not_wait_for_a_program_that_hangs(script: Script) -> None:
    """While the program takes its time to open the microphone, `read` keeps to its own."""
    script("blocks:1", "hangs")

    with source() as microphone:
        next_block(microphone)
        wait_for_outage(microphone)
        started_at = time.monotonic()
        assert [microphone.read(0.01) for _ in range(20)] == [None] * 20

        # It would be 20 s if one of them waited for an answer.
        assert time.monotonic() - started_at < 15
        assert microphone.read(0.0) is None


def test_program_that_never_answers_is_tried_again(script: Script) -> None:
    """A start that hangs is ended and followed by the next."""
    script("hangs", "hangs", "stalls:1")
    microphone = HealingSource(KEY, channel=0, answer_seconds=1.0, wait_seconds=(0.0,))

    with microphone:
        assert "got no answer" in (microphone.outage or "")
        # The next needs longer than a second to start where the machine is busy; it is repeated.
        assert next_block(microphone).lost


def test_one_line_when_it_breaks_and_one_when_it_resumes(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """However many tries it takes, the log has two lines, the second with what was lost."""
    script("blocks:1", "absent", "absent", "busy", "absent", "stalls:1")
    caplog.set_level(logging.INFO, logger=healing.__name__)

    with source() as microphone:
        heard(microphone, 2)

    broken, resumed = [record.getMessage() for record in caplog.records]
    assert broken == (
        f"Microphone {KEY} stopped: check that it is plugged in; trying again after 0 s, later"
        " every 0 s, for as long as it takes"
    )
    assert resumed.startswith(f"Microphone {KEY} is heard at 16000 Hz after ")
    assert resumed.endswith(" s without sound and 5 tries")


def test_waits_grow_to_the_last_and_stay(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    """Each failure waits for its step; a moment of sound between two does not start them anew."""
    waits = (0.0, 0.01, 0.02, 0.03)
    script("absent", "absent", "blocks:1", "absent", "absent", "stalls:1")
    caplog.set_level(logging.DEBUG, logger=healing.__name__)

    with source(wait_seconds=waits) as microphone:
        heard(microphone, 2)

    said = [record.args for record in caplog.records if "trying again" in record.getMessage()]
    assert [args[1] for args in said if isinstance(args, tuple)] == [*waits, waits[-1]]


def test_stated_escalation() -> None:
    """Seconds at first, then every minute, for ever."""
    assert WAIT_SECONDS == (1, 2, 5, 10, 30, 60)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a minute"),
        (59.9, "less than a minute"),
        (60, "1 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 days"),
        (31_536_000, "365 days"),
    ],
)
def test_how_long_is_said_in_words(seconds: float, words: str) -> None:
    """Coarse, so that what is told changes once a minute at most."""
    assert healing._span(seconds) == words


def test_entering_again_starts_afresh(script: Script) -> None:
    """Counts start at nothing; reading outside is a mistake."""
    script("blocks:4", "stalls:4", "stalls:4")
    microphone = source()

    with microphone:
        heard(microphone, 8)
        assert (microphone.reopened, microphone.overruns) == (1, 2)
    with pytest.raises(AssertionError):
        microphone.read(0.0)
    with microphone:
        assert (microphone.reopened, microphone.overruns, microphone.outage) == (0, 0, None)
        assert not next_block(microphone).lost


def test_windows_of_an_outage_are_missed_once_and_never_heard(script: Script) -> None:
    """Through unplugging and another rate, each window of the grid is given once, in order."""
    script("absent", "live:12", "absent", "absent", "live:12 rate:48000", "absent")
    window_seconds, hop_seconds, rate_hz = 0.2, 0.1, 16_000
    framer = Framer(
        sample_rate_hz=rate_hz,
        window_samples=round(window_seconds * rate_hz),
        hop_samples=round(hop_seconds * rate_hz),
    )
    windows: list[FramedWindow] = []

    with source(wait_seconds=(0.1,)) as microphone:

        def heard_twice_and_out() -> bool:
            block = microphone.read(READ_SECONDS)
            if block is not None:
                windows.extend(framer.push(block, microphone.sample_rate_hz))
            elif microphone.outage is not None:
                windows.extend(framer.skip_until(time.monotonic_ns()))
            return microphone.reopened == 1 and microphone.outage is not None

        wait_until(heard_twice_and_out, "an outage after two stretches", seconds=TIMEOUT_SECONDS)

    starts_seconds = np.array([window.start_monotonic_ns for window in windows]) / 1e9
    # The fake's stamps are exact, but for the time between its clock and the program's.
    np.testing.assert_allclose(np.diff(starts_seconds), hop_seconds, rtol=0, atol=hop_seconds / 2)
    missed = [window.samples is None for window in windows]
    changes = [m for i, m in enumerate(missed) if i == 0 or m != missed[i - 1]]
    assert changes[:4] == [True, False, True, False]
    assert missed.count(False) >= 6
    assert all(len(w.samples) == 3200 for w in windows if w.samples is not None)
