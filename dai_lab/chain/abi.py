"""Arguments to bytes and back, as contracts have them.

Base installs lack a library for this, and one of our own is several times faster; it knows every
type but fixed-point numbers and functions.

Source: Solidity documentation, "Contract ABI Specification".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

WORD = 32


class Malformed(ValueError):  # noqa: N818
    """Bytes or a value that a type does not have."""


@dataclass(frozen=True)
class Codec:
    """One type: how many bytes it takes in the head, and whether its value is elsewhere."""

    head: int
    dynamic: bool
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes, int], Any]


def word(data: bytes, at: int) -> bytes:
    """Take 32 bytes."""
    found = data[at : at + WORD]
    if len(found) != WORD:
        raise Malformed("the bytes end too early")
    return found


def count(data: bytes, at: int) -> int:
    """Take a length or an offset, which never goes past the end."""
    number = int.from_bytes(word(data, at))
    if number > len(data):
        raise Malformed(f"a length or an offset of {number} in {len(data)} bytes")
    return number


def integer(name: str, bits: int, signed: bool) -> Codec:
    """Whole numbers of so many bits."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def encode(given: Any) -> bytes:
        if type(given) is not int or not low <= given <= high:
            raise Malformed(f"{given!r} is no {name}")
        return given.to_bytes(WORD, signed=signed)

    def decode(data: bytes, at: int) -> int:
        number = int.from_bytes(word(data, at), signed=signed)
        if not low <= number <= high:
            raise Malformed(f"{number} is no {name}")
        return number

    return Codec(WORD, False, encode, decode)


def fixed_bytes(name: str, size: int) -> Codec:
    """So many bytes, at the front of a word."""
    padding = bytes(WORD - size)

    def encode(given: Any) -> bytes:
        if not isinstance(given, bytes) or len(given) != size:
            raise Malformed(f"{given!r} is no {name}")
        return given + padding

    def decode(data: bytes, at: int) -> bytes:
        found = word(data, at)
        if found[size:] != padding:
            raise Malformed(f"0x{found.hex()} is no {name}")
        return found[:size]

    return Codec(WORD, False, encode, decode)


def address() -> Codec:
    """20 bytes in lower-case hexadecimal, after ``0x``."""

    def encode(given: Any) -> bytes:
        if isinstance(given, str) and len(given) == 42 and given[:2] == "0x":
            try:
                return bytes(12) + bytes.fromhex(given[2:])
            except ValueError:
                pass
        raise Malformed(f"{given!r} is no address")

    def decode(data: bytes, at: int) -> str:
        found = word(data, at)
        if any(found[:12]):
            raise Malformed(f"0x{found.hex()} is no address")
        return "0x" + found[12:].hex()

    return Codec(WORD, False, encode, decode)


def boolean() -> Codec:
    """One or zero."""

    def encode(given: Any) -> bytes:
        if not isinstance(given, bool):
            raise Malformed(f"{given!r} is no bool")
        return int(given).to_bytes(WORD)

    def decode(data: bytes, at: int) -> bool:
        number = int.from_bytes(word(data, at))
        if number > 1:
            raise Malformed(f"{number} is no bool")
        return bool(number)

    return Codec(WORD, False, encode, decode)


def free_bytes() -> Codec:
    """Any number of bytes."""

    def encode(given: Any) -> bytes:
        if not isinstance(given, bytes):
            raise Malformed(f"{given!r} is no bytes")
        return len(given).to_bytes(WORD) + given + bytes(-len(given) % WORD)

    def decode(data: bytes, at: int) -> bytes:
        size = count(data, at)
        found = data[at + WORD : at + WORD + size]
        padding = data[at + WORD + size : at + WORD + size + -size % WORD]
        if len(found) != size or len(padding) != -size % WORD or any(padding):
            raise Malformed("the bytes end too early, or are padded with more than zeros")
        return found

    return Codec(WORD, True, encode, decode)


def text() -> Codec:
    """Any text, as UTF-8."""
    inner = free_bytes()

    def encode(given: Any) -> bytes:
        if not isinstance(given, str):
            raise Malformed(f"{given!r} is no string")
        try:
            return inner.encode(given.encode())
        except UnicodeEncodeError:
            raise Malformed(f"{given!r} has no UTF-8") from None

    def decode(data: bytes, at: int) -> str:
        found: bytes = inner.decode(data, at)
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise Malformed(f"0x{found.hex()} is no UTF-8") from None

    return Codec(WORD, True, encode, decode)


def joined(parts: Sequence[Codec]) -> Codec:
    """Several in a row: a tuple, or arguments."""
    dynamic = any(one.dynamic for one in parts)
    head = sum(one.head for one in parts)
    # Looked up once: this is a good part of what a transaction costs.
    encoders = [(one.encode, one.dynamic) for one in parts]

    def encode(given: Any) -> bytes:
        if not isinstance(given, (tuple, list)) or len(given) != len(encoders):
            raise Malformed(f"{given!r} is no row of {len(encoders)}")
        heads, tails, end = [], [], head
        for (write, elsewhere), value in zip(encoders, given):  # noqa: B905 (slower, and checked)
            made = write(value)
            if elsewhere:
                heads.append(end.to_bytes(WORD))
                tails.append(made)
                end += len(made)
            else:
                heads.append(made)
        return b"".join(heads + tails)

    def decode(data: bytes, at: int) -> tuple[Any, ...]:
        values, here = [], at
        for one in parts:
            where = at + count(data, here) if one.dynamic else here
            values.append(one.decode(data, where))
            here += one.head
        return tuple(values)

    return Codec(WORD if dynamic else head, dynamic, encode, decode)


def array(of: Codec, size: int | None) -> Codec:
    """Many of one type; without ``size``, their number goes before them."""
    if size is not None:
        return joined([of] * size)
    row = lru_cache(64)(lambda many: joined([of] * many))

    def encode(given: Any) -> bytes:
        if not isinstance(given, (tuple, list)):
            raise Malformed(f"{given!r} is no list")
        return len(given).to_bytes(WORD) + row(len(given)).encode(given)

    def decode(data: bytes, at: int) -> tuple[Any, ...]:
        size = count(data, at)
        # An array that cannot be in these bytes is refused before any work is done for it.
        if size * max(of.head, 1) > len(data):
            raise Malformed(f"an array of {size} in {len(data)} bytes")
        return row(size).decode(data, at + WORD)  # type: ignore[no-any-return]

    return Codec(WORD, True, encode, decode)


@cache
def codec(name: str) -> Codec:
    """Find a type by its name, such as ``(address,uint256)[]``.

    Raises:
        ValueError: No such type.
    """
    if name.endswith("]"):
        of, _, size = name[:-1].rpartition("[")
        return array(codec(of), int(size) if size else None)
    if name.startswith("(") and name.endswith(")"):
        return joined([codec(one) for one in split(name[1:-1])])
    if name in {"address", "bool", "bytes", "string"}:
        return {"address": address, "bool": boolean, "bytes": free_bytes, "string": text}[name]()
    for prefix, signed in (("uint", False), ("int", True)):
        bits = name.removeprefix(prefix)
        if name.startswith(prefix) and bits.isdigit() and int(bits) in range(8, 257, 8):
            return integer(name, int(bits), signed)
    if name.startswith("bytes") and name[5:].isdigit() and int(name[5:]) in range(1, 33):
        return fixed_bytes(name, int(name[5:]))
    raise Malformed(f"no type is called {name!r}")


def split(names: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    found, depth, here = [], 0, ""
    for letter in names:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(here)
            here = ""
        else:
            here += letter
    return [*found, here] if here else found


def type_name(part: Mapping[str, Any]) -> str:
    """Write the type of a part of an interface, tuples in full."""
    kind = str(part["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(type_name(one) for one in part['components'])}){kind[5:]}"
