"""A seal on a finished run: a signed list of its files, so that no byte of them changes unseen."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dai_lab.ledger.keys import Signer
from dai_lab.ledger.notes import open_note, sign_note

FILE = "seal"
"""Where in a run's folder it lies."""

PLAIN, HEX = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII), re.compile(r"[0-9a-f]{64}")
"""Paths a seal may list, at most one folder deep, and how digests are written."""


def seal(run: str, digests: Mapping[str, bytes], by: Signer) -> str:
    """Write the seal of files.

    Args:
        run: Its digest.
        digests: SHA-256 of each file, by its path in the run's folder.
        by: Who signs.
    """
    for name in digests:
        if not PLAIN.fullmatch(name):
            raise ValueError(f"ledger: a seal cannot list {name!r:.80}")
    lines = [f"{digests[name].hex()}  {name}\n" for name in sorted(digests)]
    return sign_note(f"dai_lab/{run}/seal\n{''.join(lines)}", by)


def read_seal(note: str, run: str, name: str, public: bytes) -> dict[str, bytes] | None:
    """Return what a seal says of which file, where it bears the signature of this key."""
    text = open_note(note, name, public)
    if text is None or not text.startswith(f"dai_lab/{run}/seal\n"):
        return None
    found: dict[str, bytes] = {}
    for line in text.split("\n")[1:-1]:
        digest, _, path = line.partition("  ")
        if path in found or not PLAIN.fullmatch(path) or not HEX.fullmatch(digest):
            return None
        found[path] = bytes.fromhex(digest)
    return found


def digests(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Hash files, by their path in a folder; what is not there is left out."""
    found = {}
    for name in names:
        if (path := folder / name).is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").digest()
    return found
