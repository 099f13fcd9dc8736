"""`earshot node check`: a doctor that looks at everything a node needs, and changes nothing.

One line for each check: ok, warning or problem, what was found, and what to do. The exit code is 1
if there is a problem; warnings do not count. Sound is measured and forgotten. One message is
published to see whether the node may: an own result that nobody stores.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from contract.command_line import add_settings_option, settings_file, typed
from node.commands.node_arguments import SETTINGS_NAME

if TYPE_CHECKING:
    from node.checks.sound_checks import WindowTimer
    from node.findings import Finding
    from node.settings import NodeSettings

SUMMARY = "look at everything a node needs: microphone, level, broker, clock, disk, ..."
EXIT_PROBLEM = 1

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    add_settings_option(parser, SETTINGS_NAME)
    parser.add_argument(
        "--seconds", type=_seconds, default=5.0, metavar="N", help="how long to listen (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.epilog = "Exit code: 0 without a problem (there may be warnings), 1 with one."


def run(options: argparse.Namespace) -> int:
    """Check everything, print what was found, and give 1 if there is a problem."""
    from node.findings import Grade, count, document, line

    if not options.verbose:
        # What the session logs is told as a finding.
        logging.getLogger("contract.session").setLevel(logging.CRITICAL)
    findings = []
    config = settings_file(options.config, SETTINGS_NAME)
    for finding in _findings(config, options.seconds, draws=not options.json):
        findings.append(finding)
        if not options.json:
            print(line(finding), flush=True)
    problems, warnings = count(findings, Grade.PROBLEM), count(findings, Grade.WARNING)
    if options.json:
        print(json.dumps(document(findings), indent=1))
    else:
        print(f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")
    return EXIT_PROBLEM if problems else 0


def _findings(config: Path | None, seconds: float, *, draws: bool) -> "Iterator[Finding]":
    """Everything; what needs the settings only if they can be used."""
    from contract.errors import EarshotError
    from node.findings import ok, problem
    from node.settings import load_settings

    settings = None
    try:
        settings = load_settings(config, {})
    except EarshotError as error:
        advice = f"{typed('node init --out FILE')} writes a new one"
        yield problem("settings", str(error), advice)
    else:
        where = "the environment" if config is None else str(config)
        group = f", group {settings.node.group}" if settings.node.group else ""
        yield ok("settings", f"{where}: node {settings.node.id}{group}")
        yield from _guarded("sound", _sound(settings, seconds, draws=draws))
    yield from _guarded("computer", _computer())
    if settings is not None:
        yield from _guarded("files", _files(settings, config))
        yield from _guarded("updates", _updates(settings))
        yield from _guarded("broker", _broker(settings))


def _guarded(name: str, check: "Iterator[Finding]") -> "Iterator[Finding]":
    from contract.errors import EarshotError
    from node.findings import problem

    try:
        yield from check
    except (EarshotError, OSError) as error:
        yield problem(name, str(error))
    except Exception as error:
        # A bug in one check must not hide what the others have to say.
        logger.exception("the check of %s failed", name)
        yield problem(name, f"this check itself has failed: {error!r}", "please report it")


def _sound(settings: "NodeSettings", seconds: float, *, draws: bool) -> "Iterator[Finding]":
    """Release, microphone, level, and time to score."""
    from contract.errors import ReleaseError
    from contract.feature_params import FeatureParams
    from node.checks import sound_checks
    from node.findings import ok, problem
    from node.scoring.release_store import read_release
    from node.scoring.runtime import find_runtime
    from node.scoring.scorer import Scorer

    timer, release = None, None
    try:
        release = read_release(Path(settings.model.folder))
        runtime = find_runtime()
        timer = sound_checks.WindowTimer(Scorer(release, runtime, threads=settings.model.threads))
    except ReleaseError as error:
        yield problem("release", str(error))
    else:
        yield ok("release", f"{release.manifest.label} loads in {runtime.name} {runtime.version}")
    rate_hz = (release.manifest.features if release else FeatureParams()).sample_rate_hz
    yield from _microphone(settings, seconds, timer, model_rate_hz=rate_hz, draws=draws)
    if timer is not None and release is not None:
        yield sound_checks.headroom_finding(timer.fill_up(), release.manifest)


def _microphone(
    settings: "NodeSettings",
    seconds: float,
    timer: "WindowTimer | None",
    *,
    model_rate_hz: int,
    draws: bool,
) -> "Iterator[Finding]":
    from node.checks import sound_checks
    from node.checks.computer_checks import node_runs, sound_device_findings
    from node.sound.choose import MICROPHONE
    from node.sound.errors import SourceError
    from node.sound.level_meter import LevelMeter
    from node.sound.microphone import list_microphones

    is_microphone = settings.source.spec.startswith(MICROPHONE)
    listed = []
    if is_microphone:
        yield from sound_device_findings()
        try:
            # Before one is opened: those that are in use are not listed.
            listed = list_microphones()
        except SourceError as error:
            logger.debug("microphones are not listed: %s", error)  # opening says it, too
    meter = LevelMeter(sys.stderr) if draws and sys.stderr.isatty() else None
    try:
        source = sound_checks.settings_source(settings.source, model_rate_hz=model_rate_hz)
        heard = sound_checks.listen(
            source, seconds, timer=timer, draw=None if meter is None else meter.hear
        )
    except SourceError as error:
        runs = node_runs(settings.state_folder)
        yield sound_checks.microphone_error(error, node_runs=runs)
        return
    finally:
        if meter is not None:
            meter.finish()
    device = sound_checks.microphones_finding(listed, heard.identity)
    if device is not None:
        yield device
    yield from sound_checks.heard_findings(heard, is_microphone=is_microphone)


def _computer() -> "Iterator[Finding]":
    from node.board import board_name, read_board
    from node.checks.computer_checks import board_findings, clock_finding, read_throttled_word
    from node.delivery.clock import system_clock

    yield from board_findings(read_board(), read_throttled_word(), name=board_name())
    yield clock_finding(system_clock(), time.time())


def _files(settings: "NodeSettings", config: Path | None) -> "Iterator[Finding]":
    from node.checks.computer_checks import secret_findings, state_folder_findings

    yield from state_folder_findings(settings.state_folder)
    yield from secret_findings(config, settings.mqtt)


def _updates(settings: "NodeSettings") -> "Iterator[Finding]":
    from node.checks.update_checks import update_findings

    yield from update_findings(settings.update, settings.state_folder)


def _broker(settings: "NodeSettings") -> "Iterator[Finding]":
    from contract import topics
    from node.checks.broker_checks import broker_findings
    from node.delivery.clock import new_boot_id
    from node.updates.orders import addresses

    boot = new_boot_id(time.time_ns() // 1_000_000, os.urandom(10))
    node = settings.node
    orders: tuple[str, ...] = ()
    if settings.update.keys_file is not None:
        orders = tuple(topics.desired(address) for address in addresses(node.id, node.group))
    yield from broker_findings(settings.mqtt, node=node.id, boot=boot, orders=orders)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= 600.0:
        raise argparse.ArgumentTypeError(f"expected 1 to 600, got {text!r}")
    return seconds


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
