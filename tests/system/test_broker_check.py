"""`earshot collector check` against real brokers, good and bad, and against what is none."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from collector.broker_check.measurements import measure
from collector.broker_check.verdicts import Measurement, Verdict, exit_code
from contract.settings import MqttSettings
from demo.broker import Broker
from tests.rig.brokers import Mosquitto, broker_of_a_few_lines
from tests.rig.ports import free_port
from tests.rig.programs import run, start
from tests.rig.waiting import wait_until

PASSWORD = "open sesame"
ALLOW = "allow `topic readwrite earshot/1/check/#`"
MESSAGES = 2000

SESSION = "session of who is away"
QUEUE = "messages for who is away"
AT_ONCE = "unacknowledged at once"
SIZE = "largest message"
RETAINED = "retained message"
WILL = "last will"
NOBODY = "nobody subscribed"
RESTART = "restart of the broker"
MEASURABLE = ("MQTT 5", SESSION, QUEUE, AT_ONCE, SIZE, RETAINED, WILL, NOBODY)


def measured(
    broker: Mosquitto | Broker, *, username: str | None = None, password: str | None = None
) -> dict[str, Measurement]:
    settings = MqttSettings(
        host=broker.host, port=broker.port, username=username, password=password
    )
    return {row.what: row for row in measure(settings, messages=MESSAGES)}


def check(*arguments: str, port: int) -> subprocess.CompletedProcess[str]:
    return run("collector", "check", "--broker", f"127.0.0.1:{port}", *arguments, settings={})


def what_is_left(broker: Mosquitto) -> bool:
    """Whether a check's sessions or retained messages are in the broker; it is stopped for that."""
    broker.stop()
    [database] = Path(broker.log_file.parent).rglob("mosquitto.db")
    return b"check" in database.read_bytes()


def test_what_we_ship_is_good(mosquitto: Mosquitto) -> None:
    """The broker that earshot ships is good in all that can be measured, and left as it was."""
    done = check(port=mosquitto.port)

    names, *lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert names.split() == ["what", "measured", "verdict"]
    for line, what in zip(lines, MEASURABLE, strict=False):
        assert line.startswith(what), line
        assert line.rstrip().endswith(" good"), line
    restart, *to_do = lines[len(MEASURABLE) :]
    assert restart.startswith(RESTART)
    assert restart.endswith("not measured")
    assert ["persistence true" in line for line in to_do] == [True]
    assert not what_is_left(mosquitto)


def test_default_mosquitto_will_lose_data(tmp_path: Path) -> None:
    """The default drops all but the first thousand messages, which the check counts and tells."""
    with Mosquitto(tmp_path / "broker", shipped=False) as broker:
        done = check(port=broker.port)

    queue = next(line for line in done.stdout.splitlines() if line.startswith(QUEUE))
    assert done.returncode == 1
    assert "keeps 1000 of 2000; 2000 were taken with Success" in queue
    assert queue.endswith("will lose data")
    assert "set max_queued_messages 1000000" in done.stdout


def test_limits_that_lose_data_are_found(tmp_path: Path) -> None:
    """A small queue in bytes, a small packet and no retained messages; and the rest is good."""
    extra = "max_queued_bytes 100000\nmax_packet_size 5000\nretain_available false\n"
    with Mosquitto(tmp_path / "broker", extra=extra) as broker:
        rows = measured(broker)

    lose = {what for what, row in rows.items() if row.verdict is Verdict.LOSES}
    good = {what for what, row in rows.items() if row.verdict is Verdict.GOOD}
    assert lose == {QUEUE, SIZE, RETAINED}
    assert good == set(MEASURABLE) - lose
    # 400 bytes each, so a quarter of the limit's thousand.
    assert rows[QUEUE].measured.startswith("keeps 250 of 2000")
    assert "max_queued_bytes unset" in (rows[QUEUE].advice or "")
    assert "the broker says 5000 bytes" in rows[SIZE].measured
    assert rows[RETAINED].measured == "the broker says it keeps none"
    assert exit_code(rows.values()) == 1


def test_limit_that_the_broker_does_not_tell_is_found(tmp_path: Path) -> None:
    """message_size_limit is told nobody: a chunk is sent to find it; smaller ones are retained."""
    with Mosquitto(tmp_path / "broker", extra="message_size_limit 5000\n") as broker:
        rows = measured(broker)
        left = what_is_left(broker)

    assert rows[SIZE].verdict is Verdict.LOSES
    assert rows[SIZE].measured.startswith("33 KiB do not arrive, 128 KiB do not arrive")
    assert rows[RETAINED] == Measurement(
        RETAINED, "1 KiB come back, and can be cleared", Verdict.GOOD
    )
    assert not left


def test_rumqttd_does_not_tell_that_nobody_listens(tmp_path: Path) -> None:
    """Of the demo's second broker: it keeps messages, but says Success where nobody is."""
    with Broker(tmp_path, "iotcore") as broker:
        rows = measured(broker)

    assert rows["MQTT 5"].verdict is Verdict.GOOD
    assert rows[SESSION].verdict is Verdict.GOOD
    assert rows[QUEUE].verdict is Verdict.GOOD
    assert rows[SIZE].verdict is Verdict.GOOD
    assert rows[NOBODY].verdict is Verdict.MISLEADS
    assert 'receipts = "collector"' in (rows[NOBODY].advice or "")


def test_session_that_is_kept_for_less_is_told() -> None:
    """A broker that grants an hour of the seven days will lose what comes after it."""
    # CONNACK of MQTT 5: session present, success, Session Expiry Interval 3600.
    granted = b"\x20\x08\x01\x00\x05\x11\x00\x00\x0e\x10"
    with broker_of_a_few_lines(lambda packet: granted if packet[0] == 0x10 else b"") as broker:
        rows = measure(broker, messages=MESSAGES)
        _, session = next(rows), next(rows)
        rows.close()

    assert session.what == SESSION
    assert session.verdict is Verdict.LOSES
    assert session.measured == "kept, but for 1 h at most; asked for 7 days"


@pytest.mark.parametrize(
    ("acl", "why"),
    [
        ("topic readwrite else/#", "not allowed to publish (Not authorized)"),
        ("topic write earshot/#", "not allowed (subscribed, and nothing comes)"),
    ],
)
def test_denied_topics_are_not_measured(tmp_path: Path, acl: str, why: str) -> None:
    """What may not be measured is not called good: the rule to allow is named, and exit code 2."""
    acl = f"user operator\n{acl}\n"
    with Mosquitto(tmp_path / "broker", users={"operator": PASSWORD}, acl=acl) as broker:
        rows = measured(broker, username="operator", password=PASSWORD)

    for what in (QUEUE, AT_ONCE, SIZE, RETAINED, WILL, NOBODY):
        assert rows[what].verdict is Verdict.UNMEASURED
        assert rows[what].measured == f"could not be measured: {why}"
        assert (rows[what].advice or "").startswith(ALLOW)
    assert rows[SESSION].verdict is Verdict.GOOD
    assert exit_code(rows.values()) == 2


def test_broker_that_goes_away_is_not_called_good(mosquitto: Mosquitto) -> None:
    """What was measured before stays; the rest says why it was not."""
    rows = measure(MqttSettings(host=mosquitto.host, port=mosquitto.port), messages=MESSAGES)
    before = [next(rows), next(rows)]

    mosquitto.kill()
    after = list(rows)

    assert [row.verdict for row in before] == [Verdict.GOOD] * 2
    assert {row.verdict for row in after} == {Verdict.UNMEASURED}
    assert exit_code([*before, *after]) == 2


def test_broker_that_is_not_there() -> None:
    """One line, and exit code 2."""
    port = free_port()

    done = check(port=port)

    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no MQTT 5 connection to 127.0.0.1:{port}: cannot connect: " in line


@contextmanager
def web_server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_what_is_no_broker_is_told() -> None:
    """A web server speaks no MQTT: one line, and exit code 2."""
    with web_server() as port:
        done = check(port=port)

    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no MQTT 5 connection to 127.0.0.1:{port}: no MQTT 5 answer" in line


def test_wrong_password_is_told(tmp_path: Path) -> None:
    """The broker's own word, in one line."""
    (tmp_path / "password").write_text("sesame")
    with Mosquitto(tmp_path / "broker", users={"operator": PASSWORD}) as broker:
        done = check(
            *("--username", "operator", "--password-file", str(tmp_path / "password")),
            port=broker.port,
        )

    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "the broker refused the connection: Not authorized" in line


@pytest.mark.parametrize("messages", ["100", "100001", "many", "-200", "²"])
def test_impossible_number_of_messages_is_refused(messages: str) -> None:
    """Too few tell nothing, and too many would fill the broker."""
    done = check(f"--messages={messages}", port=1)

    assert done.returncode == 2
    assert f"expected a number from 200 to 100000, got {messages!r}" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_check_leaves_nothing_behind(
    mosquitto: Mosquitto, number: signal.Signals
) -> None:
    """Ctrl-C in the middle: what the check has put into the broker is taken out again."""
    arguments = ("--messages", "100000", "--broker", f"{mosquitto.host}:{mosquitto.port}")
    with start("collector", "check", *arguments, settings={}) as program:
        wait_until(lambda: "/queue'" in mosquitto.log(), "messages in a queue", seconds=60)
        mosquitto.save()
        database = next(Path(mosquitto.log_file.parent).rglob("mosquitto.db")).read_bytes()
        program.send_signal(number)
        out, err = program.communicate(timeout=60)

    assert b"check" in database, "there was nothing to leave behind"
    assert (program.returncode, out, err) == (130, "", "")
    assert not what_is_left(mosquitto)
