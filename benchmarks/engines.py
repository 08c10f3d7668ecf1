"""One process with two threads, and two worker processes, against one process with one thread.

    python benchmarks/engines.py

The tasks are those of ``simulation.py``. Rounds of the three alternate, so that a noisy machine is
noisy for all; a ratio is of medians, its interval from a bootstrap over rounds. On a machine with
other work, processor time says more: what all processes together spent on a round, in that of one
thread. Memory is the proportional set size of all processes, so that what they share counts once.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from simulation import RATE, jobs, task_of

from dai_lab.core import Compute, Key, State
from dai_lab.engines import local, workers
from dai_lab.learning import sgd

HANDS = 2


def family() -> list[int]:
    """List this process and all below it."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            stat = (place / "stat").read_text()
        except OSError:  # it has ended in the meantime
            continue
        parents[int(place.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for one in found:
        found += [each for each, parent in parents.items() if parent == one]
    return found


def spent(processes: list[int]) -> float:
    """Add up seconds of processor time, of all threads."""
    tasks = [task for one in processes for task in Path(f"/proc/{one}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def held(processes: list[int]) -> dict[str, int]:
    """Add up memory in MB."""
    total: dict[str, int] = {}
    for one in processes:
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount = line.split()[:2]
            total[name[:-1]] = total.get(name[:-1], 0) + int(amount)
    return {name: amount // 1024 for name, amount in total.items()}


def compare(name: str, rounds: int) -> None:
    """Alternate rounds of all three and print ratios with their intervals."""
    job = jobs()[name]
    task, state = task_of(job), State(job.model.initial)
    part = partial(sgd, batch_size=job.batch, rate=RATE)
    with ExitStack() as stack:
        alone = held([os.getpid()])
        engines = {
            "one thread": (local(part, task, compute=Compute()), 1),
            "threads": (local(part, task, compute=Compute(threads=HANDS)), HANDS),
            "workers": (workers(part, task, compute=Compute(), processes=HANDS), 1),
        }
        ways = {way: (stack.enter_context(one), each) for way, (one, each) in engines.items()}
        wall: dict[str, list[float]] = {way: [] for way in ways}
        cost: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 2):  # two rounds warm everything up, and start the workers
            key = Key(0) / "round" / number
            draw = torch.randperm(job.clients, generator=(key / "cohort").stream())[: job.cohort]
            cohort = draw.sort().values.tolist()
            rows, us = {}, family()
            for way, (train, threads) in ways.items():
                torch.set_num_threads(threads)
                before, begun = spent(us), time.perf_counter()
                rows[way] = train(state, state.params, cohort, key=key, round=1).rows
                wall[way].append(time.perf_counter() - begun)
                cost[way].append(spent(us) - before)
            assert rows["workers"].equal(rows["one thread"])
        here = held(family())
    data = (task.data.inputs.nbytes + task.data.targets.nbytes) >> 20
    draws = np.random.default_rng(0).integers(0, rounds, (1000, rounds))
    cells = []
    for way in ("threads", "workers"):
        plain, other = (np.array(wall[one][2:]) for one in ("one thread", way))
        ratios = np.median(plain[draws], 1) / np.median(other[draws], 1)
        low, high = np.quantile(ratios, [0.025, 0.975])
        more = np.median(cost[way][2:]) / np.median(cost["one thread"][2:])
        cells += [f"{np.median(plain) / np.median(other):.2f} [{low:.2f}, {high:.2f}]"]
        cells += [f"{more:.2f}"]
    print(
        f"| {name} | {' | '.join(cells)} | {here['Pss']} "
        f"({here['Pss_Anon']} own, {here['Pss_File']} files, {here['Pss_Shmem']} shared) | "
        f"{alone['Pss']} | {data} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", default="mlp,tiny,cnn")
    options = parser.parse_args()
    print(
        f"| task | {HANDS} threads: times faster | processor time | {HANDS} workers: times faster "
        "| processor time | MB of all processes | MB before | MB of data, held twice |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.tasks.split(","):
        compare(name, options.rounds)


if __name__ == "__main__":
    main()
