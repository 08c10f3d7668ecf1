"""Keys: where they come from, and what two clients make of each other's.

Nothing here is home-made: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), AES-GCM (SP 800-38D) and
Ed25519 (RFC 8032) are those of ``cryptography``. A ``Randomness`` is ``os.urandom`` wherever
clients are real; simulated clients draw from their run's seed, so that a run can be replayed, and
are as secret as that seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dai_lab.core import Key
from dai_lab.secagg.wire import Advert, Refused

Randomness: TypeAlias = Callable[[int], bytes]
"""From a number of bytes to as many that nobody can guess."""

SECRET = 32
"""Bytes of a private key, of a seed of masks, and of a session's name."""

MASK_KEY = 16
"""Bytes of a key that is expanded into a mask by AES-128-CTR."""


@runtime_checkable
class Identity(Protocol):
    """What checks an Ed25519 signature, as a public key does."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise ``InvalidSignature`` for one that does not fit."""


def simulated(key: Key) -> Randomness:
    """Draw secrets of a simulated client from its place in a run, by AES-256-CTR."""
    seed = derive(hashlib.sha256(place(key)).digest(), b"simulated", SECRET)
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return lambda count: stream.update(bytes(count))


def place(key: Key) -> bytes:
    """Name a place in a run, such as a session's."""
    return json.dumps([key.seed, *key.path]).encode()


def derive(secret: bytes, info: bytes, width: int) -> bytes:
    """Derive ``width`` bytes for one purpose from a secret: HKDF-SHA256 without salt."""
    return HKDF(SHA256(), width, salt=None, info=b"dai_lab/secagg/" + info).derive(secret)


def agreed(own: X25519PrivateKey, other: bytes) -> bytes:
    """Agree on a secret with whoever holds the private key of ``other``.

    Raises:
        Refused: A public key that makes every secret the same.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise Refused("secagg: a public key of small order") from None


def mask_key(secret: bytes, session: bytes, one: int, other: int) -> bytes:
    """Derive what two clients expand into their common mask; the same for both."""
    low, high = sorted((one, other))
    return derive(secret, b"mask" + session + ids(low, high), MASK_KEY)


def own_mask_key(seed: bytes, session: bytes) -> bytes:
    """Derive what a client expands into the mask that hides it from its neighbors."""
    return derive(seed, b"self" + session, MASK_KEY)


def seal(secret: bytes, session: bytes, sender: int, receiver: int, text: bytes) -> bytes:
    """Encrypt for one receiver and one direction, whose key is used this once."""
    return AESGCM(_channel(secret, session, sender, receiver)).encrypt(
        bytes(12), text, session + ids(sender, receiver)
    )


def unseal(secret: bytes, session: bytes, sender: int, receiver: int, sealed: bytes) -> bytes:
    """Decrypt what ``sender`` sealed for ``receiver``.

    Raises:
        Refused: It was not, in this session and direction, or was changed since.
    """
    try:
        return AESGCM(_channel(secret, session, sender, receiver)).decrypt(
            bytes(12), sealed, session + ids(sender, receiver)
        )
    except InvalidTag:
        raise Refused(f"secagg: shares of client {sender} are not what it sealed") from None


def _channel(secret: bytes, session: bytes, sender: int, receiver: int) -> bytes:
    return derive(secret, b"enc" + session + ids(sender, receiver), SECRET)


def ids(*numbers: int) -> bytes:
    """Write ids as bytes of fixed width."""
    return b"".join(one.to_bytes(4, "little") for one in numbers)


def named(adverts: Mapping[int, Advert]) -> bytes:
    """Name a session by all public keys in it."""
    found = hashlib.sha256(b"session")
    for one in sorted(adverts):
        found.update(ids(one) + adverts[one].channel + adverts[one].mask)
    return found.digest()


def advert_text(place: bytes, client: int, channel: bytes, mask: bytes) -> bytes:
    """Say what a client signs of its keys; ``place`` names the round, so that none is replayed."""
    return b"adv" + len(place).to_bytes(4, "little") + place + ids(client) + channel + mask


def survivors_text(session: bytes, survivors: list[int]) -> bytes:
    """Say what a client signs of the survivors."""
    return b"cons" + session + hashlib.sha256(ids(*survivors)).digest()


def check(identity: Identity, signature: bytes, text: bytes, client: int) -> None:
    """Refuse what an identity did not sign."""
    try:
        identity.verify(signature, text)
    except InvalidSignature:
        raise Refused(f"secagg: client {client} did not sign this") from None


def public(key: X25519PrivateKey) -> bytes:
    """Return the public half, as bytes."""
    return key.public_key().public_bytes_raw()


def private(seed: bytes) -> X25519PrivateKey:
    """Return the key pair of a seed."""
    return X25519PrivateKey.from_private_bytes(seed)


def identity(seed: bytes) -> Ed25519PrivateKey:
    """Return the signing key of a seed."""
    return Ed25519PrivateKey.from_private_bytes(seed)
