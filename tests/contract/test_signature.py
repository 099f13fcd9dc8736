"""Signatures: as DSSE says, as others read them, and refused in every way they can be wrong."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer._key import SSlibKey

from contract.desired import Desired, Wanted, cohort_percent
from contract.errors import EarshotError, KeyFileError, MessageError, ReleaseError, SignatureError
from contract.release import (
    CHUNK_BYTES,
    MAX_MANIFEST_BYTES,
    ReleaseFile,
    SelfTest,
    encode_manifest,
)
from contract.signature import (
    MAX_ENVELOPE_BYTES,
    Signer,
    _pre_authentication_encoding,
    new_private_key,
    read_public_keys,
    verified,
)
from contract.signed_desired import open_desired, sign_desired
from contract.signed_manifest import open_manifest, sign_manifest
from tests.contract.test_release import MANIFEST
from tests.rig.signers import SECOND, SIGNER, STRANGER, TRUSTED

VECTORS = Path(__file__).parents[1] / "data/signature"
TYPE = "application/vnd.earshot.test+json"

PACKED = msgspec.structs.replace(
    MANIFEST,
    self_test=SelfTest(statistic=31.25, relative_tolerance=0.01),
    not_after_us=1_858_430_112_500_000,
)
DESIRED = Desired(
    at_us=1_795_358_112_500_000,
    to="group:line-2",
    serial=1_795_358_112_500_000,
    wanted=Wanted(
        release="fan@17",
        manifest_sha256=hashlib.sha256(encode_manifest(PACKED)).hexdigest(),
        threshold=48.5,
    ),
    percent=10.0,
    before=Wanted(release="fan@16", manifest_sha256="0f" * 32),
    allow_older=False,
)
TOPIC = "earshot/1/g/line-2/desired"


def fault(envelope: bytes, payload_type: str = TYPE) -> str:
    with pytest.raises(SignatureError) as error:
        verified(envelope, payload_type, TRUSTED)

    return error.value.reason


def changed(envelope: bytes, **parts: Any) -> bytes:
    return json.dumps({**json.loads(envelope), **parts}).encode()


def test_what_is_signed_is_what_dsse_says() -> None:
    """The example of the specification."""
    encoded = _pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")

    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("signer", [SIGNER, SECOND])
def test_payload_of_a_trusted_signer_comes_back(signer: Signer) -> None:
    """Either of the two keys will do."""
    assert verified(signer.sign(b"payload", TYPE), TYPE, TRUSTED) == b"payload"


def test_another_implementation_verifies_our_envelope() -> None:
    """Securesystemslib reads what we sign, as TUF and in-toto do."""
    public = SSlibKey(
        SIGNER.key_id,
        "ed25519",
        "ed25519",
        {"public": base64.b16decode(_raw(SIGNER), casefold=True).hex()},
    )
    envelope = Envelope.from_dict(json.loads(SIGNER.sign(b"payload", TYPE)))

    assert set(envelope.verify([public], 1)) == {SIGNER.key_id}
    assert envelope.payload == b"payload"


def _raw(signer: Signer) -> bytes:
    (key,) = read_public_keys(signer.public_pem).values()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex().encode()


def test_key_id_is_the_digest_of_the_key() -> None:
    """Of its 32 bytes, as RFC 8032 has them for this seed."""
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")

    assert SIGNER.key_id == hashlib.sha256(raw).hexdigest()


def test_stranger_is_not_trusted() -> None:
    """A good signature by somebody else is none."""
    assert fault(STRANGER.sign(b"payload", TYPE)) == "unknown_key"


def test_stranger_under_a_trusted_name_is_not_trusted() -> None:
    """The id only says which key to try."""
    envelope = STRANGER.sign(b"payload", TYPE).replace(
        STRANGER.key_id.encode(), SIGNER.key_id.encode()
    )

    assert fault(envelope) == "wrong_signature"


def test_name_that_nobody_has_signed_is_not_repeated() -> None:
    """It goes into logs and terminals: only what looks like a key's id is shown."""
    signatures = [{"keyid": "\x1b[2J\nERROR", "sig": ""}, {"keyid": "ab" * 32, "sig": ""}]
    with pytest.raises(SignatureError) as error:
        verified(changed(SIGNER.sign(b"payload", TYPE), signatures=signatures), TYPE, TRUSTED)

    assert str(error.value).endswith("got one by no key's id, abababababab")


def test_trusted_signature_beside_a_strangers_counts() -> None:
    """While a key is replaced, both sign."""
    ours, theirs = (json.loads(s.sign(b"payload", TYPE)) for s in (SIGNER, STRANGER))
    both = changed(json.dumps(ours).encode(), signatures=theirs["signatures"] + ours["signatures"])

    assert verified(both, TYPE, TRUSTED) == b"payload"


def test_signature_over_another_type_does_not_count() -> None:
    """A manifest never passes for an order, nor by writing the other type on it."""
    envelope = SIGNER.sign(b"payload", "application/vnd.earshot.other+json")

    assert fault(envelope) == "wrong_type"
    assert fault(changed(envelope, payloadType=TYPE)) == "wrong_signature"


def test_changed_payload_is_refused() -> None:
    """Whatever was signed, this was not."""
    envelope = SIGNER.sign(b"payload", TYPE)

    assert fault(changed(envelope, payload=base64.b64encode(b"Payload").decode())) == (
        "wrong_signature"
    )


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"{}",
        b"payload",
        b"\xff\xfe",
        b"[" * 8000,
        changed(SIGNER.sign(b"payload", TYPE), signatures=[]),
        changed(SIGNER.sign(b"payload", TYPE), signatures=[{"keyid": "a", "sig": ""}] * 5),
        changed(SIGNER.sign(b"payload", TYPE), payload="a"),
        changed(SIGNER.sign(b"payload", TYPE), payload="ä"),
        changed(SIGNER.sign(b"payload", TYPE), signatures=[{"keyid": SIGNER.key_id, "sig": "?"}]),
    ],
)
def test_what_is_no_envelope_is_unsigned(envelope: bytes) -> None:
    """A plain message is nobody's word."""
    assert fault(envelope) == "unsigned"


def test_envelope_has_a_bound() -> None:
    """Checked before anything is read, and not written either."""
    assert fault(b" " * (MAX_ENVELOPE_BYTES + 1)) == "oversize"
    with pytest.raises(SignatureError) as error:
        SIGNER.sign(b"x" * MAX_ENVELOPE_BYTES, TYPE)
    assert error.value.reason == "oversize"


def test_largest_manifest_fits_into_an_envelope() -> None:
    """What may be written can be published."""
    assert len(SIGNER.sign(b"x" * MAX_MANIFEST_BYTES, TYPE)) <= MAX_ENVELOPE_BYTES


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_damage_goes_through(data: st.DataObject) -> None:
    """With any bytes changed, cut or added, the payload is the signed one or there is none."""
    envelope = bytearray(SIGNER.sign(b'{"a":1}', TYPE))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(envelope) - 1))
        envelope[at] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, 3))
    end = data.draw(st.integers(len(envelope) - 3, len(envelope)))

    try:
        payload = verified(bytes(envelope[start:end]), TYPE, TRUSTED)
    except SignatureError:
        return
    assert payload == b'{"a":1}'


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_private_key_comes_back(passphrase: bytes | None) -> None:
    """Encrypted or not, a new key signs what its public half verifies."""
    signer = Signer(new_private_key(passphrase), passphrase)

    assert verified(signer.sign(b"payload", TYPE), TYPE, read_public_keys(signer.public_pem)) == (
        b"payload"
    )


def test_no_two_keys_are_alike() -> None:
    """They are drawn, not derived."""
    assert Signer(new_private_key(None), None).key_id != Signer(new_private_key(None), None).key_id


@pytest.mark.parametrize(
    ("pem", "passphrase"),
    [
        (new_private_key(b"right"), b"wrong"),
        (new_private_key(b"right"), None),
        (new_private_key(None), b"needless"),
        (b"", None),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None),
        (SIGNER.public_pem, None),
    ],
)
def test_key_that_cannot_sign_is_refused(pem: bytes, passphrase: bytes | None) -> None:
    """Another pass phrase, none, or no private key at all."""
    with pytest.raises(KeyFileError):
        Signer(pem, passphrase)


def _elliptic() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nothing",
        SIGNER.public_pem + SECOND.public_pem + STRANGER.public_pem,
        SIGNER.public_pem + b"something",
        SIGNER.public_pem.replace(b"M", b"?", 1),
        _elliptic(),
        new_private_key(None),
    ],
)
def test_trusted_keys_that_are_none_are_refused(pem: bytes) -> None:
    """One or two Ed25519 public keys, and nothing else."""
    with pytest.raises(KeyFileError, match="Expected"):
        read_public_keys(pem)


def test_manifest_and_order_are_signed_as_released() -> None:
    """Ed25519 has no chance in it: the bytes are the same on every machine."""
    assert sign_manifest(PACKED, SIGNER) == (VECTORS / "manifest.dsse.json").read_bytes()
    assert sign_desired(DESIRED, SIGNER) == (VECTORS / "desired.dsse.json").read_bytes()


def test_manifest_and_order_are_read_as_released() -> None:
    """From the bytes of format 1 and schema 1."""
    manifest, payload = open_manifest((VECTORS / "manifest.dsse.json").read_bytes(), TRUSTED)
    desired = open_desired(TOPIC, (VECTORS / "desired.dsse.json").read_bytes(), TRUSTED)

    assert (manifest, payload) == (PACKED, encode_manifest(PACKED))
    assert desired == DESIRED
    assert desired.wanted is not None
    assert desired.wanted.manifest_sha256 == hashlib.sha256(payload).hexdigest()


def test_signed_nonsense_is_no_manifest() -> None:
    """A signature says who, not that it makes sense."""
    with pytest.raises(ReleaseError, match="Expected a manifest of format 1"):
        open_manifest(SIGNER.sign(b"{}", "application/vnd.earshot.manifest+json"), TRUSTED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema"),
        ({"to": "group:line-3"}, "wrong_topic"),
        ({"to": "all"}, "wrong_topic"),
        ({"to": "everybody"}, "malformed"),
        ({"serial": -1}, "malformed"),
        ({"percent": 101}, "malformed"),
        ({"allow_older": None}, "malformed"),
        ({"wanted": {"release": "fan"}}, "malformed"),
        ({"wanted": {"release": "fan@17", "manifest_sha256": "f" * 63}}, "malformed"),
        (
            {"wanted": {"release": "fan@17", "manifest_sha256": "f" * 64, "threshold": 0}},
            "malformed",
        ),
    ],
)
def test_signed_order_that_makes_no_sense_is_refused(changes: dict[str, Any], reason: str) -> None:
    """Of another schema, for others, or with values that nothing could follow."""
    document = {**msgspec.to_builtins(DESIRED), **changes}
    envelope = SIGNER.sign(json.dumps(document).encode(), "application/vnd.earshot.desired+json")

    with pytest.raises(MessageError) as error:
        open_desired(TOPIC, envelope, TRUSTED)

    assert error.value.reason == reason


@given(st.binary(max_size=300))
def test_signed_bytes_of_any_kind_end_in_a_refusal(payload: bytes) -> None:
    """Nothing but our own errors comes out."""
    envelope = SIGNER.sign(payload, "application/vnd.earshot.desired+json")

    with pytest.raises(EarshotError):
        open_desired(TOPIC, envelope, TRUSTED)


def test_wanted_names_its_release() -> None:
    """As name and version."""
    assert DESIRED.wanted is not None
    assert (DESIRED.wanted.name, DESIRED.wanted.version) == ("fan", 17)


def test_cohorts_grow_without_reshuffling() -> None:
    """A share of nodes is about that share, and part of every larger one."""
    standing = [cohort_percent(f"node-{n}") for n in range(10_000)]

    assert all(0 <= percent < 100 for percent in standing)
    for share in (1, 10, 50, 90):
        followers = sum(percent < share for percent in standing)
        assert abs(followers / 100 - share) < 2
    assert cohort_percent("press-07") == pytest.approx(14.540852)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (1, [1]),
        (CHUNK_BYTES, [CHUNK_BYTES]),
        (CHUNK_BYTES + 1, [CHUNK_BYTES, 1]),
        (3 * CHUNK_BYTES - 1, [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES - 1]),
    ],
)
def test_file_is_cut_into_chunks(size: int, sizes: list[int]) -> None:
    """Of 32 KiB, the last of what is left."""
    file = ReleaseFile(name="model.tflite", sha256="0" * 64, size_bytes=size)

    assert [file.chunk_bytes(k) for k in range(file.chunks)] == sizes
