"""A grid of small runs in one process against as many separate processes.

    python benchmarks/grids.py [--runs 30] [--rounds 50]

Both write into folders of their own; that their bytes are equal is checked. Separate processes are
timed one after another, and as many at a time as there are cores; a few of them stand for all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WORDS = [
    "data=mnist10k", "federation.clients=100", "cohort.fraction=0.1", "federation.holdout=0",
    "evaluation.every=5", "name=grid",
]  # fmt: skip
SMALL, LARGE = "model.hidden=[32]", "model.hidden=[200]"


def settings(runs):
    """Seeds, attacks and knobs."""
    for number in range(runs):
        seed, attack = number // 3, ("none", "sign_flip", "gaussian")[number % 3]
        yield [f"seed={seed}", f"attack={attack}", "federation.hostile=10"]


def separate(words, folder):
    command = [sys.executable, "-m", "dai_lab.run", *words, f"results={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def timed(work):
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def compare(model, runs, rounds):
    """Time both ways and print the ratios."""
    common = [*WORDS, model, f"rounds={rounds}"]
    every = [[*common, *one] for one in settings(runs)]
    cores = os.cpu_count() or 1
    few = every[: max(2 * cores, 4)]
    with tempfile.TemporaryDirectory() as here:
        root = Path(here)
        separate(every[-1], root / "warm")
        sweep = [
            sys.executable, "-m", "dai_lab.run", "-m", *common, f"results={root / 'grid'}",
            f"seed={','.join(map(str, range((runs + 2) // 3)))}",
            "attack=none,sign_flip,gaussian", "federation.hostile=10",
        ]  # fmt: skip
        grid = timed(lambda: subprocess.run(sweep, check=True, stdout=subprocess.DEVNULL))
        made = len(list((root / "grid" / "grid").glob("*/summary.json")))
        alone = timed(lambda: [separate(one, root / "alone") for one in few]) / len(few)
        with ThreadPoolExecutor(cores) as pool:
            at_a_time = timed(
                lambda: list(pool.map(lambda one: separate(one, root / "beside"), few))
            )
        for folder in (root / "alone" / "grid").iterdir():
            there = root / "grid" / "grid" / folder.name
            for file in ("records.jsonl", "checkpoint.safetensors"):
                assert (folder / file).read_bytes() == (there / file).read_bytes()
    ratios = [alone * made / grid, at_a_time / len(few) * made / grid]
    print(f"| {model} | {made} | {ratios[0]:.1f} | {ratios[1]:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    print("| model | runs | faster than one process after another | than one process a core |")
    print("|---|---|---|---|")
    for model in (SMALL, LARGE):
        compare(model, options.runs, options.rounds)


if __name__ == "__main__":
    main()
