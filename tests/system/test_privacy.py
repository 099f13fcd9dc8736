"""Nothing but numbers leaves: all that a node publishes and writes, searched for what it heard.

A node hears known sound, calibrates, finds faults of the machine and of the microphone, and is
started again. Everything that it publishes, every file that it leaves and all that it logs is then
searched in two ways.

- By what could be in it: fields of the contract alone, lists of a few numbers, so few bits a second
  that follow the sound that no codec of speech could do with them.
- By what is in it: runs of samples, and runs of a spectrogram's frames, of the very sound that was
  played. The same search finds them in a payload in which a test has hidden them.

Not here: what a person could learn from scores and levels alone, such as when a machine ran.
"""

import base64
import json
import lzma
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from contract.features import FeatureExtractor, mel_filters
from contract.messages import (
    Account,
    Backlog,
    Birth,
    Event,
    Health,
    Message,
    Result,
    State,
    Status,
    Window,
    decode,
    encode,
)
from contract.session import Received
from contract.states import CalibrationPhase, EpisodePhase, Problem
from node.delivery.accounts import BootAccount
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.machine.episodes import Episode
from node.machine.site_store import (
    CalibrationAnswer,
    CalibrationRequest,
    CalibrationStatus,
    Site,
    SiteStore,
)
from node.scoring.release_store import read_release
from node.sound.synthetic import MachineSound, Synthesizer
from tests.rig.brokers import Mosquitto
from tests.rig.examples import EVENT, WINDOW
from tests.rig.peers import Ear
from tests.rig.programs import MODEL, ROOT, environment, node_settings
from tests.rig.waiting import wait_until

Floats = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]

# Made once, and so by one of the parallel workers: what a node leaves behind.
pytestmark = pytest.mark.xdist_group("privacy")

RATE_HZ = 16_000
OUTBOX = "outbox.db"
NODE = "press-07"
NORMAL_SECONDS, FAULT_SECONDS = 13, 7
"""Of sound that is played again and again: a search need not go through more than this."""

RUN_SAMPLES = 256
"""16 ms: shorter runs of a sound with tones are alike everywhere."""
RUN_STEP = 128
FEWEST_STEPS = 12
DECIMATIONS = (1, 2, 4)
"""Also as a telephone would have it, and worse."""
RUN_FRAMES = 16
"""Half a second of a spectrogram."""
FRAMES_SKIPPED = 4
"""The played spectrogram's frames are so much denser: a window may begin between two frames."""
BANDS = (20, 40, 64, 128)
FOUND = 0.75
"""What is hidden correlates with 0.99 and more, chance with up to 0.6."""

GSM_HALF_RATE_BITS_PER_SECOND = 5600
"""What the leanest codec of the telephone network takes; vocoders of radio sets need 600 or more
for speech that can be made out, and no codec does with less for a machine's noise."""
MOST_BITS_PER_SECOND = 600


class Captor(Ear):
    """Takes in everything that anybody publishes, byte for byte."""

    def __init__(self, broker: Mosquitto, name: str) -> None:
        super().__init__(broker, name, "#", expiry_seconds=300)

    def count(self, *, of: type[Message]) -> int:
        return sum(isinstance(decode(r.topic, r.payload), of) for r in self.received())


class Played(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What the node has heard, and how to find it again."""

    normal: Samples
    fault: Samples

    @cached_property
    def different(self) -> Samples:
        """All that was played, once."""
        return np.concatenate((self.normal, self.fault))

    @cached_property
    def runs(self) -> list["RunFinder"]:
        return [RunFinder(self.different, decimation) for decimation in DECIMATIONS]

    @cached_property
    def spectrograms(self) -> list["FrameFinder"]:
        power = self._power()
        finders = []
        params = read_release(MODEL).manifest.features
        for n_mels in BANDS:
            filters = mel_filters(msgspec.structs.replace(params, n_mels=n_mels, n_mfcc=1))
            bands = 10 * np.log10(np.maximum(power @ filters.T, 1e-12))
            finders.append(FrameFinder(bands))
        return [*finders, FrameFinder(self._coefficients(power))]

    def _power(self) -> Samples:
        params = read_release(MODEL).manifest.features
        centred = np.pad(self.different, params.n_fft // 2)
        frames = np.lib.stride_tricks.sliding_window_view(centred, params.n_fft)
        frames = frames[:: params.frame_hop_samples // FRAMES_SKIPPED]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(params.n_fft) / params.n_fft)
        return np.concatenate(
            [
                np.square(np.abs(np.fft.rfft(some * window))).astype(np.float32)
                for some in np.array_split(frames, 32)
            ]
        )

    def _coefficients(self, power: Samples) -> Samples:
        extract = FeatureExtractor(read_release(MODEL).manifest.features)
        bands = 10 * np.log10(np.maximum(power @ mel_filters(extract.params).T, 1e-12))
        return np.asarray(bands @ extract._dct.T, np.float32)


class RunFinder:
    """Finds runs of samples of one sound in other numbers, by their normalised correlation.

    Of first differences: else every hum is like every other.
    """

    CHUNK = 1 << 14

    def __init__(self, sound: Samples, decimation: int) -> None:
        thin = sound[: len(sound) // decimation * decimation].reshape(-1, decimation).mean(axis=1)
        steps = np.diff(thin)
        stride = self.CHUNK - RUN_SAMPLES
        count = -(-len(steps) // stride)
        padded = np.pad(steps, (0, count * stride + RUN_SAMPLES - len(steps)))
        chunks = np.lib.stride_tricks.sliding_window_view(padded, self.CHUNK)[::stride]
        self._spectra = np.fft.rfft(chunks).astype(np.complex64)
        sums = np.cumsum(np.pad(padded, (1, 0)), dtype=np.float64)
        squares = np.cumsum(np.pad(np.square(padded, dtype=np.float64), (1, 0)))
        width = RUN_SAMPLES - 1
        mean = (sums[width:] - sums[:-width]) / width
        norm = squares[width:] - squares[:-width] - width * mean**2
        norms = np.sqrt(np.maximum(norm, 1e-6 * norm.max()))
        self._norms = np.lib.stride_tricks.sliding_window_view(norms, stride)[::stride][
            : len(chunks)
        ]

    def likeness(self, numbers: Floats) -> float:
        """The largest correlation of a run of them with any run of the sound, either way up."""
        best = 0.0
        for start in range(0, len(numbers) - RUN_SAMPLES + 1, RUN_STEP):
            steps = np.diff(numbers[start : start + RUN_SAMPLES])
            steps = steps - steps.mean()
            norm = float(np.sqrt(steps @ steps))
            if norm <= 1e-9 * float(np.abs(numbers[start : start + RUN_SAMPLES]).max()):
                continue
            # A single jump is like every click; of sound, many of its steps make up its power.
            if norm**4 < FEWEST_STEPS * float((steps**4).sum()):
                continue
            spectrum = np.conj(np.fft.rfft(steps / norm, self.CHUNK)).astype(np.complex64)
            products = np.fft.irfft(self._spectra * spectrum)[:, : self.CHUNK - RUN_SAMPLES]
            width = min(products.shape[1], self._norms.shape[1])
            found = np.abs(products[: len(self._norms), :width]) / self._norms[:, :width]
            best = max(best, float(found.max()))
        return best


class FrameFinder:
    """Finds runs of frames of one spectrogram in other numbers.

    Less their mean over time: what does not change is no sound that could be followed.

    Args:
        frames: shape (frames, bands), `FRAMES_SKIPPED` for each that is looked for.
    """

    def __init__(self, frames: npt.NDArray[Any]) -> None:
        self._frames = np.asarray(frames, np.float64)
        self.bands = frames.shape[1]
        runs = range(0, RUN_FRAMES * FRAMES_SKIPPED, FRAMES_SKIPPED)
        self._lags = len(frames) - RUN_FRAMES * FRAMES_SKIPPED
        sums = np.zeros((self._lags, self.bands))
        squares = np.zeros(self._lags)
        for offset in runs:
            some = self._frames[offset : offset + self._lags]
            sums += some
            squares += np.square(some).sum(axis=1)
        self._norms = np.sqrt(np.maximum(squares - np.square(sums).sum(axis=1) / RUN_FRAMES, 1e-9))

    def likeness(self, numbers: Floats) -> float:
        """The largest correlation of them, as frames or as bands, with any run of the frames."""
        n_frames = len(numbers) // self.bands
        if n_frames < RUN_FRAMES:
            return 0.0
        table = numbers[: n_frames * self.bands]
        by_frame = table.reshape(n_frames, self.bands)
        by_band = table.reshape(self.bands, n_frames).T
        return max(
            self._of(some[start : start + RUN_FRAMES])
            for some in (by_frame, by_band)
            for start in range(0, n_frames - RUN_FRAMES + 1, RUN_FRAMES)
        )

    def _of(self, run: Floats) -> float:
        changes = run - run.mean(axis=0)
        norm = float(np.sqrt(np.square(changes).sum()))
        if norm <= 1e-9 * float(np.abs(run).max()):
            return 0.0
        products = self._frames @ (changes / norm).T
        total = np.zeros(self._lags)
        for number in range(RUN_FRAMES):
            offset = number * FRAMES_SKIPPED
            total += products[offset : offset + self._lags, number]
        return float(np.abs(total / self._norms).max())


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_LIST = re.compile(r"\[[-+.,\seE0-9]*\]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{256,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){256,}")


def sequences(content: bytes) -> Iterator[Floats]:
    """All that a payload or a file could be read as: texts and the bytes in them.

    A text is not read as samples itself: bytes of printable characters are none.
    """
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        yield from _of_bytes(content)
        text = content.decode("utf-8", "replace")
    for part in (text, *_LIST.findall(text)):
        yield _samples(np.array([float(number) for number in _NUMBER.findall(part)], np.float64))
    for found in _HEX.findall(text):
        yield from _of_bytes(bytes.fromhex(found))
    for found in _BASE64.findall(text):
        usual = found.rstrip("=").replace("-", "+").replace("_", "/")
        whole = usual[: -1 if len(usual) % 4 == 1 else None]
        yield from _of_bytes(base64.b64decode(whole + "=" * (-len(whole) % 4)))


def _of_bytes(content: bytes) -> Iterator[Floats]:
    for kind in ("<f4", "<i2", ">f4", ">i2", "u1"):
        size = np.dtype(kind).itemsize
        for offset in range(size):
            part = content[offset:]
            numbers = np.frombuffer(part[: len(part) // size * size], kind)
            with np.errstate(invalid="ignore"):
                yield _samples(numbers.astype(np.float64))


def _samples(numbers: Floats) -> Floats:
    """With 0 for what is no sample of any kind, so that it does not drown its neighbours."""
    return np.where(np.abs(numbers) < 2.0**31, numbers, 0.0)


def series(heard: Iterable[Received]) -> Iterator[Floats]:
    """The numbers of each field, one after another over all messages of a topic."""
    found: dict[tuple[str, str], list[float]] = {}
    for message in heard:
        for path, value in leaves(json.loads(message.payload)):
            if isinstance(value, int | float):
                found.setdefault((message.topic, path), []).append(float(value))
    for numbers in found.values():
        yield _samples(np.array(numbers, np.float64))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of all that holds nothing else."""
    match value:
        case dict():
            for name, inner in value.items():
                yield from leaves(inner, f"{path}.{name}".strip("."))
        case list():
            for inner in value:
                yield from leaves(inner, path)
        case _:
            yield path, value


def lists(value: Any, path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Path and content of every list."""
    if isinstance(value, list):
        yield path, value
    children = value.items() if isinstance(value, dict) else [("", v) for v in value or ()]
    for name, inner in children:
        if isinstance(inner, dict | list):
            yield from lists(inner, f"{path}.{name}".strip("."))


def likeness(played: Played, candidates: Iterable[Floats]) -> float:
    """How much they look like the sound that was played, 0 to 1; no further than it is found."""
    best = 0.0
    for numbers in candidates:
        best = max(best, *(finder.likeness(numbers) for finder in played.runs))
        if best > FOUND:
            break
    return best


def frame_likeness(played: Played, candidates: Iterable[Floats]) -> float:
    """How much they look like its spectrogram."""
    best = 0.0
    for numbers in candidates:
        best = max(best, *(finder.likeness(numbers) for finder in played.spectrograms))
        if best > FOUND:
            break
    return best


class Remains(msgspec.Struct, frozen=True, eq=False):
    """All that is left of a node's three starts."""

    played: Played
    seconds: float
    """Of sound, in all of them."""
    heard: list[Received]
    kept: list[Received]
    """What the broker gives to those who come late."""
    files: list[dict[str, bytes]]
    """What lay under any of the folders that the node may know of, after each start."""
    logs: list[str]

    @property
    def messages(self) -> list[Message]:
        return [decode(heard.topic, heard.payload) for heard in self.heard]

    def windows(self) -> list[Window]:
        found = [message for message in self.messages if isinstance(message, Window)]
        for message in self.messages:
            if isinstance(message, Backlog):
                found += message.windows
        return sorted(found, key=lambda window: (window.boot, window.seq))


@pytest.fixture(scope="module")
def remains(tmp_path_factory: pytest.TempPathFactory) -> Remains:
    folder = tmp_path_factory.mktemp("privacy")
    played = Played(
        normal=Synthesizer(MachineSound(), sample_rate_hz=RATE_HZ).read(RATE_HZ * NORMAL_SECONDS),
        fault=Synthesizer(MachineSound(fault="bearing", severity=1.0), sample_rate_hz=RATE_HZ).read(
            RATE_HZ * FAULT_SECONDS
        ),
    )
    # A calibration that is cut off, all of a node's life, and a start in the midst of an alarm.
    lives = [played.normal[: 8 * RATE_HZ], _life(played), played.normal[: 8 * RATE_HZ]]
    world = folder / "world"
    for name in ("home", "temporary", "current", "state"):
        (world / name).mkdir(parents=True)
    with Mosquitto(folder / "mosquitto") as broker:
        with Captor(broker, "captor") as captor:
            logs, files = [], []
            for sound in lives:
                soundfile.write(folder / "sound.wav", sound, RATE_HZ)
                logs.append(_live(broker, world, folder / "sound.wav"))
                files.append(_files(world))
            wait_until(lambda: captor.count(of=Status) >= 6, "all goodbyes")
            heard = captor.received()
        with Captor(broker, "latecomer") as latecomer:
            wait_until(lambda: len(latecomer.received()) >= 3, "what is retained")
            kept = latecomer.received()
    return Remains(
        played=played,
        seconds=sum(map(len, lives)) / RATE_HZ,
        heard=heard,
        kept=kept,
        files=files,
        logs=logs,
    )


def _life(played: Played) -> Samples:
    def normal(seconds: int) -> Samples:
        return np.resize(played.normal, seconds * RATE_HZ)

    def fault(seconds: int) -> Samples:
        return np.resize(played.fault, seconds * RATE_HZ)

    return np.concatenate(
        (
            normal(490),  # settling, quick calibration, verifying
            fault(60),
            normal(90),
            np.clip(60 * normal(20), -1, 1),
            normal(40),
            fault(60),
            np.zeros(6 * RATE_HZ, np.float32),
        )
    )


def _live(broker: Mosquitto, world: Path, sound: Path) -> str:
    """One start of the node, in folders of its own; gives what it has logged."""
    settings = node_settings(
        broker,
        str(sound),
        NODE_STATE_FOLDER=str(world / "state"),
        SOURCE_FAST="true",
        HEALTH_INTERVAL_SECONDS="1",
    )
    SiteStore(world / "state" / NODE).leave_request(
        CalibrationRequest(action="start", minutes=2.0, at_us=1)
    )
    known = {
        "HOME": str(world / "home"),
        "TMPDIR": str(world / "temporary"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ.get("PATH", os.defpath),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "node", "--verbose", "run"],
        cwd=world / "current",
        env={k: v for k, v in environment(settings).items() if not k.startswith("XDG_")} | known,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def _files(world: Path) -> dict[str, bytes]:
    files = {
        str(path.relative_to(world)): path.read_bytes()
        for path in sorted(world.rglob("*"))
        if path.is_file()
    }
    for name in [name for name in files if name.endswith(OUTBOX)]:
        # By what is in it: windows and events as they are on the wire, and nothing else.
        del files[name]
        files |= {f"{name}/{row}": content for row, content in _rows(world / name)}
    return files


def _rows(outbox: Path) -> Iterator[tuple[str, bytes]]:
    database = sqlite3.connect(outbox)
    try:
        names = "SELECT name FROM sqlite_schema WHERE type = 'table'"
        assert {name for (name,) in database.execute(names)} == {
            *("boots", "windows", "events", "kept")
        }
        for boot, account in database.execute("SELECT boot, account FROM boots"):
            yield f"account-{boot}", account
        for boot, seq, payload in database.execute("SELECT boot, seq, payload FROM windows"):
            yield f"window-{boot}-{seq}", payload
        for event, payload in database.execute("SELECT id, payload FROM events"):
            yield f"event-{event}", payload
        for name, value in database.execute("SELECT name, value FROM kept"):
            assert (name, isinstance(value, int)) == ("last_start_us", True)
    finally:
        database.close()


def test_the_node_has_done_all_that_it_does(remains: Remains) -> None:
    """What is searched below is of a node that calibrated, rang, and lost its microphone."""
    messages, windows = remains.messages, remains.windows()

    assert {type(m) for m in messages} >= {Status, Birth, State, Health, Window, Event}
    assert CalibrationPhase.ARMED in {m.calibration for m in messages if isinstance(m, State)}
    phases = {m.phase for m in messages if isinstance(m, Event)}
    assert phases >= {EpisodePhase.OPENED, EpisodePhase.CLOSED}
    problems = {window.problem for window in windows}
    assert problems >= {Problem.MIC_CLIPPED, Problem.MIC_SILENT, None}
    assert len(windows) > 0.9 * remains.seconds
    asked = {"calibration-answer.json", "calibration-status.json", "node.lock"}
    calibrated = {*asked, "calibration.json", "episode.json"}
    assert [
        {Path(name).name for name in files if OUTBOX not in name} for files in remains.files
    ] == [
        {*asked, "calibration-pending.json"},
        calibrated,
        calibrated,
    ]
    folders = {Path(name).parent for files in remains.files for name in files}
    assert folders - {Path("state", NODE, OUTBOX)} == {Path("state", NODE)}
    answers = [
        msgspec.json.decode(files[f"state/{NODE}/calibration-answer.json"], type=CalibrationAnswer)
        for files in remains.files
    ]
    # The second start goes on with the calibration of the first, and refuses another beside it.
    assert [answer.done for answer in answers] == [True, False, False]
    assert answers[1].note.startswith("a calibration is under way")


def _all_files(remains: Remains) -> Iterator[tuple[str, bytes]]:
    return (item for files in remains.files for item in files.items())


def test_messages_hold_the_contracts_fields_and_no_others(remains: Remains) -> None:
    """Every payload is a message of the contract, key by key, on a topic of this node."""
    for heard in remains.heard:
        message = decode(heard.topic, heard.payload)
        found = json.loads(heard.payload)

        assert heard.topic == f"earshot/1/n/{NODE}/{message.KIND}"
        assert set(found) == set(message.__struct_fields__)
        for window in found.get("windows", ()) if isinstance(message, Backlog) else ():
            assert set(window) == set(Window.__struct_fields__)


def test_files_hold_known_fields_and_no_others(remains: Remains) -> None:
    """Whatever lies in the node's folders afterwards is a small structure that is known here."""
    kinds: dict[str, type[msgspec.Struct]] = {
        "calibration.json": Site,
        "calibration-pending.json": CalibrationRequest,
        "calibration-answer.json": CalibrationAnswer,
        "calibration-status.json": CalibrationStatus,
        "episode.json": Episode,
        "account": BootAccount,
        "window": Window,
        "event": Event,
    }
    for name, content in _all_files(remains):
        kind = kinds.get(Path(name).name.partition("-")[0] if OUTBOX in name else Path(name).name)
        if kind is None:
            assert content == b"", f"{name} holds something"
            continue
        msgspec.json.decode(content, type=kind)
        assert set(json.loads(content)) == set(kind.__struct_fields__)
        assert len(content) < 8192


def test_outbox_that_is_left_holds_known_fields_and_no_others(tmp_path: Path) -> None:
    """What waits on the disk for the next start is windows and events, as they go out."""
    folder = tmp_path / "state" / NODE
    folder.mkdir(parents=True)
    outbox = Outbox(WINDOW.boot, node=NODE, hop_seconds=1.0, file=OutboxFile(folder / OUTBOX))
    outbox.add(WINDOW, 0.0)
    outbox.events.add(EVENT, 0.0)
    outbox.end(0.0)
    outbox.close()
    rows = {name.rpartition("/")[2].partition("-")[0]: c for name, c in _files(tmp_path).items()}

    assert set(rows) == {"account", "window", "event"}
    assert rows["window"] == encode(WINDOW)
    assert rows["event"] == encode(EVENT)
    assert set(json.loads(rows["account"])) == {"produced", "discarded", "ended"}


def test_lists_are_short_and_few(remains: Remains) -> None:
    """Three bands, what a node can do, whom it trusts, two means of a calibration; no others."""
    most = {"bands_hz": 3, "capabilities": 32, "trusted_keys": 2, "windows": 50}
    for heard in remains.heard:
        for path, numbers in lists(json.loads(heard.payload)):
            assert len(numbers) <= most[path.rpartition(".")[2]]
    coefficients = read_release(MODEL).manifest.features.n_mfcc
    allowed = {"limits.mean_features", "limits.centres", "limits.centres.", "bands_hz"}
    for name, content in _all_files(remains):
        for path, numbers in lists(json.loads(content or b"{}")):
            assert path in allowed, f"{name}: {path}"
            assert len(numbers) <= coefficients


def test_what_is_stored_is_one_mean_over_minutes(remains: Remains) -> None:
    """The stored features are the mean over all that was calibrated with, and stay as they are."""
    name = f"state/{NODE}/calibration.json"
    _, calibrated, again = remains.files
    limits = msgspec.json.decode(calibrated[name], type=Site).limits
    extract = FeatureExtractor(read_release(MODEL).manifest.features)
    sound = np.resize(remains.played.normal, 500 * RATE_HZ)
    frames = extract.params.sound_frames
    means = [
        extract(sound[second * RATE_HZ : (second + 2) * RATE_HZ])[:, :frames].mean(axis=1)
        for second in range(300, 420)
    ]

    np.testing.assert_allclose(limits.mean_features, np.mean(means, axis=0), atol=0.05)
    assert calibrated[name] == again[name]


_OF_THE_SOUND = {
    Window: ("mse", "statistic", "score", "anomaly", "state", "problem", "level_dbfs", "clipped"),
    Status: (),
    Birth: (),
    State: (
        *("machine", "microphone", "threshold", "microphone_note"),
        *("calibration", "calibration_progress", "calibration_blocks", "calibration_note"),
    ),
    Event: ("phase", "state", "rule", "peak_score", "windows", "bands_hz"),
    Health: ("microphone", "level_dbfs", "clipped"),
    Result: ("done", "note"),
    Account: (),
}
"""The fields that follow what is heard; the others are ids, counts, times and the computer's."""


def test_too_few_bits_follow_the_sound_for_any_speech(remains: Remains) -> None:
    """All that follows the sound, every number whole, is a tenth of the leanest telephone codec."""
    windows = remains.windows()
    others = [m for m in remains.messages if not isinstance(m, Window | Backlog)]
    bits = sum(map(_bits_of_the_sound, [*windows, *others]))

    rest = set(Window.__struct_fields__) - set(_OF_THE_SOUND[Window])
    # The boot, and what a calibration changes, have no more values than there were starts.
    changing = {
        name for name in rest if len({getattr(w, name) for w in windows}) > len(remains.logs)
    }
    assert changing == {"seq", "start_us", "latency_ms"}
    assert bits / remains.seconds < MOST_BITS_PER_SECOND
    assert 9 * MOST_BITS_PER_SECOND < GSM_HALF_RATE_BITS_PER_SECOND


def _bits_of_the_sound(message: Message) -> int:
    bits = 0
    for name in _OF_THE_SOUND[type(message)]:
        for _, value in leaves(msgspec.to_builtins(getattr(message, name))):
            match value:
                case bool() | None:
                    bits += 1
                case str() if len(value) <= 12:
                    bits += 4  # a state: one of at most 16 words
                case str():
                    bits += 8 * len(value)
                case _:
                    bits += 64
    return bits


def test_all_that_is_published_packs_into_less_than_a_codec_needs(remains: Remains) -> None:
    """Whatever is hidden wherever: packed well, ids and times and all, it is no sound."""
    packed = lzma.compress(b"".join(heard.payload for heard in remains.heard), preset=9)

    assert 8 * len(packed) / remains.seconds < MOST_BITS_PER_SECOND


def test_broker_keeps_no_windows(remains: Remains) -> None:
    """Who comes late is told of the node as it is now, and of no sound of the past."""
    assert all(heard.retained for heard in remains.kept)
    assert {type(decode(h.topic, h.payload)) for h in remains.kept} == {Status, Birth, State}


def test_no_sound_is_in_what_was_published(remains: Remains) -> None:
    """Neither in a payload nor in any field over time is a run of samples or of a spectrogram."""
    found = [numbers for heard in remains.heard for numbers in sequences(heard.payload)]
    found += series(remains.heard)

    assert likeness(remains.played, found) < FOUND
    assert frame_likeness(remains.played, found) < FOUND


def test_no_sound_is_in_what_was_written(remains: Remains) -> None:
    """Neither in a file nor in the log is a run of samples or of a spectrogram."""
    written = {content for _, content in _all_files(remains)}
    written.update(log.encode() for log in remains.logs)
    found = [numbers for content in written for numbers in sequences(content)]

    assert likeness(remains.played, found) < FOUND
    assert frame_likeness(remains.played, found) < FOUND


def _list(numbers: npt.NDArray[Any]) -> str:
    return json.dumps([round(float(number), 5) for number in numbers.ravel()])


HIDDEN_SOUND: dict[str, Callable[[Samples], str]] = {
    "base64 of float32": lambda s: base64.b64encode(s.astype("<f4").tobytes()).decode(),
    "base64 of int16": lambda s: base64.b64encode((s * 32767).astype("<i2").tobytes()).decode(),
    "hex of big-endian int16": lambda s: (s * 32767).astype(">i2").tobytes().hex(),
    "list": _list,
    "list at half the rate": lambda s: _list(s.reshape(-1, 2).mean(axis=1)),
}


@pytest.mark.parametrize("how", HIDDEN_SOUND)
def test_search_finds_a_tenth_of_a_second_of_sound(remains: Remains, how: str) -> None:
    """A control: samples that hide in a real payload are found."""
    start = 9 * RATE_HZ + 4321
    sound = remains.played.normal[start : start + RATE_HZ // 10]
    window = next(h.payload for h in remains.heard if h.topic.endswith("/window"))

    hidden = _hide(window, HIDDEN_SOUND[how](sound))

    assert likeness(remains.played, sequences(window)) < FOUND
    assert likeness(remains.played, sequences(hidden)) > FOUND


def test_search_finds_samples_in_a_file_of_bytes(remains: Remains) -> None:
    """A control: a recording is found in a file that has a header of its own."""
    sound = remains.played.fault[5000 : 5000 + RATE_HZ // 10]
    content = b"\xffheader\x00" + sound.astype("<f4").tobytes()

    assert likeness(remains.played, sequences(content)) > FOUND


HIDDEN_SPECTROGRAM: dict[str, tuple[int | None, Callable[[Samples], str]]] = {
    "mel bands as a list, band by band": (128, _list),
    "mel bands as a list, frame by frame": (64, lambda m: _list(m.T)),
    "mel bands as base64": (40, lambda m: base64.b64encode(m.astype("<f4").tobytes()).decode()),
    "coefficients as a list": (None, _list),
}


@pytest.mark.parametrize("how", HIDDEN_SPECTROGRAM)
def test_search_finds_two_seconds_of_a_spectrogram(remains: Remains, how: str) -> None:
    """A control: what sound could be made of again is found, between any two frames."""
    n_mels, wrap = HIDDEN_SPECTROGRAM[how]
    params = read_release(MODEL).manifest.features
    if n_mels is not None:
        params = msgspec.structs.replace(params, kind="logmel", n_mels=n_mels)
    start = 5 * RATE_HZ
    features = FeatureExtractor(params)(remains.played.normal[start : start + 2 * RATE_HZ])
    window = next(h.payload for h in remains.heard if h.topic.endswith("/window"))

    hidden = _hide(window, wrap(features[:, 2:-2]))

    assert frame_likeness(remains.played, sequences(window)) < FOUND
    assert frame_likeness(remains.played, sequences(hidden)) > FOUND


def _hide(payload: bytes, text: str) -> bytes:
    return payload[:-1] + b',"note":' + (text if text[0] == "[" else f'"{text}"').encode() + b"}"
