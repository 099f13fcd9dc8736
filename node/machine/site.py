"""What a node knows of its machine from before, and what it is asked to do about it.

Shared by the running node and by `earshot node calibrate` where none runs.
"""

import logging

from contract.states import CalibrationPhase, MachineState, ThresholdSource
from node.machine.calibration import MINUTES_USUAL
from node.machine.limits import CalibrationRefusedError, fits
from node.machine.machine_watch import CalibrationNotStartedError, MachineWatch
from node.machine.site_store import CalibrationRequest, Site, SiteStore
from node.scoring.scorer import Scorer
from node.settings import NodeSettings

logger = logging.getLogger(__name__)


def known_machine(
    settings: NodeSettings,
    scorer: Scorer,
    store: SiteStore,
    *,
    state: MachineState = MachineState.UNKNOWN,
    override: float | None = None,
) -> MachineWatch:
    """The watch over the machine, with the limits of an earlier calibration if they still fit.

    Args:
        settings: of the node.
        scorer: of the release that runs.
        store: what was calibrated, with this release or with those before it.
        state: of the machine when the node ended.
        override: an operator's threshold for this release.
    """
    manifest = scorer.manifest
    limits, note = (
        None,
        "not calibrated here: run `earshot node calibrate`; until then the release's threshold and"
        " a vote decide",
    )
    site = store.site_for(manifest)
    if site is not None and not site.fits(manifest):
        note = f"calibrated with {site.release}, which is not what runs: calibrate again"
    elif site is not None and not fits(manifest, site.limits):
        note = "the limits that were kept do not fit the release that they name: calibrate again"
        logger.error("%s", note)
    elif site is not None:
        limits, note = site.limits, site.note
    return MachineWatch(
        manifest,
        limits=limits,
        note=note,
        false_alarms_per_week=settings.calibration.false_alarms_per_week,
        state=state,
        override=override,
    )


def obey(watch: MachineWatch, store: SiteStore, request: CalibrationRequest) -> tuple[bool, str]:
    """Carry out a request; gives whether that was possible, and what to say of it."""
    match request.action:
        case "cancel":
            done = watch.cancel()
            return done, "cancelled" if done else "no calibration was under way"
        case "forget":
            watch.forget()
            store.forget_site(watch.manifest)
            whose = "the release's"
            if watch.threshold_source is ThresholdSource.OVERRIDE:
                whose = "an operator's"
            return True, f"forgotten: {whose} threshold and a vote decide"
        case "start":
            try:
                minutes = MINUTES_USUAL if request.minutes is None else request.minutes
                plan = watch.calibrate(minutes)
            except (CalibrationRefusedError, CalibrationNotStartedError) as error:
                return False, str(error)
            return True, (
                f"calibrates for {minutes:g} minutes, {plan.total_seconds / 60:.3g} in all with"
                " settling and verifying"
            )


def keep_outcome(watch: MachineWatch, store: SiteStore, *, made_us: int) -> None:
    """A calibration has ended: keep what came of it, if anything did, in force or not."""
    limits = watch.site_limits
    if watch.phase is CalibrationPhase.ARMED and limits is not None:
        manifest = watch.manifest
        store.keep_site(
            Site(
                release=manifest.label,
                models_sha256=manifest.models_sha256,
                made_us=made_us,
                note=(watch.calibration_note or "")[:200],
                limits=limits,
            )
        )
