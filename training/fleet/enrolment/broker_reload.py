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
BY_HAND = f"docker compose kill -s HUP {SERVICE}"


def reload_by_pid(pid: int) -> None:
    """For a mosquitto that runs on this machine by itself.

    Raises:
        EnrolmentError: there is no such process, or it belongs to somebody else.
    """
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise EnrolmentError(
            f"the broker, process {pid}, was not told: {error.strerror}"
        ) from error


def reload_by_compose(project: Path = ROOT) -> bool:
    """For the broker of docker-compose.yml.

    Returns:
        False when it does not run: it will read its files when it is started.

    Raises:
        EnrolmentError: docker compose is not there, or cannot say.
    """
    running = _compose(project, "ps", "--status", "running", "--quiet", SERVICE)
    if not running.strip():
        return False
    _compose(project, "kill", "--signal", "HUP", SERVICE)
    return True


def _compose(project: Path, *arguments: str) -> str:
    docker = shutil.which("docker")
    if docker is None:
        raise EnrolmentError(f"the broker was not told: docker is not installed here; {BY_HAND}")
    command = [docker, "compose", "--project-directory", str(project), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=project
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnrolmentError(f"the broker was not told: {error}; {BY_HAND}") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()[:40]) or f"exit code {done.returncode}"
        raise EnrolmentError(f"the broker was not told: {reason}; {BY_HAND}")
    return done.stdout
