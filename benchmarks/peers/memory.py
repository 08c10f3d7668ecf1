"""How much memory a family of processes takes, whoever else maps the same libraries."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ (\d+) *(.*)$")
OURS = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV")
"""Names of mappings that are shared memory, not files; only the family maps them."""


def family(mark: bytes) -> list[int]:
    """Find all processes with ``mark`` in their environment, wherever they hang by now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def megabytes(members: list[int]) -> float:
    """Add up memory, every page counted once.

    Private and shared memory by its proportional share, which is exact within a family. A page
    of a file by the member that has most of that mapping in memory: the kernel's proportional
    share would make it lighter the more strangers run the same torch.
    """
    total, files = 0, {}
    for member in members:
        with suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1])
            for place, size in _files(Path(f"/proc/{member}/smaps").read_text()):
                files[place] = max(files.get(place, 0), size)
    return (total + sum(files.values())) / 1024


def _files(smaps: str) -> list[tuple[tuple[str, ...], int]]:
    """List the mappings of files: what is mapped, and the KiB of it that are the file's own."""
    found, place, resident = [], None, 0
    for line in smaps.splitlines():
        if head := HEAD.match(line):
            offset, inode, name = head.groups()
            real = inode != "0" and not name.startswith(OURS)
            place = (inode, offset, name) if real else None
        elif place and line.startswith("Rss:"):
            resident = int(line.split()[1])
        elif place and line.startswith("Anonymous:"):
            found.append((place, resident - int(line.split()[1])))
    return found
