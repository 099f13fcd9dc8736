"""An order to nodes as it is published: signed.

Apart from `contract.desired`, so that a node that takes no updates needs no cryptography in memory.
"""

import msgspec

from contract import topics
from contract.desired import Desired
from contract.errors import MessageError
from contract.messages import SCHEMA
from contract.signature import Signer, TrustedKeys, verified

PAYLOAD_TYPE = "application/vnd.earshot.desired+json"


def sign_desired(desired: Desired, signer: Signer) -> bytes:
    """The signed envelope to publish.

    Raises:
        SignatureError: it is too large.
    """
    return signer.sign(msgspec.json.encode(desired, order="sorted"), PAYLOAD_TYPE)


def open_desired(topic: str, envelope: bytes, trusted: TrustedKeys) -> Desired:
    """What an operator wants of the nodes at the address that the topic names.

    Raises:
        SignatureError: nobody who is trusted has signed it.
        MessageError: it is signed, but of another schema, not what it should be, or for others.
    """
    payload = verified(envelope, PAYLOAD_TYPE, trusted)
    try:
        schema = msgspec.json.decode(payload, type=_Versioned).schema
        if schema != SCHEMA:
            raise MessageError("schema", f"Expected schema {SCHEMA}, got {schema}")
        desired = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError("malformed", f"Expected an order to nodes: {error}") from error
    if topics.desired(desired.to) != topic:
        raise MessageError("wrong_topic", f"Expected an order for {topic}, got {desired.to}'s")
    return desired


class _Versioned(msgspec.Struct, frozen=True):
    schema: int


_DECODER = msgspec.json.Decoder(Desired)
