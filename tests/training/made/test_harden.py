"""Hard data sets: planted faults of graded severity, in the noise of a room."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from contract.features import Float32Array
from tests.training.conftest import RATE_HZ, RunTraining, WriteWav, hiss
from training.errors import DataError, DestinationError
from training.made.harden import (
    HardPlan,
    Summary,
    assign_faults,
    generated,
    harden,
    original_of,
    recorded,
)
from training.made.planted_faults import FAULTS
from training.made.synthesize import DatasetPlan
from training.progress import silent
from training.sound.dataset import Domain, find_dataset

ATTRIBUTES = {"source": "20300104_101500", "target": "20300105_090000"}
KINDS = ("rain", "speech")
TEST_NORMALS: dict[Domain, int] = {"source": 6, "target": 4}


@pytest.fixture
def normals(tmp_path: Path, write_wav: WriteWav) -> Path:
    """Write a data set: 4 + 2 to train on, 6 + 4 normal and 3 anomalous test clips."""
    fan, seed = tmp_path / "recorded/fan", 0
    trained_clips: dict[Domain, int] = {"source": 4, "target": 2}
    for domain, trained in trained_clips.items():
        names = [
            f"train/section_00_{domain}_train_normal_{index:04d}_{ATTRIBUTES[domain]}.wav"
            for index in range(trained)
        ]
        # Numbers with gaps, as in a set of which some clips are held back.
        names += [
            f"{domain}_test/section_00_{domain}_test_normal_{2 * index + 1:04d}.wav"
            for index in range(TEST_NORMALS[domain])
        ]
        for name in names:
            seed += 1
            write_wav(fan / name, hiss(1, seed=seed))
    for index in range(3):
        name = f"source_test/section_00_source_test_anomaly_{index:04d}.wav"
        write_wav(fan / name, 3 * hiss(1, seed=100 + index))
    return fan


@pytest.fixture
def noise(tmp_path: Path, write_wav: WriteWav) -> Path:
    """Write a library of noise: four recordings of each of two kinds."""
    for kind, rate_hz in (("rain", 16_000), ("speech", 44_100)):
        for index in range(4):
            sound = hiss(0.7, rate_hz=rate_hz, seed=index)
            write_wav(tmp_path / f"noise/{kind}/{index}.wav", sound, rate_hz=rate_hz)
    return tmp_path / "noise"


def write(normals: Path, plan: HardPlan, out: Path) -> Summary:
    return harden(recorded(find_dataset(normals)), "fan", plan, out, progress=silent)


def table(out: Path) -> dict[Path, dict[str, str]]:
    """The rows of section 00, by the clips they are about."""
    with (out / "fan/attributes_00.csv").open() as stream:
        rows = {row["file_name"]: row for row in csv.DictReader(stream)}
    paths = {path.name: path for path in out.rglob("*_00_*.wav")}
    assert paths.keys() == rows.keys()
    return {path: rows[name] for name, path in paths.items()}


def sound(path: Path) -> Float32Array:
    return np.asarray(soundfile.read(path, dtype="float32")[0], np.float32)


def pairs(out: Path) -> list[tuple[Path, Path]]:
    """Each normal test clip and its faulty copy."""
    normal = sorted(path for path in out.rglob("*_test_normal_*.wav"))
    return [(path, path.with_name(path.name.replace("normal", "anomaly"))) for path in normal]


def rms(samples: Float32Array) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_layout(normals: Path, tmp_path: Path) -> None:
    """Training clips stay, test normals come twice, recorded anomalies do not come at all."""
    summary = write(normals, HardPlan(), tmp_path / "hard")

    found = find_dataset(tmp_path / "hard")
    kinds = Counter((clip.domain, clip.label) for clip in found.test)
    assert (summary.clips, summary.made_quieter) == (6 + 2 * 10, 0)
    for domain, count in TEST_NORMALS.items():
        assert kinds[domain, "normal"] == kinds[domain, "anomaly"] == count
    info = soundfile.info(found.test[0].path)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert info.frames == 16_000


def test_sessions_survive(normals: Path, tmp_path: Path) -> None:
    """Training clips keep their names, so that the new set has the sessions of the old one."""
    write(normals, HardPlan(), tmp_path / "hard")

    before, after = find_dataset(normals), find_dataset(tmp_path / "hard")
    assert [clip.path.name for clip in after.train] == [clip.path.name for clip in before.train]
    assert after.sessions == before.sessions
    assert len(after.sessions) == 2


def test_table_is_not_taken_for_attributes(normals: Path, noise: Path, tmp_path: Path) -> None:
    """What was mixed into a clip is no session: a name that told nothing still tells nothing."""
    for path in (normals / "train").iterdir():
        path.rename(path.with_name(path.name.split("_2030")[0] + ".wav"))
    write(normals, HardPlan(noise=noise), tmp_path / "hard")

    found = find_dataset(tmp_path / "hard")
    assert {(clip.session, clip.attributes) for clip in (*found.train, *found.test)} == {(None, "")}


def test_original_of_a_planted_copy(normals: Path, tmp_path: Path) -> None:
    """Both clips of a pair have one original; all others are their own."""
    write(normals, HardPlan(), tmp_path / "hard")

    test = find_dataset(tmp_path / "hard").test
    originals = Counter(original_of(clip) for clip in test)
    assert len(originals) == 10
    assert set(originals.values()) == {2}
    assert {original_of(clip) for clip in test if clip.label == "normal"} == set(originals)


def test_original_of_recorded_clips(normals: Path, noise: Path, tmp_path: Path) -> None:
    """Clips of other data sets, and kept anomalies, are their own originals."""
    write(normals, HardPlan(noise=noise, keep_anomalies=True), tmp_path / "hard")

    for folder in (normals, tmp_path / "hard"):
        for clip in find_dataset(folder).test:
            assert original_of(clip) == str(clip.path)


def test_without_noise_normal_clips_are_the_originals(normals: Path, tmp_path: Path) -> None:
    """What nothing was done to has the same samples, also where the recording itself clips."""
    loud = next(iter(sorted((normals / "source_test").glob("*normal*"))))
    soundfile.write(loud, np.clip(40 * hiss(1), -1, 1), RATE_HZ, subtype="PCM_16")
    write(normals, HardPlan(severities=(0,)), tmp_path / "hard")

    rows = table(tmp_path / "hard")
    assert len(rows) == 26
    for path, row in rows.items():
        (original,) = normals.rglob(row["original"])
        assert np.array_equal(sound(path), sound(original)), path.name
        assert row["gain_db"] == "0.00"


def test_pairs_differ_in_the_fault_alone(normals: Path, noise: Path, tmp_path: Path) -> None:
    """What noise adds to a clip it adds, to the rounding, to its faulty copy."""
    plain = HardPlan(severities=(1,))
    noisy = msgspec.structs.replace(plain, noise=noise)
    write(normals, plain, tmp_path / "plain")
    write(normals, noisy, tmp_path / "noisy")

    assert len(pairs(tmp_path / "noisy")) == 10
    for normal, anomaly in pairs(tmp_path / "noisy"):
        added = [
            sound(path) - sound(tmp_path / "plain" / path.relative_to(tmp_path / "noisy"))
            for path in (normal, anomaly)
        ]
        assert rms(added[0]) > 0.01
        np.testing.assert_allclose(added[0], added[1], atol=2**-14)
        assert not np.array_equal(sound(normal), sound(anomaly))


@pytest.mark.parametrize("ratio_db", [10.0, 0.0, -6.0])
def test_ratio(normals: Path, noise: Path, tmp_path: Path, ratio_db: float) -> None:
    """In each clip the machine is as loud, relative to the noise, as was asked for."""
    write(normals, HardPlan(noise=noise, ratio_db=ratio_db), tmp_path / "hard")

    for path, row in table(tmp_path / "hard").items():
        if not row["fault"]:
            (original,) = normals.rglob(row["original"])
            machine = sound(original)
            added = sound(path) - machine
            assert 20 * np.log10(rms(machine) / rms(added)) == pytest.approx(ratio_db, abs=0.05)
            assert float(row["ratio_db"]) == ratio_db


def test_no_noise_is_heard_in_training_and_in_tests(
    normals: Path, noise: Path, tmp_path: Path
) -> None:
    """Clips to train on have noise of the first halves, test clips of the second; one or two."""
    write(normals, HardPlan(noise=noise), tmp_path / "hard")

    heard: dict[str, set[str]] = {"train": set(), "test": set()}
    counts = set()
    for path, row in table(tmp_path / "hard").items():
        sources = row["noise"].split(" + ")
        heard["train" if path.parent.name == "train" else "test"] |= set(sources)
        counts.add(len(sources))
    for half, indexes in (("train", "01"), ("test", "23")):
        assert heard[half] <= {f"{kind}/{index}.wav" for kind in KINDS for index in indexes}
        assert len(heard[half]) > 1
    assert counts == {1, 2}


def test_another_ratio_leaves_the_rest_as_it_was(
    normals: Path, noise: Path, tmp_path: Path
) -> None:
    """Sets at several ratios have the same faults and the same noise: they can be compared."""
    for name, plan in (
        ("clean", HardPlan()),
        ("soft", HardPlan(noise=noise, ratio_db=10)),
        ("loud", HardPlan(noise=noise, ratio_db=-6)),
    ):
        write(normals, plan, tmp_path / name)

    clean, soft, loud = (
        {path.name: row for path, row in table(tmp_path / name).items()}
        for name in ("clean", "soft", "loud")
    )
    for name in clean:
        assert clean[name]["fault"] == soft[name]["fault"] == loud[name]["fault"]
        assert clean[name]["severity"] == loud[name]["severity"]
        assert soft[name]["noise"] == loud[name]["noise"]


def test_same_arguments_same_bytes(normals: Path, noise: Path, tmp_path: Path) -> None:
    """The set follows from its arguments; another seed gives other noise and other faults."""
    plan = HardPlan(noise=noise)
    write(normals, plan, tmp_path / "a")
    write(normals, plan, tmp_path / "b")
    write(normals, msgspec.structs.replace(plan, seed=1), tmp_path / "c")

    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not set(contents(tmp_path / "a").values()) & set(contents(tmp_path / "c").values())


def spread(counts: Iterable[int]) -> int:
    values = list(counts)
    return max(values) - min(values)


@pytest.mark.parametrize("count", [5, 17, 18, 50])
@pytest.mark.parametrize("faults", [FAULTS, FAULTS[:5], FAULTS[:2]])
def test_faults_are_balanced(count: int, faults: tuple[str, ...]) -> None:
    """No fault, and no fault at one severity, appears twice more often than another."""
    plan = HardPlan(faults=faults)

    assigned = assign_faults(count, plan, np.random.default_rng(0))

    combinations = [(fault, severity) for fault in faults for severity in plan.severities]
    of_pair, of_fault = Counter(assigned), Counter(fault for fault, _ in assigned)
    assert len(assigned) == count
    assert spread(of_pair[pair] for pair in combinations) <= 1
    assert spread(of_fault[fault] for fault in faults) <= 1
    if count >= 17:
        severities = Counter(severity for _, severity in assigned)
        assert spread(severities[severity] for severity in plan.severities) <= 2


def test_assignment_is_shuffled() -> None:
    """Clips in a row, which were recorded in a row, do not get their faults in a fixed order."""
    orders = {
        tuple(assign_faults(18, HardPlan(), np.random.default_rng(seed))) for seed in range(4)
    }

    assert len(orders) == 4


def test_keep_anomalies(normals: Path, noise: Path, tmp_path: Path) -> None:
    """Real faults in room noise: the recorded anomalies, none planted, all at one level."""
    plan = HardPlan(noise=noise, keep_anomalies=True, level_dbfs=-30)
    summary = write(normals, plan, tmp_path / "hard")

    rows = table(tmp_path / "hard")
    assert summary.clips == len(rows) == 6 + 10 + 3
    kept = [row for row in rows.values() if row["fault"]]
    assert {row["fault"] for row in kept} == {"recorded"}
    assert sorted(row["original"] for row in kept) == [
        f"section_00_source_test_anomaly_{index:04d}.wav" for index in range(3)
    ]
    for path in rows:
        level_db = 20 * np.log10(rms(sound(path)))
        assert level_db == pytest.approx(-30, abs=0.01)


def test_kept_anomaly_is_the_recording_and_its_noise(
    normals: Path, noise: Path, tmp_path: Path
) -> None:
    """The noise lies below the anomaly by the ratio to its own level."""
    write(normals, HardPlan(noise=noise, keep_anomalies=True, ratio_db=6), tmp_path / "hard")

    for path, row in table(tmp_path / "hard").items():
        if row["fault"]:
            (original,) = normals.rglob(row["original"])
            added = sound(path) - sound(original)
            assert 20 * np.log10(rms(sound(original)) / rms(added)) == pytest.approx(6, abs=0.05)


def test_no_clipping_is_introduced(
    normals: Path, noise: Path, tmp_path: Path, write_wav: WriteWav
) -> None:
    """Where noise would push a peak over full scale, both clips of the pair are made quieter."""
    for path in normals.rglob("*.wav"):
        write_wav(path, 4 * hiss(1, seed=int(path.stem[-1])))
    summary = write(normals, HardPlan(noise=noise, ratio_db=-6), tmp_path / "hard")

    rows = table(tmp_path / "hard")
    assert summary.made_quieter == summary.clips == 26
    for normal, anomaly in pairs(tmp_path / "hard"):
        assert float(rows[normal]["gain_db"]) < 0
        assert rows[normal]["gain_db"] == rows[anomaly]["gain_db"]
        peaks = [np.abs(sound(path)) for path in (normal, anomaly)]
        assert max(peak.max() for peak in peaks) == pytest.approx(1, abs=1e-3)
        # A clipped peak would be flat.
        assert max(np.count_nonzero(peak > 0.9999) for peak in peaks) <= 1


def test_level_that_would_clip_is_refused(normals: Path, tmp_path: Path) -> None:
    """The message says the highest level that goes, and with that one it goes."""
    with pytest.raises(DataError, match="expected a level of at most") as raised:
        write(normals, HardPlan(level_dbfs=-3), tmp_path / "hard")
    assert list(tmp_path.iterdir()) == [tmp_path / "recorded"]

    highest = float(str(raised.value).split("at most ")[1].removesuffix(" dBFS"))
    write(normals, HardPlan(level_dbfs=highest), tmp_path / "hard")

    peaks = [np.abs(sound(path)).max() for path in (tmp_path / "hard").rglob("*.wav")]
    assert 0.98 < max(peaks) < 1


def test_generated_sound_as_normal_sound(tmp_path: Path) -> None:
    """Without recordings the generator's clips are the normals, without its own faults."""
    units = DatasetPlan(
        units=(0, 3), faults=("bearing",), train_clips=2, target_clips=1, test_clips=4, seconds=0.6
    )
    summary = harden(generated(units), "fan", HardPlan(), tmp_path / "hard", progress=silent)

    found = find_dataset(tmp_path / "hard")
    assert summary.clips == 2 * (3 + 4 + 4)
    assert {clip.section for clip in found.train} == {"00", "03"}
    assert [clip.label for clip in found.test].count("anomaly") == 8
    assert all("_speed_" in clip.path.name for clip in found.train)
    rows = table(tmp_path / "hard").values()
    assert all(row["original"].startswith("fan?unit=0&seed=") for row in rows)
    assert not any("bearing" in row["original"] for row in rows)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"faults": ("tone", "rust")}, r"expected faults out of tone, .*; got rust"),
        ({"faults": ()}, "at least one fault"),
        ({"severities": (0.5, 1.5)}, "severities of 0 to 1, got 1.5"),
        ({"severities": (float("nan"),)}, "severities of 0 to 1, got nan"),
        ({"severities": ()}, "at least one severity"),
        ({"ratio_db": float("inf")}, "finite ratio of machine to noise, got inf"),
        ({"level_dbfs": 3.0}, "level of -80 to 0 dBFS, got 3"),
        ({"level_dbfs": float("nan")}, "level of -80 to 0 dBFS, got nan"),
    ],
)
def test_plans_that_cannot_be(wrong: dict[str, object], expected: str) -> None:
    """A plan says what is wrong with it before anything is read."""
    with pytest.raises(DataError, match=expected):
        msgspec.structs.replace(HardPlan(), **wrong)


def test_refuses_a_folder_with_something_in_it(normals: Path, tmp_path: Path) -> None:
    """What is there already is not touched."""
    out = tmp_path / "mine"
    out.mkdir()
    (out / "file").touch()

    with pytest.raises(DestinationError, match="expected an empty folder"):
        write(normals, HardPlan(), out)

    assert [path.name for path in out.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("silent", "section_00_source_test_normal_0001.wav: expected sound, got digital silence"),
        ("short", "section_00_source_test_normal_0001.wav: expected at least 0.5 s, got 0.30 s"),
        ("pauses", "a planted tone changes nothing"),
        ("no tests", "expected normal test clips, got none"),
        ("no anomalies", "expected recorded anomalies to keep, got none"),
        ("noise", "expected one folder per kind"),
    ],
)
def test_refuses_what_it_cannot_use(
    normals: Path, tmp_path: Path, write_wav: WriteWav, case: str, expected: str
) -> None:
    """One line names what is wrong, and nothing is left on disk."""
    first = normals / "source_test/section_00_source_test_normal_0001.wav"
    plan = HardPlan(faults=("tone",))
    if case == "silent":
        write_wav(first, np.zeros(16_000, np.float32))
    elif case == "short":
        write_wav(first, hiss(0.3))
    elif case == "pauses":
        write_wav(first, np.concatenate([hiss(1), np.zeros(32_000, np.float32)]))
    elif case == "no tests":
        for path in normals.rglob("*_test_normal_*"):
            path.unlink()
    elif case == "no anomalies":
        for path in normals.rglob("*_anomaly_*"):
            path.unlink()
        plan = HardPlan(keep_anomalies=True)
    else:
        plan = HardPlan(noise=normals / "train")

    with pytest.raises(DataError, match=expected):
        write(normals, plan, tmp_path / "hard")
    assert list(tmp_path.iterdir()) == [tmp_path / "recorded"]


def test_command(normals: Path, noise: Path, tmp_path: Path, run_training: RunTraining) -> None:
    """`synthesize --hard` writes the same set as the functions do."""
    arguments = ["--hard", "--normals", normals, "--planted", "tone,hiss", "--severities", "0.5"]
    more = ["--noise", noise, "--noise-ratio-db", "-6", "--seed", "7"]
    done = run_training(["synthesize", "--out", tmp_path / "a", *arguments, *more])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"26 clips in {tmp_path / 'a/fan'}\n"
    plan = HardPlan(faults=("tone", "hiss"), severities=(0.5,), noise=noise, ratio_db=-6, seed=7)
    write(normals, plan, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_command_generates_normal_sound(tmp_path: Path, run_training: RunTraining) -> None:
    """Without recordings the options of the generator count."""
    arguments = ["--hard", "--machine", "pump", "--units", "4", "--seconds", "1"]
    more = ["--train-clips", "2", "--target-clips", "0", "--test-clips", "4"]
    done = run_training(["synthesize", "--out", tmp_path / "a", *arguments, *more])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"10 clips in {tmp_path / 'a/pump'}\n"
    assert (tmp_path / "a/pump/attributes_04.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--planted tone", "--planted only goes with --hard"),
        ("--noise-ratio-db 3 --hard", "--noise-ratio-db only goes with --noise"),
        ("--hard --faults bearing", "--faults does not go with --hard; see --planted"),
        ("--hard --normals x --units 3", "--units does not go with --normals"),
        ("--hard --keep-anomalies", "--keep-anomalies only goes with --normals"),
        (
            "--hard --normals x --keep-anomalies --severities 1",
            "--severities does not go with --keep-anomalies",
        ),
        ("--hard --planted rust", "expected faults out of tone, clicks"),
        ("--hard --severities 0.5,high", "expected severities of 0 to 1, got nan"),
        ("--hard --noise nowhere --noise-ratio-db loud", "expected a finite ratio"),
        ("--hard --noise nowhere", "nowhere: no such folder"),
        ("--hard --normals nowhere", "nowhere: no such folder"),
        ("--hard --machine rocket", "Expected a machine out of fan, pump"),
    ],
)
def test_command_refuses(
    tmp_path: Path, run_training: RunTraining, arguments: str, expected: str
) -> None:
    """Each thing wrong is one line on standard error; nothing is written."""
    done = run_training(["synthesize", "--out", tmp_path / "out", *arguments.split()])

    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
