"""Our engine against the simulators of Flower, pfl-research, BlazeFL and FedLab.

    python -m benchmarks.peers.run                              everything, below 15 minutes
    python -m benchmarks.peers.run --peers pfl --tasks mlp --rounds 4
    python -m benchmarks.peers.run --loader                     peers' batches by DataLoader

The yardstick is a plain PyTorch loop: every engine takes turns with it, round by round, and is
reported by how many times faster it is. Engines are compared by these ratios, never by seconds.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.peers import data
from benchmarks.peers.conduct import Engine, Run, alternate
from benchmarks.peers.environments import interpreter

HERE = Path(__file__).parent
CACHE = HERE / ".envs"
WARM = 2
ROUNDS = {"mlp": 20, "tiny": 12, "cnn": 6}
CLOSE = 0.015
"""How far from the loop's an accuracy may end."""
SCRIPTS = {
    "ours": "ours.py",
    "loop": "loop.py",
    "flower": "flower.py",
    "flower, legacy": "flower_legacy.py",
    "pfl": "pfl_research.py",
    "blazefl": "blaze.py",
    "fedlab": "fedlab_.py",
}
MODES = {
    "ours": ["1", "2"],
    "loop": ["DataLoader"],
    "flower": ["1", "2"],
    "flower, legacy": ["2"],
    "pfl": ["1", "2"],
    "blazefl": ["single", "threads", "processes"],
    "fedlab": ["1"],
}
WORKERS = {"DataLoader": 1, "single": 1, "threads": 2, "processes": 2, "1": 1, "2": 2}
ASKED = {
    "flower": {"mlp": 6.0, "tiny": 70.0, "cnn": 2.5},
    "pfl": {"mlp": 1.8, "tiny": 7.0, "cnn": 1.7},
    "blazefl": {"mlp": 3.0, "tiny": 12.0, "cnn": 1.5},
}
"""How many times a peer's best mode our two workers should reach."""


def ratios(run: Run, seed: int = 0) -> np.ndarray:
    """Resample how many times faster than the loop an engine is; the first entry is as measured.

    A round of the loop and the engine's beside it are drawn together: noise hits both.
    """
    count = len(run.seconds)
    draws = np.random.default_rng(seed).integers(0, count, (2000, count))
    draws[0] = np.arange(count)
    theirs, ours = np.array(run.loop_seconds)[draws], np.array(run.seconds)[draws]
    return np.median(theirs, axis=1) / np.median(ours, axis=1)


def over(mine: Run, other: Run) -> np.ndarray:
    """Resample how many times faster one engine is than another, each beside its own loop."""
    return ratios(mine, seed=1) / ratios(other, seed=2)


def shown(samples: np.ndarray) -> str:
    low, high = np.quantile(samples, [0.025, 0.975])
    return f"{samples[0]:.2f} [{low:.2f}, {high:.2f}]"


def opened(engine: str, mode: str, task: str, *, rounds: int, loader: bool) -> Engine:
    """Start an engine in the environment it needs; it sets itself up meanwhile."""
    own = engine in ("ours", "loop")
    python = Path(sys.executable) if own else interpreter(engine.split(",")[0], CACHE)
    words = ["--data", str(CACHE / "data"), "--task", task, "--rounds", str(WARM + rounds)]
    extra = ["--loader"] if mode == "DataLoader" or (loader and not own) else []
    return Engine(
        [str(python), str(HERE / SCRIPTS[engine]), *words, "--mode", mode, *extra],
        CACHE / "logs" / f"{engine.replace(', ', '-')}-{mode}-{task}.txt",
        **({"PYTHONPATH": str(HERE.parents[1])} if own else {}),
    )


def row(run: Run, mine: Run | None) -> str:
    """Write a line of the table; ``mine`` is our run with as many workers."""
    name = run.engine if run.mode.isdigit() else f"{run.engine}, {run.mode}"
    apart = run.accuracy - run.loop_accuracy
    note = "" if abs(apart) <= CLOSE else " **apart**"
    better = "" if mine is None or run.engine == "ours" else shown(over(mine, run))
    return (
        f"| {run.task} | {name} | {WORKERS[run.mode]} | {shown(ratios(run))} | {better} | "
        f"{run.accuracy:.3f} ({apart:+.3f}){note} | {run.megabytes:.0f} |"
    )


def against(runs: list[Run]) -> list[str]:
    """Compare our two workers with each peer's best mode on each task."""
    lines = ["| task | peer | its best mode | ours over it | asked |", "|---|---|---|---|---|"]
    for mine in (run for run in runs if (run.engine, run.mode) == ("ours", "2")):
        peers = [r for r in runs if r.task == mine.task and r.engine not in ("ours", "loop")]
        for peer in dict.fromkeys(run.engine for run in peers):
            best = max((r for r in peers if r.engine == peer), key=lambda r: ratios(r)[0])
            asked = ASKED.get(peer.split(",")[0], {}).get(mine.task, "")
            better = shown(over(mine, best))
            lines.append(f"| {mine.task} | {peer} | {best.mode} | {better} | {asked} |")
    return lines


def play(engines: list[str], task: str, rounds: int, loader: bool) -> tuple[list[Run], list[str]]:
    """Measure all modes of all engines on a task, printing as they come."""
    runs: list[Run] = []
    failed: list[str] = []
    loop = None
    for engine, mode in ((each, mode) for each in engines for mode in MODES[each]):
        us = None
        try:
            us = opened(engine, mode, task, rounds=rounds, loader=loader)
            if loop is None:
                loop = opened("loop", "plain", task, rounds=rounds, loader=False)
            run = alternate(Run(engine, mode, task), us, loop, warm=WARM, rounds=rounds)
        except RuntimeError as error:
            failed.append(f"{engine} ({mode}) on {task} gave no figure: {error}")
            if loop is not None:
                loop.end()  # in the middle of a block, which the next engine cannot take up
            loop = None
            continue
        finally:
            if us is not None:
                us.end()
        runs.append(run)
        same = [r for r in runs if r.engine == "ours" and WORKERS[r.mode] == WORKERS[mode]]
        print(row(run, same[0] if same else None), flush=True)
    if loop is not None:
        loop.end()
    return runs, failed


def main() -> None:
    """Measure, print as it comes, and keep the figures beside the environments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="flower,pfl,blazefl,fedlab")
    parser.add_argument("--tasks", default="mlp,tiny,cnn")
    parser.add_argument("--rounds", type=int, help="timed rounds; otherwise by task")
    parser.add_argument("--loader", action="store_true", help="peers' batches by DataLoader")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that engines are ended
    began, runs, failed = time.monotonic(), [], []
    data.write(CACHE / "data")
    peers = asked.peers.split(",")
    engines = [each for each in MODES if each in ("ours", "loop") or each.split(",")[0] in peers]
    print(
        "| task | engine | workers | times faster than the loop | ours, as many workers, over it "
        "| accuracy (above the loop's) | MB |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for task in asked.tasks.split(","):
        found, missing = play(engines, task, asked.rounds or ROUNDS[task], asked.loader)
        runs += found
        failed += missing
    print("", *against(runs), "", *failed, sep="\n")
    for engine, found in {run.engine: run.versions for run in runs}.items():
        print(f"{engine}: " + ", ".join(f"{name} {number}" for name, number in found.items()))
    (CACHE / "results.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
