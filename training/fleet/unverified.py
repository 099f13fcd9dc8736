"""What a signed envelope claims to say, whoever wrote it.

That is for showing it, and for keeping what may be in use. Nothing here checks a signature, and
nothing that comes from here is to be obeyed.
"""

import base64
import binascii

import msgspec


class _ClaimedEnvelope(msgspec.Struct, frozen=True):
    payload: str


def claimed_payload(envelope: bytes) -> bytes | None:
    """The bytes that somebody may have signed; None if the envelope cannot be read."""
    try:
        return base64.b64decode(_ENVELOPE.decode(envelope).payload, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error, ValueError):
        return None


_ENVELOPE = msgspec.json.Decoder(_ClaimedEnvelope)
