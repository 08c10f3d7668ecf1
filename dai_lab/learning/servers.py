"""Server optimizers: the mean update is taken for a gradient, pointing downhill.

``server.rate`` is the paper's eta; the adaptive ones start from ``v = tau**2`` and correct no
bias, as published.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dai_lab.core import State, Vector


def fedavg(state: State, update: Vector, *, rate: float = 1.0) -> State:
    """Move the model by the update.

    Args:
        state: The model before the round.
        update: What the aggregator returned.
        rate: Share of the update to take, above 0; 1 is federated averaging.

    Raises:
        ValueError: A rate out of range.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    above_zero("rate", rate)
    of_width("fedavg", update, len(state.params))
    return State(state.params + rate * update, state.memory)


def fedavgm(state: State, update: Vector, *, rate: float = 1.0, beta: float = 0.9) -> State:
    """Move along a decaying sum of updates (heavy-ball momentum).

    Args:
        state: The model before the round; remembers ``server/momentum``.
        update: What the aggregator returned.
        rate: Share of the momentum to take, above 0.
        beta: What is kept of the momentum each round, in [0, 1); 0 is ``fedavg``.

    Raises:
        ValueError: A knob out of range.

    Source:
        Hsu et al. 2019, arXiv:1909.06335 (FedAvgM).
    """
    above_zero("rate", rate)
    _share("beta", beta)
    of_width("fedavgm", update, len(state.params))
    momentum = beta * _recall(state, "server/momentum", torch.zeros_like(update)) + update
    return State(state.params + rate * momentum, state.memory).remember(
        {"server/momentum": momentum}
    )


def fedadagrad(
    state: State,
    update: Vector,
    *,
    rate: float = 0.1,
    beta1: float = 0.0,
    tau: float = 1e-3,
) -> State:
    """Move less along coordinates that have moved much since the start.

    Args:
        state: The model before the round; remembers ``server/momentum`` and ``server/second``.
        update: What the aggregator returned.
        rate: Size of a step, above 0.
        beta1: What is kept of the momentum each round, in [0, 1).
        tau: How little adaptivity, above 0; large values make it ``fedavg``.

    Raises:
        ValueError: A knob out of range.

    Source:
        Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
    """
    return _adaptive(state, update, torch.add, rate=rate, beta1=beta1, tau=tau)


def fedadam(
    state: State,
    update: Vector,
    *,
    rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> State:
    """Move less along coordinates that have moved much of late.

    Args:
        state: The model before the round; remembers ``server/momentum`` and ``server/second``.
        update: What the aggregator returned.
        rate: Size of a step, above 0.
        beta1: What is kept of the momentum each round, in [0, 1).
        beta2: What is kept of the second moment each round, in [0, 1).
        tau: How little adaptivity, above 0.

    Raises:
        ValueError: A knob out of range.

    Source:
        Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
    """
    _share("beta2", beta2)

    def average(second: Tensor, square: Tensor) -> Tensor:
        return beta2 * second + (1 - beta2) * square

    return _adaptive(state, update, average, rate=rate, beta1=beta1, tau=tau)


def fedyogi(
    state: State,
    update: Vector,
    *,
    rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> State:
    """Do as ``fedadam``, but let the second moment change only by as much as an update is large.

    Args:
        state: The model before the round; remembers ``server/momentum`` and ``server/second``.
        update: What the aggregator returned.
        rate: Size of a step, above 0.
        beta1: What is kept of the momentum each round, in [0, 1).
        beta2: One minus the share of a squared update that the second moment moves by, in [0, 1).
        tau: How little adaptivity, above 0.

    Raises:
        ValueError: A knob out of range.

    Source:
        Reddi et al. 2021, arXiv:2003.00295, algorithm 2.
    """
    _share("beta2", beta2)

    def approach(second: Tensor, square: Tensor) -> Tensor:
        return second - (1 - beta2) * square * torch.sign(second - square)

    return _adaptive(state, update, approach, rate=rate, beta1=beta1, tau=tau)


def _adaptive(
    state: State,
    update: Vector,
    accumulate: Callable[[Tensor, Tensor], Tensor],
    *,
    rate: float,
    beta1: float,
    tau: float,
) -> State:
    """Reddi et al.'s algorithm 2; its three optimizers differ in ``accumulate`` alone."""
    above_zero("rate", rate)
    _share("beta1", beta1)
    above_zero("tau", tau)
    of_width("fedadagrad, fedadam or fedyogi", update, len(state.params))
    momentum = _recall(state, "server/momentum", torch.zeros_like(update))
    second = _recall(state, "server/second", torch.full_like(update, tau**2))
    momentum = beta1 * momentum + (1 - beta1) * update
    second = accumulate(second, update.square())
    params = state.params + rate * momentum / (second.sqrt() + tau)
    return State(params, state.memory).remember(
        {"server/momentum": momentum, "server/second": second}
    )


def _recall(state: State, name: str, first: Tensor) -> Tensor:
    return state.memory.get(name, first)


def of_width(name: str, update: Vector, width: int) -> None:
    """Refuse an update that another algorithm's clients sent."""
    if len(update) != width:
        raise ValueError(
            f"server={name} takes {width} numbers a row and gets {len(update)}: choose the server "
            "made for local training, as +algorithm=... does"
        )


def joined_by(state: State, weighted: bool) -> Tensor:
    """Say what share of the federation a mean speaks for.

    Counted as the mean counts: else what a server adds up over rounds is not the mean of what
    all clients hold, and clients of unequal sizes in turn are led away from the optimum.
    """
    return state.memory["federation/examples" if weighted else "federation/participation"]


def above_zero(knob: str, value: float) -> None:
    """Refuse a knob that makes no step."""
    if not value > 0:
        raise ValueError(f"server.{knob} must be above 0, got {value}")


def _share(knob: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"server.{knob} must be at least 0 and below 1, got {value}")
