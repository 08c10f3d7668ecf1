"""What a promise adds to a round: processor time with a mechanism over that without, in one run.

python benchmarks/private_rounds.py [--rounds 6]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab.config import build, load
from dai_lab.core import Compute, Key
from dai_lab.experiment.machine import keep_memory
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import Accounting, found, play

MECHANISMS = {
    "central": ("privacy=central",),
    "central, Poisson": ("privacy=central", "cohort=poisson", "cohort.rate=1"),
    "central, with a budget": ("privacy=central", "accounting.epsilon=1000"),
    "adaptive": ("privacy=adaptive", "privacy.blur=5"),
    "local_gaussian": ("privacy=local_gaussian",),
}
NETWORKS = {"mlp": "model=mlp", "mcmahan_cnn": "model=mcmahan_cnn"}


def federation(*overrides: str):
    cfg = load("data=mnist10k", "federation.holdout=0", "evaluation.every=1000", *overrides)
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **parts, watch={}, frame="federated", **cfg.federation, every=1000, compute=Compute(),
        accounting=Accounting(**cfg.accounting), key=Key(0),
    )  # fmt: skip


def main() -> None:
    """Play rounds of all of them in turn, and print the ratios of their medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    for name, network in NETWORKS.items():
        clients = 100 if name == "mlp" else 10
        plays = {
            what: play(
                federation(network, f"federation.clients={clients}", *settings), Key(0),
                rounds=asked.rounds + 2,
            )
            for what, settings in {"none": (), **MECHANISMS}.items()
        }  # fmt: skip
        spent: dict[str, list[float]] = {what: [] for what in plays}
        for number in range(asked.rounds + 1):
            for what, rounds in plays.items():
                began = time.process_time()
                next(rounds)
                if number:  # the first compiles
                    spent[what].append(time.process_time() - began)
        plain = median(spent["none"])
        for what in MECHANISMS:
            print(f"{name} {what}: {median(spent[what]) / plain:.3f} of a round without")


if __name__ == "__main__":
    main()
