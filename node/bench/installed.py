"""How much disk a program's Python packages take, from what pip wrote when it installed them."""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import msgspec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OWN_PACKAGES = ("contract", "node")


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """Packages on disk. Sizes count 1000 to the next unit."""

    mb: float
    """Size of the files as they are now."""
    without_bytecode_mb: float
    """Without compiled Python (`.pyc`), which pip writes for all modules unless told not to."""
    packages: dict[str, float]
    """The size of each package in MB, the largest first."""


def node_requirements() -> tuple[str, ...] | None:
    """Names of the packages that a node asks for by itself; None where earshot is not installed."""
    try:
        lines = distribution("earshot-fleet").requires or []
    except PackageNotFoundError:
        return None
    runtime = "node" if _found("ai-edge-litert") else "node-tflite"
    wanted = [line for line in lines if "extra ==" not in line or _has_extra(line, runtime)]
    return tuple(_name(line) for line in wanted)


def installed_node() -> Installed | None:
    """The node's packages and what they need, with the node's own code; None where unknown."""
    names = node_requirements()
    if names is None:
        return None
    own = {f"earshot ({name})": _own_files(name) for name in _OWN_PACKAGES}
    return _weighed({**dict(_files_of(names)), **own})


def installed(names: Iterable[str]) -> Installed:
    """These packages and all that they need, as far as they are installed here."""
    return _weighed(dict(_files_of(names)))


def _weighed(packages: dict[str, set[Path]]) -> Installed:
    sizes: dict[str, int] = {}
    bytecode = 0
    for name, files in packages.items():
        of_files = {file: file.stat().st_size for file in files if file.is_file()}
        sizes[name] = sum(of_files.values())
        bytecode += sum(size for file, size in of_files.items() if file.suffix == ".pyc")
    total = sum(sizes.values())
    largest_first = sorted(sizes.items(), key=lambda item: -item[1])
    return Installed(
        mb=round(total / 1e6, 1),
        without_bytecode_mb=round((total - bytecode) / 1e6, 1),
        packages={name: round(size / 1e6, 2) for name, size in largest_first},
    )


def _files_of(names: Iterable[str]) -> Iterator[tuple[str, set[Path]]]:
    """Files of these packages and of those that they need.

    Markers are not evaluated: a requirement that does not apply here is usually not installed, and
    one of an extra never counts.
    """
    waiting, seen = [*names], set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        found = _found(name)
        if name in seen or found is None:
            continue
        seen.add(name)
        yield name, _with_bytecode(found)
        waiting += [_name(line) for line in found.requires or [] if "extra ==" not in line]


def _with_bytecode(package: Distribution) -> set[Path]:
    files = {Path(str(file.locate())) for file in package.files or []}
    # Python adds what pip did not compile, and no list names it.
    compiled = {Path(importlib.util.cache_from_source(str(f))) for f in files if f.suffix == ".py"}
    return files | compiled


def _own_files(package: str) -> set[Path]:
    folder = Path(__file__).parents[2] / package
    return {file for file in folder.rglob("*") if file.is_file()}


def _found(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0] if found else ""


def _has_extra(requirement: str, extra: str) -> bool:
    return re.search(rf"""extra == ["']{re.escape(extra)}["']""", requirement) is not None
