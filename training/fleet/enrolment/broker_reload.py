"""Have the broker read its files again, without ending the connections of those who may stay."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from training.errors import EnrolmentError

ROOT = Path(__file__).parents[3]
_SECONDS = 60.0
SERVICE = "mosquitto"
_BY_COMPOSE = f"docker compose kill -s HUP {SERVICE}"
_WITHOUT_DOCKER = f"sudo pkill -HUP -x {SERVICE}"


class BrokerNotToldError(EnrolmentError):
    """The broker goes by its old files until it reads them again; what was changed stays changed.

    Args:
        reason: why it was not told.
        by_hand: a command that tells it.
    """

    def __init__(self, reason: str, by_hand: str) -> None:
        super().__init__(f"the broker was not told: {reason}")
        self.by_hand = by_hand


def reload_by_pid(pid: int) -> None:
    """Tell a mosquitto that runs on this machine by itself.

    Raises:
        BrokerNotToldError: there is no such process, or it belongs to somebody else.
    """
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise BrokerNotToldError(f"process {pid}: {error.strerror}", _WITHOUT_DOCKER) from error


def reload_by_compose(project: Path = ROOT) -> bool:
    """Tell the broker of docker-compose.yml.

    Returns:
        False when it does not run: it will read its files when it is started.

    Raises:
        BrokerNotToldError: docker compose is not there, or cannot say.
    """
    running = _compose(project, "ps", "--status", "running", "--quiet", SERVICE)
    if not running.strip():
        return False
    _compose(project, "kill", "--signal", "HUP", SERVICE)
    return True


def _compose(project: Path, *arguments: str) -> str:
    docker = shutil.which("docker")
    if docker is None:
        raise BrokerNotToldError("docker is not installed here", _WITHOUT_DOCKER)
    command = [docker, "compose", "--project-directory", str(project), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=project
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerNotToldError(str(error), _BY_COMPOSE) from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()[:40]) or f"exit code {done.returncode}"
        raise BrokerNotToldError(reason, _BY_COMPOSE)
    return done.stdout
