"""Whatever anybody publishes is stored or told as a dead letter; it never stops the collector."""

import base64
import json
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.ledger.ledger_file import LedgerFile
from collector.link.event_loop import Inbox, Stop
from collector.service import Collector
from collector.settings import CollectorSection
from collector.sinks.sqlite import SqliteSink
from collector.state_folder import DEAD_LETTERS
from collector.storing.dead_letters import DeadLetterFile
from contract import topics
from contract.errors import MessageError
from contract.messages import MAX_MESSAGE_BYTES, Message, decode, encode
from contract.states import PresenceReason
from contract.topics import FROM_NODE, Kind
from tests.rig.examples import account, backlog, state, status, topic_of, window
from tests.rig.fake_broker import FakeBroker
from tests.rig.waiting import wait_until

_OTHER = "press-08"
_GOOD = range(6)

_ODD = st.sampled_from(
    [
        b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e400", b"1" + b"0" * 400, b"-1", b"2",
        b"9007199254740993", b"18446744073709551616", b"true", b"null", b"[]", b"{}", b'""',
        b'"\\ud800"', b'"\\u0000"', b'"' + b"x" * 300 + b'"', b"[" * 3000 + b"]" * 3000,
        b'{"a":' * 500 + b"1" + b"}" * 500, b"\xff\xfe", b"", b"0.5", b"'",
    ]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())

_EXAMPLES: list[Message] = [
    window(7, node=_OTHER),
    backlog(8, 9, node=_OTHER),
    status(PresenceReason.LOST, node=_OTHER),
    state(node=_OTHER),
    account(12, node=_OTHER),
]


@st.composite
def _spoiled(draw: st.DrawFn) -> tuple[str, bytes]:
    """A message of the contract in which one value is another."""
    message = draw(st.sampled_from(_EXAMPLES))
    values: dict[str, Any] = msgspec.to_builtins(message)
    name = draw(st.sampled_from(sorted(values)))
    parts = [
        json.dumps(key).encode()
        + b":"
        + (draw(_ODD | _JSON) if key == name else json.dumps(value).encode())
        for key, value in values.items()
    ]
    return topic_of(message), b"{" + b",".join(parts) + b"}"


_TOPICS = st.one_of(
    st.sampled_from([topics.node(_OTHER, kind) for kind in FROM_NODE]),
    st.sampled_from(
        [
            topics.node(_OTHER, Kind.RECEIPT),
            topics.node(_OTHER, Kind.RESULT),
            topics.collector_status("collector"),
            topics.dead_letter(),
            "earshot/1/n/press-08/ledger",
            "earshot/1/n/PRESS/window",
            "earshot/2/n/press-08/window",
            "",
            "/",
            "x" * 60_000,
        ]
    ),
    st.text(max_size=60),
)
_PAYLOADS = st.one_of(
    st.binary(max_size=200),
    _JSON,
    _ODD,
    st.sampled_from([encode(example) for example in _EXAMPLES]),
    st.sampled_from([b" " * (MAX_MESSAGE_BYTES + 1), b"[" * 32_000, b"x" * 200_000]),
)
_ANYTHING = st.tuples(_TOPICS, _PAYLOADS) | _spoiled()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_ANYTHING, min_size=1, max_size=8))
def test_any_message_is_stored_or_told_and_good_ones_around_it_are_stored(
    junk: list[tuple[str, bytes]],
) -> None:
    """The collector runs on, acknowledges everything, and keeps what it could not store whole."""
    inbox = Inbox()
    broker = FakeBroker(inbox.put)
    with TemporaryDirectory() as name:
        folder = Path(name)

        def work() -> None:
            section = CollectorSection(batch_points=5, batch_seconds=0.01)
            with (
                closing(LedgerFile(folder)) as ledger,
                closing(DeadLetterFile(folder, megabytes=16.0)) as dead_letters,
                closing(SqliteSink(folder / "earshot.db")) as sink,
            ):
                Collector(
                    section, broker, sink, inbox, ledger=ledger, dead_letters=dead_letters
                ).run()

        thread = threading.Thread(target=work)
        thread.start()
        for seq in _GOOD:
            message = window(seq)
            broker.send(topic_of(message), encode(message))
            for topic, payload in junk[seq::6]:
                broker.send(topic, payload)
        try:
            wait_until(
                lambda: not broker.unacknowledged or not thread.is_alive(),
                "everything to be acknowledged",
            )
            assert thread.is_alive()
        finally:
            inbox.put(Stop())
            thread.join(10.0)
        with closing(SqliteSink(folder / "earshot.db")) as sink:
            good = list(sink.stored_seqs("press-07", window().boot))
        file = folder / DEAD_LETTERS
        told = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    assert broker.unacknowledged == []
    assert good == [(0, 5)]
    kept = [(entry["topic"], base64.b64decode(entry["payload"])) for entry in told]
    for topic, payload in junk:
        assert _can_be_stored(topic, payload) or (topic[:400], payload) in kept
    assert all(entry["reason"] and entry["detail"] for entry in told)
    published = [decode(p.topic, p.payload) for p in broker.published]
    assert len([m for m in published if m.KIND is Kind.DEAD_LETTER]) == len(kept)


def _can_be_stored(topic: str, payload: bytes) -> bool:
    try:
        return decode(topic, payload).KIND in FROM_NODE
    except MessageError:
        return False
