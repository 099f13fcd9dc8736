"""Features of whole recordings: computed once, on all cores, and kept on disk.

A recording is known by its content, not by its name or date, so that a copied or renamed data set
costs nothing and a changed file is never taken for the old one. The cache is a convenience:
whatever is wrong with it costs time, never a wrong array and never a training.
"""

import hashlib
import io
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from contract.feature_params import FeatureParams
from contract.features import FeatureExtractor, Float32Array
from node.scoring.scorer import level_dbfs
from training.errors import DataError, TrainingError
from training.progress import Progress
from training.sound.dataset import Clip, and_more
from training.sound.recordings import ReadingTally, cut, read_recording

Float64Array = npt.NDArray[np.float64]

MAX_BYTES = 5_000_000_000
"""Room for 50 000 clips of 10 s at the default parameters: all machines of one DCASE year."""

# Part of every entry's name. Raise it whenever the same sound and parameters give other numbers
# than before (contract.features, the reading in training.sound.recordings or node.sound.recordings,
# node.scoring.scorer.level_dbfs) or an entry is laid out differently; old entries are then not
# found any more, and go when room is needed.
_FORMAT = 1

_SUFFIX = ".npz"
_STAGING_SUFFIX = ".tmp"
# Nothing else is ever removed, whatever the folder holds besides.
_ENTRY_NAME = re.compile(r"[0-9a-f]{64}\.npz")
_STAGED_NAME = re.compile(r"[0-9a-f]{64}\.npz\..*\.tmp")
# What is staged is in place within a second; older is what a killed run has left behind.
_ABANDONED_SECONDS = 3600.0

# Starting processes takes as long as computing this much sound does: measured 0.4 s and 11 ms for
# each 10 s at 16 kHz and 16 bit.
_POOL_PAYS_BYTES = 20_000_000
# One process hands in and stores what about this many compute.
_MAX_WORKERS = 8
# Enough that none waits for work. All clips at once would have to be taken back at an interrupt.
_WAITING_PER_WORKER = 4


class ClipFeatures(msgspec.Struct, frozen=True):
    """What a model and a detector see of one clip."""

    clip: Clip
    features: Float32Array
    """Shape (n, *params.shape), n at least 1; one row for each window that is not silent."""
    level_dbfs: Float64Array
    """Shape (n,), RMS level of each of these windows in dB re full scale."""
    silent: int
    """How many digitally silent windows were left out."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What one recording gives: an entry of the cache."""

    features: Float32Array
    """Shape (n, *params.shape)."""
    level_dbfs: Float64Array
    """Shape (n,)."""
    silent: int
    file_rate_hz: int
    file_channels: int

    @property
    def windows(self) -> int:
        """How many fit into the recording, silent ones included."""
        return len(self.features) + self.silent


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to compute of each recording."""

    params: FeatureParams
    hop_samples: int
    channel: int | None

    def key(self, content_sha256: str) -> str:
        """Name of the entry for a recording of this content."""
        described = msgspec.json.encode((_FORMAT, self, content_sha256))
        return hashlib.sha256(described).hexdigest()


class FeatureCache:
    """A folder of features, one file for each recording and set of parameters.

    Any number of processes may use one folder at once. Entries replace each other whole, and are
    verified when read; there is nothing to repair and nothing to lock.

    Args:
        folder: made when the first entry is stored; None caches nothing.
        max_bytes: `prune` removes what is above.
    """

    def __init__(self, folder: Path | None, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.problem: str | None = None
        """Why nothing is stored any more: no room, or no right to write."""

    def load(self, key: str, params: FeatureParams) -> Heard | None:
        """The entry of this name; None if there is none, or none that can be trusted."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}{_SUFFIX}"
        try:
            heard = _decode(path.read_bytes(), params)
        # Damage shows as any of a dozen errors of zipfile, zlib and NumPy; the answer to each of
        # them is to compute anew.
        except Exception:
            return None
        with suppress(OSError):
            os.utime(path)
        return heard

    def store(self, key: str, heard: Heard) -> None:
        """Keep an entry; after the first failure, nothing more is kept, and `problem` says why."""
        if self.folder is None or self.problem is not None:
            return
        try:
            self._write(self.folder, f"{key}{_SUFFIX}", _encode(heard))
        except OSError as error:
            self.problem = f"{self.folder}: {error.strerror or error}"

    def prune(self) -> None:
        """Remove the entries that were not used for the longest time until the rest fits."""
        if self.folder is None:
            return
        entries: list[tuple[int, int, Path]] = []
        with suppress(OSError), os.scandir(self.folder) as found:
            for item in found:
                # Another process may have removed it since it was listed.
                with suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    if _ENTRY_NAME.fullmatch(item.name):
                        entries.append((status.st_mtime_ns, status.st_size, Path(item.path)))
                    elif _is_abandoned(item.name, status):
                        Path(item.path).unlink()
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
                total -= size

    @staticmethod
    def _write(folder: Path, name: str, content: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(_STAGING_SUFFIX, f"{name}.", folder)
        try:
            # Not synced, which would take longer than computing: what a power cut leaves of it
            # does not pass its checksum.
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(staged).replace(folder / name)
        finally:
            with suppress(OSError):
                Path(staged).unlink(missing_ok=True)


def default_cache_folder() -> Path | None:
    """`earshot/features` below `$XDG_CACHE_HOME` or `~/.cache`; None for a user without a home."""
    # A relative path is to be ignored, says the XDG base directory specification.
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if chosen.is_absolute():
        return chosen / "earshot" / "features"
    try:
        return Path.home() / ".cache" / "earshot" / "features"
    except RuntimeError:
        return None


def read_features(
    clips: Sequence[Clip],
    params: FeatureParams,
    *,
    hop_samples: int,
    cache: FeatureCache,
    unreadable: Literal["refuse", "skip"],
    tally: ReadingTally,
    progress: Progress,
    workers: int | None = None,
    channel: int | None = None,
) -> list[ClipFeatures]:
    """The features of every clip that has a window which is not silent, in the order of the clips.

    Window i of a recording is `samples[i * hop_samples :][: params.window_samples]`, and its
    features are those of `FeatureExtractor`, computed with one thread of the linear algebra library
    as on the node, so that they do not depend on the number of cores.

    Args:
        clips: what to read.
        params: what to compute.
        hop_samples: distance between the starts of two windows, at `params.sample_rate_hz`.
        cache: where features are kept from one time to the next.
        unreadable: what to do about recordings that cannot be trusted: "refuse" tries all the
            others first, so that they are named together; "skip" leaves them out.
        tally: takes down what was changed or left out.
        progress: shown while looking up and while computing.
        workers: how many processes; None for one for each core if there is enough to compute.
        channel: which channel to hear, from 0; None mixes all of them.

    Raises:
        DataError: a recording cannot be trusted, or, when they are skipped, nothing is left.
        TrainingError: a worker process was killed.
    """
    job = Job(params=params, hop_samples=hop_samples, channel=channel)
    could_store = cache.problem is None
    # A window's matrices are too small for threads to pay, and threads change the last bits.
    with threadpool_limits(1, user_api="blas"):
        found = _heard(clips, job, cache=cache, progress=progress, workers=workers)
    if could_store and cache.problem is not None:
        tally.cache_problem = cache.problem
    problems = [
        (clip, str(heard))
        for clip, heard in zip(clips, found, strict=True)
        if isinstance(heard, DataError)
    ]
    if problems and unreadable == "refuse":
        raise DataError(problems[0][1] + and_more([clip.path for clip, _ in problems]))
    tally.unusable += [clip.path.name for clip, _ in problems]
    if problems:
        tally.unusable_reason = tally.unusable_reason or problems[0][1]
    features: list[ClipFeatures] = []
    for clip, heard in zip(clips, found, strict=True):
        if isinstance(heard, DataError):
            continue
        tally.count(
            clip.path.name,
            file_rate_hz=heard.file_rate_hz,
            sample_rate_hz=params.sample_rate_hz,
            mixed_channels=heard.file_channels if channel is None else 1,
            windows=heard.windows,
            silent_windows=heard.silent,
        )
        if len(heard.features):
            features.append(ClipFeatures(clip, heard.features, heard.level_dbfs, heard.silent))
    if unreadable == "skip" and clips and not features:
        reason = f"; {problems[0][1]}" if problems else ", all are too short or digitally silent"
        raise DataError(f"none of {len(clips)} recordings can be used{reason}")
    return features


def _heard(
    clips: Sequence[Clip],
    job: Job,
    *,
    cache: FeatureCache,
    progress: Progress,
    workers: int | None,
) -> list[Heard | DataError]:
    """What each clip gives, or what is wrong with it: from the cache, or computed and stored."""
    found: list[Heard | DataError | None] = [None] * len(clips)
    contents: list[str | None] = [None] * len(clips)
    if cache.folder is not None:
        for index, clip in enumerate(progress(clips, "looking up features")):
            content = contents[index] = _content_sha256(clip.path)
            if content is not None:
                found[index] = cache.load(job.key(content), job.params)
    missing = [index for index, heard in enumerate(found) if heard is None]
    paths = [clips[index].path for index in missing]
    with _listening(paths, job, workers=_worker_count(paths, workers)) as results:
        for index, (content, heard) in zip(
            missing, progress(results, "computing features", total=len(missing)), strict=True
        ):
            found[index] = heard
            # A file that changed meanwhile must not be kept under what it was.
            if isinstance(heard, Heard) and content is not None and content == contents[index]:
                cache.store(job.key(content), heard)
    if missing:
        cache.prune()
    return [heard for heard in found if heard is not None]


def _worker_count(paths: Sequence[Path], wanted: int | None) -> int:
    """Processes to compute with; 1 stands for this one."""
    if wanted is not None:
        return max(1, min(wanted, len(paths)))
    if sum(_size_bytes(path) for path in paths) < _POOL_PAYS_BYTES:
        return 1
    return min(len(os.sched_getaffinity(0)), len(paths), _MAX_WORKERS)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_Result = tuple[str | None, Heard | DataError]
"""What a file's content was just after it was read, and what it gave."""


@contextmanager
def _listening(paths: Sequence[Path], job: Job, *, workers: int) -> Iterator[Iterator[_Result]]:
    """Results in the order of the paths; none is under way any more when the context is left.

    Raises:
        TrainingError: a worker process was killed.
    """
    if workers == 1:
        yield (_listen(path, job) for path in paths)
        return
    # Forking would copy the locks of whatever threads there are, such as TensorFlow's. Threads
    # instead of processes share one interpreter lock: they gained 1.2, two processes 2.1.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield _results(pool, paths, job, ahead=workers * _WAITING_PER_WORKER)
    except BrokenProcessPool as error:
        raise TrainingError(
            f"computing features: one of {workers} worker processes was killed, perhaps for want"
            " of memory; what it has finished is kept, fewer workers need less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, paths: Sequence[Path], job: Job, *, ahead: int
) -> Iterator[_Result]:
    waiting: deque[Future[_Result]] = deque()
    for path in paths:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        with _interrupts_held_back():
            waiting.append(pool.submit(_listen, path, job))
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; those started in here leave it to this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """What every worker process does first."""
    threadpool_limits(1, user_api="blas")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed tells nobody; its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been started by somebody"
    parent.join()
    os._exit(1)


def _listen(path: Path, job: Job) -> _Result:
    """Compute one recording."""
    try:
        heard = _compute(path, job)
    except DataError as error:
        return None, error
    return _content_sha256(path), heard


def _compute(path: Path, job: Job) -> Heard:
    recording = read_recording(path, sample_rate_hz=job.params.sample_rate_hz, channel=job.channel)
    every = cut(recording.samples, job.params, hop_samples=job.hop_samples)
    windows = every[every.any(axis=1)]
    extract = _extractor(job.params)
    features = np.empty((len(windows), *job.params.shape), np.float32)
    for row, window in zip(features, windows, strict=True):
        row[:] = extract(window)
    if not np.isfinite(features).all():
        raise DataError(
            f"{path}: expected sound of -1 to 1, got samples up to"
            f" {float(np.abs(recording.samples).max()):.3g}, too large to compute with"
        )
    return Heard(
        features=features,
        level_dbfs=np.array([level_dbfs(window) for window in windows], np.float64),
        silent=len(every) - len(windows),
        file_rate_hz=recording.file_rate_hz,
        file_channels=recording.file_channels,
    )


@lru_cache(maxsize=1)
def _extractor(params: FeatureParams) -> FeatureExtractor:
    return FeatureExtractor(params)


def _content_sha256(path: Path) -> str | None:
    """What tells this content from any other; None if it cannot be read."""
    try:
        # Opening a pipe would wait for somebody to write into it.
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _encode(heard: Heard) -> bytes:
    """An entry: a zip of three arrays, each with its CRC-32."""
    content = io.BytesIO()
    facts = np.array([heard.silent, heard.file_rate_hz, heard.file_channels], np.int64)
    np.savez(content, features=heard.features, level_dbfs=heard.level_dbfs, facts=facts)
    return content.getvalue()


def _decode(content: bytes, params: FeatureParams) -> Heard:
    """Raises an error of any kind if this is not an entry for these parameters."""
    with np.load(io.BytesIO(content), allow_pickle=False) as entry:
        features, levels, facts = entry["features"], entry["level_dbfs"], entry["facts"]
    if (features.dtype, levels.dtype, facts.dtype) != (np.float32, np.float64, np.int64):
        raise ValueError("dtype")
    count = len(features)
    if (features.shape, levels.shape, facts.shape) != ((count, *params.shape), (count,), (3,)):
        raise ValueError("shape")
    if not (np.isfinite(features).all() and np.isfinite(levels).all() and (facts >= 0).all()):
        raise ValueError("value")
    silent, file_rate_hz, file_channels = facts.tolist()
    return Heard(
        features=features,
        level_dbfs=levels,
        silent=silent,
        file_rate_hz=file_rate_hz,
        file_channels=file_channels,
    )


def _is_abandoned(name: str, status: os.stat_result) -> bool:
    staged = _STAGED_NAME.fullmatch(name) is not None
    return staged and time.time() - status.st_mtime > _ABANDONED_SECONDS
