"""Canonical JSON, and envelopes that carry its signature."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from dai_lab.ledger.keys import CurveSigner, Signer

TYPE = "application/vnd.in-toto+json"
"""What is in all envelopes here: a statement of in-toto."""


def canonical(value: Any) -> bytes:
    """Write JSON in the one way there is: names in order, nothing between.

    Args:
        value: Texts, whole numbers, and lists and mappings of them. Fractions are none of it, for
            everyone writes those in a way of their own.

    Source:
        RFC 8785 (JSON canonicalization scheme), which this is for such values.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def encoded(payload: bytes) -> bytes:
    """Join a statement to its type, which is what is signed.

    Source:
        DSSE 1.0.0, protocol, section "Signature Definition" (``PAE``).
    """
    return b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)


def envelope(payload: bytes, by: Signer | CurveSigner, keyid: str = "") -> dict[str, Any]:
    """Put a statement and its signature in an envelope.

    Args:
        payload: A statement of in-toto, in JSON.
        by: Who signs.
        keyid: A hint at which key it was.

    Source:
        DSSE 1.0.0, envelope (github.com/secure-systems-lab/dsse).
    """
    return {
        "payload": text(payload),
        "payloadType": TYPE,
        "signatures": [{"keyid": keyid, "sig": text(by.sign(encoded(payload)))}],
    }


def key_id(public: bytes) -> str:
    """Name an Ed25519 key as in-toto and TUF do: by the hash of its description."""
    about = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public.hex()}}
    return hashlib.sha256(canonical(about)).hexdigest()


def text(raw: bytes) -> str:
    """Write bytes in base64."""
    return base64.b64encode(raw).decode()
