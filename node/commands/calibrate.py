"""`earshot node calibrate`: learn what is normal here, from a machine that is healthy now.

If the node runs on this computer (as a service, say), it is asked to calibrate, and this command
follows; Ctrl-C ends the following, not the calibration. If it does not run, the sound is heard
here, without a broker.
"""

import argparse
import time
from typing import TYPE_CHECKING

from node.commands.node_arguments import add_node_arguments, node_parts, node_settings

if TYPE_CHECKING:
    from node.machine.site_store import CalibrationAnswer, CalibrationRequest, SiteStore
    from node.settings import NodeSettings

SUMMARY = "learn what is normal where the node hangs"

EXIT_REFUSED = 1
_POLL_SECONDS = 0.5
# A node looks for requests once a block of sound; opening a microphone may take it half a minute.
_TAKEN_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    add_node_arguments(parser)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="of calibrating, 2 to 240 (default: 60); settling and verifying come on top",
    )
    action.add_argument("--cancel", action="store_true", help="end one that is under way")
    action.add_argument(
        "--forget", action="store_true", help="go back to the release's own threshold"
    )
    parser.add_argument("--no-wait", action="store_true", help="ask a node that runs, and leave")


def run(options: argparse.Namespace) -> int:
    """Calibrate; give 0 when the limits have armed, 1 when they were refused."""
    from node.machine.site_store import CalibrationRequest, SiteStore, StateFolderError

    settings = node_settings(options)
    store = SiteStore(settings.state_folder)
    request = CalibrationRequest(
        action="cancel" if options.cancel else "forget" if options.forget else "start",
        minutes=options.minutes,
        at_us=time.time_ns() // 1000,
    )
    try:
        with store.locked():
            return _calibrate_here(settings, store, request)
    except StateFolderError:
        if not store.is_locked():
            raise
    store.leave_request(request)
    if options.no_wait:
        print(f"{settings.node.id} was asked; its state and its log tell what comes of it")
        return 0
    return _follow(settings.node.id, store, request)


def _calibrate_here(
    settings: "NodeSettings", store: "SiteStore", request: "CalibrationRequest"
) -> int:
    from contract.states import CalibrationPhase
    from node.ear import Ear
    from node.machine.site import keep_outcome, known_machine, obey
    from node.scoring.scorer import Scorer
    from node.sound.source import EndOfSound

    if request.action == "cancel":
        pending = store.pending()
        store.keep_pending(None)
        print("cancelled" if pending else "no calibration was under way")
        return 0 if pending else EXIT_REFUSED
    _, source, release, runtime = node_parts(settings)
    scorer = Scorer(release, runtime, threads=settings.model.threads)
    watch = known_machine(settings, scorer, store)
    done, note = obey(watch, store, request)
    print(note)
    if request.action != "start" or not done:
        return 0 if done else EXIT_REFUSED
    said = None
    try:
        with source:
            ear = Ear(source, scorer, watch)
            while watch.is_calibrating:
                for _ in ear.hear(_POLL_SECONDS):
                    if (watch.note, ear.microphone.note) != said:
                        said = (watch.note, ear.microphone.note)
                        _say(watch.phase, watch.note, ear.microphone.note)
    except EndOfSound:
        print("the sound ended before the calibration did: nothing was kept")
        return EXIT_REFUSED
    keep_outcome(watch, store, made_us=time.time_ns() // 1000)
    return 0 if watch.phase is CalibrationPhase.ARMED else EXIT_REFUSED


def _follow(node: str, store: "SiteStore", request: "CalibrationRequest") -> int:
    print(f"{node} runs here and was asked; Ctrl-C leaves it to go on by itself", flush=True)
    answer = _answer(store, request)
    if answer is None:
        print(f"{node} has not answered in {_TAKEN_SECONDS:g} s: look at its log")
        return EXIT_REFUSED
    print(answer.note, flush=True)
    if request.action != "start" or not answer.done:
        return 0 if answer.done else EXIT_REFUSED
    return _follow_status(node, store, request)


def _answer(store: "SiteStore", request: "CalibrationRequest") -> "CalibrationAnswer | None":
    from node.machine.site_store import CalibrationAnswer

    deadline = time.monotonic() + _TAKEN_SECONDS
    while store.is_locked() and time.monotonic() < deadline:
        answer = store.answer()
        if answer is not None and answer.asked_us == request.at_us:
            return answer
        # Another request may have been answered since: the status knows whose calibration it is.
        status = store.status()
        if status is not None and status.asked_us == request.at_us and request.action == "start":
            return CalibrationAnswer(asked_us=request.at_us, done=True, note=status.note or "")
        if answer is not None and answer.asked_us > request.at_us:
            return CalibrationAnswer(
                asked_us=request.at_us, done=False, note="another request has taken its place"
            )
        time.sleep(_POLL_SECONDS)
    return None


def _follow_status(node: str, store: "SiteStore", request: "CalibrationRequest") -> int:
    from contract.states import CalibrationPhase

    said = None
    while store.is_locked():
        status = store.status()
        if status is not None and status != said:
            said = status
            if status.asked_us != request.at_us:
                print("another request has taken its place")
                return EXIT_REFUSED
            _say(status.phase, status.note, None)
            if status.phase is CalibrationPhase.ARMED:
                return 0
            if status.phase in (CalibrationPhase.REFUSED, CalibrationPhase.NONE):
                return EXIT_REFUSED
        time.sleep(_POLL_SECONDS)
    print(f"{node} has ended; it begins the calibration anew when it is started again")
    return EXIT_REFUSED


def _say(phase: str, note: str | None, microphone: str | None) -> None:
    print(f"{phase}: {note}" + (f" (microphone: {microphone})" if microphone else ""), flush=True)
