"""Signed notes and checkpoints: a few lines of text that anyone can read and check.

Source:
    C2SP signed-note and tlog-checkpoint (c2sp.org).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from dai_lab.ledger.keys import Signer, signed_by

ED25519 = b"\x01"
"""The kind of signature, as signed notes number them."""


@dataclass(frozen=True)
class Checkpoint:
    """How large a log was, and the root of its tree."""

    origin: str
    """Which log: one name, for ever the same."""
    size: int
    root: bytes


def key_id(name: str, public: bytes) -> bytes:
    """Return the four bytes by which a note says whose signature it bears."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def verifier(name: str, public: bytes) -> str:
    """Write a public key as text for others to keep: name, identity and key."""
    return f"{name}+{key_id(name, public).hex()}+{_text(ED25519 + public)}"


def known(verifier: str) -> tuple[str, bytes]:
    """Read such a text; return the name and the public key.

    Raises:
        ValueError: It is not one.
    """
    name, _, rest = verifier.strip().partition("+")
    identity, _, key = rest.partition("+")
    raw = _raw(key)
    if raw is None or len(raw) != 33 or raw[:1] != ED25519 or not name:
        raise ValueError(f"{verifier!r:.80} is not a key: write name+identity+key")
    if key_id(name, raw[1:]).hex() != identity:
        raise ValueError(f"{verifier!r:.80} is not a key: its identity is of another")
    return name, raw[1:]


def sign_note(text: str, by: Signer) -> str:
    """Sign lines of text; the signature follows after an empty line."""
    if not text.endswith("\n"):
        raise ValueError("a note's text ends with a newline")
    stamp = _text(key_id(by.name, by.public) + by.sign(text.encode()))
    return f"{text}\n\u2014 {by.name} {stamp}\n"


def open_note(note: str, name: str, public: bytes) -> str | None:
    """Return a note's text where it bears the signature of this key and nothing else."""
    text, mark, rest = note.rpartition("\n\u2014 ")
    who, _, stamp = rest.partition(" ")
    raw = _raw(stamp.removesuffix("\n"))
    if not mark or who != name or raw is None or raw[:4] != key_id(name, public):
        return None
    # Written again it must be the same to the byte: nothing may hide in it.
    if f"{text}\n\u2014 {name} {_text(raw)}\n" != note:
        return None
    return text if signed_by(public, raw[4:], text.encode()) else None


def checkpoint(at: Checkpoint, by: Signer) -> str:
    """Write a signed checkpoint."""
    return sign_note(f"{at.origin}\n{at.size}\n{_text(at.root)}\n", by)


def read_checkpoint(note: str, name: str, public: bytes) -> Checkpoint | None:
    """Return a checkpoint that bears the signature of this key, or nothing."""
    text = open_note(note, name, public)
    lines = (text or "").split("\n")
    if len(lines) != 4 or not lines[1].isascii() or not lines[1].isdigit():
        return None
    root = _raw(lines[2])
    if root is None or len(root) != 32 or str(int(lines[1])) != lines[1]:
        return None
    return Checkpoint(lines[0], int(lines[1]), root)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _raw(text: str) -> bytes | None:
    """Read base64 as it is written, and in no other way."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _text(raw) == text else None
