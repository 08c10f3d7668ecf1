"""What a round costs besides gradients, what an idle client costs, and how soon training begins.

    python benchmarks/overhead.py

All figures are processor time of one process with one thread, so that a busy machine matters less;
what is asked for stands beside them.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from dai_lab.config import load
from dai_lab.core import Compute, Examples, Key, Shards, State, Task
from dai_lab.experiment import simulate
from dai_lab.learning import sgd
from dai_lab.models import create, mlp


def besides_gradients(rounds: int = 12) -> None:
    """Play whole rounds, files and all, of a hundred clients with 600 digits each."""
    from dai_lab import federation
    from dai_lab.learning import compiled

    spent = []
    kernel = compiled._cohort

    def timed(*words):
        before = time.process_time()
        kernel(*words)
        spent[-1] += time.process_time() - before

    with TemporaryDirectory() as folder:
        path = Path(folder, "digits.npz")
        draw = np.random.default_rng(0)
        inputs = draw.normal(size=(60_000, 1, 28, 28)).astype("float32")
        np.savez(path, inputs=inputs, targets=draw.integers(0, 10, 60_000))
        cfg = load("data=file", f"data.path={path}", "data.test=0.001", "federation.clients=100")
        cfg.federation.holdout, cfg.rounds, cfg.evaluation.every = 0.0, rounds, rounds
        compiled._cohort = timed
        play, marks = federation.play, []

        def noting(*words, **named):
            for one in play(*words, **named):
                yield one
                marks.append(time.process_time())  # after the round's records and checkpoint
                spent.append(0.0)

        federation.play = noting
        spent.append(0.0)
        simulate(cfg, Path(folder, "run"), progress=False)
        compiled._cohort, federation.play = kernel, play
    whole = np.diff(marks)[1:-1]
    gradients = np.array(spent[2 : 2 + len(whole)])
    share = np.median(1 - gradients / whole)
    print(f"everything but gradients, share of a round (asked: below 0.05): {share:.3f}")


def idle_clients(clients: int = 1000) -> None:
    """Let clients that hold nothing take part."""
    model = create(lambda shape, classes: mlp(shape, classes, hidden=[32]),
                   shape=(1, 28, 28), classes=10, key=Key(0))  # fmt: skip
    data = Examples(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.long))
    task = Task(
        model, data, Shards(torch.zeros(0, dtype=torch.long), torch.zeros(clients + 1).long())
    )
    for method in ("compiled", "chain", "flat"):
        costs = []
        for number in range(6):
            before = time.process_time()
            sgd(task, State(model.initial), model.initial, range(clients), key=Key(number), round=1,
                compute=Compute(method=method))  # fmt: skip
            costs.append((time.process_time() - before) / clients * 1e3)
        print(f"an idle client by {method}, ms (asked: below 0.2): {np.median(costs[1:]):.3f}")


def first_round() -> None:
    """Start training in this process, which has compiled nothing yet (but the disk may hold it)."""
    from dai_lab import federation

    play, marks = federation.play, []

    def noting(*words, **named):
        marks.append(time.process_time())
        for one in play(*words, **named):
            marks.append(time.process_time())
            yield one

    federation.play = noting
    with TemporaryDirectory() as folder:
        simulate(load("rounds=1"), folder, progress=False)
    federation.play = play
    spent = marks[1] - marks[0]
    print(f"from the start of training to the first round, s (asked: below 2): {spent:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    first_round()
    idle_clients()
    besides_gradients()
