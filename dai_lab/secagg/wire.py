"""The bytes that pass between clients and server, and nothing looser than them.

Every message is a tag, then fields of fixed width or with their length before them, all
little-endian. A decoder takes exactly what an encoder gives: unknown tags, lengths that do not
fit, bytes left over, ids out of order are refused, so that two readings of one message never are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

KEY, SIGNATURE = 32, 64
"""Bytes of a public key (X25519) and of a signature (Ed25519)."""

MOST = 2**32 - 1
"""The highest id, and the longest field in bytes."""


class Refused(ValueError):  # noqa: N818 (it says what happened)
    """A message that an honest peer would not have sent, or not now."""


@dataclass(frozen=True)
class Advert:
    """Public keys of one client: for sealed shares, and for masks."""

    channel: bytes
    mask: bytes
    signature: bytes
    """Of the client's long-term identity."""


@dataclass(frozen=True)
class Introduction:
    """What the server tells a client about the session and its neighbors."""

    session: bytes
    adverts: Mapping[int, Advert]


@dataclass(frozen=True)
class Request:
    """Whose masked vectors the server holds, and who else was told the same."""

    survivors: Sequence[int]
    consents: Mapping[int, bytes]
    """Signatures of neighbors on these survivors; empty where nobody is asked to sign."""


@dataclass(frozen=True)
class Revealed:
    """Shares that one client gives up: of the own mask of those who survived, else of the key."""

    own: Mapping[int, bytes]
    keys: Mapping[int, bytes]


class Writer:
    """Puts fields one after another."""

    def __init__(self, tag: bytes) -> None:
        self.parts: list[bytes | memoryview] = [tag]

    def number(self, value: int) -> Writer:
        """Write an id or a count."""
        self.parts.append(struct.pack("<I", value))
        return self

    def raw(self, data: bytes, width: int) -> Writer:
        """Write a field of known width."""
        if len(data) != width:
            raise ValueError(f"wire: a field of {width} bytes has {len(data)}")
        self.parts.append(data)
        return self

    def field(self, data: bytes | memoryview) -> Writer:
        """Write a field with its length before it."""
        self.number(len(data)).parts.append(data)
        return self

    def done(self) -> bytes:
        """Return the message."""
        return b"".join(self.parts)


class Reader:
    """Takes fields off a message that anyone may have sent."""

    def __init__(self, data: bytes, tag: bytes) -> None:
        self.data, self.at = data, 0
        if self.raw(len(tag)) != tag:
            raise Refused(f"wire: this is no {tag.decode()} message")

    def raw(self, width: int) -> bytes:
        """Take a field of known width."""
        if len(self.data) - self.at < width:
            raise Refused("wire: a message ends too early")
        self.at += width
        return bytes(self.data[self.at - width : self.at])

    def number(self) -> int:
        """Take an id or a count."""
        return int(struct.unpack("<I", self.raw(4))[0])

    def field(self) -> bytes:
        """Take a field that says its length."""
        return self.raw(self.number())

    def rest(self) -> memoryview:
        """Take a field that says its length and is the last, without copying it."""
        length = self.number()
        if length != len(self.data) - self.at:
            raise Refused("wire: the last field of a message does not end where that does")
        self.at += length
        return memoryview(self.data)[self.at - length :]

    def count(self, least: int) -> int:
        """Take how many entries of ``least`` bytes or more follow.

        There can be no more than the message has room for, so that a lie costs no memory.
        """
        found = self.number()
        if found * least > len(self.data) - self.at:
            raise Refused("wire: a message ends too early")
        return found

    def done(self) -> None:
        """Refuse what is left over."""
        if self.at != len(self.data):
            raise Refused("wire: a message goes on after its end")


def _ordered(ids: Sequence[int]) -> None:
    if any(one >= other for one, other in pairwise(ids)):
        raise Refused("wire: ids must rise")


def _write(writer: Writer, fields: Mapping[int, bytes]) -> Writer:
    writer.number(len(fields))
    for one in sorted(fields):
        writer.number(one).field(fields[one])
    return writer


def _read(reader: Reader) -> dict[int, bytes]:
    pairs = [(reader.number(), reader.field()) for _ in range(reader.count(least=8))]
    _ordered([one for one, _ in pairs])
    return dict(pairs)


def _advert(writer: Writer, advert: Advert) -> Writer:
    writer.raw(advert.channel, KEY).raw(advert.mask, KEY)
    return writer.raw(advert.signature, SIGNATURE)


def _read_advert(reader: Reader) -> Advert:
    return Advert(reader.raw(KEY), reader.raw(KEY), reader.raw(SIGNATURE))


def write_advert(advert: Advert) -> bytes:
    """Encode round 0 of a client."""
    return _advert(Writer(b"adv"), advert).done()


def read_advert(data: bytes) -> Advert:
    """Decode round 0 of a client; raises ``Refused``."""
    reader = Reader(data, b"adv")
    found = _read_advert(reader)
    reader.done()
    return found


def write_introduction(one: Introduction) -> bytes:
    """Encode what begins round 1."""
    writer = Writer(b"int").raw(one.session, KEY).number(len(one.adverts))
    for peer in sorted(one.adverts):
        _advert(writer.number(peer), one.adverts[peer])
    return writer.done()


def read_introduction(data: bytes) -> Introduction:
    """Decode what begins round 1; raises ``Refused``."""
    reader = Reader(data, b"int")
    session = reader.raw(KEY)
    least = 4 + 2 * KEY + SIGNATURE
    pairs = [(reader.number(), _read_advert(reader)) for _ in range(reader.count(least))]
    _ordered([peer for peer, _ in pairs])
    reader.done()
    return Introduction(session, dict(pairs))


def write_sealed(sealed: Mapping[int, bytes]) -> bytes:
    """Encode sealed shares: to whom they go (a client's), or whose they are (the server's)."""
    return _write(Writer(b"shr"), sealed).done()


def read_sealed(data: bytes) -> dict[int, bytes]:
    """Decode sealed shares; raises ``Refused``."""
    reader = Reader(data, b"shr")
    found = _read(reader)
    reader.done()
    return found


def write_masked(packed: bytes | memoryview) -> bytes:
    """Encode a masked vector, packed to the width of the modulus."""
    return Writer(b"vec").field(packed).done()


def read_masked(data: bytes) -> memoryview:
    """Decode a masked vector; raises ``Refused``."""
    return Reader(data, b"vec").rest()


def write_request(request: Request) -> bytes:
    """Encode the survivors, and who signed them."""
    writer = Writer(b"req").number(len(request.survivors))
    for one in request.survivors:
        writer.number(one)
    return _write(writer, request.consents).done()


def read_request(data: bytes) -> Request:
    """Decode the survivors, and who signed them; raises ``Refused``."""
    reader = Reader(data, b"req")
    survivors = [reader.number() for _ in range(reader.count(least=4))]
    _ordered(survivors)
    consents = _read(reader)
    reader.done()
    return Request(survivors, consents)


def write_consent(signature: bytes) -> bytes:
    """Encode a signature on the survivors."""
    return Writer(b"con").raw(signature, SIGNATURE).done()


def read_consent(data: bytes) -> bytes:
    """Decode a signature on the survivors; raises ``Refused``."""
    reader = Reader(data, b"con")
    found = reader.raw(SIGNATURE)
    reader.done()
    return found


def write_weights(weights: Mapping[int, int]) -> bytes:
    """Encode what each client's row counts for, whole numbers of 32 bits, with their signs."""
    return _write(Writer(b"wts"), {one: struct.pack("<i", weights[one]) for one in weights}).done()


def read_weights(data: bytes) -> dict[int, int]:
    """Decode what each client's row counts for; raises ``Refused``."""
    reader = Reader(data, b"wts")
    found = _read(reader)
    reader.done()
    if any(len(one) != 4 for one in found.values()):
        raise Refused("wire: a weight must be 4 bytes")
    return {one: int(struct.unpack("<i", found[one])[0]) for one in found}


def write_revealed(revealed: Revealed) -> bytes:
    """Encode the shares that a client gives up."""
    return _write(_write(Writer(b"rev"), revealed.own), revealed.keys).done()


def read_revealed(data: bytes) -> Revealed:
    """Decode the shares that a client gives up; raises ``Refused``."""
    reader = Reader(data, b"rev")
    own, keys = _read(reader), _read(reader)
    reader.done()
    if both := sorted(own.keys() & keys.keys()):
        raise Refused(f"wire: both shares of client {both[0]}")
    return Revealed(own, keys)
