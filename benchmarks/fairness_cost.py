"""What measuring groups costs: its share of a round in which the model is judged, in one run.

    python benchmarks/fairness_cost.py [--rounds 20]

Adult, 20 clients, judged after every round. Counted are who is in which group, the tables and the
measures made of them, for the test set and for what clients held out, and the measures over
clients; both are processor time of the same rounds. Beside it stands what a fair method's round
takes of a plain one's, the rounds of all in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab.config import build, load
from dai_lab.core import Compute, Key, Sensitive
from dai_lab.experiment.machine import keep_memory
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, judging, play
from dai_lab.metrics import estimate

MODELS = {"mlp": ("model=mlp",), "logistic": ("model=logistic",)}
ALGORITHMS = ("reweighing", "fairfed", "fedfb", "q_ffl", "afl", "fedminmax", "gifair")


def federation(*overrides: str):
    cfg = load("data=adult", "fairness.attribute=sex", "federation.clients=20", *overrides)
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **parts, watch={}, frame="federated", **cfg.federation, every=1, compute=Compute(),
        fairness=cfg.fairness, key=Key(0),
    )  # fmt: skip


def measuring(rounds: int) -> None:
    """Print the share of rounds that group measures take."""
    spent = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return call(*given, **named)
            finally:
                spent[0] += time.process_time() - began

        return stand_in

    places = [(judging, "_groups"), (judging, "over_clients"), (Sensitive, "of")]
    before = [getattr(where, name) for where, name in places]
    for (where, name), call in zip(places, before, strict=True):
        setattr(where, name, timed(call))
    try:
        for model, words in MODELS.items():
            shares, plays = [], play(federation(*words), Key(0), rounds=rounds + 1)
            for number in range(rounds + 1):
                began, spent[0] = time.process_time(), 0.0
                next(plays)
                if number:  # the first compiles
                    shares.append(spent[0] / (time.process_time() - began))
            print(f"{model}: measuring groups, share of a round (asked: below 0.05): "
                  f"{estimate(shares)}", flush=True)  # fmt: skip
    finally:
        for (where, name), call in zip(places, before, strict=True):
            setattr(where, name, call)


def training(rounds: int) -> None:
    """Print what a fair method's round takes of a plain one's."""
    for model, words in MODELS.items():
        plays = {"sgd": play(federation(*words), Key(0), rounds=rounds + 2)}
        for name in ALGORITHMS:
            us = federation(*words, f"+algorithm={name}")
            plays[name] = play(us, Key(0), rounds=rounds + 2)
        spent: dict[str, list[float]] = {name: [] for name in plays}
        for number in range(rounds + 2):
            for name, one in plays.items():
                began = time.process_time()
                next(one)
                if number > 1:  # the first compiles, the second is the first that knows counts
                    spent[name].append(time.process_time() - began)
        for name in ALGORITHMS:
            ratio = median(spent[name]) / median(spent["sgd"])
            print(f"{model} {name}: {ratio:.2f} of a round of federated averaging", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    torch.set_num_threads(1)  # as a run does
    measuring(asked.rounds)
    training(max(asked.rounds // 2, 1))


if __name__ == "__main__":
    main()
