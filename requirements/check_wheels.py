#!/usr/bin/env python3
"""Shows that every package of a node's lock has a wheel for a 64-bit Pi, and what they weigh.

    python requirements/check_wheels.py

Downloads, with the hashes of the lock and without building anything, what `node/install-pi.sh`
would install on Raspberry Pi OS Bookworm (Python 3.11) and Trixie (3.13), and on Python 3.12; and
what the collector's image for arm64 takes. Exits with 1 and pip's own words when a wheel is
missing. Needs a package index, so it is no part of `make test`; `.ci/run` calls it. It takes
seconds where the index is near.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parent
LOCKS = {
    "node.txt": ("3.11", "3.12", "3.13"),
    "node-tflite.txt": ("3.11",),
    "collector.txt": ("3.13",),  # its image is for arm64 as well
}
# Bookworm has glibc 2.36 (Trixie 2.41): what runs there was built for that or for an earlier one.
PLATFORMS = [
    "manylinux2014_aarch64",
    *(f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)),
]


def main() -> int:
    """Check every lock on every Python."""
    failed = False
    for lock, pythons in LOCKS.items():
        for python in pythons:
            with tempfile.TemporaryDirectory() as folder:
                problem = download(REQUIREMENTS / lock, python, Path(folder))
                if problem is None:
                    say(f"{lock}, Python {python}, aarch64: {weight(Path(folder))}")
                else:
                    say(f"{lock}, Python {python}, aarch64: {problem}")
                    failed = True
    return int(failed)


def download(lock: Path, python: str, folder: Path) -> str | None:
    """Fetch the wheels; None, or what is missing."""
    chosen = folder / "lock.txt"
    chosen.write_text(for_a_pi(lock.read_text("utf-8"), python), "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(chosen)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "; ".join(errors) or done.stderr


def for_a_pi(lock: str, python: str) -> str:
    """The lock without markers, holding only what they say a Pi gets.

    pip asks markers of the Python that it runs in, whatever --python-version says: on 3.11 it
    would look for the NumPy of 3.11 three times.
    """
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    kept = []
    for entry in lock.replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        text, *hashes = entry.split(" --hash=")
        requirement = Requirement(text.strip())
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            kept.append(" --hash=".join([str(requirement), *hashes]))
    return "\n".join(kept)


def weight(folder: Path) -> str:
    """What the wheels take unpacked, and the three largest."""
    sizes = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            sizes[wheel.name.partition("-")[0]] = sum(file.file_size for file in archive.infolist())
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    parts = ", ".join(f"{name} {sizes[name] / 1e6:.1f}" for name in largest)
    return f"{len(sizes)} wheels, {sum(sizes.values()) / 1e6:.0f} MB unpacked ({parts})"


def say(text: str) -> None:
    """One line."""
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
