"""What happens in a model's life, each step signed by whoever takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import libipld

from dai_lab.ledger.keys import Signer, signed_by

Body = Mapping[str, Any]

DIGEST = "32 bytes"
TEXT, COUNT, NUMBER, MAYBE = "text", "a number of 0 or more", "a finite number", "text or null"

KINDS: Mapping[str, Mapping[str, str]] = {
    # The lab starts a run: what it will compute, with which code, on what.
    "started": {
        "run": TEXT,
        "nonce": DIGEST,
        "server": DIGEST,
        "config": DIGEST,
        "commit": MAYBE,
        "environment": DIGEST,
    },
    "resumed": {"run": TEXT, "round": COUNT, "environment": DIGEST},
    # An owner registers data, allows its use for a purpose, uses the permission, takes it back.
    "dataset": {"owner": TEXT, "root": DIGEST, "size": COUNT, "license": TEXT},
    "consent_granted": {"owner": TEXT, "run": TEXT, "purpose": TEXT, "rounds": COUNT},
    "consent_used": {"round": COUNT, "owners": DIGEST, "count": COUNT},
    "consent_revoked": {"owner": TEXT, "run": TEXT, "purpose": TEXT, "round": COUNT},
    # A round: what clients commit to, what the server sees and makes of it.
    "update": {"round": COUNT, "client": COUNT, "commitment": DIGEST, "weight": NUMBER},
    "transcript": {"round": COUNT, "digest": DIGEST, "rows": COUNT},
    "aggregate": {"round": COUNT, "digest": DIGEST},
    "model": {"round": COUNT, "cid": TEXT, "digest": DIGEST, "snapshot": MAYBE},
    "evaluation": {"round": COUNT, "record": DIGEST},
    # Where the log's root at some size is out of its owner's reach.
    "anchored": {
        "round": COUNT,
        "size": COUNT,
        "chain": COUNT,
        "contract": TEXT,
        "run": DIGEST,
        "transaction": TEXT,
        "block": COUNT,
    },
    "finished": {"run": TEXT, "rounds": COUNT, "summary": DIGEST},
    # What follows from it.
    "payout": {"round": COUNT, "to": TEXT, "amount": COUNT, "root": DIGEST},
    "slash": {"round": COUNT, "who": TEXT, "amount": COUNT, "evidence": DIGEST},
    "decision": {"proposal": TEXT, "passed": COUNT, "digest": DIGEST},
    "deletion": {"owner": TEXT, "root": DIGEST, "model": TEXT, "how": TEXT},
    "finding": {"round": COUNT, "who": TEXT, "verdict": TEXT, "digest": DIGEST},
}
"""What each kind of event says, and how each entry must look."""

CONTEXT = b"dai_lab event 1\n"
"""Precedes what is signed, so that no signature of anything else passes for one of an event."""

SIGNATURE = 64
"""Bytes at the end of a signed event."""


@dataclass(frozen=True)
class Event:
    """One step, as it stands in the log."""

    kind: str
    author: bytes
    """Public key, 32 bytes."""
    body: Body


class Forged(ValueError):  # noqa: N818 (it says what is the matter)
    """Bytes that are not a signed event of a known kind."""


def signed(kind: str, body: Body, author: Signer) -> bytes:
    """Write an event: canonical DAG-CBOR and, after it, its author's signature.

    Args:
        kind: One of ``KINDS``.
        body: The entries of that kind.
        author: Who signs.

    Raises:
        ValueError: An entry is missing, unknown or not what it must be; it is named.

    Source:
        DAG-CBOR (ipld.io/specs/codecs/dag-cbor); Ed25519, RFC 8032.
    """
    if why := wrong(kind, body):
        raise ValueError(f"ledger: {why}")
    said: bytes = libipld.encode_dag_cbor({"kind": kind, "by": author.public, **body})
    return said + author.sign(CONTEXT + said)


def read(raw: bytes) -> Event:
    """Read an event without asking whether its signature holds.

    Raises:
        Forged: The bytes are no event, or not written in the one canonical way.
    """
    said = raw[:-SIGNATURE]
    try:
        found = libipld.decode_dag_cbor(said)
        canonical = libipld.encode_dag_cbor(found) == said
    except Exception as error:
        raise Forged(f"not DAG-CBOR: {str(error)[:80]}") from None
    if not isinstance(found, dict) or not canonical:
        raise Forged("not canonical DAG-CBOR")
    kind, author = found.pop("kind", None), found.pop("by", None)
    if not isinstance(author, bytes) or len(author) != 32:
        raise Forged("its author is no key")
    if why := wrong(kind, found):
        raise Forged(why)
    return Event(kind, author, found)


def verify(raw: bytes) -> Event:
    """Read an event whose author's signature holds.

    Raises:
        Forged: It is no event, or its signature is not its author's.
    """
    event = read(raw)
    if not signed_by(event.author, raw[-SIGNATURE:], CONTEXT + raw[:-SIGNATURE]):
        raise Forged(f"the signature of this {event.kind} is not its author's")
    return event


def wrong(kind: Any, body: Body) -> str | None:
    """Say what is wrong with an event's entries, if anything is."""
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        return f"there is no event {kind!r}: it is one of {', '.join(KINDS)}"
    if body.keys() != known.keys():
        odd = sorted(map(str, body.keys() ^ known.keys()))[0]
        return f"{kind} has the entries {', '.join(known)}; look at {odd}"
    for name, wanted in known.items():
        if not LOOKS[wanted](body[name]):
            return f"{kind}.{name} must be {wanted}, got {body[name]!r:.80}"
    return None


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and abs(value) < float("inf"))


LOOKS = {
    DIGEST: lambda one: type(one) is bytes and len(one) == 32,
    TEXT: lambda one: type(one) is str and len(one) <= 1000,
    MAYBE: lambda one: one is None or (type(one) is str and len(one) <= 1000),
    COUNT: lambda one: type(one) is int and 0 <= one < 2**63,
    NUMBER: _is_number,
}
