"""What a program in the node's place can see and do, as JSON: run by `evening_of_a_node.sh`."""

import ctypes
import importlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def outcome(attempt: Callable[[], object]) -> str:
    """What came of it: the value, or the kind of error."""
    try:
        return str(attempt())
    except Exception as error:
        return type(error).__name__


def ask_clock() -> int:
    """The kernel's answer: 0 to 5 is the clock's state, -1 that one may not ask."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))


def call_back() -> int:
    """What PortAudio does for each block of sound: C calls Python, through code made by cffi."""
    foreign = importlib.import_module("cffi").FFI()
    callback = foreign.callback("int(int)", lambda number: number + 1)
    return int(callback(41))


def capture_process() -> str:
    """The capture process as the node starts it, asked for microphones; there are none."""
    command = [sys.executable, "-m", "node.sound.capture", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


def write(path: str) -> str:
    """The mode of a new file."""
    Path(path).write_text("x")
    return oct(Path(path).stat().st_mode & 0o777)


def release_keys() -> int:
    """How many keys the node finds in the file that root has left for it."""
    keys = importlib.import_module("node.updates.trusted_keys")
    return len(keys.read_keys_file(Path("/etc/earshot/release-keys.pem")))


def self_test() -> str:
    """What the child process says that tests a release before it may run."""
    command = [sys.executable, "-m", "node.updates.self_test"]
    command.append("/opt/earshot/current/models/fan-synthetic")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout or done.stderr


VIEW: dict[str, Callable[[], object]] = {
    "clock": ask_clock,
    "callback": call_back,
    "capture process": capture_process,
    "memory": lambda: "MemAvailable" in Path("/proc/meminfo").read_text(),
    "group audio": lambda: Path("/srv/sound-card").read_text().strip(),
    "names": lambda: socket.getaddrinfo("localhost", 1883)[0][4][1],
    "write state": lambda: write("/var/lib/earshot/new"),
    "release keys": release_keys,
    "self-test": self_test,
    "write release keys": lambda: write("/etc/earshot/release-keys.pem"),
    "write settings": lambda: write("/etc/earshot/new"),
    "write code": lambda: write("/opt/earshot/current/new"),
    "homes": lambda: list(Path("/root").iterdir()),
    "set clock": lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
    "raw network": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "other processes": lambda: Path("/proc/1").exists(),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: outcome(attempt) for name, attempt in VIEW.items()}))
