"""Steps of private training against Opacus, used as its own documentation does.

    python benchmarks/private.py                 ours against Opacus' fastest mode, one thread
    python benchmarks/private.py --samplers      every way of ours, to check the rule behind `auto`

Both take the same steps on the same examples, in turn, and end at the same weights but for their
noise; without any, they are compared. Times are of the processor; a ratio is of medians, its
interval from a bootstrap over repetitions. Opacus' fastest mode is the one that is fastest here.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from dai_lab.core import Compute, Examples, Key, Model, Shards, State, Task
from dai_lab.data import mnist10k
from dai_lab.learning import dp_sgd
from dai_lab.learning.private_steps import SAMPLERS, sampler_for
from dai_lab.models import create, logistic, mlp, resnet8, small_cnn, tanh_cnn

BATCH, STEPS, NORM, NOISE, RATE, MOMENTUM = 256, 8, 0.5, 1.0, 0.1, 0.9
MODES = ("hooks", "functorch", "ew", "ghost")
NETWORKS = {
    "logistic": logistic,
    "mlp": mlp,
    "tanh_cnn": tanh_cnn,
    "small_cnn": small_cnn,
    "resnet8": resnet8,
}


def task_of(model: Model) -> Task:
    """Give one client as many real digits as it takes for so many steps to be an epoch."""
    digits = mnist10k().train
    data = Examples(digits.inputs[: BATCH * STEPS], digits.targets[: BATCH * STEPS])
    return Task(model, data, Shards.of([torch.arange(len(data))]))


def ours(task: Task, key: Key, noise: float, sampler: str = "auto") -> torch.Tensor:
    """Train for an epoch by the lab's function."""
    start = task.model.initial
    return dp_sgd(
        task, State(start), start, (0,), key=key, round=1, compute=Compute(), batch_size=BATCH,
        rate=RATE, momentum=MOMENTUM, norm=NORM, noise=noise, sampler=sampler,
    ).rows[0]  # fmt: skip


def batches_of(task: Task, key: Key) -> list[torch.Tensor]:
    """Draw the same examples as ``ours`` does."""
    held = len(task.data)
    chance = (key / "client" / 0 / "poisson").stream()
    coins = [torch.rand(held, generator=chance, dtype=torch.float64) for _ in range(STEPS)]
    return [(coin < BATCH / held).nonzero().squeeze(1) for coin in coins]


def theirs(task: Task, batches: list[torch.Tensor], noise: float, mode: str) -> torch.Tensor:
    """Train on the same examples by Opacus' wrapper and optimizer, in the loop of its examples."""
    from opacus.grad_sample import prepare_module
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    ghost = mode == "ghost"
    knobs = {"max_grad_norm": NORM} if ghost else {}
    module = prepare_module(copy.deepcopy(task.model.module), mode, **knobs).train()
    kind = DPOptimizerFastGradientClipping if ghost else DPOptimizer
    optimizer = kind(
        torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM),
        noise_multiplier=noise,
        max_grad_norm=NORM,
        expected_batch_size=BATCH,
        generator=torch.Generator().manual_seed(0),
    )
    charge = nn.CrossEntropyLoss()
    if ghost:
        charge = DPLossFastGradientClipping(module, optimizer, charge)
    for some in batches:
        if ghost:
            module.enable_hooks()
        optimizer.zero_grad()
        charge(module(task.data.inputs[some]), task.data.targets[some]).backward()
        optimizer.step()
    after = torch.cat([weight.detach().flatten() for weight in module.parameters()])
    return after - task.model.initial


def _timed(work, *words):
    before = time.process_time()
    result = work(*words)
    return (time.process_time() - before) / STEPS * 1e3, result


def compare(name: str, rounds: int, samplers: tuple[str, ...]) -> None:
    """Alternate all of them and print a row for each way of ours."""
    model = create(NETWORKS[name], shape=(1, 28, 28), classes=10, key=Key(0) / "model")
    task = task_of(model)
    fits = [one for one in samplers if one != "chain" or sampler_for("auto", model, rank=3) == one]
    spent: dict[str, list[float]] = {way: [] for way in (*MODES, *(f"our {one}" for one in fits))}
    still = {mode: theirs(task, batches_of(task, Key(0)), 0.0, mode) for mode in MODES}
    apart = max(float((ours(task, Key(0), 0.0) - each).abs().max()) for each in still.values())
    for number in range(rounds):
        key = Key(number)
        batches = batches_of(task, key)
        for mode in MODES:
            spent[mode].append(_timed(theirs, task, batches, NOISE, mode)[0])
        for one in fits:
            spent[f"our {one}"].append(_timed(ours, task, key, NOISE, one)[0])
    best = min(MODES, key=lambda mode: np.median(spent[mode]))
    draws = np.random.default_rng(0).integers(0, rounds, (1000, rounds))
    for one in fits:
        mine, them = np.array(spent[f"our {one}"]), np.array(spent[best])
        ratios = np.median(mine[draws], 1) / np.median(them[draws], 1)
        low, high = np.quantile(ratios, [0.025, 0.975])
        meant = f"auto ({sampler_for('auto', model, rank=3)})" if one == "auto" else one
        cells = " | ".join(f"{np.median(spent[mode]) / np.median(them):.2f}" for mode in MODES)
        print(
            f"| {name} | {meant} | {np.median(mine) / np.median(them):.2f} [{low:.2f}, {high:.2f}] "
            f"| {cells} | {apart:.1e} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default="logistic,mlp,tanh_cnn,small_cnn")
    parser.add_argument("--samplers", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    # Opacus' hooks say at length that inputs need no gradient.
    warnings.filterwarnings("ignore", "Full backward hook is firing")
    print(
        f"| network | ours | its time over Opacus' fastest (asked: at most 1.1) | "
        f"{' | '.join(f'Opacus {mode}' for mode in MODES)} | largest difference of a weight |"
    )
    print("|---|---|---|" + "---|" * (len(MODES) + 1))
    for name in options.networks.split(","):
        compare(name, options.rounds, SAMPLERS if options.samplers else ("auto",))


if __name__ == "__main__":
    main()
