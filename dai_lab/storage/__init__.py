"""Content-addressed blocks: bytes named by what they are, on this disk as on IPFS."""

from dai_lab.storage.cids import as_bytes, cid_of
from dai_lab.storage.disk import Disk, Missing

__all__ = ["Disk", "Missing", "as_bytes", "cid_of"]
