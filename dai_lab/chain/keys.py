"""Accounts: secret numbers, their addresses and signatures."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256K1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from dai_lab.chain.hashing import keccak, recovered

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of secp256k1; a secret is at least 1 and below it."""


class Account:
    """An account whose secret this process holds; nothing that prints it shows the secret."""

    __slots__ = ("_secret", "address")

    def __init__(self, secret: int) -> None:
        """Take a secret, at least 1 and below the order of the curve."""
        self._secret = derive_private_key(secret, SECP256K1())
        point = self._secret.public_key().public_numbers()
        self.address = "0x" + keccak(point.x.to_bytes(32) + point.y.to_bytes(32))[12:].hex()

    def __repr__(self) -> str:
        return f"Account({self.address})"

    def sign(self, digest: bytes) -> bytes:
        """Sign 32 bytes: ``r``, ``s`` and ``v``, in the only form that contracts of ours take.

        ``s`` is in its lower half (EIP-2); nonces come from the message (RFC 6979).
        """
        if len(digest) != 32:
            raise ValueError(f"a digest is 32 bytes, got {len(digest)}")
        how = ECDSA(Prehashed(SHA256()), deterministic_signing=True)
        r, s = decode_dss_signature(self._secret.sign(digest, how))
        pair = r.to_bytes(32) + min(s, ORDER - s).to_bytes(32)
        # Which of two points it was is not told; the address tells.
        first = recovered(digest, pair + b"\x1b") == self.address
        return pair + (b"\x1b" if first else b"\x1c")


def secret_from(seed: bytes) -> int:
    """Make a secret of bytes that anything may have given, as long as they are many."""
    return int.from_bytes(seed) % (ORDER - 1) + 1
