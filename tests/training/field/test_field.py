"""A release in the field, in simulated time."""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.states import AlarmRule, MachineState
from node.machine.limits import observe
from node.scoring.release_store import read_release
from node.scoring.scorer import Evidence
from tests.training.conftest import WriteWav, hiss
from training.errors import DataError
from training.field.field import FieldRequest, try_in_field
from training.field.field_report import FieldReport
from training.field.field_sound import Listener, ScoredTakes, ScoredWindow, repeated, stream
from training.field.field_tables import field_lines
from training.field.monitoring import AlarmCounts, Onset, hear_fault, monitor, summed_up
from training.field.places import find_places
from training.field.policies import NodePolicy, SingleWindow, View, WindowVerdict, calibrate
from training.made.room_noise import NoiseLibrary
from training.progress import silent
from training.sound.dataset import Clip, Dataset, find_dataset

MODEL = Path(__file__).parents[3] / "models" / "fan-synthetic"
MANIFEST = read_release(MODEL).manifest
COEFFICIENTS = 40
FIRST = "section_00_source_test_normal_0000.wav"


def window(log_error: float, *, level_dbfs: float = -30.0) -> ScoredWindow:
    """Make a window with a stated error, and no residual to take a centre off."""
    error = math.exp(log_error)
    evidence = Evidence(
        np.zeros((COEFFICIENTS, 1), np.float32), (np.zeros(1, np.float32),), (error,)
    )
    return ScoredWindow(evidence, error, level_dbfs)


def clip(take: Sequence[ScoredWindow], name: str = "clip.wav") -> ScoredTakes:
    """Make a clip of windows that were heard."""
    return ScoredTakes(named(name), (tuple(take),))


def named(name: str, *, session: str | None = None) -> Clip:
    """Make a clip that is only a name."""
    return Clip(
        path=Path("fan/test") / name,
        section="00",
        domain="source",
        split="test",
        label="anomaly" if "anomaly" in name else "normal",
        session=session,
    )


def normal_sound(count: int, *, seed: int = 0) -> list[ScoredWindow]:
    """Make windows with log errors around 0."""
    return [window(log) for log in np.random.default_rng(seed).normal(0, 0.2, count)]


class Scripted:
    """A rule that plays states."""

    def __init__(self, states: str) -> None:
        names = {
            "n": MachineState.NORMAL,
            "w": MachineState.WARNING,
            "a": MachineState.ALARM,
            "f": MachineState.ALARM,
            "s": MachineState.STOPPED,
        }
        self._states = iter([(names[letter], letter == "f") for letter in states])

    def hear(self, window: ScoredWindow) -> WindowVerdict:
        """Play the next one."""
        state, fast = next(self._states)
        return WindowVerdict(state, AlarmRule.FAST if fast else AlarmRule.BLOCK, flagged=False)


def test_stream_plays_on_and_jumps() -> None:
    """Windows stay in their clip's order; mostly the next clip follows, and sometimes another."""
    clips = [clip([window(10.0 * i + j) for j in range(3)]) for i in range(10)]

    heard = list(islice(stream(clips, np.random.default_rng(1), hop_seconds=4.0), 3000))

    logs = np.round([math.log(each.statistic or 0) for each in heard]).reshape(-1, 3)
    starts = logs[:, 0]
    assert (np.diff(logs, axis=1) == 1).all()
    follows = np.mean((starts[1:] - starts[:-1]) % 100 == 10)
    # A clip of 12 s, runs of 120 s: nine of ten play on, and a tenth of the jumps lands there.
    assert follows == pytest.approx(0.91, abs=0.03)
    assert set(starts) == {10.0 * i for i in range(10)}


def test_stream_of_several_takes_plays_the_same_clips() -> None:
    """Noise changes how a clip sounds, not which clip is heard when."""
    one = [clip([window(float(i))]) for i in range(7)]
    several = [ScoredTakes(each.clip, each.takes * 6) for each in one]

    first, second = (
        list(islice(stream(clips, np.random.default_rng(3), hop_seconds=10.0), 200))
        for clips in (one, several)
    )

    assert [each.statistic for each in first] == [each.statistic for each in second]


def test_small_evidence_is_the_same_to_the_node(tmp_path: Path, write_wav: WriteWav) -> None:
    """What is kept of a window gives the node exactly what the window itself would."""
    path = write_wav(tmp_path / "a.wav", hiss(4.0))
    listener = Listener(MODEL, None)
    found = msgspec.structs.replace(named("a.wav"), path=path)

    small = listener.hear(found).takes[0][-1]

    whole = listener._scorer.evidence
    assert whole is not None
    assert small.evidence is not None
    assert small.evidence.features.size == COEFFICIENTS
    one, other = (
        observe(MANIFEST, evidence, level_dbfs=-30.0) for evidence in (whole, small.evidence)
    )
    assert one.errors == other.errors
    np.testing.assert_array_equal(one.mean_features, other.mean_features)
    np.testing.assert_array_equal(one.summaries[0], other.summaries[0])


def test_places_are_sessions() -> None:
    """Each session that is large enough is a place; anomalies of its name belong to it."""
    clips = [
        *(named(f"{i:02}.wav", session="monday") for i in range(4)),
        *(named(f"{i + 4:02}.wav", session="tuesday") for i in range(5)),
        named("09.wav", session="wednesday"),
        named("anomaly_1.wav", session="monday"),
        named("anomaly_2.wav", session="thursday"),
    ]

    places = find_places(of_tests(clips))

    assert [(each.name, len(each.normals)) for each in places] == [
        ("00/source monday", 4),
        ("00/source tuesday", 5),
    ]
    assert [[each.path.name for each in place.anomalies] for place in places] == [
        ["anomaly_1.wav", "anomaly_2.wav"],
        ["anomaly_2.wav"],
    ]


def test_places_are_domains_where_sessions_are_small() -> None:
    """Where each clip is a session of its own, the domain is the place, cut where it is told to."""
    clips = [named(f"{i:02}.wav", session=f"speed {i}") for i in range(9)]

    whole = find_places(of_tests(clips))
    cut = find_places(of_tests(clips), ["05.wav"])

    assert [(each.name, len(each.normals)) for each in whole] == [("00/source", 9)]
    assert [(each.name, len(each.normals)) for each in cut] == [
        ("00/source", 5),
        ("00/source part 2", 4),
    ]


def test_place_that_is_not_there_is_refused() -> None:
    """A new place must begin with a file that there is."""
    with pytest.raises(DataError, match=r"no normal test clip is called 77\.wav"):
        find_places(of_tests([named(f"{i}.wav") for i in range(9)]), ["77.wav"])


def test_too_few_clips_are_refused() -> None:
    """Three clips are no place."""
    with pytest.raises(DataError, match="at least 4 normal test clips of one session"):
        find_places(of_tests([named(f"{i}.wav") for i in range(3)]))


def of_tests(clips: Sequence[Clip]) -> Dataset:
    """Make a data set of names."""
    return Dataset(
        machine="fan",
        folder=Path("fan"),
        layout="folders",
        train=(),
        test=tuple(clips),
        unlabelled=(),
    )


def test_monitor_counts_by_hand() -> None:
    """A warning that becomes an alarm is one episode and one alarm; stopping ends an episode."""
    states = "nnwwaannnffnwsn"
    tally = AlarmCounts()

    monitor(Scripted(states), normal_sound(len(states)), tally)

    assert tally == AlarmCounts(
        windows=15, ringing=7, scored=15, flagged=0, episodes=3, alarms=2, fast=1
    )


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("nnn" + "nnwna", Onset(False, 4.0, 6.0, stopped=False)),
        ("nnn" + "nnnnn", Onset(False, math.inf, math.inf, stopped=False)),
        ("nnn" + "nssss", Onset(False, math.inf, math.inf, stopped=True)),
        ("naw" + "aaaaa", Onset(True, math.inf, math.inf, stopped=False)),
    ],
)
def test_onset_by_hand(states: str, expected: Onset) -> None:
    """Seconds are counted from the fault's first sample; what rang before is told apart."""
    sound = normal_sound(8)

    found = hear_fault(Scripted(states), sound[:3], sound[3:], hop_seconds=1.0, window_seconds=2.0)

    assert found == expected


def test_stretches_summed_up() -> None:
    """Those that rang before are left out; one never found is endless."""
    onsets = [
        Onset(True, math.inf, math.inf, stopped=False),
        Onset(False, 10.0, 20.0, stopped=False),
        Onset(False, 10.0, math.inf, stopped=False),
        Onset(False, math.inf, math.inf, stopped=True),
    ]

    found = summed_up(onsets)

    assert found is not None
    assert (found.stretches, found.ringing_before) == (4, 1)
    assert found.warned == pytest.approx(2 / 3)
    assert found.alarmed == pytest.approx(1 / 3)
    assert found.stopped == pytest.approx(1 / 3)
    assert (found.warning_seconds, found.alarm_seconds) == (10.0, None)


def test_reference_rule_flags_a_twentieth_of_the_sound_that_it_is_made_of() -> None:
    """A 95th percentile lets 5 % through, each of which is an alarm of its own."""
    sound = normal_sound(20_000)
    threshold = float(np.percentile([each.statistic or 0 for each in sound], 95))
    tally = AlarmCounts()

    monitor(SingleWindow(threshold), sound, tally)

    assert tally.flagged / tally.scored == pytest.approx(0.05, abs=0.001)
    assert tally.ringing == tally.flagged
    # Independent windows: an episode begins with each that follows one below, 0.05 x 0.95.
    assert tally.episodes / tally.windows == pytest.approx(0.0475, abs=0.004)


def test_calibrated_node_is_quiet_in_its_own_sound() -> None:
    """Limits from an hour raise nothing in six further hours of the same sound."""
    rng = np.random.default_rng(5)
    clips = [clip(normal_sound(10, seed=seed)) for seed in range(300)]
    found = calibrate(MANIFEST, stream(clips, rng, hop_seconds=1.0), minutes=60)
    tally = AlarmCounts()

    monitor(
        NodePolicy(MANIFEST, limits=found.limits),
        list(islice(stream(clips, rng, hop_seconds=1.0), 6 * 3600)),
        tally,
    )

    assert found.limits is not None
    assert tally.episodes == 0
    assert tally.flagged / tally.scored < 0.01


@pytest.mark.parametrize(
    ("log_error", "warned_within", "alarmed_within"),
    [
        # Within the block it begins in, or the next; the alarm a block later.
        (0.5, 122, 182),
        # Very loud: six windows, each with sound of its own, so twelve that overlap.
        (8.0, 13, 13),
    ],
)
def test_planted_fault_is_found_in_time(
    log_error: float, warned_within: float, alarmed_within: float
) -> None:
    """A fault above the block limit rings within its blocks, a loud one at once."""
    rng = np.random.default_rng(5)
    clips = [clip(normal_sound(10, seed=seed)) for seed in range(300)]
    limits = calibrate(MANIFEST, stream(clips, rng, hop_seconds=1.0), minutes=60).limits
    before = islice(stream(clips, rng, hop_seconds=1.0), 200)
    fault = islice(repeated(clip([window(log_error)] * 10), rng), 600)

    found = hear_fault(
        NodePolicy(MANIFEST, limits=limits),
        list(before),
        list(fault),
        hop_seconds=1.0,
        window_seconds=2.0,
    )

    assert not found.ringing_before
    assert found.warning_seconds <= warned_within
    assert found.warning_seconds <= found.alarm_seconds <= alarmed_within


@pytest.mark.parametrize(("view", "rings"), [("louder", True), ("quieter", False)])
def test_level_in_the_place_of_the_detector(view: View, rings: bool) -> None:
    """The same rules on the level hear what is louder, or what is quieter, and nothing else."""
    rng = np.random.default_rng(5)
    levels = rng.normal(-30, 0.5, 6000)
    sound = [window(0.0, level_dbfs=level) for level in levels]
    louder = [window(0.0, level_dbfs=-24.0)] * 300
    limits = calibrate(MANIFEST, iter(sound), minutes=60, view=view).limits

    found = hear_fault(
        NodePolicy(MANIFEST, view, limits),
        sound[:200],
        louder,
        hop_seconds=1.0,
        window_seconds=2.0,
    )

    assert limits is not None
    assert math.isfinite(found.alarm_seconds) == rings


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        # Single blocks warn; three good ones between two of them end that.
        (([window(0.3)] * 60 + normal_sound(180)) * 5, "above the limit while verifying"),
        ([window(2.0)] * 2000, "in alarm by the limits in force"),
    ],
)
def test_refused_calibration_is_a_result(changed: list[ScoredWindow], reason: str) -> None:
    """Sound that changes after the calibration is refused with the reason."""
    found = calibrate(MANIFEST, iter([*normal_sound(3900), *changed]), minutes=60)

    assert found.limits is None
    assert reason in found.note


@pytest.fixture
def data(tmp_path: Path, write_wav: WriteWav) -> Path:
    """Write hiss as the machine, with a whistle as its fault."""
    folder = tmp_path / "data" / "fan"
    time_s = np.arange(10 * 16_000) / 16_000
    whistle = (0.2 * np.sin(2 * np.pi * 3000 * time_s)).astype(np.float32)
    for index in range(6):
        name = f"section_00_source_train_normal_{index:04d}.wav"
        write_wav(folder / "train" / name, hiss(10, seed=index))
        name = f"section_00_source_test_normal_{index:04d}.wav"
        write_wav(folder / "source_test" / name, hiss(10, seed=50 + index))
    for index in range(2):
        name = f"section_00_source_test_anomaly_{index:04d}.wav"
        write_wav(folder / "source_test" / name, hiss(10, seed=90 + index) + whistle)
        write_wav(tmp_path / "noise" / "rain" / f"{index}.wav", hiss(3, seed=200 + index))
    return folder


def run(
    data: Path, *, hours: float = 0.01, noise: bool = False, json: Path | None = None
) -> FieldReport:
    """Try the default model for a short while."""
    request = FieldRequest(
        release=MODEL,
        data=data,
        machine=None,
        channel=None,
        noise=data.parents[1] / "noise" if noise else None,
        hours=hours,
        minutes=2.0,
        seed=42,
        json=json,
        command="earshot training field",
    )
    return try_in_field(request, note=lambda text: None, progress=silent)


def test_report_of_recordings(data: Path, tmp_path: Path) -> None:
    """A release that never heard this machine rings until it is calibrated, and then for faults."""
    report = run(data, hours=0.2, json=tmp_path / "field.json")

    (place,) = report.places
    assert (place.name, place.clips, place.fault_clips) == ("00/source", (3, 3), 2)
    assert place.seconds == (27.0, 27.0)
    (condition,) = place.conditions
    rules = {rule.rule: rule for rule in condition.rules}
    assert rules["not calibrated"].ringing == pytest.approx(1.0, abs=0.05)
    calibrated = rules["calibrated 2 min"]
    assert (calibrated.calibrations, calibrated.armed) == (4, 4)
    assert calibrated.hours == pytest.approx(0.2)
    assert calibrated.alarms == 0
    assert calibrated.alarms_interval is not None
    # Nothing in 0.2 hours: up to 3.69 alarms in them, 443 a day.
    assert calibrated.alarms_interval == pytest.approx((0.0, 442.7), abs=0.1)
    assert calibrated.faults is not None
    # Two clips, once for each half.
    assert (calibrated.faults.stretches, calibrated.faults.alarmed) == (4, 1.0)
    assert calibrated.faults.alarm_seconds is not None
    assert calibrated.control is not None
    assert calibrated.control.alarmed == 0.0
    # Hiss of the same kind as in training: a twentieth and a little more or less.
    assert 0.0 <= (rules["reference rule"].flagged or 0.0) < 0.2
    written = msgspec.json.decode((tmp_path / "field.json").read_bytes(), type=FieldReport)
    assert written == report


def test_same_seed_same_report(data: Path) -> None:
    """All that is drawn follows from the seed."""
    assert run(data) == run(data)


def test_noise_makes_conditions(data: Path) -> None:
    """With noise each ratio is tried after a calibration without it, and with it."""
    report = run(data, noise=True)

    conditions = report.places[0].conditions
    assert [(each.noise_db, each.calibrated_in_noise) for each in conditions] == [
        (None, False),
        (10.0, False),
        (10.0, True),
        (0.0, False),
        (0.0, True),
    ]
    assert all(rule.calibrations for rule in conditions[2].rules)


def test_lines_say_how_little_sound_there_was(data: Path) -> None:
    """The table says how often so little sound was repeated."""
    report = run(data, hours=0.2)

    text = "\n".join(field_lines(report))

    assert "ONLY 0.9 MINUTES of distinct normal sound, repeated 13 times" in text
    assert "calibrated 2 min" in text
    assert "A calibration of 2 minutes hears its 27 s 4 times" in text


def test_noise_is_the_same_each_time(data: Path) -> None:
    """A clip's noise follows from its name, and differs between the halves of the noise."""
    library = NoiseLibrary(data.parents[1] / "noise")
    found = find_dataset(data).test
    normal = next(each for each in found if each.path.name == FIRST)
    listener = Listener(MODEL, None)

    first, again, other = (
        listener.hear_in_noise(normal, library, half=half, ratio_db=0.0).takes[0][0].statistic
        for half in ("test", "test", "train")
    )

    assert first == again
    assert first != other
