"""Clears from the broker what no order and no node names, once a person has agreed."""

from collections.abc import Callable

from contract import topics
from contract.topics import Kind
from training.fleet.broker import retained
from training.fleet.clearing import Clearing, what_to_clear
from training.fleet.orders import EXIT_NOT_ALL, Access, Desk, at_desk
from training.fleet.rollout_screen import Screen
from training.fleet.rollout_tables import counted
from training.fleet.shelf import KeptRelease, kept_releases

Ask = Callable[[str], bool]
"""Asks a person a question, and gives whether the answer is yes."""


def retire(access: Access, screen: Screen, ask: Ask) -> int:
    """Clear what the broker keeps of releases that no order and no node names; the exit code.

    Not while a push is under way: its chunks are named by nothing yet. What comes while a person
    thinks about it is seen, and nothing is cleared then.

    Raises:
        UnclearUseError: it cannot be told what is in use.
    """

    def work(desk: Desk) -> int:
        clearing, kept = _what_to_clear(desk, access)
        if clearing.spared:
            screen.note(
                f"{clearing.spared} files of no release stay, as a node fetches a release whose"
                " manifest is not here"
            )
        if not clearing.releases and not clearing.files:
            named = "all else" if clearing.spared else "all"
            screen.note(f"nothing to clear: orders and nodes name {named} that the broker keeps")
            return 0
        screen.print_lines(_clearing_lines(clearing, kept, checked=bool(access.trusted)))
        if not ask("clear this from the broker?"):
            screen.note("nothing was cleared")
            return 0
        if _what_to_clear(desk, access)[0] != clearing:
            screen.note(
                "nothing was cleared: what is in use has changed since you were asked, as by a push"
                " or a node that has begun; give the command again"
            )
            return EXIT_NOT_ALL
        cleared = _clear(desk, clearing)
        screen.note(
            f"cleared {counted(len(clearing.releases), 'release')}, {counted(cleared, 'chunk')}"
        )
        return 0

    return at_desk(access, screen, work)


def _what_to_clear(desk: Desk, access: Access) -> tuple[Clearing, dict[str, KeptRelease]]:
    # Orders and nodes once more: what is missed here would be cleared.
    operator, fleet = desk.operator, desk.fleet
    operator.read(*topics.every_desired(), topics.every_node(Kind.UPDATE), patient=True)
    kept = kept_releases(operator.read(topics.every_release(), patient=True), access.trusted)
    chunks = operator.read(topics.every_first_chunk(), patient=True)
    first = [topics.parse(topic).owner or "" for topic in chunks]
    return what_to_clear(fleet.orders.values(), list(fleet.updates.values()), kept, first), kept


def _clearing_lines(
    clearing: Clearing, kept: dict[str, KeptRelease], *, checked: bool
) -> list[str]:
    lines = []
    for label in clearing.releases:
        trouble = kept[label].trouble if checked else None
        lines.append(f"release {label}" + (f" (not signed by us: {trouble})" if trouble else ""))
    for sha256, count in sorted(clearing.files.items()):
        chunks = "of no release, its chunks" if count is None else counted(count, "chunk")
        lines.append(f"file {sha256[:12]}, {chunks}")
    return lines


def _clear(desk: Desk, clearing: Clearing) -> int:
    """Clear it, and give the number of chunks that were cleared."""
    # Manifests first: where one is, all chunks are. The first chunk last: by it a file is found
    # again when this is interrupted.
    manifests = [retained(topics.release(label), b"") for label in clearing.releases]
    for _ in desk.operator.put(manifests):
        pass
    cleared = 0
    for sha256, count in sorted(clearing.files.items()):
        if count is None:
            found = desk.operator.read(topics.every_chunk(sha256), patient=True)
            numbers = [topics.parse(topic).chunk or 0 for topic in found]
        else:
            numbers = list(range(count))
        publications = [retained(topics.blob(sha256, k), b"") for k in sorted(numbers)[::-1]]
        cleared += sum(1 for _ in desk.operator.put(publications))
    return cleared
