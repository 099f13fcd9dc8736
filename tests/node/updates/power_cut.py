"""A disk that loses its power: what was not forced to it may be gone, or half there.

`Disk` stands in for the calls of `os` that change names or force data, for files below one folder.
Before the n-th of them the power goes (`PowerCut`). `aftermath` then makes a folder as the next
start may find it: of each name that came or went since its folder was last forced to the disk, and
of each byte since its file was, chance decides whether it has got there. More cruel than ext4, and
within what POSIX allows; a name in place of another (rename) is one or the other, never none.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the real one."""


class _File:
    def __init__(self, durable: bytes | None) -> None:
        self.durable = durable
        """What is there after a cut, if it has ever been forced there."""


class _Folder:
    def __init__(self) -> None:
        self.durable: dict[str, _File | _Folder] = {}
        """Names that are there after a cut."""


class Disk:
    """Watches what happens below a folder; everything that is there now is safe.

    Args:
        root: the folder.
        cut_before: the number of the call that no longer happens, from 0; None for no cut.
    """

    def __init__(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, *, cut_before: int | None = None
    ) -> None:
        self.calls = 0
        self._root = root
        self._cut_before = cut_before
        self._nodes: dict[int, _File | _Folder] = {}
        self._learn(root)
        monkeypatch.setattr(os, "fsync", self._fsync)
        for name, of_two in (("rename", True), ("replace", True)):
            monkeypatch.setattr(os, name, self._changing(getattr(os, name), of_two=of_two))
        for name in ("mkdir", "rmdir", "unlink", "remove"):
            monkeypatch.setattr(os, name, self._changing(getattr(os, name), of_two=False))

    def aftermath(self, target: Path, chance: random.Random) -> None:
        """Make what may be found."""
        actual = {id(self._node(path)): path for path in (self._root, *self._root.rglob("*"))}
        self._rebuild(self._node(self._root), actual, target, chance)

    def _fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.is_relative_to(self._root):
            return
        self._count()
        node = self._node(path)
        if isinstance(node, _File):
            node.durable = path.read_bytes()
        else:
            node.durable = {child.name: self._node(child) for child in path.iterdir()}

    def _changing(self, call: Callable[..., Any], *, of_two: bool) -> Callable[..., Any]:
        def counted(path: Any, *arguments: Any, **options: Any) -> Any:
            folder = options.get("dir_fd")
            base = Path() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
            if not (base / path).absolute().is_relative_to(self._root):
                return call(path, *arguments, **options)
            self._count()
            lost = Path(arguments[0]) if of_two else base / path
            # Its number may be given to another file; what is renamed keeps its own.
            node = lost.lstat().st_ino if lost.exists() else None
            done = call(path, *arguments, **options)
            if node is not None:
                self._nodes.pop(node, None)
            return done

        return counted

    def _count(self) -> None:
        if self._cut_before is not None and self.calls >= self._cut_before:
            raise PowerCut
        self.calls += 1

    def _learn(self, path: Path) -> "_File | _Folder":
        node = self._node(path)
        if isinstance(node, _File):
            node.durable = path.read_bytes()
        else:
            node.durable = {child.name: self._learn(child) for child in path.iterdir()}
        return node

    def _node(self, path: Path) -> "_File | _Folder":
        number = path.lstat().st_ino
        if number not in self._nodes:
            self._nodes[number] = _Folder() if path.is_dir() else _File(None)
        return self._nodes[number]

    def _rebuild(
        self,
        node: "_File | _Folder",
        actual: dict[int, Path],
        target: Path,
        chance: random.Random,
    ) -> None:
        path = actual.get(id(node))
        if isinstance(node, _File):
            target.write_bytes(_content(node, path, chance))
            return
        target.mkdir()
        now = {} if path is None else {child.name: self._node(child) for child in path.iterdir()}
        for name in sorted({*node.durable, *now}):
            kept = chance.choice((node.durable.get(name), now.get(name)))
            if kept is not None:
                self._rebuild(kept, actual, target / name, chance)


def _content(file: _File, path: Path | None, chance: random.Random) -> bytes:
    now = b"" if path is None else path.read_bytes()
    if now == file.durable or path is None:
        return file.durable or b""
    # What was only added to does not lose what was there.
    safe = len(file.durable) if file.durable and now.startswith(file.durable) else 0
    size = chance.randint(safe, len(now))
    torn = (now, now[:size], now[:size] + bytes(len(now) - size), now[:safe])
    return chance.choice(torn if file.durable is None else (*torn, file.durable))
