"""Our engine: one process on one thread, or two workers."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial

import torch
from setting import RATE, Setting, finished, load, options, played, ready
from torch.nn.utils import vector_to_parameters

from dai_lab import engines
from dai_lab.core import Compute, Examples, Key, Shards, State, Task, Training
from dai_lab.learning import fedavg, sgd
from dai_lab.models import flat


def ours(workers: int, task: Task, batch: int) -> AbstractContextManager[Training]:
    """Open the engine as a user would: one process on one thread, or worker processes."""
    local = partial(sgd, batch_size=batch, rate=RATE)
    if workers == 1:
        return engines.local(local, task, compute=Compute())
    return engines.workers(local, task, compute=Compute(), processes=workers)


def task_of(setting: Setting) -> Task:
    """See the common setting as one of our tasks."""
    offsets = torch.arange(setting.clients + 1) * setting.held
    return Task(
        flat(setting.network(), classes=10),
        Examples(setting.inputs, setting.targets),
        Shards(setting.order, offsets),
    )


def main() -> None:
    """Play rounds of federated averaging."""
    asked = options()
    setting = load(asked.data, asked.task)
    task = task_of(setting)
    state = State(task.model.initial)
    with ours(int(asked.mode), task, setting.batch) as train:
        ready()
        for number in range(1, asked.rounds + 1):
            before = time.perf_counter()
            key = Key(0) / "round" / number
            draw = torch.randperm(setting.clients, generator=(key / "cohort").stream())
            cohort = draw[: setting.cohort].sort().values.tolist()
            updates = train(state, state.params, cohort, key=key / "local", round=number)
            share = updates.weights / updates.weights.sum()
            state = fedavg(state, share @ updates.rows)
            played(time.perf_counter() - before)
    network = setting.network()
    vector_to_parameters(state.params, network.parameters())
    finished(setting, network, "dai-lab")


if __name__ == "__main__":
    main()
