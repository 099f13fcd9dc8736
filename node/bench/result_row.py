"""The reference design's table of results: its columns, and a file that only ever grows.

Training and `earshot node bench` write rows of it, so that runs on different computers can be set
beside each other. What nobody measured is an empty cell, never 0.
"""

import csv
import errno
import fcntl
import io
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from contract.errors import EarshotError
from node.board import board_name, operating_system

COLUMNS = (
    "timestamp",
    "git_hash",
    "platform",
    "device",
    "cpu/npu/gpu",
    "dataset",
    "split",
    "seed",
    "model_name",
    "bundle_size_mb",
    "model_size_kb",
    "params_millions",
    "latency_ms_p50",
    "latency_ms_p95",
    "ttfi_ms",
    "fps",
    "peak_ram_mb",
    "bandwidth_mb",
    "power_w",
    "metric_name",
    "metric_value",
    "notes",
)
"""Names and order of the columns, as in the reference design."""

_GIT_SECONDS = 10
# Longer than the heads; enough to tell a table of ours from anything else.
_HEAD_BYTES = 4096


class ResultsFileError(EarshotError):
    """A file that rows cannot be added to: name another one."""


def append_row(path: Path, row: Mapping[str, str]) -> None:
    """Add one row to a table, making the file with its heads where there is none yet.

    What the file holds is never rewritten; a row goes in whole or not at all.

    Args:
        path: the file (RFC 4180).
        row: cells by column; those that are not named are empty.

    Raises:
        ResultsFileError: the file has other columns, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResultsFileError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        # Two benches of one table would both write its heads.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _append(descriptor, path, row)
    except OSError as error:
        raise ResultsFileError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)


def check_results_file(path: Path) -> None:
    """Make sure, before minutes of measuring, that rows may be added to this file.

    Raises:
        ResultsFileError: it has other columns, or its folder is not there.
    """
    if not path.parent.is_dir():
        raise ResultsFileError(f"{path}: expected an existing folder to write it into")
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            _check_head(file.read(_HEAD_BYTES), path)
    except OSError as error:
        raise ResultsFileError(f"{path}: cannot be read: {error.strerror}") from error


def checkout_hash(package: Path) -> str | None:
    """The commit of the checkout that a package belongs to, `-dirty` behind it if files changed.

    Args:
        package: its folder.

    Returns:
        None without Git, outside a checkout, or where a checkout around it does not track it, as
        with a virtual environment inside another project.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def platform_name() -> str:
    """The names of the operating system and the instruction set."""
    return f"{operating_system()}, {platform.machine()}"


def device_name() -> str:
    """The name of the board, or else of the processor."""
    if Path("/proc/device-tree/model").exists():
        return board_name()
    return processor_name() or board_name()


def processor_name() -> str | None:
    """As the processor calls itself; ARM's do not."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _append(descriptor: int, path: Path, row: Mapping[str, str]) -> None:
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, _HEAD_BYTES, 0)
    # As the file has them; RFC 4180 says CR LF.
    line_end = "\n" if b"\n" in head and b"\r\n" not in head else "\r\n"
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator=line_end)
    if not size:
        table.writeheader()
    else:
        _check_head(head, path)
        if os.pread(descriptor, 1, size - 1) != b"\n":
            text.write(line_end)
    table.writerow(row)
    content = text.getvalue().encode()
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _check_head(start: bytes, path: Path) -> None:
    if not start:
        return
    # A spreadsheet may have put a byte order mark in front.
    line = start.decode("utf-8-sig", errors="replace").splitlines()[0]
    found = next(csv.reader([line]), [])
    if tuple(found) != COLUMNS:
        raise ResultsFileError(
            f"{path}: expected a table of results with the columns {COLUMNS[0]} to {COLUMNS[-1]}"
            f" ({len(COLUMNS)}), got another head ({line[:60]!r}); name another file"
        )


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # Others may be at work in the checkout: its index is not to be refreshed.
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
