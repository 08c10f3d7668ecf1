"""Stacked clients on a GPU against the plain loop on it, and eight seeds in step against alone.

python benchmarks/gpu.py            needs a CUDA device; says so where there is none
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
from simulation import _timed, engine_round, jobs, loop_round, task_of

from dai_lab.config import load
from dai_lab.core import Compute, Key, Task
from dai_lab.experiment import simulate_together

SEEDS = 8

GRIDS = {
    "distributed SGD, 25 clients": ["local=distributed_sgd", "local.batch_size=25"],
    "local SGD, 25 clients": ["local=sgd", "partition=dirichlet"],
}
"""What seeds of a small grid train; mnist10k and an MLP of 159,010 parameters."""


def seconds(words, abreast):
    """Play eight seeds, and say how long it took."""
    with tempfile.TemporaryDirectory() as results:
        cfgs = [load(*words, f"seed={seed}", f"results={results}") for seed in range(SEEDS)]
        began = time.perf_counter()
        ends = simulate_together(cfgs, abreast=abreast, progress=False)
        took = time.perf_counter() - began
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return took


def in_step(device, rounds):
    """Compare seeds that train in one batch with seeds one after another."""
    print("\n| eight seeds | times faster in step than one after another |\n|---|---|")
    for name, knobs in GRIDS.items():
        words = ["data=mnist10k", "federation.clients=25", f"compute.device={device}", *knobs]
        seconds([*words, "rounds=2"], SEEDS)  # whatever is done once
        alone, step = (seconds([*words, f"rounds={rounds}"], many) for many in (1, SEEDS))
        print(f"| {name} | {alone / step:.2f} |", flush=True)


def moved(task, device):
    """Put data and module where the benchmark runs."""
    model = replace(task.model, initial=task.model.initial.to(device))
    model.module.to(device)
    return Task(model, task.data.to(device), task.shards)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: there is no CUDA device here, so there is no figure")
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}\n")
    ways = {
        "stacked": Compute("cuda"),
        "stacked, compiled": Compute("cuda", compile=True),
        "stacked, bfloat16": Compute("cuda", precision="bfloat16"),
    }
    print("| task | method | times faster than the loop on the GPU |\n|---|---|---|")
    for name, job in jobs().items():
        task = moved(task_of(job), "cuda")
        start = task.model.initial
        job = replace(job, model=task.model)
        for way, compute in ways.items():
            loops, ours = [], []
            for number in range(options.rounds + 2):
                key = Key(0) / "round" / number
                draw = torch.randperm(job.clients, generator=(key / "cohort").stream())
                cohort = draw[: job.cohort].sort().values.tolist()

                def finished(work, *words):
                    rows = work(*words)
                    torch.cuda.synchronize()
                    return rows

                loop, _ = _timed(finished, loop_round, job, task, start, cohort, key)
                engine, _ = _timed(finished, engine_round, task, start, cohort, key, job, compute)
                if number > 1:
                    loops.append(loop)
                    ours.append(engine)
            print(f"| {name} | {way} | {np.median(loops) / np.median(ours):.2f} |", flush=True)
    in_step("cuda", 10 * options.rounds)


if __name__ == "__main__":
    main()
