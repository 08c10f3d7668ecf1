"""A seal on a finished run: a signed list of its files, so that no byte of them changes unseen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dai_lab.ledger.keys import Signer
from dai_lab.ledger.notes import open_note, sign_note

FILE = "seal"
"""Where in a run's folder it lies."""


def seal(run: str, digests: Mapping[str, bytes], by: Signer) -> str:
    """Write the seal of files.

    Args:
        run: Its digest.
        digests: SHA-256 of each file, by its path in the run's folder.
        by: Who signs.
    """
    lines = [f"{digests[name].hex()}  {name}\n" for name in sorted(digests)]
    return sign_note(f"dai_lab/{run}/seal\n{''.join(lines)}", by)


def read_seal(note: str, run: str, name: str, public: bytes) -> dict[str, bytes] | None:
    """Return what a seal says of which file, where it bears the signature of this key."""
    text = open_note(note, name, public)
    if text is None or not text.startswith(f"dai_lab/{run}/seal\n"):
        return None
    found = {}
    for line in text.splitlines()[1:]:
        digest, _, path = line.partition("  ")
        try:
            found[path] = bytes.fromhex(digest)
        except ValueError:
            return None
    return found


def digests(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Hash files, by their path in a folder; what is not there is left out."""
    found = {}
    for name in names:
        if (path := folder / name).is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").digest()
    return found
