"""Measures what a broker keeps for a client that is away, and how much of it comes at once."""

from collector.broker_check.check_run import KEEP_SECONDS, CheckPeer, CheckRun
from collector.broker_check.verdicts import Measurement, Verdict

QUEUE = "messages for who is away"
AT_ONCE = "unacknowledged at once"

# About a window's: a limit in bytes then shows as it would for windows.
_MESSAGE_BYTES = 400
_RECEIVE_MAXIMUM = 100
_QUIET_SECONDS = 1.0
# What was sent later may come before the last of what waited.
_LATE_SECONDS = 5.0

_MARK = b"behind all that waited"


def queues(run: CheckRun, *, messages: int) -> list[Measurement]:
    """What comes of many messages for a client that is away, and how many of them at once."""
    with run.forgetting("away"):
        with run.peer("away", "queue", expiry_seconds=KEEP_SECONDS):
            pass
        with run.peer("speaker") as speaker:
            answers = speaker.publish(
                run.message("queue", f"{number:08}".encode().ljust(_MESSAGE_BYTES, b"."))
                for number in range(messages)
            )
        with run.peer(
            "away",
            "queue",
            expiry_seconds=KEEP_SECONDS,
            receive_maximum=_RECEIVE_MAXIMUM,
            manual_acknowledge=True,
        ) as away:
            while away.hears(_QUIET_SECONDS):
                pass
            at_once = len(away.received)
            kept = _drain(run, away, messages)
    refused = sum(not answer.accepted for answer in answers)
    return [_queue_row(messages, kept, refused), _at_once_row(at_once, kept)]


def _drain(run: CheckRun, away: CheckPeer, messages: int) -> int:
    """Acknowledge what comes, until all has come or what was sent after it; how many it was."""
    payloads: set[bytes] = set()
    marked = False
    while len(payloads) < messages and _MARK not in payloads:
        for message in away.received:
            away.session.acknowledge(message)
            payloads.add(message.payload)
        away.received.clear()
        if away.hears(_LATE_SECONDS if marked else _QUIET_SECONDS):
            continue
        if marked:
            break
        away.publish([run.message("queue", _MARK)])
        marked = True
    return len(payloads - {_MARK})


def _queue_row(sent: int, kept: int, refused: int) -> Measurement:
    if kept + refused < sent:
        said = f"{sent - refused} were taken with Success"
        return Measurement(
            QUEUE,
            f"keeps {kept} of {sent}; {said}",
            Verdict.LOSES,
            f"the broker keeps {kept} messages for a collector that is away and drops the rest"
            " without a word: set max_queued_messages 1000000 and leave max_queued_bytes unset"
            " (mosquitto), max_mqueue_len (EMQX), max-queue-size (HiveMQ)",
        )
    if refused:
        return Measurement(
            QUEUE,
            f"keeps {kept} of {sent} and refuses the others, which nodes then keep",
            Verdict.SLOW,
            "let the broker queue more for a client that is away",
        )
    return Measurement(QUEUE, f"all of {sent} came", Verdict.GOOD)


def _at_once_row(at_once: int, kept: int) -> Measurement:
    if at_once > _RECEIVE_MAXIMUM:
        return Measurement(
            AT_ONCE,
            f"{at_once}, though we allow {_RECEIVE_MAXIMUM}",
            Verdict.MISLEADS,
            "the broker does not honour Receive Maximum: the collector has to hold in memory what"
            " it is sent",
        )
    if at_once == _RECEIVE_MAXIMUM:
        return Measurement(AT_ONCE, f"{at_once}, as we allow", Verdict.GOOD)
    if at_once == kept:
        return Measurement(
            AT_ONCE,
            f"could not be measured: only {kept} were kept",
            Verdict.UNMEASURED,
            "have the broker keep more, then run the check again",
        )
    return Measurement(
        AT_ONCE,
        f"{at_once}, though we allow {_RECEIVE_MAXIMUM}",
        Verdict.SLOW,
        f"the broker sends {at_once} messages, then waits: set max_inflight_messages 1000"
        " (mosquitto), max_inflight (EMQX)",
    )
