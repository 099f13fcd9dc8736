"""`earshot collector command`: what is told, and what is refused before anybody is asked."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.__main__ import main
from collector.commands import EXIT_NOT_DONE
from contract import topics
from contract.errors import EXIT_BAD_INPUT
from contract.messages import Result, encode
from contract.session import (
    Publication,
    Received,
    Session,
    SessionEvent,
    SessionOptions,
    Subscribed,
    Subscription,
)
from contract.settings import MqttSettings
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.ports import free_port

NODE = "press-07"
BOOT = "01JD8Z6W3M9K4T2Q5R7V1X0YBC"


def tell(*arguments: str) -> int:
    """To a broker that is not there."""
    broker = ("--broker", f"127.0.0.1:{free_port()}", "--seconds", "0.5")
    return main(["command", "press-07", *arguments, *broker])


@pytest.mark.parametrize("option", [("--minutes", "5"), ("--cancel",)])
def test_rollback_takes_no_minutes(
    option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A calibration's options beside it are a mistake that is told before a broker is sought."""
    code = tell("rollback", *option)

    assert code == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "earshot collector: rollback takes no minutes and cannot be cancelled: --minutes and"
        " --cancel are for calibrate\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [("rollback",), ("calibrate",), ("calibrate", "--minutes", "5"), ("calibrate", "--cancel")],
)
def test_every_verb_gets_as_far_as_the_broker(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the options that belong to it."""
    code = tell(*arguments)

    assert code == EXIT_BAD_INPUT
    assert "no answer within 0.5 s from the broker at 127.0.0.1" in capsys.readouterr().err


def test_unknown_verb_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Argparse's own words name them."""
    with pytest.raises(SystemExit):
        tell("explode")

    error = capsys.readouterr().err
    assert "calibrate" in error
    assert "rollback" in error


@contextmanager
def answering(broker: Mosquitto, note: str) -> Iterator[None]:
    """A node that says the same to every roll-back."""
    events: queue.SimpleQueue[SessionEvent | None] = queue.SimpleQueue()
    heard = Subscription(topic_filter=topics.command(NODE, "rollback"))
    options = SessionOptions(client_id=NODE, expiry_seconds=0, subscriptions=(heard,))
    session = Session(MqttSettings(host=broker.host, port=broker.port), options, events.put)
    ready = threading.Event()

    def work() -> None:
        while (event := events.get()) is not None:
            if isinstance(event, Subscribed):
                ready.set()
            elif isinstance(event, Received):
                told = Result(node=NODE, boot=BOOT, at_us=1, verb="rollback", done=False, note=note)
                session.publish(
                    Publication(
                        topic=topics.node(NODE, Kind.RESULT),
                        payload=encode(told),
                        correlation=event.correlation,
                    )
                )

    thread = threading.Thread(target=work, daemon=True)
    session.start()
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        session.stop()
        events.put(None)
        thread.join(5)


def test_an_answer_does_not_rule_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences and line breaks in a node's words are shown, and not obeyed."""
    evil = "no\x1b[2J\x1b]0;owned\x07\npress-07: done"
    with Mosquitto(tmp_path / "mosquitto") as broker, answering(broker, evil):
        code = main(["command", NODE, "rollback", "--broker", f"{broker.host}:{broker.port}"])

    assert code == EXIT_NOT_DONE
    assert capsys.readouterr().out == "press-07: no?[2J?]0;owned??press-07: done\n"
