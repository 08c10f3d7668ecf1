"""A study's grid: every cell it will run, in which order, and how much of it is done."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dai_lab.config import digest, load
from dai_lab.experiment.simulate import Result, finished
from dai_lab.experiment.together import simulate_together

AXES = ("worlds", "attacks", "aggregators")
AT_ONCE = 24
"""Cells handed over together: an error is told after these, and not after the whole grid."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    part: str
    world: str
    attack: str
    aggregator: str
    seed: int
    name: str
    words: tuple[str, ...]
    """Overrides, as on the command line."""


def cells(grid: Mapping[str, Any]) -> list[Cell]:
    """List what a grid will run: its parts one after another, seed by seed.

    A grid has ``study`` (its name), ``seeds``, words ``common`` to all, and ``worlds``,
    ``attacks`` and ``aggregators``, each from a name to words; ``parts``, from a name to a list of
    names for some of the axes, and to ``seeds``, say which combinations are run; without parts,
    all are. Runs are named ``<study>,<world>,<attack>,<aggregator>``.

    Raises:
        ValueError: A part names something that the grid does not have.
    """
    found: dict[tuple[str, ...], Cell] = {}
    for part, chosen in (grid.get("parts") or {"all": {}}).items():
        for axis, names in chosen.items():
            if strange := [one for one in names if axis in AXES and one not in grid[axis]]:
                raise ValueError(f"grid: part {part} has {strange[0]}, which is none of {axis}")
        axes = [chosen.get(axis) or list(grid[axis]) for axis in AXES]
        for seed in chosen.get("seeds", grid["seeds"]):
            for world, attack, aggregator in product(*axes):
                name = f"{grid['study']},{world},{attack},{aggregator}"
                words = [
                    *grid.get("common", ()),
                    *grid["worlds"][world],
                    *grid["attacks"][attack],
                    *grid["aggregators"][aggregator],
                    f"name='{name}'",
                    f"seed={seed}",
                ]
                cell = Cell(part, world, attack, aggregator, seed, name, tuple(words))
                found.setdefault((name, str(seed)), cell)
    return list(found.values())


def study(
    folder: Path | str,
    *,
    results: str = "results",
    parts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    share: float = 1.0,
    show: bool = False,
    threads: int = 0,
    abreast: int = 1,
) -> list[Result | Exception]:
    """Run the grid of a study, or what is left of it, and say how far it is.

    Args:
        folder: Holds ``grid.yaml``.
        results: Where runs go.
        parts: Only these parts of the grid.
        seeds: Only these seeds.
        share: Only the first of what is left, in (0, 1].
        show: Only say what would be run.
        threads: Runs side by side; 0 is one a core.
        abreast: Runs that train in one batch; see :func:`simulate_together`.

    Raises:
        ValueError: There is no grid, or no such part of it.
    """
    place = Path(folder) / "grid.yaml"
    if not place.is_file():
        raise ValueError(f"study: there is no {place}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    grid: Any = OmegaConf.to_container(OmegaConf.load(place))
    if "aggregators" not in grid:
        raise ValueError(f"study: {place} has no aggregators: see the README beside it")
    every = cells(grid)
    known = list(dict.fromkeys(one.part for one in every))
    if strange := [one for one in parts if one not in known]:
        raise ValueError(f"study: there is no part {strange[0]}: choose from {', '.join(known)}")
    chosen = [
        one
        for one in every
        if (not parts or one.part in parts) and (not seeds or one.seed in seeds)
    ]
    whole = _composed(chosen, results)
    left = [at for at, cfg in enumerate(whole) if not _done(cfg)]
    for part in dict.fromkeys(one.part for one in chosen):
        here = [at for at, one in enumerate(chosen) if one.part == part]
        missing = sum(at in set(left) for at in here)
        print(f"{part}: {len(here)} runs, {len(here) - missing} done", flush=True)
    if show:
        return []
    ends: list[Result | Exception] = []
    left = left[: max(1, round(share * len(left)))]
    for first in range(0, len(left), AT_ONCE):
        some = left[first : first + AT_ONCE]
        found = simulate_together([whole[at] for at in some], threads=threads, abreast=abreast)
        ends += found
        for at, end in zip(some, found, strict=True):
            if isinstance(end, Exception):
                print(f"failed: {' '.join(chosen[at].words)}: {end}", file=sys.stderr, flush=True)
        print(f"{len(ends)} of {len(left)}", flush=True)
    return ends


def _composed(chosen: Sequence[Cell], results: str) -> list[Any]:
    """Compose each cell, those that differ by seed once: composing takes half a second."""
    known: dict[str, Any] = {}
    found = []
    for one in chosen:
        if one.name not in known:
            known[one.name] = load(*one.words, f"results={results}")
        cfg = deepcopy(known[one.name])
        cfg["seed"] = one.seed
        found.append(cfg)
    return found


def _done(cfg: Any) -> bool:
    name = digest(cfg)
    return finished(Path(cfg["results"], cfg["name"], name), name) is not None
