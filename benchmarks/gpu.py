"""Stacked clients on a GPU against the plain loop on it, and against the lab on one CPU core.

python benchmarks/gpu.py            needs a CUDA device; says so where there is none
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch
from simulation import _timed, engine_round, jobs, loop_round, task_of

from dai_lab.core import Compute, Key, Task


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


if __name__ == "__main__":
    main()
