"""Who may import whom: `tests/rooms.toml` says it, and CONTRIBUTING.md shows it as a map.

An import inside a function counts like one at a module's top.

    python -m tests.test_boundaries   # writes the map into CONTRIBUTING.md anew
"""

import ast
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

_ROOT: Final = Path(__file__).parents[1]
_CONTRIBUTING: Final = _ROOT / "CONTRIBUTING.md"
_BEGIN: Final = "<!-- map: written by `python -m tests.test_boundaries` -->\n"
_END: Final = "<!-- end of the map -->\n"
_IMPURE: Final = {"contract.session", "contract.talk", "contract.command_line"}
"""The modules of contract that wait on a broker, or look for files; all others are pure."""


class Room(NamedTuple):
    """A folder of modules, as `tests/rooms.toml` describes it."""

    what: str
    doors: tuple[str, ...] = ()
    """Modules that other rooms import; none named: all of them."""
    may: tuple[str, ...] = ()
    """Rooms, or single modules, that it imports beside contract and the ground of its package."""
    ground: tuple[str, ...] = ()
    """Of a package: modules that all of its rooms may import, and that import no room."""


def _read_rooms() -> dict[str, Room]:
    found = tomllib.loads((_ROOT / "tests" / "rooms.toml").read_text("utf-8"))
    return {
        name: Room(room.pop("what"), **{key: tuple(names) for key, names in room.items()})
        for name, room in found.items()
    }


_ROOMS: Final = _read_rooms()
_PACKAGES: Final = sorted({name.partition(".")[0] for name in _ROOMS})


def _modules() -> dict[str, Path]:
    found = {}
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            parts = file.relative_to(_ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


_MODULES: Final = _modules()


def _room_of(module: str) -> str:
    """The innermost room that a module lies in; the package itself for its top and its ground."""
    name = module if _MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    while name not in _ROOMS:
        name = name.rpartition(".")[0]
    return name


def _imports(module: str) -> Iterator[str]:
    """Modules of ours that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(_MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in _MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in _MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in _MODULES else node.module


_ARROWS: Final = sorted({(module, to) for module in _MODULES for to in _imports(module)})


def _is_ground(module: str) -> bool:
    package, _, name = module.rpartition(".")
    return package in _ROOMS and name in _ROOMS[package].ground


def _allowed(module: str, to: str) -> bool:
    room, other = _room_of(module), _room_of(to)
    package = room.partition(".")[0]
    may = _ROOMS[room].may
    if other == "contract" or (room == other and "." in room):
        return True
    if package == other.partition(".")[0]:
        if room == package:  # its ground uses nothing but itself; its top uses all of its rooms
            return _is_ground(to) or not _is_ground(module)
        if _is_ground(to):
            return True
    return other in may or to in may


@pytest.mark.parametrize("package", _PACKAGES)
def test_arrows_are_those_of_the_map(package: str) -> None:
    """No room imports one that does not belong below it, at a module's top or in a function."""
    wrong = [
        f"{module} imports {to}"
        for module, to in _ARROWS
        if module.partition(".")[0] == package and not _allowed(module, to)
    ]

    assert not wrong
    assert any(module.partition(".")[0] == package for module, _ in _ARROWS), "nothing was read"


def test_rooms_are_entered_by_their_doors() -> None:
    """What a room does not name as a door is its own affair."""
    wrong = [
        f"{module} imports {to}"
        for module, to in _ARROWS
        if _room_of(module) != _room_of(to)
        and _ROOMS[_room_of(to)].doors
        and to.rpartition(".")[2] not in _ROOMS[_room_of(to)].doors
    ]

    assert not wrong


def test_what_the_map_allows_is_used() -> None:
    """A door that nobody uses, or an arrow that nobody needs, would be a way in for later."""
    used_arrows = {(_room_of(module), to) for module, to in _ARROWS}
    used_rooms = {(room, _room_of(to)) for room, to in used_arrows}
    idle = [
        f"{name} -> {to}"
        for name, room in _ROOMS.items()
        for to in room.may
        if (name, to) not in used_rooms | used_arrows
    ]
    entered = {to for module, to in _ARROWS if _room_of(module) != _room_of(to)}
    idle += [
        f"door {name}.{door}"
        for name, room in _ROOMS.items()
        for door in room.doors
        if f"{name}.{door}" not in entered
    ]

    assert not idle


def test_no_circles() -> None:
    """Neither modules nor rooms import each other in a circle."""
    modules: dict[str, set[str]] = {name: set() for name in _MODULES}
    rooms: dict[str, set[str]] = {}
    for module, to in _ARROWS:
        modules[module].add(to)
        room, other = _floor(module), _floor(to)
        if room != other:
            rooms.setdefault(room, set()).add(other)

    assert not _circle(modules)
    assert not _circle(rooms)


def _floor(module: str) -> str:
    """What of a room counts as one: a package's modules are above, below or between its rooms."""
    room = _room_of(module)
    return room if "." in room or room in ("contract", "demo", "bench") else module


def _circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Nodes that are left when all without arrows have gone, again and again."""
    left = {name: set(to) for name, to in arrows.items()}
    while True:
        ends = {name for name, to in left.items() if not (to & left.keys()) - {name}}
        if not ends:
            return sorted(left)
        left = {name: to for name, to in left.items() if name not in ends}


def test_circle_is_found() -> None:
    """The check itself."""
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert not _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_every_folder_is_a_room() -> None:
    """A new folder says in `tests/rooms.toml` what it is for."""
    folders = {module for module, file in _MODULES.items() if file.name == "__init__.py"}

    of_packages = {name for name in folders if name.count(".") < 2}

    assert of_packages <= set(_ROOMS) <= folders


def test_only_the_session_imports_paho() -> None:
    """The traps of the MQTT library are dealt with in one place."""
    importers = [
        name for name in _MODULES if "paho" in _libraries(name) and not name.startswith("bench.")
    ]

    assert importers == ["contract.session"]


@pytest.mark.parametrize("library", ["socket", "pathlib", "os", "time", "io", "threading"])
def test_contract_is_pure_but_for_what_says_otherwise(library: str) -> None:
    """Nothing else in contract opens a socket or a file, or asks the time."""
    importers = {
        name for name in _MODULES if name.startswith("contract.") and library in _libraries(name)
    }

    assert importers <= _IMPURE


def _libraries(module: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(_MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def test_contributing_shows_the_map() -> None:
    """What a reader sees is what the tests hold."""
    text = _CONTRIBUTING.read_text("utf-8")

    assert text == _with_map(text), "write it anew: python -m tests.test_boundaries"


def _with_map(text: str) -> str:
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_drawn()}\n{_END}{after}"


def _drawn() -> str:
    lines = []
    for name, room in _ROOMS.items():
        *outer, last = name.split(".")
        head = f"    {'  ' * len(outer)}{last}/"
        says = room.what
        if room.doors:
            says += f" Doors: {', '.join(room.doors)}."
        if room.may:
            package = f"{outer[0]}." if outer else None
            says += " → " + ", ".join(to.removeprefix(package or "") for to in room.may)
        if room.ground:
            says += f" Ground: {', '.join(room.ground)}."
        lines += textwrap.wrap(
            says,
            100,
            initial_indent=f"{head:<20}",
            subsequent_indent=" " * 20,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    _CONTRIBUTING.write_text(_with_map(_CONTRIBUTING.read_text("utf-8")), "utf-8")
