"""A release's manifest as it is published: signed.

Apart from `contract.release`, so that a node that takes no updates needs no cryptography in memory.
"""

from contract.release import Manifest, decode_manifest, encode_manifest
from contract.signature import Signer, TrustedKeys, verified

PAYLOAD_TYPE = "application/vnd.earshot.manifest+json"


def sign_manifest(manifest: Manifest, signer: Signer) -> bytes:
    """The signed envelope to publish, and to keep beside the manifest.

    Raises:
        ReleaseError: the manifest is too large.
        SignatureError: its envelope is.
    """
    return signer.sign(encode_manifest(manifest), PAYLOAD_TYPE)


def open_manifest(envelope: bytes, trusted: TrustedKeys) -> tuple[Manifest, bytes]:
    """The manifest that somebody who is trusted has signed, and its bytes.

    Raises:
        SignatureError: nobody has.
        ReleaseError: it is signed, and no manifest.
    """
    payload = verified(envelope, PAYLOAD_TYPE, trusted)
    return decode_manifest(payload), payload
