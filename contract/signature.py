"""Who said it: Ed25519 signatures in DSSE envelopes.

An envelope is JSON that carries a payload, the payload's type and signatures over both (the type is
signed, too, so that a manifest can never pass for an order). Only the very bytes that were signed
are ever parsed: nothing has to be put back into a canonical form before it can be checked.

DSSE: https://github.com/secure-systems-lab/dsse, version 1 of the protocol. Keys are PEM, as
`openssl pkey` writes and reads them. Reading key files is done elsewhere.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from contract.errors import KeyFileError, SignatureError

MAX_ENVELOPE_BYTES = 8 * 1024
"""The bound for what is published; half of it would do for any manifest there is."""
MAX_TRUSTED_KEYS = 2
"""One that signs, and one that may take its place."""

_MAX_SIGNATURES = 4
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_PEM_END = b"-----END PUBLIC KEY-----"

TrustedKeys = Mapping[str, Ed25519PublicKey]
"""Public keys by their ids."""


class _Signature(msgspec.Struct, frozen=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: Annotated[
        tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=_MAX_SIGNATURES)
    ]


class Signer:
    """A private key that signs.

    Args:
        pem: the key, as `new_private_key` gives it.
        passphrase: that it was encrypted with; None if it was not.

    Raises:
        KeyFileError: it is no Ed25519 private key, or the pass phrase is not its own.
    """

    def __init__(self, pem: bytes, passphrase: bytes | None) -> None:
        try:
            key = load_pem_private_key(pem, passphrase)
        except TypeError as error:  # one was given or left out where it should not be
            raise KeyFileError(str(error)) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            wrong = "or another pass phrase" if passphrase else "in PEM"
            raise KeyFileError(f"Expected an Ed25519 private key {wrong}: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"Expected an Ed25519 private key, got {type(key).__name__}")
        self._key = key
        self.public_pem = key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = key_id(key.public_key())

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """An envelope, compact JSON with sorted keys.

        Raises:
            SignatureError: it is larger than a reader accepts.
        """
        signature = self._key.sign(_pre_authentication_encoding(payload_type, payload))
        envelope = msgspec.json.encode(
            _Envelope(
                payload=base64.b64encode(payload).decode(),
                payload_type=payload_type,
                signatures=(_Signature(self.key_id, base64.b64encode(signature).decode()),),
            ),
            order="sorted",
        )
        _check_size(envelope)
        return envelope


def verified(envelope: bytes, payload_type: str, trusted: TrustedKeys) -> bytes:
    """The payload of an envelope that a trusted key has signed.

    Args:
        envelope: as it came.
        payload_type: what it has to be.
        trusted: whose word counts.

    Raises:
        SignatureError: nobody who is trusted has signed this.
    """
    _check_size(envelope)
    try:
        decoded = _DECODER.decode(envelope)
        payload = base64.b64decode(decoded.payload, validate=True)
        signatures = [(s.keyid, base64.b64decode(s.sig, validate=True)) for s in decoded.signatures]
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise SignatureError("unsigned", f"Expected a signed envelope (DSSE): {error}") from error
    if decoded.payload_type != payload_type:
        raise SignatureError(
            "wrong_type", f"Expected {payload_type}, got {decoded.payload_type[:80]!r}"
        )
    known = [(trusted[keyid], signature) for keyid, signature in signatures if keyid in trusted]
    if not known:
        # Nobody has signed these names: only what looks like one is repeated.
        signers = ", ".join(
            keyid[:12] if _KEY_ID.fullmatch(keyid) else "no key's id" for keyid, _ in signatures
        )
        raise SignatureError(
            "unknown_key", f"Expected a signature by a key that is trusted, got one by {signers}"
        )
    signed = _pre_authentication_encoding(payload_type, payload)
    for key, signature in known:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            continue
        return payload
    raise SignatureError("wrong_signature", "the signature does not fit what was signed")


def new_private_key(passphrase: bytes | None) -> bytes:
    """A new Ed25519 private key: PKCS #8 in PEM, encrypted if there is a pass phrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def read_public_keys(pem: bytes) -> TrustedKeys:
    """Public keys by their ids, from one text of one or two keys in PEM, one after the other.

    Raises:
        KeyFileError: there is none, too many, or one of another kind.
    """
    *blocks, rest = pem.split(_PEM_END)
    if not 1 <= len(blocks) <= MAX_TRUSTED_KEYS or rest.strip():
        raise KeyFileError(
            f"Expected 1 to {MAX_TRUSTED_KEYS} public keys in PEM, got {len(blocks)}"
            + (" and something behind them" if rest.strip() else "")
        )
    keys = {}
    for block in blocks:
        try:
            key = load_pem_public_key(block.lstrip() + _PEM_END + b"\n")
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"Expected Ed25519 public keys in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileError(f"Expected Ed25519 public keys, got {type(key).__name__}")
        keys[key_id(key)] = key
    return keys


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: type and payload, each with its length, so that neither can be moved."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _check_size(envelope: bytes) -> None:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise SignatureError(
            "oversize",
            f"Expected an envelope of at most {MAX_ENVELOPE_BYTES} bytes, got {len(envelope)}",
        )


_DECODER = msgspec.json.Decoder(_Envelope)
