"""What a broker really does with a fleet's messages, measured from outside.

Brokers say "Success" to messages that they drop. So this puts one to the test from outside, with
connections and topics of its own (`contract.topics.check`), of which no program of a fleet hears.
All is taken back at the end, also after Ctrl-C; what a SIGKILL leaves behind expires by itself.

What the broker keeps over a restart of its own cannot be seen from outside.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

from collector.broker_check.check_run import (
    ALLOW,
    KEEP_SECONDS,
    LARGE_BYTES,
    CheckPeer,
    CheckRun,
    NotMeasuredError,
)
from collector.broker_check.queueing import AT_ONCE, QUEUE, queues
from collector.broker_check.verdicts import Measurement, Verdict
from collector.link.presence import SESSION_EXPIRY_SECONDS
from contract.errors import (
    BrokerUnreachableError,
    ConnectionRefusedByBrokerError,
    EarshotError,
    PayloadTooLargeError,
)
from contract.session import NO_MATCHING_SUBSCRIBERS, Will
from contract.settings import MqttSettings

SESSION = "session of who is away"
SIZE = "largest message"
RETAINED = "retained message"
WILL = "last will"
NOBODY = "nobody subscribed"

# A chunk of a release, or a backlog, and room to spare: nothing in a fleet is larger.
_FLEET_BYTES = 33 * 1024
# Where that does not pass, retaining is tried with what does.
_SMALL_BYTES = 1024
_WILL_DELAY_SECONDS = 2
_QUIET_SECONDS = 1.0
# Retained messages and wills may come a moment after what was sent later.
_LATE_SECONDS = 5.0


def measure(broker: MqttSettings, *, messages: int) -> Generator[Measurement, None, None]:
    """Put a broker to the test; takes half a minute.

    Args:
        broker: where it is.
        messages: how many to publish for a client that is away; more than the 100 that it allows
            to be sent at once, so that the two can be told apart.

    Raises:
        ConnectionRefusedByBrokerError: the broker says no.
        BrokerUnreachableError: there is none that speaks MQTT 5.
    """
    run = CheckRun(broker)
    yield _connects(run)
    yield from _guarded(lambda: _keeps_session(run), SESSION)
    denied = _denied(run)
    yield from _guarded(lambda: queues(run, messages=messages), QUEUE, AT_ONCE, denied=denied)
    sizes = list(_guarded(lambda: _carries_chunks(run), SIZE, denied=denied))
    yield from sizes
    takes_chunks = sizes[0].verdict is Verdict.GOOD
    for measurement, name in (
        (lambda: _retains(run, takes_chunks=takes_chunks), RETAINED),
        (lambda: _publishes_will(run), WILL),
        (lambda: _tells_of_nobody(run), NOBODY),
    ):
        yield from _guarded(measurement, name, denied=denied)
    yield Measurement(
        "restart of the broker",
        "cannot be seen from outside",
        Verdict.UNMEASURED,
        "have the broker keep sessions and messages on disk (mosquitto: persistence true,"
        " autosave_interval 30), and look after a restart whether they are still there",
        measurable=False,
    )


def _guarded(
    measurement: Callable[[], list[Measurement]],
    *names: str,
    denied: NotMeasuredError | None = None,
) -> Iterator[Measurement]:
    """The rows of a measurement, or why there are none."""
    try:
        if denied is not None:
            raise denied
        yield from measurement()
    except (NotMeasuredError, EarshotError) as error:
        advice = error.advice if isinstance(error, NotMeasuredError) else "run the check again"
        for name in names:
            yield Measurement(name, f"could not be measured: {error}", Verdict.UNMEASURED, advice)


def _connects(run: CheckRun) -> Measurement:
    """Without this there is nothing else to measure."""
    try:
        with run.peer("hello") as peer:
            in_flight = peer.connected.max_in_flight
    except ConnectionRefusedByBrokerError as error:
        raise ConnectionRefusedByBrokerError(f"MQTT {run.broker.address}: {error}") from error
    except (BrokerUnreachableError, NotMeasuredError) as error:
        raise BrokerUnreachableError(
            f"no MQTT 5 connection to {run.broker.address}: {error}"
        ) from error
    who = f"as {run.broker.username}" if run.broker.username else "without a user name"
    measured = f"lets us in {who}; {in_flight} messages may be unconfirmed"
    return Measurement("MQTT 5", measured, Verdict.GOOD)


def _denied(run: CheckRun) -> NotMeasuredError | None:
    """Why nothing can be measured that needs messages."""
    try:
        with run.peer("hello", "hello") as peer:
            [answer] = peer.publish([run.message("hello")])
            if not answer.accepted:
                return NotMeasuredError(f"not allowed to publish ({answer.reason})", ALLOW)
            if not peer.wait_until(lambda: bool(peer.received), seconds=_LATE_SECONDS):
                # MQTT lets a broker grant a subscription that it will not serve.
                return NotMeasuredError("not allowed (subscribed, and nothing comes)", ALLOW)
    except NotMeasuredError as error:
        return error
    except EarshotError as error:
        return NotMeasuredError(str(error), "run the check again")
    return None


def _keeps_session(run: CheckRun) -> list[Measurement]:
    """Whether the broker knows a client that comes back, and for how long."""
    asked = SESSION_EXPIRY_SECONDS
    with run.forgetting("away"):
        with run.peer("away", expiry_seconds=asked) as first:
            granted = first.connected.granted.session_expiry_seconds
        with run.peer("away", expiry_seconds=asked) as again:
            present = again.connected.session_present
    kept = asked if granted is None else granted
    if not present:
        measured, verdict = "gone after a reconnect", Verdict.LOSES
    elif kept < asked:
        measured, verdict = f"kept, but for {_duration(kept)} at most", Verdict.LOSES
    else:
        return [Measurement(SESSION, f"kept for {_duration(kept)}, as asked for", Verdict.GOOD)]
    advice = (
        f"let the broker keep sessions for {_duration(asked)} (mosquitto:"
        " persistent_client_expiration 14d, or none; EMQX: session_expiry_interval)"
    )
    return [Measurement(SESSION, f"{measured}; asked for {_duration(asked)}", verdict, advice)]


def _carries_chunks(run: CheckRun) -> list[Measurement]:
    """Whether the largest message of a fleet arrives, and what the broker says of its limit."""
    told: int | None = None
    fates: dict[int, bool] = {}
    for size in (_FLEET_BYTES, LARGE_BYTES):
        # Each with a connection of its own: a broker ends that of a message that is too large.
        with run.peer("size", "size") as peer:
            told = peer.connected.granted.maximum_packet_bytes
            fates[size] = _carries(run, peer, size)
    measured = ", ".join(
        f"{size // 1024} KiB {'arrive' if arrived else 'do not arrive'}"
        for size, arrived in fates.items()
    )
    measured += "; no limit told" if told is None else f"; the broker says {told} bytes"
    if fates[_FLEET_BYTES]:
        return [Measurement(SIZE, measured, Verdict.GOOD)]
    advice = (
        f"let the broker take messages of {_FLEET_BYTES // 1024} KiB: backlogs and releases need"
        " it (mosquitto: neither message_size_limit nor max_packet_size below 40000)"
    )
    return [Measurement(SIZE, measured, Verdict.LOSES, advice)]


def _carries(run: CheckRun, peer: CheckPeer, size: int) -> bool:
    try:
        peer.publish([run.message("size", b"." * size)])
        return peer.wait_until(lambda: bool(peer.received), seconds=_LATE_SECONDS)
    except (PayloadTooLargeError, NotMeasuredError):
        return False


def _retains(run: CheckRun, *, takes_chunks: bool) -> list[Measurement]:
    """Whether a new subscription gets what was retained, and not what was cleared."""
    size = _FLEET_BYTES if takes_chunks else _SMALL_BYTES
    what = f"{size / 1024:g} KiB"
    advice = (
        "let the broker retain messages: orders, releases, receipts and the fleet's last word"
        " are nothing else (mosquitto: retain_available true)"
    )
    payload = secrets.token_bytes(size)
    with run.peer("speaker") as speaker:
        if not speaker.connected.granted.retain_available:
            return [Measurement(RETAINED, "the broker says it keeps none", Verdict.LOSES, advice)]
        try:
            [answer] = speaker.publish([run.message("retained", payload, retain=True)])
            with run.peer("reader", "retained") as reader:
                reader.wait_until(lambda: bool(reader.received), seconds=_LATE_SECONDS)
                came = [(m.payload, m.retained) for m in reader.received]
        finally:
            with suppress(NotMeasuredError):
                speaker.publish([run.message("retained", retain=True)])
    if came != [(payload, True)]:
        said = "" if answer.accepted else f" ({answer.reason})"
        return [Measurement(RETAINED, f"{what} do not come back{said}", Verdict.LOSES, advice)]
    with run.peer("reader", "retained") as reader:
        if reader.hears(_QUIET_SECONDS):
            measured = f"{what} come back, also after they were cleared"
            return [
                Measurement(RETAINED, measured, Verdict.MISLEADS, "see the broker's documentation")
            ]
    return [Measurement(RETAINED, f"{what} come back, and can be cleared", Verdict.GOOD)]


def _publishes_will(run: CheckRun) -> list[Measurement]:
    """Whether a will waits for its delay, and then is published once."""
    will = Will(publication=run.message("will"), delay_seconds=_WILL_DELAY_SECONDS)
    advice = "use a broker that knows MQTT 5's Will Delay; mosquitto does"
    with run.forgetting("mortal"), run.peer("listener", "will") as listener:
        with run.peer("mortal", expiry_seconds=KEEP_SECONDS, will=will, goodbye=False):
            pass
        cut = time.monotonic()
        with run.peer("mortal", expiry_seconds=KEEP_SECONDS, will=will, goodbye=False):
            if time.monotonic() - cut > _WILL_DELAY_SECONDS / 2:
                raise NotMeasuredError(
                    "the way to the broker is too slow for it",
                    "run the check nearer to the broker",
                )
            if listener.hears(_WILL_DELAY_SECONDS + _QUIET_SECONDS):
                measured = "published although the client came back in time"
                return [Measurement(WILL, measured, Verdict.MISLEADS, advice)]
        if not listener.hears(_WILL_DELAY_SECONDS + _LATE_SECONDS):
            measured = "not published: a node that has vanished stays online"
            return [Measurement(WILL, measured, Verdict.MISLEADS, advice)]
        again = listener.hears(_QUIET_SECONDS)
    times = "more than once" if again else "once"
    measured = f"published {times}, after its delay; not when the client comes back"
    verdict = Verdict.MISLEADS if again else Verdict.GOOD
    return [Measurement(WILL, measured, verdict, advice if again else None)]


def _tells_of_nobody(run: CheckRun) -> list[Measurement]:
    """Whether a publisher is told that its message went nowhere."""
    with run.peer("speaker") as speaker:
        [answer] = speaker.publish([run.message("nobody")])
    if answer.reason_code == NO_MATCHING_SUBSCRIBERS:
        return [Measurement(NOBODY, f"told: {answer.reason}", Verdict.GOOD)]
    return [
        Measurement(
            NOBODY,
            f"{answer.reason}, for a message that nobody gets",
            Verdict.MISLEADS,
            'leave [outbox] receipts = "collector" on the nodes: only receipts tell here'
            " whether somebody stores",
        )
    ]


def _duration(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds} s"
