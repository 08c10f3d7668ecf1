"""What each method did in each world, seed by seed: what figures draw and rankings rank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dai_lab.metrics import Estimate, band
from dai_lab.report.commands import BESIDE
from dai_lab.report.groups import Group
from dai_lab.report.measures import RESOURCES, spent

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any

Records: TypeAlias = Sequence[Mapping[str, Any]]
"""What one run wrote down, a mapping a round, costs added up since the start."""

POINTS = 100
"""Places at which a curve over a resource is estimated, at most."""

ACCURACIES = ("test_accuracy", "client_accuracy", "personal_accuracy", "attack_success")
COSTS = tuple(entry for one in RESOURCES.values() for entry in one.entries if entry != "round")


@dataclass(frozen=True)
class Trial:
    """One method in one world, with what its runs wrote down."""

    algorithm: str
    world: str
    seeds: Mapping[int, Records]
    attack: str = ""
    """What it was tried against, where runs are named after that."""
    seconds: Mapping[int, float] = field(default_factory=dict)
    """How long each seed's run took, where that is known."""

    def has(self, entry: str) -> bool:
        """Tell whether some run knows a number of this name."""
        return any(
            isinstance(row.get(entry), (int, float)) for rows in self.seeds.values() for row in rows
        )


def tried(groups: Sequence[Group]) -> list[Trial]:
    """See groups of runs as methods in worlds; without names all are in one world."""
    return [
        Trial(
            group.algorithm or group.label,
            group.world,
            {int(run.config.get("seed", at)): run.rounds for at, run in enumerate(group.runs)},
            group.attack,
            {
                int(run.config.get("seed", at)): sum(run.seconds.values())
                for at, run in enumerate(group.runs)
                if run.timings
            },
        )
        for group in groups
    ]


def spread_out(groups: Sequence[Group]) -> DataFrame:
    """List runs, one a row, with their curves at every round that was judged, and the last.

    Accuracies averaged over clients keep five decimals and costs seven digits, so that hundreds
    of runs stay below a megabyte.
    """
    from pandas import DataFrame

    rows = []
    for group in groups:
        for run in group.runs:
            last = len(run.rounds) - 1
            kept = [
                row
                for at, row in enumerate(run.rounds)
                if at == last or any(name in row for name in ACCURACIES)
            ]
            about = {
                "group": group.label,
                "world": group.world,
                "attack": group.attack,
                "algorithm": group.algorithm,
            }
            about = {name: said for name, said in about.items() if said}
            rows.append(
                {
                    **about,
                    "seed": run.config["seed"],
                    "digest": run.folder.name,
                    "settings": _settings(run.config),
                    "commit": run.environment.get("commit"),
                    "round": np.array([row["round"] for row in kept], dtype=np.int32),
                    **{
                        name: np.array([_kept(name, row.get(name)) for row in kept])
                        for name in ACCURACIES
                        if any(name in row for row in kept)
                    },
                    **{
                        name: np.array([_kept(name, row.get(name)) for row in kept], np.float32)
                        for name in COSTS
                        if any(name in row for row in kept)
                    },
                    "megabytes_up": run.rounds[-1]["bytes_up"] / 1e6,
                    **({"seconds": sum(run.seconds.values())} if group.attack else {}),
                }
            )
    return DataFrame(rows)


def _settings(config: Mapping[str, Any]) -> str:
    """Name what runs have in common that differ only by seed, and by the machine they ran on."""
    same = {name: said for name, said in config.items() if name not in (*BESIDE, "seed")}
    written = json.dumps(same, sort_keys=True, default=str).encode()
    return hashlib.sha256(written).hexdigest()[:10]


def records(row: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Give back what a row of a summary keeps of a run's records."""
    rounds = row.get("round")
    if rounds is None:
        # Summaries written before costs were kept hold every round's accuracy, and only that.
        rounds = range(1, len(row["test_accuracy"]) + 1)
    curves = {name: row[name] for name in (*ACCURACIES, *COSTS) if np.ndim(row.get(name, nan)) == 1}
    return [
        {
            "round": int(number),
            **{name: _plain(curve[at]) for name, curve in curves.items()},
        }
        for at, number in enumerate(rounds)
    ]


def recalled(summary: DataFrame) -> list[Trial]:
    """See a summary's rows as methods in worlds.

    Raises:
        ValueError: The runs were not named after worlds and algorithms.
    """
    if "world" not in summary:
        raise ValueError(
            "name must be <study>,<world>,<algorithm> in every run of a ranking, got runs told "
            f"apart by settings only, such as {summary['group'].iloc[0]}"
        )
    whole = summary.assign(attack=summary.get("attack", ""), seconds=summary.get("seconds", nan))
    return [
        Trial(
            str(algorithm),
            str(world),
            {int(row["seed"]): records(row) for row in part.to_dict("records")},
            str(attack),
            {
                int(seed): float(one)
                for seed, one in zip(part["seed"], part["seconds"], strict=True)
                if isfinite(one)
            },
        )
        for (world, attack, algorithm), part in whole.groupby(
            ["world", "attack", "algorithm"], sort=False
        )
    ]


def over(
    seeds: Sequence[Records], metric: str, resource: str
) -> tuple[NDArray[Any], list[Estimate], bool] | None:
    """Estimate a metric, over seeds, at every amount of a resource.

    Seeds that were judged at different amounts are brought to common ones: each counts with
    the last value it was judged at, nothing is interpolated. The curve begins where every seed
    has been judged and ends where the first seed ends, since beyond it only those that spend
    more would be left to speak for all; a run that broke down is missing from there on.

    Returns:
        Amounts, an estimate at each, and whether seeds were judged at the very same amounts;
        ``None`` if nothing is known or nothing was spent.
    """
    found = [_judged(rows, metric, resource) for rows in seeds]
    known = [(amounts, values) for amounts, values in found if len(amounts)]
    if not known or max(amounts[-1] for amounts, _ in known) <= 0:
        return None
    start = max(amounts[0] for amounts, _ in known)
    ends = [amounts[-1] if isfinite(values[-1]) else inf for amounts, values in known]
    end = min(ends) if min(ends) < inf else max(amounts[-1] for amounts, _ in known)
    grid = np.unique(np.concatenate([amounts for amounts, _ in known]))
    grid = grid[(start <= grid) & (grid <= end)]
    if not len(grid):
        return None
    picks = np.unique(np.linspace(0, len(grid) - 1, min(len(grid), POINTS)).round().astype(int))
    grid = grid[picks]
    rows = [values[np.searchsorted(amounts, grid, side="right") - 1] for amounts, values in known]
    same = all(np.array_equal(amounts, known[0][0]) for amounts, _ in known)
    return grid, band(np.array(rows)), same


def _judged(rows: Records, metric: str, resource: str) -> tuple[NDArray[Any], NDArray[Any]]:
    pairs = [(spent(row, resource), row[metric]) for row in rows if metric in row]
    both = [(cost, nan if value is None else value) for cost, value in pairs if cost is not None]
    amounts, values = np.array(both, dtype=float).reshape(-1, 2).T
    return amounts, values


def _kept(name: str, value: Any) -> float:
    if value is None:
        return nan
    averaged = name in ("client_accuracy", "personal_accuracy")
    return round(float(value), 5) if averaged else float(value)


def _plain(value: Any) -> float | None:
    return None if value is None or not isfinite(value) else float(value)
