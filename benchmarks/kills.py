"""Kill -9 at random, the run itself or single workers: every run must end as one left alone.

    python benchmarks/kills.py [--kills 200]

Half of the kills hit the run, which is then started again in the same folder; the others hit
worker processes while the run goes on. Records, summary and checkpoint are compared byte for byte.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from dai_lab.config import load
from dai_lab.experiment import simulate

FILES = ("records.jsonl", "summary.json", "checkpoint.safetensors")
COMMON = (
    "data=digits", "federation.clients=20", "cohort.fraction=0.5", "rounds=40", "model.hidden=[64]",
    "local.epochs=4", "local.batch_size=8", "+algorithm=scaffold",
)  # fmt: skip


def started(cfg, folder):
    """Run in a child that shares what is imported; return its number."""
    if pid := os.fork():
        return pid
    try:
        simulate(cfg, folder, progress=False)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)


def ended(pid, wait=True):
    """Return how a child ended, ``None`` if it has not."""
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def offspring(pid):
    """List the workers below a run: the copies of its first process, not that itself."""
    parents = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(each.parent.name)] = int(each.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    children = [one for one, parent in parents.items() if parent == pid]
    return [one for one, parent in parents.items() if parent in children]


def content(folder):
    return [(folder / file).read_bytes() for file in FILES]


def kill_run(cfg, folder, draw, takes):
    """Kill a run once at a random moment, and let it be finished."""
    pid = started(cfg, folder)
    time.sleep(draw.uniform(0, takes))
    os.kill(pid, signal.SIGKILL)
    killed = ended(pid) == -signal.SIGKILL
    assert ended(started(cfg, folder)) == 0
    return int(killed)


def kill_workers(cfg, folder, draw):
    """Kill a worker in every other round or so: the third death at one chunk is the run's own."""
    pid, kills, seen = started(cfg, folder), 0, 0
    records = folder / "records.jsonl"
    while (code := ended(pid, wait=False)) is None:
        time.sleep(draw.uniform(0.0, 0.05))
        size = records.stat().st_size if records.exists() else 0
        workers = offspring(pid)
        if workers and size > seen:
            try:
                os.kill(draw.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills, seen = kills + 1, size
    assert code == 0, f"the run ended with {code}"
    return kills


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(0)
    plain = load(*COMMON)
    crowd = load(*COMMON, "engine=workers", "engine.processes=2")
    counts = {"the run": 0, "a run with workers": 0, "a worker": 0}
    runs = 0
    with tempfile.TemporaryDirectory() as here:
        root = Path(here)
        takes = {}
        for name, cfg in (("plain", plain), ("crowd", crowd)):
            before = time.perf_counter()
            assert ended(started(cfg, root / name)) == 0
            takes[name] = time.perf_counter() - before
        twin = content(root / "plain")
        assert content(root / "crowd") == twin, "engine=workers gives other bytes"
        while sum(counts.values()) < options.kills:
            folder = root / str(runs)
            if counts["a worker"] < options.kills / 2:
                counts["a worker"] += kill_workers(crowd, folder, draw)
            elif counts["a run with workers"] < options.kills / 10:
                counts["a run with workers"] += kill_run(crowd, folder, draw, takes["crowd"])
            else:
                counts["the run"] += kill_run(plain, folder, draw, takes["plain"])
            assert content(folder) == twin, f"{folder} differs after {counts}"
            runs += 1
    killed = ", ".join(f"{number} of {what}" for what, number in counts.items())
    print(f"{sum(counts.values())} kills ({killed}) in {runs} runs: all ended bit-identical")


if __name__ == "__main__":
    main()
