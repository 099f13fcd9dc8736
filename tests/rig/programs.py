"""Programs of the fleet as subprocesses, for tests with real processes."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from contract.settings import ENVIRONMENT_PREFIX
from tests.rig.brokers import Mosquitto

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "fan-synthetic"

_STATE_FOLDERS = tempfile.mkdtemp(prefix="earshot-tests-")
atexit.register(shutil.rmtree, _STATE_FOLDERS, ignore_errors=True)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment, with these settings and no others of earshot's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, **settings}


def node_settings(broker: Mosquitto | None, source: str, **more: str) -> dict[str, str]:
    """Settings of a node that remembers nothing, as environment variables.

    Args:
        broker: None for a node that never connects.
        source: what it hears.
        more: further settings, without the prefix.
    """
    found = {
        "EARSHOT_NODE_ID": "press-07",
        "EARSHOT_NODE_STATE_FOLDER": tempfile.mkdtemp(dir=_STATE_FOLDERS),
        "EARSHOT_MODEL_FOLDER": str(MODEL),
        "EARSHOT_SOURCE_SPEC": source,
        # A listener sends no receipts.
        "EARSHOT_OUTBOX_RECEIPTS": "broker",
        # The clock of a container may never be synchronised.
        "EARSHOT_CLOCK_WAIT_SECONDS": "0",
    }
    if broker is not None:
        found |= {"EARSHOT_MQTT_HOST": broker.host, "EARSHOT_MQTT_PORT": str(broker.port)}
    return found | {ENVIRONMENT_PREFIX + name: value for name, value in more.items()}


class Program(subprocess.Popen[str]):
    """A program that is killed when its `with` is left: a test that fails leaves none behind."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        super().__exit__(kind, value, traceback)


def start(package: str, *arguments: str, settings: Mapping[str, str]) -> Program:
    """`python -m PACKAGE ARGUMENTS` in the background, for a `with`."""
    return Program(
        [sys.executable, "-m", package, *arguments],
        cwd=ROOT,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    package: str, *arguments: str, settings: Mapping[str, str], seconds: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """`python -m PACKAGE ARGUMENTS` until it ends."""
    with start(package, *arguments, settings=settings) as program:
        out, err = program.communicate(timeout=seconds)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)
