"""Who the collector is to a broker: its session, and the status that everybody may see."""

import time

from collector.settings import CollectorSection
from contract import topics
from contract.messages import CollectorStatus, encode
from contract.session import Publication, SessionOptions, Subscription, Will
from contract.states import Presence, PresenceReason

SESSION_EXPIRY_SECONDS = 7 * 24 * 3600
"""Away for longer than this, and the broker forgets us and what it kept for us."""

# Larger than any message of ours, so that an oversize one comes in and is told as a dead letter.
_MAX_PACKET_BYTES = 1024 * 1024


def session_options(section: CollectorSection) -> SessionOptions:
    """How the collector presents itself to the broker."""
    return SessionOptions(
        client_id=section.id,
        expiry_seconds=SESSION_EXPIRY_SECONDS,
        receive_maximum=section.batch_points,
        maximum_packet_bytes=_MAX_PACKET_BYTES,
        subscriptions=tuple(
            Subscription(topic_filter=topics.every_node(kind), retained=False)
            for kind in topics.FROM_NODE
        ),
        manual_acknowledge=True,
    )


def online(section: CollectorSection) -> CollectorStatus:
    """The status that is published and stored with each connection."""
    return _status(section, Presence.ONLINE, PresenceReason.CONNECTED)


def stopped(section: CollectorSection) -> CollectorStatus:
    """The status that is published and stored at the end."""
    return _status(section, Presence.OFFLINE, PresenceReason.STOPPED)


def last_will(section: CollectorSection) -> Will:
    """The status that the broker publishes when we vanish."""
    return Will(publication=announcement(_status(section, Presence.OFFLINE, PresenceReason.LOST)))


def announcement(status: CollectorStatus) -> Publication:
    """A status as it is published: retained, for whoever asks later."""
    return Publication(
        topic=topics.collector_status(status.id), payload=encode(status), retain=True
    )


def _status(section: CollectorSection, state: Presence, reason: PresenceReason) -> CollectorStatus:
    at_us = time.time_ns() // 1000
    return CollectorStatus(id=section.id, at_us=at_us, state=state, reason=reason)
