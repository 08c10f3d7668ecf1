"""Content addresses: the CIDs by which IPFS knows the same bytes.

Source:
    CIDv1, UnixFS and DAG-PB (specs.ipfs.tech); a balanced tree with raw leaves of 1 MiB and
    1024 links to a node.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CHUNK, LINKS = 2**20, 1024
"""Bytes of a leaf, and links of a node, at most."""

RAW, DAG_PB = 0x55, 0x70
"""What a block holds: plain bytes, or links to others (multicodec)."""

Keep = Callable[[str, bytes], None]
"""Takes a block and its CID."""


@dataclass(frozen=True)
class _Part:
    cid: bytes
    size: int
    """Bytes of the file below it."""
    total: int
    """Bytes of all blocks below it, itself included."""


def cid_of(data: bytes, keep: Keep | None = None) -> str:
    """Name bytes by their CID; hand each block to ``keep``, leaves before what links to them."""
    keep = keep or _forget
    view = memoryview(data)
    starts = range(0, max(len(data), 1), CHUNK)
    level = [_leaf(bytes(view[at : at + CHUNK]), keep) for at in starts]
    while len(level) > 1:
        level = [_node(level[at : at + LINKS], keep) for at in range(0, len(level), LINKS)]
    return as_text(level[0].cid)


def links(block: bytes) -> list[str]:
    """Return the CIDs a node links to, in the order of the file.

    Raises:
        ValueError: The block is no node of a file.
    """
    found = []
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes):
            cids = [one for name, one in _fields(value) if name == 1]
            found += [as_text(one) for one in cids if isinstance(one, bytes)]
    return found


def check(cid: str, block: bytes) -> bool:
    """Tell whether a block is the one a CID names."""
    try:
        return as_text(_cid(codec(cid), block)) == cid
    except ValueError:
        return False


def codec(cid: str) -> int:
    """Return what the block of a CID holds: ``RAW`` or ``DAG_PB``.

    Raises:
        ValueError: It is no CIDv1 of these with SHA-256, in base 32.
    """
    raw = _decoded(cid)
    if len(raw) != 36 or raw[0] != 1 or raw[2:4] != b"\x12\x20" or as_text(raw) != cid:
        raise ValueError(f"storage: {cid!r:.80} is no CIDv1 with SHA-256 in base 32")
    if raw[1] not in (RAW, DAG_PB):
        raise ValueError(f"storage: {cid} is neither raw nor dag-pb")
    return raw[1]


def as_bytes(cid: str) -> bytes:
    """Write a CID in 36 bytes.

    Raises:
        ValueError: It is no CID of ours.
    """
    codec(cid)
    return _decoded(cid)


def as_text(cid: bytes) -> str:
    """Write a CID in base 32."""
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def _decoded(cid: str) -> bytes:
    text = cid[1:].upper()
    try:
        return base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return b""


def _cid(kind: int, block: bytes) -> bytes:
    return bytes([1, kind, 0x12, 0x20]) + hashlib.sha256(block).digest()


def _leaf(data: bytes, keep: Keep) -> _Part:
    cid = _cid(RAW, data)
    keep(as_text(cid), data)
    return _Part(cid, len(data), len(data))


def _node(parts: Sequence[_Part], keep: Keep) -> _Part:
    size = sum(one.size for one in parts)
    # UnixFS: type file, its size, the size below each link.
    about = b"\x08\x02\x18" + _varint(size) + b"".join(b"\x20" + _varint(one.size) for one in parts)
    block = b"".join(
        _bytes(2, _bytes(1, one.cid) + _bytes(2, b"") + b"\x18" + _varint(one.total))
        for one in parts
    ) + _bytes(1, about)
    cid = _cid(DAG_PB, block)
    keep(as_text(cid), block)
    return _Part(cid, size, len(block) + sum(one.total for one in parts))


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _fields(message: bytes) -> list[tuple[int, bytes | int]]:
    """Read a protobuf message of varints and bytes."""
    found: list[tuple[int, bytes | int]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while at < len(message) and shift < 64:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
        raise ValueError("storage: a block is no node of a file")

    while at < len(message):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            if at + value > len(message):
                raise ValueError("storage: a block is no node of a file")
            found.append((tag >> 3, message[at : at + value]))
            at += value
        elif tag & 7 == 0:
            found.append((tag >> 3, value))
        else:
            raise ValueError("storage: a block is no node of a file")
    return found


def _forget(cid: str, block: bytes) -> None:
    pass
