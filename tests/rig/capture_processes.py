"""The capture programs that a test has started, found as an outsider finds them."""

import os
from pathlib import Path


def capture_process_ids() -> list[int]:
    """Children of this process that run `node.sound.capture`, or a part of it."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [
        child for child in map(int, children.split()) if "node.sound.capture" in _command(child)
    ]


def _command(process_id: int) -> str:
    # A zombie has none; that of a process that has just gone cannot be read.
    try:
        return Path(f"/proc/{process_id}/cmdline").read_text()
    except OSError:
        return ""
