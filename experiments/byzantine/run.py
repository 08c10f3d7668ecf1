"""Plan the grid of attacks and aggregators, say how much of it is done, and play what is not.

    python experiments/byzantine/run.py                    the plan alone
    python experiments/byzantine/run.py --share 0.1        the most telling tenth
    python experiments/byzantine/run.py --share 1          all of it
    python experiments/byzantine/run.py --cells 20 --only dirichlet-0.1 --only mimic

Finished cells are skipped and killed ones go on; then ``dai-lab publish`` keeps the study.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
AT_A_TIME = 24
"""Cells handed over at once: between them the plan is written anew."""


@dataclass(frozen=True)
class Cell:
    """One federation of the grid."""

    world: str
    attack: str
    aggregator: str
    seed: int
    words: tuple[str, ...]
    """What composes it."""
    name: str


def cells(grid: Mapping[str, Any]) -> Iterator[Cell]:
    """List the grid, most telling first: world by world, and there seed by seed."""
    for hostile, world, seed, attack, aggregator in product(
        grid["hostile"], grid["worlds"], grid["seeds"], grid["attacks"], grid["aggregators"]
    ):
        place = world if len(grid["hostile"]) == 1 else f"{world}-f{hostile}"
        name = f"{grid['study']},{place},{attack},{aggregator}"
        words = [
            *grid["common"],
            *grid["worlds"][world],
            f"federation.hostile={hostile}",
            *grid["attacks"][attack],
            *grid["aggregators"][aggregator],
            f"name='{name}'",
            f"seed={seed}",
        ]
        filled = tuple(word.replace("{f}", str(hostile)) for word in words)
        yield Cell(place, attack, aggregator, seed, filled, name)


def asked_for(
    every: Sequence[Cell], only: Sequence[str], share: float, count: int | None
) -> list[Cell]:
    """Choose the first cells of those that every one of some words is about."""
    if not 0 <= share <= 1:
        raise SystemExit(f"--share must be in [0, 1], got {share}")
    fits = [
        one
        for one in every
        if all(word in (one.world, one.attack, one.aggregator, str(one.seed)) for word in only)
    ]
    return fits[: round(share * len(fits)) if count is None else count]


def finished(every: Iterable[Cell], results: Path) -> set[tuple[str, int]]:
    """Say of which cells the folder holds a finished run, by name and seed.

    Only names and seeds are looked at, which takes no time; the digest decides when it is run.
    """
    found = set()
    for name in {one.name for one in every}:
        for summary in (results / name).glob("*/summary.json"):
            text = summary.with_name("config.yaml").read_text()
            seeds = [line for line in text.splitlines() if line.startswith("seed:")]
            found.add((name, int(seeds[0].partition(":")[2])))
    return found


def planned(every: Sequence[Cell], chosen: Sequence[Cell], done: set[tuple[str, int]]) -> str:
    """Write the plan as a Markdown table: a row a world."""
    lines = ["| world | cells | chosen | finished |", "|---|---|---|---|"]
    for world in [*dict.fromkeys(one.world for one in every), "all"]:
        here = [
            [one for one in some if world in ("all", one.world)]
            for some in (every, chosen, [one for one in every if (one.name, one.seed) in done])
        ]
        lines.append(f"| {world} | {' | '.join(str(len(one)) for one in here)} |")
    return "\n".join(lines)


def play(chosen: Sequence[Cell], results: Path, threads: int) -> list[str]:
    """Play cells side by side, a few at a time; return what failed, and why."""
    from dai_lab.config import load
    from dai_lab.experiment import simulate_together

    failed, began = [], time.perf_counter()
    for first in range(0, len(chosen), AT_A_TIME):
        some = chosen[first : first + AT_A_TIME]
        runs = [load(*one.words, f"results={results}") for one in some]
        for cell, end in zip(some, simulate_together(runs, threads=threads), strict=True):
            if isinstance(end, Exception):
                failed.append(f"{cell.name}, seed {cell.seed}: {end}")
        done = first + len(some)
        left = (time.perf_counter() - began) / done * (len(chosen) - done) / 60
        print(f"{done} of {len(chosen)} cells, {left:.0f} minutes left", flush=True)
    return failed


def main() -> None:
    """Print the plan, and play the part of it that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--share", type=float, default=0.0, help="of the cells, first ones first")
    parser.add_argument("--cells", type=int, help="so many instead of a share")
    parser.add_argument("--only", action="append", default=[], help="a world, attack, rule or seed")
    parser.add_argument("--threads", type=int, default=0, help="cells side by side; 0: one a core")
    asked = parser.parse_args()
    grid = yaml.safe_load((HERE / "grid.yaml").read_text())
    every = list(cells(grid))
    chosen = asked_for(every, asked.only, asked.share, asked.cells)
    print(planned(every, chosen, finished(every, asked.results)))
    failed = play(chosen, asked.results, asked.threads)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
