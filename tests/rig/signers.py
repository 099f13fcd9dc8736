"""Keys for tests: their seeds are in public documents, nobody must ever trust them."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contract.signature import Signer, TrustedKeys, read_public_keys


def _signer(seed: str) -> Signer:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Signer(pem, None)


# RFC 8032, section 7.1, tests 1 to 3.
SIGNER = _signer("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
SECOND = _signer("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
STRANGER = _signer("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")

TRUSTED: TrustedKeys = read_public_keys(SIGNER.public_pem + SECOND.public_pem)
"""As a node has them: two, so that one can be replaced."""
