"""The parent's side of capture, against a child that speaks the protocol."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from contract.errors import EarshotError
from node.sound import capture_records
from node.sound.capture_records import RecordKind
from node.sound.errors import SourceError
from node.sound.microphone import Microphone, MicrophoneSource, list_microphones

FAKE = Path(__file__).parent / "fake_capture.py"
TIMEOUT_SECONDS = 20.0
"""Far more than anything here takes; a test that waits this long has failed."""


def command(scenario: str) -> list[str]:
    return [sys.executable, str(FAKE), scenario]


def source(scenario: str, *, channel: int | None = None) -> MicrophoneSource:
    return MicrophoneSource("usb-id:0d8c:0014:A1", channel=channel, command=command(scenario))


def expected_channel(channel: int) -> npt.NDArray[np.float32]:
    frames = np.arange(32)
    return (((frames + channel) % 16 - 8) / 8).astype(np.float32)


def failure(scenario: str, *, blocks: int = 1) -> SourceError:
    """What reading raises after some blocks; and raises again, for the caller who tries again."""
    with source(scenario) as microphone:
        for _ in range(blocks):
            assert microphone.read(TIMEOUT_SECONDS) is not None
        with pytest.raises(SourceError) as caught:
            microphone.read(TIMEOUT_SECONDS)
        with pytest.raises(SourceError) as again:
            microphone.read(TIMEOUT_SECONDS)
    assert again.value is caught.value
    assert "\n" not in str(caught.value)
    return caught.value


def refusal(scenario: str, *, channel: int | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught, source(scenario, channel=channel):
        pass
    assert "\n" not in str(caught.value)
    return caught.value


def test_fake_child_writes_what_the_capture_program_reads() -> None:
    """The fake's records are records of `node.sound.capture`."""
    arguments = ["--device", "d", "--rate", "native", "--channels", "all"]
    done = subprocess.run(
        [*command("lossy:2"), *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )

    stream = io.BytesIO(done.stdout)
    headers = []
    while data := stream.read(capture_records.HEADER.size):
        headers.append(capture_records.decode_header(data))
        stream.read(headers[-1].payload_bytes)
    assert [header.kind for header in headers] == [RecordKind.HELLO, *[RecordKind.SOUND] * 3]
    assert headers[1] == (2, 32 * 2 * 4, 32, 1_234_567_890_123, 0, 0)
    assert headers[3][4:] == (2, 5)


def test_sound_comes_with_the_time_of_its_first_sample() -> None:
    """A block is float32 samples and the child's time stamp."""
    with source("stream") as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

        assert microphone.identity == "usb-id:0d8c:0014:A1"
        assert microphone.sample_rate_hz == 16000
        assert microphone.overruns == 0
    assert block is not None
    assert block.captured_monotonic_ns == 1_234_567_890_123
    assert block.samples.dtype == np.float32
    np.testing.assert_array_equal(block.samples, expected_channel(0))


@pytest.mark.parametrize(("channels", "channel"), [(1, 0), (2, 0), (2, 1), (8, 7)])
def test_one_channel_is_heard(channels: int, channel: int) -> None:
    """The chosen channel comes as it is, without the others."""
    with source(f"stream:{channels}", channel=channel) as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

    assert block is not None
    np.testing.assert_array_equal(block.samples, expected_channel(channel))


@pytest.mark.parametrize(("channels", "channel"), [(1, None), (2, 1), (2, None), (8, None)])
def test_channels_that_are_mixed_are_measured(channels: int, channel: int | None) -> None:
    """How loud each is goes with the block; where none is mixed there is nothing to compare."""
    with source(f"stream:{channels}", channel=channel) as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

    assert block is not None
    mixed = channels > 1 and channel is None
    assert len(block.channel_powers) == (channels if mixed else 0)
    for number, power in enumerate(block.channel_powers):
        assert power == pytest.approx(expected_channel(number).var(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_all_channels_are_mixed(channels: int) -> None:
    """Without a choice a sample is the mean of its frame."""
    with source(f"stream:{channels}") as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

    assert block is not None
    mean = np.mean([expected_channel(c) for c in range(channels)], axis=0)
    np.testing.assert_allclose(block.samples, mean, rtol=0, atol=1e-7)
    assert block.samples.dtype == np.float32


def test_losses_are_counted_together() -> None:
    """Overruns of the device and blocks that the child dropped are both lost sound."""
    with source("lossy") as microphone:
        counts = []
        for _ in range(3):
            microphone.read(TIMEOUT_SECONDS)
            counts.append(microphone.overruns)

    assert counts == [0, 2, 7]


def test_lost_sound_is_told_with_the_block_after_it() -> None:
    """A block before which the counts grew does not follow the one before: sound is missing."""
    with source("lossy") as microphone:
        blocks = [microphone.read(TIMEOUT_SECONDS) for _ in range(3)]

    told = [(block.lost, block.continuous) for block in blocks if block is not None]
    assert told == [(False, True), (True, False), (True, False)]


@pytest.mark.parametrize(
    ("channels", "channel", "clipped"), [(1, None, None), (2, 1, None), (2, None, 1 / 16)]
)
def test_clipping_is_counted_before_channels_are_mixed(
    channels: int, channel: int | None, clipped: float | None
) -> None:
    """A mix hides full scale, so its share in the worst channel comes with it."""
    with source(f"stream:{channels}", channel=channel) as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

    assert block is not None
    assert block.clipped == clipped


def test_entering_again_starts_a_fresh_child() -> None:
    """The same source hears again after it was left, and its count starts at 0."""
    microphone = source("lossy")
    for _ in range(2):
        with microphone:
            assert microphone.overruns == 0
            for _ in range(3):
                assert microphone.read(TIMEOUT_SECONDS) is not None
            assert microphone.overruns == 7


def test_entering_again_forgets_the_failure() -> None:
    """A microphone that stopped may be tried again."""
    microphone = source("unplugged")
    for _ in range(2):
        with microphone:
            assert microphone.read(TIMEOUT_SECONDS) is not None
            with pytest.raises(SourceError):
                microphone.read(TIMEOUT_SECONDS)


@pytest.mark.parametrize("timeout_seconds", [0.0, 0.05])
def test_no_sound_in_time_is_none(timeout_seconds: float) -> None:
    """A time-out is no failure."""
    with source("silent") as microphone:
        assert microphone.read(timeout_seconds) is None
        assert microphone.read(timeout_seconds) is None


def test_records_may_come_in_pieces() -> None:
    """A pipe keeps no borders between records."""
    with source("drops:2") as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

    assert block is not None
    assert block.samples.shape == (32,)


def test_chatter_of_alsa_does_no_harm() -> None:
    """More on standard error than its pipe holds neither blocks nor disturbs the sound."""
    with source("chatty") as microphone:
        block = microphone.read(TIMEOUT_SECONDS)

    assert block is not None
    np.testing.assert_array_equal(block.samples, expected_channel(0))


def test_endless_chatter_does_not_stretch_the_time_out() -> None:
    """A driver that only complains gives no sound, in time."""
    with source("noisy") as microphone:
        assert microphone.read(0.05) is None


def test_unknown_records_are_passed_over() -> None:
    """A record of a kind from the future is not an error."""
    with source("future") as microphone:
        assert microphone.read(TIMEOUT_SECONDS) is not None


def test_killed_child_is_reported_after_its_last_block() -> None:
    """What came whole is delivered; then the signal and the last words are told."""
    error = failure("killed")

    assert error.reason == "died"
    assert "SIGKILL" in str(error)
    assert "pcm_hw.c: something it said" in str(error)
    assert isinstance(error, EarshotError)


def test_truncated_record_is_not_sound() -> None:
    """A record that ends early gives no samples."""
    error = failure("truncated")

    assert error.reason == "malformed"
    assert "Expected a whole record, got 159 bytes of one" in str(error)


def test_record_of_the_wrong_size_is_not_sound() -> None:
    """Frames, channels and bytes must agree."""
    error = failure("lopsided")

    assert error.reason == "malformed"
    assert "Expected 3 frames of 1 channels in 12 bytes, got 8 bytes" in str(error)


def test_problem_in_the_middle_is_passed_on() -> None:
    """The child's reason and message become the error."""
    error = failure("unplugged")

    assert error.reason == "stopped"
    assert str(error) == "Microphone usb-id:0d8c:0014:A1 stopped: plug it in"


def test_problem_instead_of_a_hello_is_passed_on() -> None:
    """Entering raises the child's reason, in one line."""
    error = refusal("refused")

    assert error.reason == "busy"
    assert str(error) == "Microphone usb-id:0d8c:0014:A1 is in use: stop the other"


@pytest.mark.parametrize("scenario", ["text", "oversize", "headless"])
def test_child_of_another_tongue_is_refused(scenario: str) -> None:
    """Text, a size out of bounds, and sound before a hello are no protocol."""
    assert refusal(scenario).reason == "malformed"


def test_child_that_dies_before_the_hello_is_reported() -> None:
    """Its status and its last words are in the error."""
    microphone = MicrophoneSource(
        "default", channel=None, command=[sys.executable, "-c", "raise SystemExit('no luck')"]
    )

    with pytest.raises(SourceError, match=r"ended with status 1.*no luck") as caught, microphone:
        pass
    assert caught.value.reason == "died"


def test_mute_child_is_not_waited_for() -> None:
    """Without a hello in time entering fails, and the child is gone."""
    microphone = MicrophoneSource(
        "default", channel=None, command=command("mute"), answer_seconds=0.1
    )

    with pytest.raises(SourceError, match=r"within 0\.1 s") as caught, microphone:
        pass
    assert caught.value.reason == "no_answer"


def test_opening_need_not_be_waited_for() -> None:
    """Whoever must not wait asks now and then, and ends the program without asking it."""
    microphone = source("stubborn")

    microphone.start()
    asked_at = time.monotonic()
    while not microphone.is_open(0.01):
        assert time.monotonic() - asked_at < TIMEOUT_SECONDS
    child_id = int(microphone.identity)
    microphone.kill()

    with pytest.raises(ProcessLookupError):
        os.kill(child_id, 0)
    with pytest.raises(RuntimeError):
        microphone.read(0.0)


def test_opening_that_is_not_waited_for_is_given_up() -> None:
    """Without an answer in time there is an error, however often one asks."""
    microphone = MicrophoneSource(
        "default", channel=None, command=command("mute"), answer_seconds=0.1
    )
    microphone.start()

    with pytest.raises(SourceError, match=r"within 0\.1 s"):
        microphone.is_open(TIMEOUT_SECONDS)
    microphone.kill()


@pytest.mark.parametrize("channel", [2, -1])
def test_channel_that_is_not_there_is_refused(channel: int) -> None:
    """A channel beyond the microphone's is an error, not another channel."""
    error = refusal("stream:2", channel=channel)

    assert error.reason == "bad_format"
    assert "channels 0 to 1" in str(error)


def test_missing_program_is_reported() -> None:
    """A command that does not exist is a source that does not start."""
    microphone = MicrophoneSource("default", channel=None, command=["/nonexistent/capture"])

    with pytest.raises(SourceError, match="/nonexistent/capture does not start") as caught:
        microphone.__enter__()
    assert caught.value.reason == "died"


def test_child_that_ignores_everything_is_killed() -> None:
    """Leaving takes about two seconds at most, whatever the child does, and leaves no zombie."""
    with source("stubborn") as microphone:
        assert microphone.read(TIMEOUT_SECONDS) is not None
        child_id = int(microphone.identity)
        left_at = time.monotonic()

    assert time.monotonic() - left_at < TIMEOUT_SECONDS / 2
    with pytest.raises(ProcessLookupError):
        os.kill(child_id, 0)


def test_reading_outside_the_context_is_a_mistake() -> None:
    """Nothing is opened before entering and nothing is left after it."""
    microphone = source("stream")

    with pytest.raises(RuntimeError):
        microphone.read(0.0)
    with pytest.raises(RuntimeError):
        _ = microphone.sample_rate_hz
    with microphone:
        pass
    with pytest.raises(RuntimeError):
        microphone.read(0.0)


def test_microphones_are_listed() -> None:
    """The child's list becomes structs; fields of a later version are ignored."""
    assert list_microphones(command=command("one")) == [
        Microphone(
            key="usb-id:0d8c:0014:A1",
            name="USB Audio Device: - (hw:1,0)",
            host_api="ALSA",
            default_sample_rate_hz=48000,
            max_input_channels=1,
            is_default=True,
            aliases=("alsa:Device:0",),
        )
    ]


def test_no_microphone_is_an_empty_list() -> None:
    """A machine without microphones is no error."""
    assert list_microphones(command=command("none")) == []


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("refused", "no_portaudio"),
        ("neither", "malformed"),
        ("text", "malformed"),
        ("killed", "died"),
    ],
)
def test_list_that_fails_says_why(scenario: str, reason: str) -> None:
    """The reason is the child's, or what became of the child."""
    with pytest.raises(SourceError) as caught:
        list_microphones(command=command(scenario))
    assert caught.value.reason == reason


def test_list_that_hangs_is_given_up() -> None:
    """A child that does not answer is ended."""
    with pytest.raises(SourceError) as caught:
        list_microphones(command=command("mute"), timeout_seconds=0.2)
    assert caught.value.reason == "no_answer"
