"""Calibrations that a running node was asked for, over restarts and other releases."""

from pathlib import Path

import pytest

from contract.states import CalibrationPhase, MachineState
from node.machine.calibration_requests import CalibrationRequests
from node.machine.limits import Limits
from node.machine.machine_watch import MachineWatch
from node.machine.site_store import CalibrationRequest, SiteStore
from tests.node.observations import calibrated
from tests.rig.fake_inference import release

START = CalibrationRequest(action="start", minutes=10.0, at_us=12)
NOW_US = 99


@pytest.fixture
def store(tmp_path: Path) -> SiteStore:
    """Of a node that remembers nothing yet."""
    return SiteStore(tmp_path)


def watch(limits: Limits | None = None) -> MachineWatch:
    return MachineWatch(release().manifest, limits=limits)


def requests(
    machine: MachineWatch, store: SiteStore, *, recalibrate: bool = True
) -> CalibrationRequests:
    return CalibrationRequests(machine, store, now_us=lambda: NOW_US, recalibrate=recalibrate)


def test_calibration_goes_on_after_a_restart(store: SiteStore) -> None:
    """It begins anew, and whoever asked for it before the restart still follows it."""
    done, _ = requests(watch(), store).obey(START)
    machine = watch()
    requests(machine, store).resume()
    status = store.status()

    assert done
    assert machine.is_calibrating
    assert status is not None
    assert (status.asked_us, status.phase) == (START.at_us, CalibrationPhase.SETTLING)


def test_person_here_gets_an_answer(store: SiteStore) -> None:
    """Once; without a request nothing is answered."""
    machine = watch()
    obeying = requests(machine, store)
    obeying.obey_person_here()
    before = store.answer()
    store.leave_request(START)
    obeying.obey_person_here()
    obeying.obey_person_here()
    answer = store.answer()

    assert before is None
    assert answer is not None
    assert (answer.asked_us, answer.done) == (START.at_us, True)
    assert machine.is_calibrating


def test_refused_request_leaves_the_one_under_way(store: SiteStore) -> None:
    """What is pending is still what began the calibration."""
    obeying = requests(watch(), store)
    obeying.obey(START)
    done, note = obeying.obey(CalibrationRequest(action="start", minutes=10.0, at_us=13))

    assert not done
    assert "is under way" in note
    assert store.pending() == START


def test_cancelled_calibration_does_not_come_back(store: SiteStore) -> None:
    """Not even after a restart."""
    obeying = requests(watch(), store)
    obeying.obey(START)
    obeying.obey(CalibrationRequest(action="cancel", at_us=13))
    machine = watch()
    requests(machine, store).resume()

    assert store.pending() is None
    assert not machine.is_calibrating


@pytest.mark.parametrize(
    ("was_calibrated", "recalibrate", "state", "begins"),
    [
        (True, True, MachineState.NORMAL, True),
        (True, True, MachineState.ALARM, False),
        (True, True, MachineState.WARNING, False),
        (True, False, MachineState.NORMAL, False),
        (False, True, MachineState.NORMAL, False),
    ],
    ids=["calibrated", "in alarm", "in warning", "not wanted", "never calibrated"],
)
def test_other_release_is_calibrated_anew_where_the_last_one_was(
    store: SiteStore,
    *,
    was_calibrated: bool,
    recalibrate: bool,
    state: MachineState,
    begins: bool,
) -> None:
    """Only from a machine that sounds normal, and only if the settings let it."""
    before = watch(calibrated(10)[1] if was_calibrated else None)
    after = watch()
    requests(before, store, recalibrate=recalibrate).follow_release(after, state)

    assert after.is_calibrating is begins
    assert (store.pending() is not None) is begins


def test_calibration_under_way_goes_on_with_the_other_release(store: SiteStore) -> None:
    """It begins anew; one whose limits are known from before ends it."""
    obeying = requests(watch(), store)
    obeying.obey(START)
    after = watch()
    obeying.follow_release(after, MachineState.NORMAL)
    pending = store.pending()
    known = watch(calibrated(10)[1])
    obeying.follow_release(known, MachineState.NORMAL)

    assert (after.is_calibrating, pending) == (True, START)
    assert not known.is_calibrating
    assert store.pending() is None
