"""How long it takes until a run begins, against importing torch, which every run has to.

    python benchmarks/start.py [--times 5]

A process that trains logistic regression on the small digits for one round, from its first line to
its last, and a process that imports torch, in turn: the ratio of their processor times. Then what a
grid does for each of its cells: settings composed by Hydra, and by ``load``, which remembers what
was chosen and sets the values anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))

from hydra import compose, initialize_config_dir

from dai_lab.config import conf_dir, load
from dai_lab.metrics import estimate

ROUND = ("data=digits", "model=logistic", "rounds=1")
CELL = ("data=adult", "aggregator=krum", "attack=alie", "federation.clients=20")


def spent(*words: str) -> float:
    """Return the processor time that a command of Python's takes."""
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    os.environ["OMP_NUM_THREADS"] = "1"
    ratios = []
    with TemporaryDirectory() as scratch:
        for number in range(times):
            run = spent("-m", "dai_lab.run", *ROUND, f"seed={number}", f"results={scratch}")
            ratios.append(run / spent("-c", "import torch"))
    print(f"a run of one round, times importing torch: {estimate(ratios)}")
    load(*CELL)
    ratios = []
    for number in range(times):
        words = [*CELL, f"seed={number}"]
        began = time.process_time()
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            compose("config", words)
        between = time.process_time()
        load(*words)
        ratios.append((between - began) / (time.process_time() - between))
    print(f"settings of a cell, Hydra's time over that of load: {estimate(ratios)}")


if __name__ == "__main__":
    main()
