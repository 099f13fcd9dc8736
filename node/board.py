"""What the computer says of itself: model, temperature, throttling, memory, disk.

Everything is read from files that Linux keeps; what a board does not have is None.
"""

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

# Bits 0 to 3 of the firmware's word: under-voltage, frequency capped, throttled, soft limit; now.
_THROTTLED_NOW = 0b1111


class BoardReadings(msgspec.Struct, frozen=True, kw_only=True):
    """How the computer is now."""

    cpu_temperature_c: float | None
    throttled: bool | None
    memory_rss_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int


def board_name(root: Path = Path("/")) -> str:
    """The board's own name, for example "Raspberry Pi 4 Model B Rev 1.4", else the machine type."""
    name = _text(root / "proc/device-tree/model").rstrip("\0\n")
    return name or f"{platform.machine()} {platform.system()}".strip()


def operating_system() -> str:
    """Name of the distribution, else of the kernel."""
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.platform())
    return platform.platform()


def read_board(root: Path = Path("/")) -> BoardReadings:
    """The readings now; `root` is where /proc and /sys are found."""
    millidegrees = _number(root / "sys/class/thermal/thermal_zone0/temp", 10)
    throttled = _number(root / "sys/devices/platform/soc/soc:firmware/get_throttled", 16)
    return BoardReadings(
        cpu_temperature_c=None if millidegrees is None else millidegrees / 1000,
        throttled=None if throttled is None else bool(throttled & _THROTTLED_NOW),
        memory_rss_bytes=_kib(root / "proc/self/status", "VmRSS:"),
        memory_available_bytes=_kib(root / "proc/meminfo", "MemAvailable:"),
        disk_free_bytes=shutil.disk_usage(os.curdir).free,
    )


def _number(path: Path, base: int) -> int | None:
    with suppress(ValueError):
        return int(_text(path), base)
    return None


def _kib(path: Path, label: str) -> int:
    for line in _text(path).splitlines():
        if line.startswith(label):
            with suppress(ValueError, IndexError):
                return int(line.split()[1]) * 1024
    return 0


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("utf-8", errors="replace")
    return ""
