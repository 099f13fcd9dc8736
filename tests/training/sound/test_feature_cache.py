"""Features of whole recordings, from one process or several, with and without a cache."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import librosa
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor, Float32Array
from node.scoring.scorer import level_dbfs
from tests.training.conftest import RATE_HZ, ROOT, WriteWav, hiss
from training.errors import DataError, TrainingError
from training.progress import Progress, silent
from training.sound.dataset import Clip
from training.sound.feature_cache import (
    ClipFeatures,
    FeatureCache,
    default_cache_folder,
    read_features,
)
from training.sound.recordings import ReadingTally, cut, read_recording

PARAMS = FeatureParams()
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda entry: b"",
    "cut in the middle": lambda entry: entry[: len(entry) // 2],
    "last byte missing": lambda entry: entry[:-1],
    "one bit turned": lambda entry: flipped(entry, at=len(entry) // 2),
    "zeros": lambda entry: bytes(len(entry)),
    "garbage": lambda entry: np.random.default_rng(0).bytes(len(entry)),
    "another format": lambda entry: saved_alone(np.zeros(3)),
    "other dtype": lambda entry: resaved(entry, features=np.zeros((1, 40, 64))),
    "other shape": lambda entry: resaved(entry, features=np.zeros((1, 40, 65), np.float32)),
    "levels of other windows": lambda entry: resaved(entry, level_dbfs=np.zeros(2)),
    "no number": lambda entry: resaved(
        entry, features=np.full((1, 40, 64), np.nan, np.float32), level_dbfs=np.zeros(1)
    ),
    "infinite level": lambda entry: resaved(entry, level_dbfs=np.array([np.inf])),
    "part missing": lambda entry: resaved(entry, facts=None),
    "negative fact": lambda entry: resaved(entry, facts=np.array([-1, 16000, 1])),
}

# Runs as a process of its own, to be ended in the middle.
PROGRAM = """
import multiprocessing, os, resource, signal, sys, threading, time
from pathlib import Path

from contract.feature_params import FeatureParams
from training.sound.dataset import Clip
from training.sound.feature_cache import FeatureCache, read_features
from training.sound.recordings import ReadingTally


def progress(items, what, total=None):
    if EVENT == "interrupt at the start" and what.startswith("computing"):
        threading.Thread(target=interrupt_workers_that_start, daemon=True).start()
    for count, item in enumerate(items):
        yield item
        if count == 2 and what.startswith("computing"):
            if EVENT == "kill":
                tell_workers()
                os.kill(os.getpid(), signal.SIGKILL)
            if EVENT == "interrupt":
                tell_workers()
                os.killpg(os.getpgrp(), signal.SIGINT)


def interrupt_workers_that_start():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.001)
    tell_workers()
    os.killpg(os.getpgrp(), signal.SIGINT)


def tell_workers():
    print("workers", *(child.pid for child in multiprocessing.active_children()), flush=True)


def main():
    # A shell's background job starts with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if EVENT == "files are limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    clips = [
        Clip(path=path, section="00", domain="source", split="train", label="normal", session=None)
        for path in sorted(Path(sys.argv[2]).iterdir())
    ]
    tally = ReadingTally()
    try:
        found = read_features(
            clips, FeatureParams(), hop_samples=16000, cache=FeatureCache(Path(sys.argv[3])),
            unreadable="refuse", tally=tally, progress=progress, workers=int(sys.argv[4]),
        )
    except KeyboardInterrupt:
        print("left behind", len(multiprocessing.active_children()))
        sys.exit(130)
    print("sum", float(sum(clip.features.sum(dtype="f8") for clip in found)))
    print("\\n".join(tally.lines(FeatureParams())))


if __name__ == "__main__":
    EVENT = sys.argv[1]
    main()
"""

_Item = TypeVar("_Item")


def flipped(content: bytes, *, at: int) -> bytes:
    """Turn one bit."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def saved_alone(array: np.ndarray[Any, Any]) -> bytes:
    """Make a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def resaved(entry: bytes, **arrays: np.ndarray[Any, Any] | None) -> bytes:
    """Make the same entry with some arrays replaced, or left out."""
    with np.load(io.BytesIO(entry)) as old:
        new = {name: old[name] for name in old} | arrays
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in new.items() if array is not None})
    return file.getvalue()


def clip(path: Path) -> Clip:
    """Describe a recording."""
    return Clip(
        path=path, section="00", domain="source", split="train", label="normal", session=None
    )


def read(
    clips: Sequence[Clip],
    cache: FeatureCache | None = None,
    *,
    params: FeatureParams = PARAMS,
    hop_samples: int = RATE_HZ,
    unreadable: Literal["refuse", "skip"] = "refuse",
    tally: ReadingTally | None = None,
    progress: Progress = silent,
    workers: int | None = None,
    channel: int | None = None,
) -> list[ClipFeatures]:
    """Read with what most tests want."""
    return read_features(
        clips,
        params,
        hop_samples=hop_samples,
        cache=FeatureCache(None) if cache is None else cache,
        unreadable=unreadable,
        tally=ReadingTally() if tally is None else tally,
        progress=progress,
        workers=workers,
        channel=channel,
    )


def assert_same(first: Sequence[ClipFeatures], second: Sequence[ClipFeatures]) -> None:
    """Compare bit for bit."""
    assert [found.clip for found in first] == [found.clip for found in second]
    assert [found.silent for found in first] == [found.silent for found in second]
    for one, other in zip(first, second, strict=True):
        assert one.features.dtype == other.features.dtype == np.float32
        assert one.level_dbfs.dtype == other.level_dbfs.dtype == np.float64
        np.testing.assert_array_equal(one.features, other.features, strict=True)
        np.testing.assert_array_equal(one.level_dbfs, other.level_dbfs, strict=True)


def entries(folder: Path) -> list[Path]:
    """List what a cache holds, oldest first; nothing half-written is among it."""
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert all(path.suffix == ".npz" for path in found)
    return found


@pytest.fixture
def sounds(tmp_path: Path, write_wav: WriteWav) -> list[Clip]:
    """Four recordings of 2 to 5 s, the longest first, one of them half silent."""
    return [
        clip(write_wav(tmp_path / "sounds" / f"{name}.wav", sound))
        for name, sound in (
            ("a", hiss(5, seed=1)),
            ("b", hiss(2, seed=2)),
            ("c", np.concatenate([hiss(2, seed=3), np.zeros(2 * RATE_HZ, np.float32)])),
            ("d", hiss(3.5, seed=4)),
        )
    ]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """Make an empty cache."""
    return FeatureCache(tmp_path / "cache")


@pytest.fixture
def run_program(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start the program above in a session of its own, as a terminal does."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def start(event: str, sounds: Path, cache: Path, workers: int) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, program, event, sounds, cache, str(workers)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def many(tmp_path: Path, write_wav: WriteWav) -> Path:
    """A folder of 30 recordings of 2 s."""
    for index in range(30):
        write_wav(tmp_path / "many" / f"{index:02d}.wav", hiss(2, seed=index))
    return tmp_path / "many"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["mfcc", "logmel"])
def test_features_are_the_extractors(
    sounds: list[Clip], kind: Literal["mfcc", "logmel"], workers: int
) -> None:
    """Features are bit for bit those of each window by itself, however many processes compute."""
    params = FeatureParams(kind=kind)
    hop_samples = 12_345

    found = read(sounds, params=params, hop_samples=hop_samples, workers=workers)

    assert [one.clip for one in found] == sounds
    assert [(len(one.features), one.silent) for one in found] == [(4, 0), (1, 0), (3, 0), (2, 0)]
    extract = FeatureExtractor(params)
    for one in found:
        samples = read_recording(one.clip.path, sample_rate_hz=RATE_HZ).samples
        windows = cut(samples, params, hop_samples=hop_samples)
        with threadpool_limits(1):
            expected = np.stack([extract(window.copy()) for window in windows])
        np.testing.assert_array_equal(one.features, expected, strict=True)
        assert one.level_dbfs.tolist() == [level_dbfs(window) for window in windows]


def test_loud_sound_does_not_reach_into_quiet_windows(tmp_path: Path, write_wav: WriteWav) -> None:
    """The MFCC of a window are librosa's of this window, not a slice of the recording's."""
    sound = np.concatenate([1e-4 * hiss(2, seed=1), 10 * hiss(2, seed=2)])
    path = write_wav(tmp_path / "a.wav", sound, subtype="FLOAT")

    (found,) = read([clip(path)], hop_samples=2 * RATE_HZ)

    samples = read_recording(path, sample_rate_hz=RATE_HZ).samples
    for window, features in zip(samples.reshape(2, -1), found.features, strict=True):
        alone = librosa.feature.mfcc(y=window, sr=RATE_HZ, n_mfcc=40, n_fft=2048, hop_length=512)
        assert np.abs(features[:, :63] - alone).max() <= 1e-4 * np.abs(alone).max()
    whole = librosa.feature.mfcc(y=samples, sr=RATE_HZ, n_mfcc=40, n_fft=2048, hop_length=512)
    assert np.abs(found.features[0, :, 5:55] - whole[:, 5:55]).max() > 5


def test_order_is_that_of_the_clips(sounds: list[Clip]) -> None:
    """Results come in the order asked for, also when the first takes longest."""
    backwards = sounds[::-1]

    found = read(backwards, workers=2)

    assert [one.clip for one in found] == backwards
    assert_same(found[::-1], read(sounds, workers=1))


def test_no_clips(cache: FeatureCache) -> None:
    """Of nothing come no features, and nothing is written."""
    assert read([], cache, unreadable="skip") == []
    assert cache.folder is not None
    assert not cache.folder.exists()


def test_much_sound_is_shared_between_processes(tmp_path: Path, write_wav: WriteWav) -> None:
    """Without a number of workers, a few short files use none, and large ones one for each core."""
    small = [clip(write_wav(tmp_path / f"{index}.wav")) for index in range(3)]
    large = [clip(write_wav(tmp_path / f"large{index}.wav", hiss(330))) for index in range(2)]
    seen: list[int] = []

    def counting(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
        for item in items:
            seen.append(len(multiprocessing.active_children()))
            yield item

    read(small, hop_samples=60 * RATE_HZ, progress=counting)
    read(large, hop_samples=60 * RATE_HZ, progress=counting)

    cores = len(os.sched_getaffinity(0))
    assert seen == [0, 0, 0, *[2 if cores > 1 else 0] * 2]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_cold_and_warm_are_the_same(
    sounds: list[Clip], cache: FeatureCache, write_wav: WriteWav, workers: int
) -> None:
    """What comes from the cache is bit for bit what was computed, and the tally says the same."""
    folder = sounds[0].path.parent
    stereo = np.stack([hiss(2, rate_hz=8000)] * 2, axis=1)
    write_wav(folder / "e.wav", stereo, rate_hz=8000)
    write_wav(folder / "f.wav", np.zeros(3 * RATE_HZ, np.float32))
    write_wav(folder / "g.wav", hiss(1.9))
    clips = sounds + [clip(folder / f"{name}.wav") for name in "efg"]
    tallies = [ReadingTally() for _ in range(3)]

    without = read(clips, tally=tallies[0], workers=1)
    cold = read(clips, cache, tally=tallies[1], workers=workers)
    warm = read(clips, cache, tally=tallies[2], workers=workers)

    assert_same(cold, without)
    assert_same(warm, without)
    assert [one.clip.path.stem for one in warm] == list("abcde")
    assert tallies[0] == tallies[1] == tallies[2]
    assert tallies[0].lines(PARAMS) == [
        "1 files resampled to 16000 Hz, such as e.wav (8000 Hz)",
        "1 files have several channels, which are mixed, such as e.wav (2)",
        "1 files skipped, shorter than one window of 2 s, such as g.wav",
        "1 files skipped, digitally silent throughout, such as f.wav",
        "3 windows skipped, digitally silent",
    ]


def test_entries_are_read(sounds: list[Clip], cache: FeatureCache) -> None:
    """The second time nothing is computed: what the entries say is what comes back."""
    first, second = read(sounds[:2], cache, workers=1)
    assert cache.folder is not None
    one, other = entries(cache.folder)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    asked: list[str] = []

    def listening(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
        for item in items:
            asked.append(what)
            yield item

    exchanged = read(sounds[:2], cache, progress=listening)

    np.testing.assert_array_equal(exchanged[0].features, second.features)
    np.testing.assert_array_equal(exchanged[1].features, first.features)
    assert asked == ["looking up features"] * 2


@pytest.mark.parametrize(
    "changed",
    [
        {"params": FeatureParams(top_db=60.0)},
        {"params": FeatureParams(kind="logmel")},
        {"params": FeatureParams(fmax_hz=7999.0)},
        {"hop_samples": RATE_HZ + 1},
        {"channel": 0},
        {"channel": 1},
    ],
    ids=str,
)
def test_other_ways_to_compute_have_other_entries(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache, changed: dict[str, Any]
) -> None:
    """Another parameter, hop or channel never gets what was computed with the first one."""
    sound = np.stack([hiss(4, seed=1), 0.1 * hiss(4, seed=2)], axis=1)
    clips = [clip(write_wav(tmp_path / "a.wav", sound))]
    before = read(clips, cache)

    after = read(clips, cache, **changed)

    assert_same(after, read(clips, **changed))
    assert_same(before, read(clips, cache))
    assert cache.folder is not None
    assert len(entries(cache.folder)) == 2


def test_changed_file_has_another_entry(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache
) -> None:
    """A file with other content is computed anew, also under the old name, size and date."""
    path = write_wav(tmp_path / "a.wav", hiss(2, seed=1))
    status = path.stat()
    read([clip(path)], cache)

    write_wav(path, hiss(2, seed=2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = read([clip(path)], cache)

    assert path.stat().st_size == status.st_size
    assert_same(found, read([clip(path)]))


def test_copied_file_has_the_same_entry(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache
) -> None:
    """A copy of a recording somewhere else is not computed again."""
    path = write_wav(tmp_path / "a.wav")
    read([clip(path)], cache)

    copy = tmp_path / "b.wav"
    copy.write_bytes(path.read_bytes())
    (found,) = read([clip(copy)], cache)

    assert cache.folder is not None
    assert found.clip.path == copy
    assert len(entries(cache.folder)) == 1


def test_file_that_changes_meanwhile_is_not_stored(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache
) -> None:
    """Features of new content are not kept under the name of the old."""
    path = write_wav(tmp_path / "a.wav", hiss(2, seed=1))
    old = path.read_bytes()

    def overwriting(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
        if what == "computing features":
            write_wav(path, hiss(2, seed=2))
        yield from items

    read([clip(path)], cache, progress=overwriting)
    path.write_bytes(old)
    found = read([clip(path)], cache)

    assert_same(found, read([clip(path)]))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_computed_anew(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache, damage: str
) -> None:
    """An entry that is not whole or not sound is replaced, and nobody need know."""
    clips = [clip(write_wav(tmp_path / "a.wav"))]
    good = read(clips, cache)
    assert cache.folder is not None
    (entry,) = entries(cache.folder)
    damaged = DAMAGE[damage](entry.read_bytes())
    entry.write_bytes(damaged)
    tally = ReadingTally()

    found = read(clips, cache, tally=tally)

    assert_same(found, good)
    assert tally.lines(PARAMS) == []
    assert entry.read_bytes() != damaged
    assert cache.load(entry.stem, PARAMS) is not None


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_entry_cannot_run_code(tmp_path: Path, write_wav: WriteWav, cache: FeatureCache) -> None:
    """What somebody has planted in an entry as a pickle is not executed."""
    clips = [clip(write_wav(tmp_path / "a.wav"))]
    good = read(clips, cache)
    assert cache.folder is not None
    (entry,) = entries(cache.folder)
    planted = np.array([Planted(tmp_path / "executed")], object)
    entry.write_bytes(resaved(entry.read_bytes(), features=planted))

    found = read(clips, cache)

    assert_same(found, good)
    assert not (tmp_path / "executed").exists()


def test_folder_that_cannot_be_made(sounds: list[Clip], tmp_path: Path) -> None:
    """Without a place to write, the work goes on, and one line says that nothing is kept."""
    (tmp_path / "cache").write_text("I am a file")
    cache = FeatureCache(tmp_path / "cache" / "features")
    first, second = ReadingTally(), ReadingTally()

    found = read(sounds, cache, tally=first)
    again = read(sounds, cache, tally=second)

    assert_same(found, read(sounds))
    assert_same(again, found)
    assert first.lines(PARAMS)[-1] == (
        f"features are not kept for the next time: {cache.folder}: Not a directory"
    )
    assert second.cache_problem == ""


def test_disk_takes_no_more(
    run_program: Callable[..., "subprocess.Popen[str]"], many: Path, tmp_path: Path
) -> None:
    """When writing fails in the middle of an entry, nothing of it stays and the work goes on."""
    folder = tmp_path / "cache"

    limited, _ = run_program("files are limited", many, folder, 1).communicate(timeout=60)
    free, _ = run_program("none", many, folder, 1).communicate(timeout=60)

    assert limited.splitlines() == [
        free.splitlines()[0],
        f"features are not kept for the next time: {folder}: File too large",
    ]
    assert len(entries(folder)) == 30


def test_two_processes_share_a_cache(
    run_program: Callable[..., "subprocess.Popen[str]"], many: Path, tmp_path: Path
) -> None:
    """Two runs at once over one cache both give what one alone gives."""
    folder = tmp_path / "cache"

    both = [run_program("none", many, folder, 1) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    found = read([clip(path) for path in sorted(many.iterdir())])

    total = float(sum(one.features.sum(dtype="f8") for one in found))
    assert told == [(f"sum {total}\n\n", "")] * 2
    assert len(entries(folder)) == 30


def test_entry_is_whole_whenever_it_is_read(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache
) -> None:
    """Who reads an entry that is just being replaced gets the old one or the new one."""
    read([clip(write_wav(tmp_path / "a.wav", hiss(60)))], cache)
    assert cache.folder is not None
    key = entries(cache.folder)[0].stem
    heard = cache.load(key, PARAMS)
    assert heard is not None
    ended = threading.Event()

    def store_again_and_again() -> None:
        while not ended.is_set():
            cache.store(key, heard)

    writer = threading.Thread(target=store_again_and_again)
    writer.start()
    found = [cache.load(key, PARAMS) for _ in range(100)]
    ended.set()
    writer.join()

    assert None not in found
    assert cache.problem is None


def test_killed_run_leaves_a_cache_that_works(
    run_program: Callable[..., "subprocess.Popen[str]"], many: Path, tmp_path: Path
) -> None:
    """After SIGKILL, the workers end by themselves and the next run goes on with what there is."""
    folder = tmp_path / "cache"
    process = run_program("kill", many, folder, 2)

    told, _ = process.communicate(timeout=60)

    assert process.returncode == -signal.SIGKILL
    assert_ended(told)
    assert 1 <= len(entries(folder)) < 30
    cached = FeatureCache(folder)
    assert all(cached.load(entry.stem, PARAMS) is not None for entry in entries(folder))
    clips = [clip(path) for path in sorted(many.iterdir())]
    assert_same(read(clips, cached), read(clips))
    assert len(entries(folder)) == 30


@pytest.mark.parametrize("event", ["interrupt", "interrupt at the start"])
def test_interrupt_ends_all(
    run_program: Callable[..., "subprocess.Popen[str]"], many: Path, tmp_path: Path, event: str
) -> None:
    """Ctrl-C, which every process of the terminal gets, ends the workers without a word."""
    folder = tmp_path / "cache"
    process = run_program(event, many, folder, 2)

    told, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (130, "")
    assert told.splitlines()[1:] == ["left behind 0"]
    assert_ended(told)
    kept = entries(folder) if folder.exists() else []
    assert len(kept) < 30
    clips = [clip(path) for path in sorted(many.iterdir())]
    assert_same(read(clips, FeatureCache(folder)), read(clips))


def assert_ended(told: str) -> None:
    """Wait for the workers whose numbers a program has told."""
    numbers = [int(number) for number in told.splitlines()[0].split()[1:]]
    assert len(numbers) == 2
    until = time.monotonic() + 20
    while any(map(is_running, numbers)):
        assert time.monotonic() < until, "workers were left behind"
        time.sleep(0.01)


def is_running(number: int) -> bool:
    """Tell a process that runs from one that has ended, fetched by its parent or not."""
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def test_killed_worker_is_one_line(many: Path, cache: FeatureCache) -> None:
    """A worker that is killed, as for want of memory, ends the run with one clear line."""
    clips = [clip(path) for path in sorted(many.iterdir())]

    def killing(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
        for count, item in enumerate(items):
            if count == 1 and what == "computing features":
                for child in multiprocessing.active_children():
                    os.kill(child.pid or 0, signal.SIGKILL)
            yield item

    with pytest.raises(TrainingError, match="one of 2 worker processes was killed") as error:
        read(clips, cache, progress=killing, workers=2)

    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()
    assert_same(read(clips, cache), read(clips))


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_is_refused_by_name(
    sounds: list[Clip], cache: FeatureCache, workers: int
) -> None:
    """The first bad file is named and the others counted, after all were tried."""
    for name in ("x", "y"):
        sounds[0].path.with_name(f"{name}.wav").write_text("hello, I am no sound at all")
    x, y = (clip(sounds[0].path.with_name(f"{name}.wav")) for name in "xy")
    a, b, c, d = sounds

    with pytest.raises(DataError, match=r"x\.wav: not a sound file: .* \(and 1 more\)"):
        read([a, b, x, c, y, d], cache, workers=workers)

    assert cache.folder is not None
    assert len(entries(cache.folder)) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_is_skipped_by_name(sounds: list[Clip], workers: int) -> None:
    """Bad files are left out, and counted, named and explained in one line."""
    bad = [clip(sounds[0].path.with_name(f"x{index}.wav")) for index in range(5)]
    for one in bad:
        one.path.touch()
    tally = ReadingTally()

    found = read([*sounds[:2], *bad, *sounds[2:]], unreadable="skip", tally=tally, workers=workers)

    assert_same(found, read(sounds))
    assert tally.lines(PARAMS)[-1] == (
        "5 files skipped, not usable: x0.wav, x1.wav, x2.wav and 2 more; of the first:"
        f" {bad[0].path}: expected sound, got an empty file"
    )


def float_wav(bad: float) -> Float32Array:
    """Make noise with one bad sample."""
    sound = hiss(3)
    sound[7] = bad
    return sound


@pytest.mark.parametrize("mode", ["refuse", "skip"])
@pytest.mark.parametrize(
    ("sample", "keep_bytes", "channel", "reason"),
    [
        (0.0, 0, None, "expected sound, got an empty file"),
        (0.0, 30, None, "not a sound file"),
        (0.0, -2, None, "truncated: 2 bytes of its sound are missing"),
        (np.nan, None, None, "expected numbers, got NaN or infinity"),
        (-np.inf, None, None, "expected numbers, got NaN or infinity"),
        (1e30, None, None, r"expected sound of -1 to 1, got samples up to 1e\+30"),
        (0.0, None, 1, r"expected channel 1 \(counted from 0\), got 1 channels"),
    ],
)
def test_what_is_unusable(
    tmp_path: Path,
    write_wav: WriteWav,
    *,
    mode: Literal["refuse", "skip"],
    sample: float,
    keep_bytes: int | None,
    channel: int | None,
    reason: str,
) -> None:
    """A file that cannot be trusted is refused, or skipped until none is left, with the reason."""
    path = write_wav(tmp_path / "bad.wav", float_wav(sample), subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:keep_bytes])

    with pytest.raises(DataError, match=rf"bad\.wav: {reason}"):
        read([clip(path)], unreadable=mode, channel=channel)


def test_nothing_is_left(tmp_path: Path, write_wav: WriteWav) -> None:
    """Where files may be skipped, skipping the last one is an error that says why."""
    short = [clip(write_wav(tmp_path / f"{index}.wav", hiss(1))) for index in range(2)]

    with pytest.raises(DataError, match="none of 2 recordings can be used, all are too short"):
        read(short, unreadable="skip")


@pytest.mark.parametrize("rate_hz", [8000, RATE_HZ, 44_100])
def test_one_sample(tmp_path: Path, write_wav: WriteWav, cache: FeatureCache, rate_hz: int) -> None:
    """A recording of one sample is too short, at any rate, cold and warm."""
    short = clip(write_wav(tmp_path / "a.wav", hiss(1)[:1], rate_hz=rate_hz))
    long = clip(write_wav(tmp_path / "b.wav"))

    for _ in range(2):
        tally = ReadingTally()
        found = read([short, long], cache, tally=tally)

        assert [one.clip for one in found] == [long]
        assert (tally.short, tally.short_example) == (1, "a.wav")


def test_chosen_channel_is_heard(tmp_path: Path, write_wav: WriteWav) -> None:
    """One channel of several gives what a file of this channel alone gives, and mixes nothing."""
    left, right = hiss(2, seed=1), hiss(2, seed=2)
    both = clip(write_wav(tmp_path / "both.wav", np.stack([left, right], axis=1)))
    alone = clip(write_wav(tmp_path / "right.wav", right))
    tally = ReadingTally()

    (found,) = read([both], channel=1, tally=tally)

    (expected,) = read([alone])
    np.testing.assert_array_equal(found.features, expected.features)
    assert tally.lines(PARAMS) == []


def test_least_recently_used_entries_are_removed(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache
) -> None:
    """What was not used for the longest time goes first, until the rest fits."""
    clips = [clip(write_wav(tmp_path / f"{i}.wav", hiss(2, seed=i))) for i in range(5)]
    assert cache.folder is not None
    for index, one in enumerate(clips[:4]):
        read([one], cache)
        newest = entries(cache.folder)[-1]
        os.utime(newest, (index, index))
    a, b, c, d = entries(cache.folder)
    size = a.stat().st_size

    read(clips[:1], cache)
    read(clips[4:], FeatureCache(cache.folder, max_bytes=3 * size))

    left = entries(cache.folder)
    assert [path for path in (a, b, c, d) if path in left] == [a, d]
    assert len(left) == 3


def test_only_what_the_cache_wrote_is_removed(
    tmp_path: Path, write_wav: WriteWav, cache: FeatureCache
) -> None:
    """Leftovers of killed runs go after an hour; files of others and of running ones stay."""
    assert cache.folder is not None
    cache.folder.mkdir()
    name = "0" * 64 + ".npz"
    others = {"notes.txt", "data.npz", "0" * 64, f"{name}.new.tmp", "x.npz.old.tmp"}
    for other in {*others, f"{name}.old.tmp", name}:
        (cache.folder / other).write_bytes(b"something")
        age = 10 if other.endswith("new.tmp") else 4000
        os.utime(cache.folder / other, (time.time() - age,) * 2)

    read([clip(write_wav(tmp_path / "a.wav"))], FeatureCache(cache.folder, max_bytes=0))

    assert {path.name for path in cache.folder.iterdir()} == others


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("/somewhere", "/somewhere/earshot/features"),
        ("relative", "/home/me/.cache/earshot/features"),
        ("", "/home/me/.cache/earshot/features"),
        (None, "/home/me/.cache/earshot/features"),
    ],
)
def test_default_folder(monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: str) -> None:
    """Features go where the XDG specification wants caches."""
    monkeypatch.setenv("HOME", "/home/me")
    if chosen is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)

    assert default_cache_folder() == Path(expected)
