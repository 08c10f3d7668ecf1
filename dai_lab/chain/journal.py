"""A file of lines, each of which holds the hash of all before it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

SEAL = len(',"hash":"' + 64 * "0" + '"}\n')


class Journal:
    """What happened, one JSON object a line, in a file or in memory alone.

    A line that was edited, left out or moved no longer fits the hashes after it. Whoever rewrites
    all of the rest, or leaves out the end, is not noticed here: others must have seen a hash.
    """

    def __init__(self, path: Path | None) -> None:
        """Open a file for one process alone."""
        self.path = path
        self.head = bytes(32)
        self._file: FileIO | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(f"chain.path={path} is in use by another process") from None
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as problem:
            self._lock.release()
            raise ValueError(f"chain.path={path} does not open: {problem.strerror}") from None

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read from the beginning; what a killed process left of a last line is cut off.

        Raises:
            ValueError: A line does not fit those before it.
        """
        if self._file is None or self.path is None:
            return
        kept = 0
        with self.path.open("rb") as read:
            for number, line in enumerate(read, 1):
                if not line.endswith(b"\n"):
                    self._file.truncate(kept)
                    return
                kept += len(line)
                yield number, self._opened(number, line)

    def _opened(self, number: int, line: bytes) -> dict[str, Any]:
        body = line[:-SEAL]
        seal = sha256(self.head + body)
        if line[-SEAL:] != b',"hash":"' + seal.hexdigest().encode() + b'"}\n':
            raise self.broken(number, "was changed, or the lines before it were")
        self.head = seal.digest()
        found: dict[str, Any] = json.loads(body + b"}")
        return found

    def broken(self, number: int, why: str) -> ValueError:
        """Say that a line is not as it was written."""
        return ValueError(f"chain.path={self.path}: line {number} {why}")

    def append(self, body: str) -> str:
        """Write a JSON object that lacks its closing brace, and give its hash.

        It has left this process when this returns; ``settle`` is what a power cut asks for.
        """
        raw = body.encode()
        seal = sha256(self.head + raw)
        self.head = seal.digest()
        text = seal.hexdigest()
        if self._file is not None:
            line = raw + b',"hash":"' + text.encode() + b'"}\n'
            if self._file.write(line) != len(line):
                self.close()
                raise OSError(f"chain.path={self.path}: no space is left")
        return text

    def settle(self) -> None:
        """Wait until all of it is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file, which nothing is written to from then on."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self._lock.release()
