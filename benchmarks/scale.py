"""Memory and time of a round against registered clients: both should follow the cohort alone.

    python benchmarks/scale.py [--figure docs/figures]

Logistic regression, 1,000 clients a round out of 1,000 to 1,000,000. Every process holds the same
two million examples, so that memory beside the data is what differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

RUN = """
import json, sys, time, torch
from functools import partial
from dai_lab import aggregators, attacks, compression, data, engines, learning, models
from dai_lab import participation, privacy, secagg
from dai_lab.core import Compute, Key
from dai_lab.federation import found, play

torch.set_num_threads(1)
clients, cohort = int(sys.argv[1]), int(sys.argv[2])
def examples():
    inputs = torch.randn(2_010_000, 20, generator=Key(0).stream())
    return data.tensors(inputs, (inputs[:, 0] > 0).long(), test=0.001)
us = found(
    data=examples, partition=data.iid, model=models.logistic, local=learning.sgd,
    cohort=partial(participation.uniform, fraction=cohort / clients),
    devices=participation.untimed, pace=participation.everyone, compression=compression.dense,
    personal=learning.common, privacy=privacy.none, attack=attacks.none, secagg=secagg.plain,
    aggregator=aggregators.mean, server=learning.fedavg, engine=engines.local, watch={},
    frame="federated", clients=clients, hostile=0, holdout=0, clip=None, every=1000,
    compute=Compute(), key=Key(0))
# Equal work a client, however many there are: everyone trains on two examples.
from dataclasses import replace
from dai_lab.core import Shards
held = torch.arange(2 * clients)
us = replace(us, task=replace(us.task, shards=Shards(held, torch.arange(clients + 1) * 2)))
seconds = []
before = time.perf_counter()
for one in play(us, Key(0), rounds=12):
    now = time.perf_counter(); seconds.append(now - before); before = now
    assert one.record["cohort"] == cohort
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
now = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(json.dumps({"seconds": sorted(seconds[1:-1])[5], "peak": peak / 1024, "now": now / 1024}))
"""


def measure(clients, cohort):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(clients), str(cohort)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def draw(points, folder):
    """Draw both against the number of registered clients, for light and dark pages."""
    import matplotlib.pyplot as plt

    clients = [one["clients"] for one in points]
    for name, dark in (("scale.svg", False), ("scale-dark.svg", True)):
        with plt.style.context("dark_background" if dark else "default"):
            figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
            for axis, what, label in zip(
                axes,
                ("time", "memory"),
                (
                    "time of a round\n(1,000 registered = 1)",
                    "memory at the end\n(1,000 registered = 1)",
                ),
                strict=True,
            ):
                axis.plot(clients, [one[what] for one in points], marker="o", color="#0072B2")
                axis.set(xscale="log", xlabel="registered clients", ylabel=label, ylim=(0, 2.5))
                axis.grid(alpha=0.3)
            figure.savefig(folder / name, transparent=True)
            plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    points, first = [], None
    print("| registered clients | time of a round | memory at the end |\n|---|---|---|")
    for clients in (1_000, 10_000, 100_000, 1_000_000):
        found = measure(clients, 1000)
        first = first or found
        time, memory = found["seconds"] / first["seconds"], found["now"] / first["now"]
        points.append({"clients": clients, "time": time, "memory": memory})
        print(f"| {clients:,} | {time:.2f} | {memory:.2f} |", flush=True)
    larger = measure(100_000, 4000)
    ratio = larger["seconds"] / (points[2]["time"] * first["seconds"])
    print(f"\nfour times the cohort (4,000 of 100,000): {ratio:.1f} times the time of a round")
    if options.figure:
        draw(points, options.figure)


if __name__ == "__main__":
    main()
