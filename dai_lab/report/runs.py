"""What is in a results folder: every run, whole or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any

MARKS = (
    "config.yaml",
    "records.jsonl",
    "timings.jsonl",
    "summary.json",
    "environment.json",
    "checkpoint.safetensors",
)
"""Files that make a folder a run; one of them is enough."""


@dataclass(frozen=True)
class Run:
    """One run as it lies on disk.

    ``problem`` says in one line why it cannot be counted (``None`` for a finished, whole run);
    ``notes`` are things to know about a run that counts.
    """

    folder: Path
    config: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    """One record a round, each with the entries that round has."""
    timings: tuple[Mapping[str, Any], ...]
    """Seconds of each phase, one entry a round; empty if there are none."""
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    problem: str | None
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> DataFrame:
        """One row a round, one column an entry."""
        from pandas import DataFrame

        return DataFrame([dict(record) for record in self.rounds])

    @property
    def seconds(self) -> dict[int, float]:
        """How long each round took, all phases together."""
        return {
            row["round"]: sum(
                float(spent)
                for phase, spent in row.items()
                if phase != "round" and isinstance(spent, (int, float))
            )
            for row in self.timings
        }


def runs(folder: Path | str) -> list[Run]:
    """Read every run at or below ``folder``, finished or not, in the order of their paths.

    Raises:
        ValueError: There is no such folder, or no run in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    found = [read(place) for place in _places(root)]
    if not any(run.config or run.problem != EMPTY for run in found):
        raise ValueError(f"there is no run in {root}")
    return found


EMPTY = "the folder is empty"


def read(folder: Path | str) -> Run:
    """Read one run; whatever is wrong with it becomes its ``problem``, never an exception.

    Args:
        folder: Holds ``config.yaml``, ``records.jsonl``, ``summary.json`` and so on.
    """
    place = Path(folder)
    if not any((place / mark).exists() for mark in MARKS):
        return Run(place, {}, (), (), {}, {}, EMPTY)
    config, no_config = _config(place / "config.yaml")
    records, bad_records = _lines(place / "records.jsonl")
    timings, bad_timings = _lines(place / "timings.jsonl")
    summary, no_summary = _object(place / "summary.json")
    environment, no_environment = _object(place / "environment.json")
    if not no_summary:
        problem = no_config or bad_records or _disagreement(records, summary)
    elif (place / "summary.json").exists():
        problem = no_summary
    else:
        planned = config.get("rounds", "?")
        problem = f"unfinished: {len(records)} of {planned} rounds"
        problem += "".join(f"; {why}" for why in (no_config, bad_records) if why)
    bad = sorted(key for key, value in summary.items() if _strange(value))
    notes = [
        *([f"environment: {no_environment}"] if no_environment else []),
        *([f"seconds left out: {bad_timings}"] if bad_timings else []),
        *([f"not a finite number at the end: {', '.join(bad)}"] if bad else []),
        *(["the model diverged"] if summary.get("diverged") is True else []),
    ]
    return Run(
        folder=place,
        config=config,
        rounds=tuple(records),
        timings=() if bad_timings else tuple(_flattened(row) for row in timings),
        summary=summary,
        environment=environment,
        problem=problem,
        notes=tuple(notes),
    )


def _places(root: Path) -> Iterator[Path]:
    """Folders that are runs, and empty ones where a run may have died at birth."""
    if any((root / mark).exists() for mark in MARKS):
        yield root
        return
    inside = [one for one in sorted(root.iterdir()) if not one.name.startswith(".")]
    if not inside:
        yield root
    for one in inside:
        # A link may lead anywhere, even back up; results are plain folders.
        if one.is_dir() and not one.is_symlink() and one.name != "report":
            yield from _places(one)


def _config(path: Path) -> tuple[dict[str, Any], str | None]:
    from omegaconf import DictConfig, OmegaConf

    if not path.exists():
        return {}, "config.yaml is missing"
    try:
        found = OmegaConf.load(path)
        if isinstance(found, DictConfig) and len(found):
            plain = OmegaConf.to_container(found, resolve=False)
            return {str(key): value for key, value in dict(plain).items()}, None  # type: ignore[arg-type]
    except Exception:
        # The YAML reader and OmegaConf raise a dozen unrelated types for a damaged file.
        return {}, "config.yaml cannot be read"
    return {}, "config.yaml holds no settings"


def _object(path: Path) -> tuple[dict[str, Any], str | None]:
    if not path.exists():
        return {}, f"{path.name} is missing"
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError):
        return {}, f"{path.name} cannot be read"
    if not isinstance(found, dict):
        return {}, f"{path.name} holds no entries"
    return found, None


def _lines(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Whole lines up to the first broken one, and what is wrong with that."""
    good: list[dict[str, Any]] = []
    if not path.exists():
        return good, f"{path.name} is missing"
    try:
        text = path.read_bytes()
    except OSError:
        return good, f"{path.name} cannot be read"
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            found = json.loads(line)
        except ValueError:
            return good, f"{path.name} line {number} is broken"
        if not isinstance(found, dict) or not isinstance(found.get("round"), int):
            return good, f"{path.name} line {number} names no round"
        if good and found["round"] <= good[-1]["round"]:
            return good, f"{path.name} line {number} repeats round {found['round']}"
        good.append(found)
    return good, None if good else f"{path.name} is empty"


def _disagreement(records: list[dict[str, Any]], summary: Mapping[str, Any]) -> str | None:
    last, said = records[-1]["round"], summary.get("round", summary.get("rounds"))
    if isinstance(said, int) and said != last:
        return f"records.jsonl ends at round {last}, summary.json at round {said}"
    return None


def _flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    nested = [value for value in row.values() if isinstance(value, dict)]
    flat = {key: value for key, value in row.items() if not isinstance(value, dict)}
    return {**flat, **{key: value for inner in nested for key, value in inner.items()}}


def _strange(value: Any) -> bool:
    return isinstance(value, float) and not isfinite(value)
