"""A fleet that is upgraded one part at a time: what lies on disks, and what others send meanwhile.

`tests/data/golden/disk-1` is what earshot 0.1.0 has written: the state folder of a node, and that
of a collector with its store. Every later version takes it over whole. The outbox holds 98 windows
of two boots, two events and two accounts.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.ledger.ledger_file import LedgerFile
from collector.ledger.ledger_report import boot_report
from collector.sinks.line_protocol import line
from collector.sinks.sqlite import SqliteSink
from collector.state_folder import LEDGER
from collector.storing.intake import Intake
from collector.watch.fleet_view import FleetView
from contract.messages import Account, Backlog, Event, Window, decode
from contract.points import points
from contract.records import STORED
from contract.session import Received
from contract.states import DiscardReason, OpenEnum
from node.delivery.accounts import BootAccount
from node.delivery.outbox import Outbox
from node.delivery.outbox_file import OutboxFile
from node.delivery.outbox_rules import OutboxRules
from node.delivery.publisher import Publisher
from node.machine.site_store import SiteStore
from node.updates.slots import STATE_NAME, read_state
from node.updates.update_state import UpdateState
from tests.rig import examples
from tests.rig.brokers import Mosquitto
from tests.rig.examples import EXAMPLES
from tests.rig.grown import TOMORROW, grown, grown_states, required_but_not_published, states_of
from tests.rig.listeners import ReceiptingCollector
from tests.rig.peers import mqtt
from tests.rig.waiting import wait_until

DISK = Path(__file__).parent / "data/golden/disk-1"
ONE, TWO, NEXT = (f"01JD8Z6W3M9K4T2Q5R7V1X0YB{letter}" for letter in "CDE")
WAITING = {ONE: 48, TWO: 50}
FROM_NODES = [
    name
    for name in EXAMPLES
    if "/n/" in EXAMPLES[name].topic
    and name
    not in (
        "receipt",
        "command",
        "result",
        "account",
    )
]


@pytest.fixture
def node_folder(tmp_path: Path) -> Path:
    """The state folder of a node of 0.1.0."""
    return Path(shutil.copytree(DISK / "node", tmp_path / "node"))


@pytest.fixture
def collector_folder(tmp_path: Path) -> Path:
    """The state folder of a collector of 0.1.0, with its store."""
    return Path(shutil.copytree(DISK / "collector", tmp_path / "collector"))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto") as server:
        yield server


def kept_windows(outbox: Path) -> list[dict[str, Any]]:
    """The windows of an outbox's file as they are there, oldest first."""
    with closing(sqlite3.connect(outbox)) as db:
        rows = db.execute("SELECT payload FROM windows ORDER BY boot, seq").fetchall()
    return [json.loads(payload) for (payload,) in rows]


def change(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def write_as_tomorrow(outbox: Path) -> None:
    """What the next version's node leaves when it is put back to this one."""
    with closing(sqlite3.connect(outbox)) as db:
        for table, column in (("windows", "payload"), ("events", "payload"), ("boots", "account")):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {TOMORROW} TEXT")
            key = "boot, seq" if table == "windows" else "id, id"
            for *place, text in db.execute(f"SELECT {key}, {column} FROM {table}").fetchall():
                old = json.loads(text)
                states = [(name,) for name in ("state", "clock", "phase", "rule") if name in old]
                new = grown(grown_states(old, states))
                if column == "account":
                    new = {**new, "discarded": {**old["discarded"], TOMORROW: 3}}
                where = " AND ".join(f"{name} = ?" for name in key.split(", "))
                db.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {where}",
                    (json.dumps(new).encode(), *place),
                )
        db.commit()


def delivered(outbox: Path, broker: Mosquitto) -> tuple[list[Window], list[Event], list[Account]]:
    """What a node of this version makes of an outbox that it finds: it sends all."""
    publisher = Publisher(
        mqtt(broker),
        Outbox(
            NEXT,
            node=examples.NODE,
            hop_seconds=1.0,
            file=OutboxFile(outbox),
            rules=OutboxRules(receipts="collector"),
        ),
        lambda: msgspec.structs.replace(examples.BIRTH, boot=NEXT),
        node=examples.NODE,
        boot=NEXT,
        now_us=lambda: examples.AT_US,
    )
    with ReceiptingCollector(broker) as collector:
        publisher.start()
        wait_until(lambda: all(collector.has_all(boot) for boot in WAITING), "all windows")
        wait_until(lambda: len(collector.all_of(Event)) == 2, "both events")
        left = publisher.stop(drain_seconds=20.0)
        windows = [w for late in collector.all_of(Backlog) for w in late.windows]
        windows += collector.all_of(Window)
        found = [account for boot in WAITING if (account := collector.account(boot)) is not None]
        events = collector.all_of(Event)
    assert left.lost == 0
    assert kept_windows(outbox) == []
    return sorted(windows, key=lambda w: (w.boot, w.seq)), events, found


def test_outbox_of_0_1_0_is_delivered_whole(node_folder: Path, mosquitto: Mosquitto) -> None:
    """Every window as it was kept, the events, and accounts that say where the others went."""
    kept = kept_windows(node_folder / "outbox.db")

    windows, events, accounts = delivered(node_folder / "outbox.db", mosquitto)

    assert len(kept) == 98
    assert windows == [msgspec.convert(each, Window) for each in kept]
    assert [event.phase for event in events] == ["opened", "closed"]
    assert [(a.boot, a.produced, a.discarded_refused, a.discarded) for a in accounts] == [
        (ONE, 60, 2, 2),
        (TWO, 50, 0, 0),
    ]


def test_outbox_of_tomorrow_is_delivered_whole(node_folder: Path, mosquitto: Mosquitto) -> None:
    """Put back to this version, a node sends what the newer one has kept, as far as it knows it."""
    kept = kept_windows(node_folder / "outbox.db")
    write_as_tomorrow(node_folder / "outbox.db")

    windows, events, accounts = delivered(node_folder / "outbox.db", mosquitto)

    assert [(w.boot, w.seq, w.mse) for w in windows] == [
        (w["boot"], w["seq"], w["mse"]) for w in kept
    ]
    assert {str(w.state) for w in windows} | {str(w.clock) for w in windows} == {"unknown"}
    assert [(event.phase, event.rule) for event in events] == [("unknown", "unknown")] * 2
    # Given up for a reason that this version does not know, and still accounted for.
    assert [(a.discarded_refused, a.discarded_damaged) for a in accounts] == [(2, 3), (0, 3)]


def test_accounts_require_nothing_new() -> None:
    """The same rule as for messages."""
    with closing(sqlite3.connect(DISK / "node/outbox.db")) as db:
        accounts = [json.loads(text) for (text,) in db.execute("SELECT account FROM boots")]

    assert required_but_not_published(BootAccount, accounts) == []


def test_reasons_that_nobody_knows_are_added_up() -> None:
    """None of the windows is forgotten, whatever the reasons were called."""
    account = msgspec.json.decode(
        b'{"discarded":{"damaged":1,"new":2,"newer":4}}', type=BootAccount
    )

    assert account.discarded == {DiscardReason.DAMAGED: 7}


def as_json(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


def extends(new: Any, old: Any) -> bool:
    """Whether all that was there is there, and nothing else but further keys."""
    if isinstance(old, dict):
        return all(key in new and extends(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(map(extends, new, old))
    return bool(new == old)


def read_site(folder: Path) -> list[msgspec.Struct | None]:
    store = SiteStore(folder)
    return [
        store.site(),
        *store.previous_sites(),
        store.pending(),
        store.episode(),
        store.status(),
        store.answer(),
        store.take_request(),
    ]


def test_site_of_0_1_0_is_read_whole(node_folder: Path) -> None:
    """A calibration that took an hour, an open episode: nothing is asked for again."""
    files = ("", "-pending", "-status", "-answer", "-request")
    written = [json.loads((DISK / f"node/calibration{name}.json").read_bytes()) for name in files]
    previous = json.loads((DISK / "node/calibration-previous.json").read_bytes())["sites"]
    episode = json.loads((DISK / "node/episode.json").read_bytes())

    found = read_site(node_folder)

    said = [*written[:1], *previous, written[1], episode, *written[2:]]
    for what, kept in zip(found, said, strict=True):
        assert what is not None
        assert extends(as_json(what), kept)
        assert required_but_not_published(type(what), [kept]) == []


def test_site_of_tomorrow_is_read_today(node_folder: Path) -> None:
    """Keys and words that came later change nothing else."""
    before = read_site(Path(shutil.copytree(node_folder, node_folder.with_name("before"))))
    for path in node_folder.glob("[ce]*.json"):
        old = json.loads(path.read_bytes())
        states = [(name,) for name in ("phase", "rule", "state") if name in old]
        path.write_text(json.dumps(grown(grown_states(old, states))))

    found = read_site(node_folder)

    assert not list(node_folder.glob("*.broken"))
    for what, known in zip(found, before, strict=True):
        assert what is not None
        assert known is not None
        changes = {step: "unknown" for (step, *_) in states_of(known)}
        assert as_json(what) == as_json(known) | changes


def test_update_state_is_read_whole(node_folder: Path) -> None:
    """Slots, counters and orders of 0.1.0; and of tomorrow, as far as they are known."""
    path = node_folder / STATE_NAME
    written = json.loads(path.read_bytes())["state"]

    old = read_state(node_folder)
    states = [("refused", 0, "phase")]
    new_text = json.dumps(grown(grown_states(written, states)))
    # The folder's own dictionaries are by name and address: a key there is no key of the format.
    new_text = json.dumps(_without_new_names(json.loads(new_text)))
    digest = hashlib.sha256(new_text.encode()).hexdigest()
    path.write_text(f'{{"{TOMORROW}":1,"sha256":"{digest}","state":{new_text}}}')
    new = read_state(node_folder)

    assert old is not None
    assert extends(as_json(old), written)
    assert required_but_not_published(UpdateState, [written]) == []
    assert new is not None
    assert (new.current, new.orders, new.highest) == (old.current, old.orders, old.highest)
    assert new.refused[0].phase == "unknown"


def _without_new_names(state: dict[str, Any]) -> dict[str, Any]:
    for name in ("highest", "thresholds", "orders"):
        del state[name][TOMORROW]
    return state


def test_ledger_of_0_1_0_is_read_whole(collector_folder: Path) -> None:
    """What nodes have said of their boots is in no other place."""
    with closing(LedgerFile(collector_folder)) as file:
        one, two = file.all_boots()
        dirty = file.dirty_hours()
        running = file.running()

    assert (one.boot, list(one.stored), list(one.rejected)) == (
        ONE,
        [(0, 39), (45, 59)],
        [(40, 40)],
    )
    assert (one.produced, one.missing, one.goodbye, one.open) == (60, 4, True, False)
    assert one.discarded == {reason: n for n, reason in enumerate(_REASONS_OF_0_1_0)}
    assert (two.boot, list(two.stored), two.waiting, two.open) == (TWO, [(0, 49)], 3, True)
    assert len(dirty) == 1
    assert running["press-07"].boot == TWO


_REASONS_OF_0_1_0 = ("full", "expired", "refused", "damaged", "unsaved")


def test_ledger_without_a_column_of_today_gets_it(collector_folder: Path) -> None:
    """For a reader alone it is as if it were there; the collector adds it."""
    change(collector_folder / LEDGER, "ALTER TABLE boot DROP COLUMN discarded_unsaved")
    with closing(LedgerFile(collector_folder, read_only=True)) as looked_at:
        before = looked_at.all_boots()
    with closing(LedgerFile(collector_folder)) as file:
        one, two = file.all_boots()
        one.discarded[DiscardReason.UNSAVED] = 7
        file.save([one])
    with closing(LedgerFile(collector_folder)) as file:
        again = file.all_boots()

    assert [boot.discarded["unsaved"] for boot in before] == [0, 0]
    assert two.discarded["unsaved"] == 0
    assert again[0].discarded["unsaved"] == 7


def test_ledger_of_tomorrow_is_written_today(collector_folder: Path) -> None:
    """Columns that this version does not know stay, empty."""
    change(
        collector_folder / LEDGER,
        *(
            f"ALTER TABLE {table} ADD COLUMN {TOMORROW} INTEGER"
            for table in ("boot", "node", "stored", "rejected", "dirty_hour")
        ),
    )
    with closing(LedgerFile(collector_folder)) as file:
        one, two = file.all_boots()
        two.produced = 99
        grown_ranges = [(two.key, two.stored)]
        running = list(file.running().items())
        file.save([two], running, grown_ranges, grown_ranges, [("press-07", 0)])
    with closing(LedgerFile(collector_folder)) as file:
        assert [boot.produced for boot in file.all_boots()] == [one.produced, 99]


def test_store_of_0_1_0_is_kept_and_written_on(collector_folder: Path) -> None:
    """Old rows stay as they were, what they lack is empty, and today's points go in."""
    path = collector_folder / "earshot.db"
    before = _rows(path)
    with closing(SqliteSink(path)) as sink:
        for message in [e.message for e in EXAMPLES.values()] + [
            *examples.MADE_BY_COLLECTORS.values()
        ]:
            if type(message) in STORED:
                later = msgspec.structs.replace(message, **{message.TIME: examples.AT_US + 10**9})
                sink.write(list(points(later, arrived_us=examples.AT_US + 10**9)))
    after = _rows(path)

    for kind in STORED:
        rows = after[kind.KIND]
        assert len(rows) > len(before[kind.KIND]) > 0
        for row in before[kind.KIND]:
            assert any(row.items() <= other.items() for other in rows)


def test_store_of_tomorrow_is_written_today(collector_folder: Path) -> None:
    """A collector that is put back goes on with the store of the newer one."""
    path = collector_folder / "earshot.db"
    change(path, *(f'ALTER TABLE "{kind.KIND}" ADD COLUMN {TOMORROW} TEXT' for kind in STORED))
    later = msgspec.structs.replace(examples.WINDOW, seq=1, start_us=examples.AT_US + 10**9)
    with closing(SqliteSink(path)) as sink:
        sink.write(list(points(later, arrived_us=0)))

    assert any(row["seq"] == 1 for row in _rows(path)["window"])


def _rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return {
            kind.KIND: [dict(row) for row in db.execute(f'SELECT * FROM "{kind.KIND}"')]
            for kind in STORED
        }


def of_tomorrow(name: str) -> bytes:
    """A message as a newer node sends it: with keys and words that nobody here knows."""
    example = EXAMPLES[name]
    states = states_of(example.message)
    return json.dumps(grown(grown_states(json.loads(example.golden(name)), states))).encode()


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("name", FROM_NODES)
def test_collector_stores_what_a_newer_node_says(name: str, retained: bool, tmp_path: Path) -> None:
    """No dead letter: what it knows is stored, in both stores; the rest waits for its upgrade."""
    topic = EXAMPLES[name].topic
    intake = Intake("main")
    received = Received(1, 1, topic, of_tomorrow(name), 1, retained)

    item = intake.take(received, arrived_us=examples.AT_US)
    again = intake.take(received, arrived_us=examples.AT_US + 1)
    found = list(item.points())
    with closing(SqliteSink(tmp_path / "earshot.db")) as sink:
        sink.write(found)

    assert item.letter is None
    assert len(found) == (2 if name == "backlog" else 1)
    assert all(line(point) for point in found)
    # A retained message comes again with each connection, and is stored once.
    assert again.is_known == (name in ("status", "birth", "state", "update"))


def test_screen_shows_a_fleet_of_tomorrow() -> None:
    """The live view neither fails nor calls a node healthy that says something unknown."""
    view = FleetView()
    for name in FROM_NODES:
        message = decode(EXAMPLES[name].topic, of_tomorrow(name))
        view.take(message, now_us=examples.AT_US + 1)

    [row] = view.rows(now_us=examples.AT_US + 1)
    assert row.node == examples.NODE
    assert row.machine == "unknown"


@pytest.mark.parametrize("name", ["receipt", "command", "collector"])
def test_node_understands_a_newer_collector(name: str) -> None:
    """Receipts, commands and the collector's status say the same with more keys."""
    message = decode(EXAMPLES[name].topic, of_tomorrow(name))

    for field in message.__struct_fields__:
        value = getattr(message, field)
        if not isinstance(value, OpenEnum):
            assert value == getattr(EXAMPLES[name].message, field)


def test_report_of_a_ledger_of_0_1_0(collector_folder: Path) -> None:
    """`ledger` of this version looks at the file that an older collector writes."""
    change(collector_folder / LEDGER, "ALTER TABLE boot DROP COLUMN discarded_unsaved")
    with closing(LedgerFile(collector_folder, read_only=True)) as file:
        running = file.running()["press-07"]
        found = [boot_report(boot, running, gap_seconds=60.0) for boot in file.all_boots()]

    assert [each.stored for each in found] == [55, 50]
