"""The files of one run: what is on disk is always a state the run was really in."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dai_lab.core import Record, State


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a disk can refuse into one line that names the folder.

    Raises:
        ValueError: The disk is full, the folder is read-only or not a folder.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(
            f"results: cannot write to {folder}: {why}; what is recorded there is safe, "
            "and the same command goes on from it once that is mended"
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of ``folder``; a killed holder lets go by itself.

    Raises:
        ValueError: Another process is running this experiment.
    """
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            pid = (folder / ".lock").read_text().strip() or "unknown"
            raise ValueError(f"{folder} is being run by another process (pid {pid})") from None
    try:
        with writing(folder):
            (folder / ".lock").write_text(str(os.getpid()))
        yield
    finally:
        # A run refused before its first file leaves no trace; others check the inode they locked.
        if [one.name for one in folder.iterdir()] == [".lock"]:
            with contextlib.suppress(OSError):
                (folder / ".lock").unlink()
                folder.rmdir()
        lock.release()


def write(path: Path, content: bytes) -> None:
    """Replace a file at once: readers, and a run after a crash, see the old or the new one."""
    with writing(path.parent):
        fresh = path.with_name(f"{path.name}.part")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        place = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def line(record: Mapping[str, Any]) -> str:
    """Write a record as one line of JSON; what is not finite becomes ``null``."""
    return json.dumps(finite(record), allow_nan=False) + "\n"


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Replace what JSON cannot hold by ``None``."""
    bad = [key for key, one in record.items() if isinstance(one, float) and not math.isfinite(one)]
    return {**record, **dict.fromkeys(bad)}


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line, which outlives this process; ``settle`` makes it outlive the machine."""
    with writing(path.parent), path.open("ab") as file:
        file.write(line(record).encode())


def settle(*paths: Path) -> None:
    """Wait until the disk has what was appended to files."""
    for path in paths:
        with writing(path.parent), path.open("rb") as file:
            os.fsync(file.fileno())


def keep(path: Path, rounds: int) -> list[dict[str, Any]]:
    """Read the lines of ``rounds`` rounds and cut off what a killed run wrote after them.

    Raises:
        ValueError: A line that should be there is missing or damaged; nothing is changed.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = content.splitlines(keepends=True)[:rounds]
    records = []
    for number, one in enumerate(lines, start=1):
        try:
            record = json.loads(one)
            whole = one.endswith(b"\n") and record["round"] == number
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise damaged(path, f"line {number} is not the record of round {number}")
        records.append(record)
    if len(records) < rounds:
        raise damaged(path, f"it holds {len(records)} rounds of {rounds} in the checkpoint")
    size = sum(map(len, lines))
    if size < len(content):
        with writing(path.parent):
            os.truncate(path, size)
    return records


def save(path: Path, state: State, done: int) -> None:
    """Write the model and the memories of parts after round ``done``."""
    write(path, packed(state, done))


def packed(state: State, done: int) -> bytes:
    """Put the model and the memories of parts after round ``done`` into the bytes of a file."""
    from safetensors.torch import save

    # Memories may be views or share storage; a file of tensors holds each on its own.
    tensors = {"params": state.params, **state.memory}
    alone = {name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}
    # One key only: safetensors orders several as it likes, and equal runs must be equal bytes.
    return save(alone, metadata={"dai_lab": json.dumps({"round": done})})


def restore(path: Path) -> tuple[State, int]:
    """Read a checkpoint: the state, and the number of rounds that led to it.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return restored(path.read_bytes(), path)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None


def restored(raw: bytes, path: Path) -> tuple[State, int]:
    """Read the bytes of a checkpoint, which came from ``path``.

    Raises:
        ValueError: They are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        head = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        done = int(json.loads(head["__metadata__"]["dai_lab"])["round"])
        tensors = {name: one.clone() for name, one in load(raw).items()}
        params = tensors.pop("params")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, str(error).splitlines()[0]) from None
    return State(params, tensors), done


def damaged(path: Path, why: str) -> ValueError:
    """Say what is wrong with a file and what the user may do; nothing is deleted for them."""
    return ValueError(f"results: {path} is damaged ({why}): delete {path.parent} to start again")


def read(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
    except (ValueError, AssertionError) as error:
        raise damaged(path, str(error) or "not a JSON object") from None
    return found


def text(record: Record | Mapping[str, Any]) -> bytes:
    """Write one JSON object for people to read."""
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()
