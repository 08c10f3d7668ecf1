"""A log of signed events in one file of SQLite, with a Merkle tree over it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dai_lab.ledger.merkle import Tree, leaf_hash

LAYOUT = (
    "CREATE TABLE event (place INTEGER PRIMARY KEY, raw BLOB NOT NULL) STRICT",
    "CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT",
)
"""Events in their order; what the log was at some sizes."""


class Damaged(ValueError):  # noqa: N818 (it says what is the matter)
    """A file that is no log, or has lost something."""


class Log:
    """Events that are appended and never changed.

    What :meth:`append` returned from survives the death of this process; what was there when
    :meth:`settle` returned survives the death of the machine.

    Args:
        path: The file; made where there is none, unless ``readonly``.
        readonly: Open it to look at it alone.

    Raises:
        Damaged: The file is no log, or a place in it is empty.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False) -> None:
        self.path = Path(path)
        if readonly and not self.path.exists():
            raise Damaged(f"ledger: there is no {path}")
        with self._trouble():
            mode = "ro" if readonly else "rwc"
            name = self.path.absolute().as_uri()
            self._base = sqlite3.connect(f"{name}?mode={mode}", uri=True, isolation_level=None)
        try:
            with self._trouble():
                if not readonly:
                    self._prepare()
                asked = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rootpage"
                if tuple(one for (one,) in self._base.execute(asked)) != LAYOUT:
                    raise Damaged(f"ledger: {path} holds other tables than a log has")
                self.tree = Tree(map(leaf_hash, self.events()))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.tree)

    def append(self, events: Sequence[bytes]) -> int:
        """Append signed events, all or none; return the new number of events."""
        start = len(self)
        with self._trouble(), self._together():
            self._base.executemany(
                "INSERT INTO event VALUES (?, ?)", list(enumerate(events, start))
            )
        self.tree.extend(map(leaf_hash, events))
        return len(self)

    def events(self, start: int = 0) -> Iterator[bytes]:
        """Read signed events from a place on, in their order.

        Raises:
            Damaged: A place is empty.
        """
        asked = "SELECT place, raw FROM event WHERE place >= ? ORDER BY place"
        with self._trouble():
            for expected, (place, raw) in enumerate(self._base.execute(asked, (start,)), start):
                if place != expected or not isinstance(raw, bytes):
                    raise Damaged(f"ledger: {self.path} has no event {expected}")
                yield raw

    def event(self, place: int) -> bytes:
        """Read one signed event.

        Raises:
            Damaged: There is none at this place.
        """
        for raw in self.events(place):
            return raw
        raise Damaged(f"ledger: {self.path} has {len(self)} events, and no number {place}")

    def note(self, size: int, text: str) -> None:
        """Keep a signed checkpoint of the log at this size."""
        with self._trouble():
            self._base.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", (size, text))

    def notes(self) -> list[tuple[int, str]]:
        """Return the signed checkpoints, by size."""
        asked = "SELECT size, note FROM checkpoint ORDER BY size"
        with self._trouble():
            return [(int(size), str(text)) for size, text in self._base.execute(asked)]

    def settle(self) -> None:
        """Wait until the disk has everything."""
        with self._trouble():
            self._base.execute("PRAGMA wal_checkpoint(FULL)").fetchall()

    def close(self, *, whole: bool = False) -> None:
        """Let go of the file; ``whole`` leaves everything in this one file, nothing beside it."""
        with self._trouble():
            if whole:
                self._base.execute("PRAGMA journal_mode=DELETE").fetchall()
            self._base.close()

    def _prepare(self) -> None:
        self._base.execute("PRAGMA journal_mode=WAL").fetchall()
        # In WAL mode what is committed outlives the process; settle is for the machine.
        self._base.execute("PRAGMA synchronous=NORMAL")
        if not self._base.execute("SELECT 1 FROM sqlite_schema").fetchall():
            with self._together():
                for table in LAYOUT:
                    self._base.execute(table)

    @contextmanager
    def _together(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Turn what SQLite can refuse into one line that names the file."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise Damaged(f"ledger: {self.path} cannot be used: {str(error)[:100]}") from None
