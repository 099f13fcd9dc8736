"""A signed update to the demo's nodes, by the commands that a user types; each is shown.

The nodes get public keys, and are quick to judge. One of them has a bound that no model meets, so
that there is a roll-back to see.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from contract.command_line import typed
from contract.errors import EarshotError
from contract.release import MANIFEST_NAME, Manifest
from contract.states import UpdatePhase
from demo.broker import Broker
from demo.programs import run_command
from demo.summary import NodeSummary

TRIAL_WINDOWS = 8
CONFIRM_WINDOWS = 4
# Scores are multiples of the threshold; healthy sound has a few tenths.
IMPOSSIBLE_SCORE = 0.001

_SOME_NODES_FAILED = 1
"""The exit code of `push --wait` for that."""
_TIMEOUT_SECONDS = 120


class Keys(NamedTuple):
    """The two files of a key pair."""

    private: Path
    public: Path


class DemoUpdate(NamedTuple):
    """An update of the demo: what goes out, and what has to come of it."""

    trained: Path
    """The folder that is released."""
    name: str
    before: str
    """The release that all nodes run."""
    version: int
    refusing: str
    """The node whose trial is made to fail."""

    @property
    def label(self) -> str:
        """The new release."""
        return f"{self.name}@{self.version}"


def plan(model: Path, manifest: Manifest, *, refusing: str) -> DemoUpdate:
    """Plan the next version of the demo's model: its dynamic-range variant, where it has one."""
    variant = model / "variants" / "dynamic"
    return DemoUpdate(
        trained=variant if (variant / MANIFEST_NAME).is_file() else model,
        name=manifest.name,
        before=manifest.label,
        version=manifest.version + 1,
        refusing=refusing,
    )


def create_keys(folder: Path, console: Console) -> Keys:
    """Make the pair that the nodes are to trust.

    Raises:
        EarshotError: it cannot be made.
    """
    private = folder / "release-key.pem"
    _run(["fleet", "keys", "create", "--out", str(private)], console)
    return Keys(private, folder / "release-key.pub.pem")


def node_settings(node: str, update: DemoUpdate, keys: Keys) -> dict[str, str]:
    """Give the settings that let a node take updates, as environment variables."""
    settings = {
        "EARSHOT_UPDATE_KEYS_FILE": str(keys.public),
        "EARSHOT_UPDATE_TRIAL_WINDOWS": str(TRIAL_WINDOWS),
        "EARSHOT_UPDATE_CONFIRM_WINDOWS": str(CONFIRM_WINDOWS),
    }
    if node == update.refusing:
        settings["EARSHOT_UPDATE_MAX_TRIAL_SCORE"] = f"{IMPOSSIBLE_SCORE:g}"
    return settings


def send(update: DemoUpdate, keys: Keys, broker: Broker, console: Console) -> None:
    """Release, push to all, and wait for what becomes of it.

    Raises:
        EarshotError: a command has not ended as it should.
    """
    release = keys.private.parent / f"{update.name}-{update.version}"
    console.print(f"\nA signed update, {update.label}, goes out to all nodes while they listen.")
    signed = ["--key", str(keys.private)]
    named = ["--name", update.name, "--version", str(update.version)]
    _run(
        ["training", "release", _shown(update.trained), *named, "--out", str(release), *signed],
        console,
    )
    push = ["fleet", "push", str(release), "--to", "all", "--wait"]
    push += ["--timeout", str(_TIMEOUT_SECONDS)]
    push += ["--broker", f"{broker.host}:{broker.port}", *signed]
    _run(push, console, expected=_SOME_NODES_FAILED)
    console.print(
        f"Exit code {_SOME_NODES_FAILED} says that not every node has committed it. Here that was"
        f" meant: {update.refusing} runs with EARSHOT_UPDATE_MAX_TRIAL_SCORE={IMPOSSIBLE_SCORE:g},"
        f" which no model meets, and stays with {update.before}.\n"
    )


def unexpected(update: DemoUpdate, summaries: Sequence[NodeSummary]) -> list[str]:
    """Tell in what the nodes differ from what the update should have come to."""
    found = []
    for summary in summaries:
        model, phase = update.label, UpdatePhase.COMMITTED
        if summary.node == update.refusing:
            model, phase = update.before, UpdatePhase.ROLLED_BACK
        if (summary.model, summary.update) != (model, phase):
            found.append(
                f"expected {summary.node} to run {model} and to say {phase}, got {summary.model}"
                f" and {summary.update or 'nothing'}"
            )
    return found


def _run(words: list[str], console: Console, *, expected: int = 0) -> None:
    console.print(f"$ {typed(shlex.join(words))}", soft_wrap=True, highlight=False)
    code = run_command(words)
    if code != expected:
        raise EarshotError(
            f"{' '.join(words[:2])} ended with exit code {code}, expected {expected}"
        )


def _shown(path: Path) -> str:
    """As a person in this folder would type it."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
