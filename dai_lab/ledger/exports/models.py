"""A signature on a model's files that the OpenSSF's ``model_signing`` checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from dai_lab.ledger.exports.attestations import STATEMENT
from dai_lab.ledger.exports.envelopes import canonical, envelope
from dai_lab.ledger.keys import CurveSigner

PREDICATE = "https://model_signing/signature/v1.0"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def model_statement(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """State which files make a model up.

    Args:
        name: Of the model; nothing hangs on it.
        files: SHA-256 of each, by its path in the model's folder.

    Source:
        OpenSSF model signing 1.0: all files, each hashed whole, and the hash of their hashes.
    """
    named = sorted(files)
    whole = hashlib.sha256(b"".join(files[one] for one in named)).hexdigest()
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [
                {"name": one, "algorithm": "sha256", "digest": files[one].hex()} for one in named
            ],
        },
    }


def model_bundle(statement: Mapping[str, Any], by: CurveSigner) -> dict[str, Any]:
    """Sign such a statement, in a bundle that names the key by its hash.

    Source:
        Sigstore bundle 0.3, with a public key as verification material and no transparency log.
    """
    hint = hashlib.sha256(by.public).hexdigest()
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope(canonical(statement), by),
    }
