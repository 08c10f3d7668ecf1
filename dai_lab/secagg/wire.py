"""The bytes that pass between clients and server, and nothing looser than them.

Every message is a tag, then fields of fixed width or with their length before them, all
little-endian. A decoder takes exactly what an encoder gives: unknown tags, lengths that do not
fit, bytes left over, ids out of order are refused, so that two readings of one message never are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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

    @cached_property
    def packed(self) -> bytes:
        """The three, one after another."""
        writer = Writer(b"").raw(self.channel, KEY).raw(self.mask, KEY)
        return writer.raw(self.signature, SIGNATURE).done()

    @classmethod
    def unpacked(cls, data: bytes) -> Advert:
        """Take them apart."""
        if len(data) != 2 * KEY + SIGNATURE:
            raise Refused("wire: public keys and a signature of another size")
        return cls(data[:KEY], data[KEY : 2 * KEY], data[2 * KEY :])


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
    if list(ids) != sorted(set(ids)):
        raise Refused("wire: ids must rise")


def _write(writer: Writer, fields: Mapping[int, bytes]) -> Writer:
    """Write ids, then fields that are all of one size."""
    ids = sorted(fields)
    width = len(fields[ids[0]]) if ids else 0
    if {*map(len, fields.values())} > {width}:
        raise ValueError(f"wire: fields of {width} bytes and others")
    writer.number(len(ids)).number(width).parts.append(np.array(ids, "<u4").tobytes())
    writer.parts += [fields[one] for one in ids]
    return writer


def _read(reader: Reader) -> dict[int, bytes]:
    count = reader.count(least=4)
    width = reader.number()
    if width and not count:
        raise Refused("wire: nothing has no size")
    ids: list[int] = np.frombuffer(reader.raw(4 * count), "<u4").tolist()
    _ordered(ids)
    text = reader.raw(count * width)
    return {one: text[at * width : (at + 1) * width] for at, one in enumerate(ids)}


def write_advert(advert: Advert) -> bytes:
    """Encode round 0 of a client."""
    return b"adv" + advert.packed


def read_advert(data: bytes) -> Advert:
    """Decode round 0 of a client; raises ``Refused``."""
    reader = Reader(data, b"adv")
    found = Advert.unpacked(reader.raw(2 * KEY + SIGNATURE))
    reader.done()
    return found


def write_introduction(one: Introduction) -> bytes:
    """Encode what begins round 1."""
    packed = {peer: advert.packed for peer, advert in one.adverts.items()}
    return _write(Writer(b"int").raw(one.session, KEY), packed).done()


def read_introduction(data: bytes) -> Introduction:
    """Decode what begins round 1; raises ``Refused``."""
    reader = Reader(data, b"int")
    session = reader.raw(KEY)
    found = {peer: Advert.unpacked(data) for peer, data in _read(reader).items()}
    reader.done()
    return Introduction(session, found)


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
    writer.parts.append(np.array(request.survivors, "<u4").tobytes())
    return _write(writer, request.consents).done()


def read_request(data: bytes) -> Request:
    """Decode the survivors, and who signed them; raises ``Refused``."""
    reader = Reader(data, b"req")
    survivors = np.frombuffer(reader.raw(4 * reader.count(least=4)), "<u4").tolist()
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
