"""What a person sees of a rollout: tables, lines and bars."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from contract import topics
from contract.messages import encode
from contract.states import UpdatePhase
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.virtual_nodes import birth
from tests.training.fleet.operating import (
    ALL,
    OURS,
    access,
    known,
    put,
    said,
)
from training.fleet.fleet import Fleet
from training.fleet.rollout import (
    status,
)
from training.fleet.rollout_screen import Screen, _Careful
from training.fleet.rollout_tables import fleet_table, orders_table


def test_what_nodes_say_does_not_rule_the_terminal(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences, line breaks and overrides of direction are shown, and not obeyed."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\n9 of 9 nodes have committed it [red]well[/red]"
    told = said("press-a", UpdatePhase.REJECTED, reason=evil, obeying="\x1b[31mall")
    put(broker, topics.node("press-a", Kind.UPDATE), encode(told))

    assert status(access(broker), Screen(), checked=True) == 0
    Screen().note(evil)

    out, err = capsys.readouterr()
    lines = [*out.splitlines(), *err.splitlines()]
    assert all(line.isprintable() for line in lines)
    assert "press-a rejected 40%: ?[2J?]0;owned" in out
    assert "?[31m" in out
    assert not any(line.startswith("9 of 9") for line in lines)
    assert "[red]well[/red]" in out


def test_bars_and_colours_are_still_drawn() -> None:
    """What the screen itself writes reaches the terminal as it is."""
    console = _Careful(file=io.StringIO(), force_terminal=True, width=80)

    with Progress(console=console) as bar:
        bar.add_task("ring \x1b[2J", total=1)
    console.print(Text("all well\x1b[2J", "green"))

    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b[32mall well?[2J\x1b[0m" in text
    assert "ring ?[2" in text
    assert "\x1b[2J" not in text
    assert "━" in text


def test_tables_say_what_is_not_known() -> None:
    """A dash, and no guess."""
    seen = Fleet(OURS)
    known(seen, birth("a"))
    seen.take(ALL, b"rubbish")
    console = Console(file=io.StringIO(), width=120)

    console.print(fleet_table(seen, seen.nodes(), now_us=0))
    console.print(orders_table(seen.orders.values(), checked=True, now_us=0))

    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "no", "fan@1", "-", "-", "-", "-"] in rows
    assert ["all", "not", "signed", "by", "us", "-", "-", "-"] in rows


def test_tables_lose_nothing_on_a_narrow_screen() -> None:
    """A long name goes on below itself."""
    name = "press-07-of-the-hall-by-the-rive"
    seen = Fleet(OURS)
    known(seen, birth(name))
    console = Console(file=io.StringIO(), width=80)

    console.print(fleet_table(seen, seen.nodes(), now_us=0))

    assert isinstance(console.file, io.StringIO)
    _, _, head, _, *rows = console.file.getvalue().splitlines()
    column = slice(head.index("node"), head.index("online"))
    assert max(map(len, [head, *rows])) <= 80
    assert "".join(row[column].strip() for row in rows) == name
