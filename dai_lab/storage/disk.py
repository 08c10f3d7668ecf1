"""Blocks in a folder, each a file named by what is in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dai_lab.storage.cids import RAW, check, cid_of, codec, links


class Missing(ValueError):  # noqa: N818 (it says what is the matter)
    """A block that is not here, or not what its name says."""


@dataclass(frozen=True)
class Disk:
    """Puts bytes into a folder and gets them back by their CID.

    Args:
        folder: Made when the first block is put there.
    """

    folder: Path

    def put(self, data: bytes) -> str:
        """Keep bytes, and return their CID."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return cid_of(data, self._keep)

    def get(self, cid: str) -> bytes:
        """Return the bytes behind a CID.

        Raises:
            Missing: A block is not here or damaged.
            ValueError: It is no CID of ours.
        """
        block = self._block(cid)
        if codec(cid) == RAW:
            return block
        return b"".join(map(self.get, links(block)))

    def has(self, cid: str) -> bool:
        """Tell whether all blocks behind a CID are here, each as its name says."""
        try:
            block = self._block(cid)
            return codec(cid) == RAW or all(map(self.has, links(block)))
        except ValueError:
            return False

    def blocks(self) -> list[str]:
        """List the CIDs of all blocks."""
        names = [one.name for one in self.folder.glob("b*")] if self.folder.exists() else []
        return sorted(one for one in names if self.has(one))

    def _block(self, cid: str) -> bytes:
        codec(cid)  # a name that leads elsewhere is none
        try:
            block = (self.folder / cid).read_bytes()
        except OSError:
            raise Missing(f"storage: {self.folder} does not hold {cid}") from None
        if not check(cid, block):
            raise Missing(f"storage: {self.folder / cid} is damaged")
        return block

    def _keep(self, cid: str, block: bytes) -> None:
        path = self.folder / cid
        if path.exists() and check(cid, path.read_bytes()):
            return
        fresh = path.with_name(f"part.{os.getpid()}.{cid}")
        fresh.write_bytes(block)
        os.replace(fresh, path)
