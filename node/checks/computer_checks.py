"""Checks of the computer around the node: clock, board, memory, disk, and who may do what.

Nothing here changes anything: what may be written is asked of the system, not tried.
"""

import datetime as dt
import fcntl
import grp
import os
import pwd
import shlex
import shutil
import stat
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from contract.settings import MqttSettings
from contract.states import Clock
from node.board import BoardReadings
from node.findings import Finding, ok, problem, warning

LOCK_NAME: Final = "node.lock"
"""Held (flock) by a running node, in its state folder."""

_FIRST_YEAR: Final = 2025
"""Before this program was written; a Pi without a battery starts at its last shutdown or 1970."""
_LAST_YEAR: Final = 2100
_WARM_C: Final = 75.0
_HOT_C: Final = 80.0
"""From this temperature on a Pi slows its processor down."""
_LITTLE_MEMORY_BYTES: Final = 150_000_000
_NO_MEMORY_BYTES: Final = 80_000_000
"""How much memory a node needs."""
_LITTLE_DISK_BYTES: Final = 500_000_000
_NO_DISK_BYTES: Final = 50_000_000

# The firmware's word: 0 to 3 are of now, 16 to 19 of any time since the start.
_UNDER_VOLTAGE: Final = 1 << 0 | 1 << 16
_SLOWED: Final = 0b1110 | 0b1110 << 16
_NOW: Final = 0xF

_OTHERS: Final = stat.S_IRWXO
_POWER = "use the power supply made for this board and a short cable"


def node_runs(state_folder: Path) -> bool:
    """Whether a running node holds the lock in its state folder."""
    try:
        descriptor = os.open(state_folder / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def clock_finding(clock: Clock, now_s: float) -> Finding:
    """What there is to say of the clock: whether its time stamps can be believed.

    Args:
        clock: whether the kernel's clock is kept in step.
        now_s: seconds since 1970.
    """
    now = dt.datetime.fromtimestamp(now_s, dt.UTC)
    told = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    advice = "`timedatectl` tells more; `sudo timedatectl set-ntp true` and a network cure it"
    if not _FIRST_YEAR <= now.year < _LAST_YEAR:
        return problem("clock", f"{told} cannot be: certificates are refused at that date", advice)
    if clock is not Clock.SYNCED:
        return warning("clock", f"{told}, not synchronised: windows are marked so", advice)
    return ok("clock", f"{told}, synchronised")


def board_findings(
    readings: BoardReadings, throttled_word: int | None, *, name: str
) -> Iterator[Finding]:
    """What there is to say of the board's heat, supply voltage and memory.

    Args:
        readings: how the board is now.
        throttled_word: what the firmware says, see `read_throttled_word`.
        name: of the board.
    """
    word = throttled_word or 0
    celsius = readings.cpu_temperature_c
    heat = "no temperature" if celsius is None else f"{celsius:.0f} °C"
    if word & _UNDER_VOLTAGE:
        when = "now" if word & _UNDER_VOLTAGE & _NOW else "since its start"
        tell = problem if when == "now" else warning
        yield tell("power", f"the supply voltage is too low ({when})", _POWER)
    if word & _SLOWED & _NOW or (celsius is not None and celsius >= _HOT_C):
        yield problem("board", f"{name}, {heat}: slowed down now", "cool it: fins, fan, shade")
    elif word & _SLOWED or (celsius is not None and celsius >= _WARM_C):
        why = "was slowed down since its start" if word & _SLOWED else "near to being slowed down"
        yield warning("board", f"{name}, {heat}: {why}", "cool it: fins, fan, shade")
    else:
        yield ok("board", f"{name}, {heat}")
    free = readings.memory_available_bytes
    if not free:
        return  # not told by this system
    told = f"{free / 1e6:.0f} MB free"
    if free < _NO_MEMORY_BYTES:
        yield problem("memory", told, "stop other programs; a node needs about 80 MB")
    elif free < _LITTLE_MEMORY_BYTES:
        yield warning("memory", told, "stop other programs; a node needs about 80 MB")
    else:
        yield ok("memory", told)


def read_throttled_word(root: Path = Path("/")) -> int | None:
    """What a Pi's firmware says of heat and voltage; None on other boards."""
    with suppress(OSError, ValueError):
        file = root / "sys/devices/platform/soc/soc:firmware/get_throttled"
        return int(file.read_text("ascii"), 16)
    return None


def state_folder_findings(folder: Path) -> Iterator[Finding]:
    """Whether the node can keep what it learns: permission, file system, space."""
    here = _nearest(folder)
    where = f"{folder.absolute()}" + ("" if here == folder else " (not made yet)")
    if here != folder and not os.access(here, os.X_OK):
        yield problem(
            "state folder",
            f"{folder.absolute()}: {_user()} may not enter {here.absolute()}",
            f"choose another [node] state_folder, or: sudo chmod a+x {_quoted(here)}",
        )
        return
    if os.access(folder, os.F_OK) and not _is_folder(folder):
        yield problem("state folder", f"{where}: expected a folder, got a file", "move it away")
        return
    foreign = _foreign(folder)
    if os.statvfs(here).f_flag & os.ST_RDONLY:
        yield problem(
            "state folder",
            f"{where} is on a file system that is read-only",
            "choose another [node] state_folder, or remount; a card that fails turns read-only",
        )
    elif not os.access(here, os.W_OK | os.X_OK):
        yield problem(
            "state folder",
            f"{where}: {_user()} may not write to {here.absolute()}",
            f"sudo mkdir -p {_quoted(folder)} && sudo chown -R {_user()} {_quoted(folder)}",
        )
    elif foreign is not None:
        yield problem(
            "state folder",
            f"{foreign.absolute()}: {_user()} may not read it (written by another user?)",
            f"sudo chown -R {_user()} {_quoted(folder)}",
        )
    else:
        yield ok("state folder", f"{where} can be written")
    free = shutil.disk_usage(here).free
    told = f"{free / 1e6:.0f} MB free at {here.absolute()}"
    if free < _NO_DISK_BYTES:
        yield problem("disk", told, "delete what is not needed: `sudo du -xh / | sort -h | tail`")
    elif free < _LITTLE_DISK_BYTES:
        yield warning("disk", told, "delete what is not needed: `sudo du -xh / | sort -h | tail`")
    else:
        yield ok("disk", told)


def secret_findings(settings_file: Path | None, mqtt: MqttSettings) -> Iterator[Finding]:
    """Whether other users of this computer can read a password or a key."""
    secrets = []
    if settings_file is not None and _holds_password(settings_file):
        secrets.append(("the password in it", settings_file))
    if mqtt.password_file is not None:
        secrets.append(("the password", Path(mqtt.password_file)))
    if mqtt.key_file is not None:
        secrets.append(("the key", Path(mqtt.key_file)))
    for what, file in secrets:
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError as error:
            yield problem("secrets", f"{file}: {error.strerror}", "correct the path in [mqtt]")
            continue
        if mode & _OTHERS:
            yield problem(
                "secrets",
                f"{file}: every user can read {what} ({mode:04o})",
                f"chmod 600 {_quoted(file)}",
            )
        elif not os.access(file, os.R_OK):
            yield problem(
                "secrets",
                f"{file}: {_user()} may not read it",
                f"sudo chown {_user()} {_quoted(file)}",
            )
        else:
            yield ok("secrets", f"{file} is closed to other users")


def sound_device_findings(devices: Path = Path("/dev/snd")) -> Iterator[Finding]:
    """Whether this user may open the capture devices that there are."""
    with suppress(OSError):
        closed = [
            device
            for device in sorted(devices.glob("pcm*c"))
            if not os.access(device, os.R_OK | os.W_OK)
        ]
        if closed:
            yield problem(
                "audio group",
                f"{_user()} may not open {closed[0]}"
                + ("" if _in_audio_group() else ", not being in the group audio"),
                f"sudo usermod -aG audio {_user()}, then log in again",
            )


def _holds_password(settings_file: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError):
        document = tomllib.loads(settings_file.read_text("utf-8-sig"))
        return "password" in document.get("mqtt", {})
    return False


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    if _is_folder(folder):
        return folder
    return next((above for above in folder.absolute().parents if _is_folder(above)), Path("/"))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # it lies in a folder that is closed to us
        return False


def _foreign(folder: Path) -> Path | None:
    """Something in a folder that this user may not read, such as what root has left there."""
    for place, folders, files in os.walk(folder):
        for name in sorted(folders):
            if not os.access(Path(place, name), os.R_OK | os.X_OK):
                return Path(place, name)
        for name in sorted(files):
            path = Path(place, name)
            # What was removed since it was listed, or is a link to nothing, nobody reads.
            if not os.access(path, os.R_OK) and os.access(path, os.F_OK):
                return path
    return None


def _quoted(path: Path) -> str:
    """For a command that somebody copies."""
    return shlex.quote(str(path.absolute()))


def _in_audio_group() -> bool:
    with suppress(KeyError):
        return grp.getgrnam("audio").gr_gid in (*os.getgroups(), os.getegid())
    return False


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
