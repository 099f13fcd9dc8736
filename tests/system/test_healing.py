"""A microphone in real time: a virtual sound card of PulseAudio, by way of ALSA's pulse plugin.

The card is a null sink, its monitor the microphone; what is played into the one is heard by the
other, sample for sample. The sound server is the part that breaks.

Not here: the clock of a real sound card, real overruns, USB. They need hardware.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pytest

from node.sound.healing import HealingSource
from tests.rig.installed import REQUIRE_SERVERS, require
from tests.rig.waiting import wait_until

ROOT = Path(__file__).parents[2]
DEVICE = "name:earshot_card"
RATE_HZ = 44_100
"""What PortAudio takes as the default of a device that has every rate: nothing is resampled."""
TIMEOUT_SECONDS = 40.0
STALL_SECONDS = 3.0
SOUND_SECONDS = 60
PIECE_SAMPLES = RATE_HZ // 10

ALSA_CONFIGURATION = """
pcm_type.pulse {{ lib "libasound_module_pcm_pulse.so" }}
pcm.null {{ type null }}
pcm.default {{ type null }}
pcm.earshot_card {{ type pulse server "unix:{socket}" device "room.monitor" }}
"""
SERVER_SCRIPT = """
load-module module-null-sink sink_name=room rate={rate_hz} channels=2 format=float32le
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
"""
SERVER_OPTIONS = (
    "-n",
    "--daemonize=no",
    "--exit-idle-time=-1",
    "--use-pid-file=no",
    "--disable-shm=yes",
    "--realtime=no",
    "--high-priority=no",
)


class SoundCard:
    """A sound server with one card, and a player of known sound."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = directory / "socket"
        self._script = directory / "card.pa"
        self._script.write_text(SERVER_SCRIPT.format(rate_hz=RATE_HZ, socket=self.socket))
        self._file = directory / "noise"
        # Every value occurs about once, so that one tells where in the sound it is.
        noise = np.random.default_rng(7).uniform(-0.5, 0.5, SOUND_SECONDS * RATE_HZ)
        self.noise: npt.NDArray[np.float32] = noise.astype(np.float32)
        self._file.write_bytes(self.noise.tobytes())
        self._server: subprocess.Popen[bytes] | None = None
        self._processes = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def start(self) -> None:
        """Starts the server and waits for it."""
        self._server = self._run("pulseaudio", "-F", str(self._script), *SERVER_OPTIONS)
        wait_until(self._answers, "a sound server", seconds=TIMEOUT_SECONDS)

    def send_signal(self, number: signal.Signals) -> None:
        """To the server; waits for its end where it is SIGKILL."""
        assert self._server is not None
        self._server.send_signal(number)
        if number is signal.SIGKILL:
            self._server.wait()

    def play(self) -> None:
        """Plays the noise, once, from now on."""
        self._run(
            "pacat",
            "--playback",
            "--raw",
            f"--rate={RATE_HZ}",
            "--channels=1",
            "--format=float32le",
            f"--server=unix:{self.socket}",
            "--device=room",
            str(self._file),
        )

    def _run(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # The kernel ends it when the test process dies.
            [require("setpriv"), "--pdeathsig", "KILL", "--", require(program), *options],
            # A bus or a server of the session must not be found.
            env={
                "HOME": str(self._directory),
                "XDG_RUNTIME_DIR": str(self._directory),
                "PATH": os.environ.get("PATH", os.defpath),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.callback(_end, process)
        return process

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundCard]:
    """A virtual sound card that no noise is played on yet."""
    require("pulseaudio")
    require("pacat")
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        reason = "ALSA's pulse plugin is not installed (Debian package: libasound2-plugins)"
        if os.environ.get(REQUIRE_SERVERS) == "1":
            pytest.fail(f"{reason}, and {REQUIRE_SERVERS}=1 forbids to skip", pytrace=False)
        pytest.skip(reason)
    configuration = tmp_path / "asound.conf"
    card = SoundCard(tmp_path)
    configuration.write_text(ALSA_CONFIGURATION.format(socket=card.socket))
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(configuration))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with card:
        yield card


def hear_noise(microphone: HealingSource, card: SoundCard) -> None:
    """Reads until a tenth of a second is the noise that is played, sample for sample."""
    held: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)]

    def is_heard() -> bool:
        block = microphone.read(0.1)
        if block is None or not block.samples.any():
            return False
        joined = np.concatenate([*held, block.samples]) if block.continuous else block.samples
        piece, held[0] = joined[:PIECE_SAMPLES], joined[PIECE_SAMPLES:]
        if len(piece) < PIECE_SAMPLES:
            held[0] = joined
            return False
        return any(
            np.array_equal(card.noise[place : place + PIECE_SAMPLES], piece)
            for place in np.flatnonzero(card.noise == piece[0])
        )

    wait_until(is_heard, "the noise that is played", seconds=TIMEOUT_SECONDS)


def hear_until_outage(microphone: HealingSource) -> None:
    def is_out() -> bool:
        microphone.read(0.1)
        return microphone.outage is not None

    wait_until(is_out, "an outage", seconds=TIMEOUT_SECONDS)


def healing_source() -> HealingSource:
    return HealingSource(
        DEVICE, channel=None, stall_seconds=STALL_SECONDS, wait_seconds=(0.1, 0.2, 0.5)
    )


def test_sound_goes_on_after_the_sound_server_was_killed(card: SoundCard) -> None:
    """Known sound is heard in real time, and again when a new server has the card."""
    with healing_source() as microphone:
        card.play()
        hear_noise(microphone, card)
        assert (microphone.identity, microphone.sample_rate_hz) == (DEVICE, RATE_HZ)

        card.send_signal(signal.SIGKILL)
        hear_until_outage(microphone)
        assert microphone.read(0.1) is None
        card.start()
        card.play()
        hear_noise(microphone, card)

        assert microphone.reopened >= 1
        assert microphone.outage is None


def test_sound_goes_on_after_the_sound_server_stalled(card: SoundCard) -> None:
    """A card that is there and gives nothing is an outage; when it gives again, it is heard."""
    with healing_source() as microphone:
        card.play()
        hear_noise(microphone, card)

        card.send_signal(signal.SIGSTOP)
        hear_until_outage(microphone)
        card.send_signal(signal.SIGCONT)
        hear_noise(microphone, card)

        assert microphone.reopened >= 1


def test_card_that_is_not_there_at_boot_is_waited_for(card: SoundCard) -> None:
    """A node that starts before the sound server hears when that has come up."""
    card.send_signal(signal.SIGKILL)

    with healing_source() as microphone:
        assert microphone.outage is not None
        card.start()
        card.play()
        hear_noise(microphone, card)

        assert (microphone.reopened, microphone.identity) == (0, DEVICE)
