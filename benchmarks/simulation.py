"""The local engine against a plain PyTorch loop and against the machine's matrix products.

    python benchmarks/simulation.py                 the three tasks of the paper trail, one thread
    python benchmarks/simulation.py --calibrate     every method and group size, to check the rule

Rounds of the loop and of the engine alternate in one process, so that a noisy machine is noisy for
both; a ratio is of medians, its interval from a bootstrap over rounds. Never read absolute times.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional

from dai_lab.core import Compute, Examples, Key, Model, Shards, State, Task
from dai_lab.data import mnist10k
from dai_lab.learning import choose, epochs_of, sgd
from dai_lab.models import create, mlp, small_cnn

RATE = 0.05


@dataclass(frozen=True)
class Job:
    """One task of the benchmark."""

    model: Model
    clients: int
    held: int
    cohort: int
    batch: int
    target: float


def jobs() -> dict[str, Job]:
    """The tasks: one local epoch each, as stated in docs/benchmarks.md."""

    def make(factory, **knobs):
        return create(
            lambda shape, classes: factory(shape, classes, **knobs),
            shape=(1, 28, 28),
            classes=10,
            key=Key(0) / "model",
        )

    return {
        "mlp": Job(make(mlp, hidden=[200]), 100, 600, 10, 32, 1.7),
        "tiny": Job(make(mlp, hidden=[32]), 1000, 60, 100, 10, 6.0),
        "cnn": Job(make(small_cnn), 100, 600, 10, 32, 1.6),
    }


def task_of(job: Job) -> Task:
    """Deal real digits, each six times over, to equal clients."""
    digits = mnist10k()
    inputs = torch.cat([digits.train.inputs, digits.test.inputs]).repeat(6, 1, 1, 1)
    targets = torch.cat([digits.train.targets, digits.test.targets]).repeat(6)
    order = torch.randperm(60_000, generator=(Key(0) / "deal").stream())
    offsets = torch.arange(job.clients + 1) * job.held
    return Task(job.model, Examples(inputs, targets), Shards(order, offsets))


def loop_round(job: Job, task: Task, start, cohort, key: Key):
    """What a user writes first: one model, one optimizer, one client after another."""
    module: nn.Module = job.model.module
    names = job.model.views(start)
    total = torch.zeros_like(start)
    rows = []
    for client in cohort:
        module.load_state_dict(names)
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
        plan = epochs_of(
            task.shards[client],
            key=key / "client" / client / "batches",
            epochs=1,
            batch_size=job.batch,
        )
        for some in plan.steps():
            inputs = task.data.inputs[some]
            targets = task.data.targets[some]
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
        row = torch.cat([p.detach().flatten() for p in module.parameters()]) - start
        rows.append(row)
        total += row
    return torch.stack(rows)


def engine_round(task: Task, start, cohort, key: Key, job: Job, compute: Compute):
    """The same round by the lab's engine."""
    return sgd(
        task,
        State(start),
        start,
        cohort,
        key=key,
        round=1,
        compute=compute,
        batch_size=job.batch,
        rate=RATE,
    ).rows


def peak(rounds: int = 3) -> float:
    """Multiply-adds a second of a large matrix product here and now, by the better BLAS."""
    a, b, c = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    ours = (a.numpy(), b.numpy(), c.numpy())
    times = [_timed(torch.mm, a, b, out=c)[0] for _ in range(rounds)]
    times += [_timed(np.dot, ours[0], ours[1], out=ours[2])[0] for _ in range(rounds)]
    return 1024**3 / min(times)


def _timed(work, *words, **named):
    before = time.perf_counter()
    result = work(*words, **named)
    return time.perf_counter() - before, result


def products(model: Model) -> float:
    """Multiply-adds one example needs: forward, weight gradients, and input gradients above."""
    total, first = 0.0, True
    sizes: list[tuple[float, bool]] = []
    hooks = []

    def note(module, inputs, output):
        nonlocal first
        work = module.weight.numel() * (output[0, 0].numel() if output.dim() == 4 else 1)
        sizes.append((work, first))
        first = False

    for module in model.module.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            hooks.append(module.register_forward_hook(note))
    model.module(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    for work, lowest in sizes:
        total += work * (2 if lowest else 3)
    return total


def compare(name: str, job: Job, compute: Compute, rounds: int) -> None:
    """Alternate rounds of both and print the ratio with its interval."""
    task = task_of(job)
    method = choose(job.model, compute, rank=3)
    start = job.model.initial
    loops, engines, limits, apart, furthest = [], [], [], [], 0.0
    for number in range(rounds + 1):
        key = Key(0) / "round" / number
        draw = torch.randperm(job.clients, generator=(key / "cohort").stream())[: job.cohort]
        cohort = draw.sort().values.tolist()
        loop, theirs = _timed(loop_round, job, task, start, cohort, key)
        engine, ours = _timed(engine_round, task, start, cohort, key, job, compute)
        apart.append(float((theirs - ours).abs().amax(1).median()))
        furthest = max(furthest, float((theirs - ours).abs().max()))
        if number:  # the first round warms both up
            loops.append(loop)
            engines.append(engine)
            limits.append(peak())
    work = products(job.model) * job.held * job.cohort
    share = float(np.median([work / limit for limit in limits]) / np.median(engines))
    draws = np.random.default_rng(0).integers(0, rounds, (1000, rounds))
    ratios = np.median(np.array(loops)[draws], 1) / np.median(np.array(engines)[draws], 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    print(
        f"| {name} | {method.name}, {method.group} abreast | "
        f"{np.median(loops) / np.median(engines):.2f} [{low:.2f}, {high:.2f}] | {job.target} | "
        f"{share:.2f} | {np.median(apart):.1e}, {furthest:.1e} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", default="mlp,tiny,cnn")
    parser.add_argument("--calibrate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    print(
        "| task | engine | times faster than the loop | asked for | share of the machine's "
        "matrix products | largest difference of a parameter after a round: median client, any |"
    )
    print("|---|---|---|---|---|---|")
    for name, job in jobs().items():
        if name not in options.tasks.split(","):
            continue
        ways = [Compute()]
        if options.calibrate:
            ways = [Compute(method="flat")]
            ways += [Compute(method="vmap", group=g) for g in (1, 10, 25)]
            ways += [Compute(method="chain")]
            ways += [Compute(method="compiled")] if name != "cnn" else []
        for compute in ways:
            compare(name, replace(job), compute, options.rounds)


if __name__ == "__main__":
    main()
