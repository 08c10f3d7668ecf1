"""FairFed: clients whose own gap is like the federation's count more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.reweighing import own_weights
from dai_lab.learning.fairness.survey import (
    FEW,
    SURVEY,
    Survey,
    groups_in,
    known,
    survey,
    weighed,
)
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of

SHIFTS = "clients/shift"
"""What a client's weight has moved from its share of all examples, and what it told last of its
mismatch, -1 for nothing."""

MEAN = 2
"""Numbers told beside the counts: a client's mismatch and a one, both over its examples."""


def fairfed(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    beta: float = 1.0,
    among: str = "opportunity",
    debias: bool = True,
    scale: float = 1.0,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    proximal: float = 0.0,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Count a client less the further its own gap is from that of all clients together.

    Each client tells its counts, its mismatch and its update times its weight, or times 0 where
    that is negative; needs ``server=shared_out``. The federation's gap and the mean mismatch are
    known one round late, for they travel with the updates: the paper has three more exchanges in a
    round for them. So a weight moves by what the client told last, against the mean of that round,
    and all weights keep their sum. With more than two groups, the mismatch is the largest over
    pairs of groups. A small client tells numbers above 1, up to the mean client's examples over its
    own: a secure sum that clips entries needs ``secagg.clip`` as large.

    Args:
        task: The model, who holds which examples, and which groups to compare.
        state: Holds ``server/survey`` and each client's ``clients/shift``.
        start: Parameters to start from ``[params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        beta: How fast weights move, 0 or more; 0 is federated averaging.
        among: The gap: of true positive rates (``opportunity``) or of selection rates
            (``parity``).
        debias: Whether clients reweigh their own examples, as the paper's FairFed/RW does.
        scale: Factor on what is told beside the update, above 0.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        momentum: Heavy-ball momentum in [0, 1), forgotten between rounds.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        proximal: How strongly a client is pulled back to where it started.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range, or ``fairness.attribute`` is null.

    Source:
        Ezzeldin et al. 2023, arXiv:2110.00857, equation 6 and algorithm 1.
    """
    sensitive = groups_in("fairfed", task)
    if not beta >= 0:
        raise ValueError(f"local.beta must be 0 or more, got {beta}")
    if among not in ("opportunity", "parity"):
        raise ValueError(f"local.among must be opportunity or parity, got {among!r}")
    if not scale > 0:
        raise ValueError(f"local.scale must be above 0, got {scale}")
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    weights = own_weights(task, cohort, sensitive) if debias else None
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, weights=weights)
    own = survey(task, start, cohort, sensitive)
    sizes = task.shards.sizes.double()
    inverse = torch.where(sizes > 0, sizes.mean() / sizes.clamp_min(1), 0.0)[list(cohort)]
    nothing = start.new_tensor([0.0, -1.0])
    shifts, told = state.recall(SHIFTS, cohort, nothing).double().cpu().unbind(1)
    mismatches, knows = torch.full((len(cohort),), -1.0, dtype=torch.float64), 0.0
    before = known(state, sensitive, besides=MEAN)
    if before is not None:
        knows = 1.0
        mismatches = torch.tensor(
            [mismatch(Survey(one), before, sensitive.favorable, among) for one in own]
        ).double()
        lost, there = state.memory[SURVEY][-MEAN:].double().cpu()
        if there > FEW:  # in the first round nobody knew of a mismatch
            shifts = shifts - beta * torch.where(told < 0, 0.0, told - (lost / there).clamp(0, 2))
    share = (sizes / sizes.sum())[list(cohort)]
    factors = (share + shifts).clamp_min(0) * len(sizes) * inverse
    counts = own.flatten(1).cpu()
    beside = knows * torch.stack([mismatches * inverse, inverse], dim=1)
    kept = torch.stack([shifts, mismatches], dim=1).to(found.rows)
    found = replace(found, learned={SHIFTS: kept})
    return weighed(found, factors, scale * counts, scale * beside)


def mismatch(own: Survey, everyone: Survey, favorable: int, among: str) -> float:
    """Say how far a client's gap is from everyone's; its accuracy, where it has no gap."""
    apart = own.favored(favorable, among).cpu() - everyone.favored(favorable, among).cpu()
    known = apart[~apart.isnan()]
    if len(known) < 2:
        return abs(own.accuracy - everyone.accuracy)
    return float(known.max() - known.min())  # of two groups: how far one gap is from the other
