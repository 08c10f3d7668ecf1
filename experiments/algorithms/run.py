"""Tune every algorithm in every world on an equal budget, then play the study's seeds.

    python experiments/algorithms/run.py [results]

Finished runs are skipped, killed ones go on; then ``dai-lab publish`` keeps the study.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from dai_lab.config import load
from dai_lab.experiment import simulate_together

HERE = Path(__file__).parent


def plan(grid, world, algorithm):
    """Give the words that every candidate of an algorithm has in a world."""
    chosen = grid["algorithms"][algorithm]
    there = chosen.get("worlds", {}).get(world, [])
    words = [*grid["common"], *grid["worlds"][world], *chosen["use"], *there]
    return words, chosen["try"]


def score(summary):
    """Judge a candidate on what clients held out, by the model each would use."""
    for name in ("personal_accuracy", "client_accuracy"):
        if summary.get(name) is not None:
            return 0.0 if summary["diverged"] else summary[name]
    return 0.0


def played(runs):
    """Run them all; whatever fails ends the study with its reason."""
    ends = simulate_together([load(*words) for words in runs])
    for words, end in zip(runs, ends, strict=True):
        if isinstance(end, Exception):
            raise SystemExit(f"{' '.join(words)}: {end}") from end
    return [end.summary for end in ends]


def main() -> None:
    """Play one world after another, so that what is finished can be looked at."""
    grid = yaml.safe_load((HERE / "grid.yaml").read_text())
    results = sys.argv[1] if len(sys.argv) > 1 else "results"
    best = {}
    for world in grid["worlds"]:
        tried = []
        for algorithm in grid["algorithms"]:
            words, candidates = plan(grid, world, algorithm)
            name = f"name={grid['study']}-tuning"
            short = [word for word in words if word.startswith("rounds=")][-1]
            rounds = int(int(short.partition("=")[2]) * grid["tuning"]["share_of_rounds"])
            ends = [
                f"rounds={rounds}",
                f"results={results}",
                name,
                f"seed={grid['tuning']['seed']}",
            ]
            tried += [[*words, *one, *ends] for one in candidates]
        scores = iter([score(summary) for summary in played(tried)])
        runs = []
        for algorithm in grid["algorithms"]:
            words, candidates = plan(grid, world, algorithm)
            ranked = {tuple(one): next(scores) for one in candidates}
            winner = max(ranked, key=ranked.__getitem__)
            best.setdefault(world, {})[algorithm] = {
                " ".join(one): round(value, 4) for one, value in ranked.items()
            }
            label = f"{grid['study']},{world},{algorithm}".replace(" ", "-")
            runs += [
                [*words, *winner, f"results={results}", f"name='{label}'", f"seed={seed}"]
                for seed in grid["seeds"]
            ]
        played(runs)
        print(f"{world}: {len(tried)} candidates, {len(runs)} runs", flush=True)
    (HERE / "tuned.json").write_text(json.dumps(best, indent=1) + "\n")


if __name__ == "__main__":
    main()
