"""Attacks that train on what their own data say and make it count for more, or show less.

They poison nothing themselves: with ``poison=...`` the hostile train on poisoned examples, and
these say what is done with the rows. Each stage is a pass of local training, after which the
model is brought back to where it would not be noticed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dai_lab.attacks.needs import above_zero
from dai_lab.attacks.riders import last_change, remember
from dai_lab.core import Lies, Retrain, Rows, Sight


def model_replacement(
    own: Rows,
    sight: Sight,
    *,
    boost: float | None = None,
    norm: float | None = None,
    leash: float = 0.0,
) -> Lies:
    """Boost what was learned so that the mean becomes the attacker's own model.

    Args:
        own: Rows the hostile computed, on poisoned examples if they poison.
        sight: How many rows there are.
        boost: How many times as long a row becomes, above 0; ``None`` is the number of rows of
            the round over those of the hostile, with which the mean of equal weights moves as far
            as theirs would.
        norm: Length no row is made longer than, above 0, for servers that look at it (the paper's
            train-and-scale); ``None`` for no bound.
        leash: FedProx's pull towards the common model while they train, 0 or more; above 0 they
            train again so (constrain-and-scale, with this as the measure of being noticed).

    Raises:
        ValueError: A knob is out of range.

    Source:
        Bagdasaryan et al. 2020, arXiv:1807.00459, equations 3 and 4 and section 4.
    """
    factor = (sight.good + len(own)) / max(len(own), 1) if boost is None else boost
    above_zero("boost", factor)
    if norm is not None:
        above_zero("norm", norm)
    if not leash >= 0:
        raise ValueError(f"attack.leash must be 0 or more, got {leash}")
    learned = own if leash == 0 else _trainer(sight, "model_replacement")(proximal=leash)
    rows = factor * learned
    return Lies(rows if norm is None else _shortened(rows, norm), record={"boost": factor})


def projected(
    own: Rows, sight: Sight, *, radius: float = 1.0, stages: int = 2, boost: float = 1.0
) -> Lies:
    """Train in stages, each time brought back to a ball around the common model.

    Args:
        own: Rows to replace.
        sight: The model, and local training.
        radius: L2 radius of the ball, above 0.
        stages: Passes over the examples, 1 or more.
        boost: What the result is multiplied by, above 0.

    Raises:
        ValueError: A knob is out of range, or clients do not train in epochs.

    Source:
        Sun et al. 2019, arXiv:1911.07963, section 4; Wang et al. 2020, arXiv:2007.05084,
        section 3 (PGD with and without model replacement).
    """
    above_zero("radius", radius)
    above_zero("boost", boost)
    moved = _staged(own, sight, "projected", stages, lambda rows: _shortened(rows, radius))
    return Lies(boost * moved)


def neurotoxin(own: Rows, sight: Sight, *, top: float = 0.1, stages: int = 2) -> Lies:
    """Move only coordinates that the last round hardly moved, so that honest work undoes little.

    Args:
        own: Rows to replace.
        sight: The model, local training, and the round before; in the first, nothing is known
            and all coordinates are moved.
        top: Share of the coordinates, those the last round moved most, that stay, in [0, 1).
        stages: Passes over the examples, 1 or more, after each of which they are put back.

    Raises:
        ValueError: A knob is out of range, or clients do not train in epochs.

    Source:
        Zhang et al. 2022, arXiv:2206.10341, algorithm 1; there each step's gradient is masked,
        here each pass.
    """
    if not 0 <= top < 1:
        raise ValueError(f"attack.top must be in [0, 1), got {top}")
    change = last_change(sight, own.shape[1], own)[0].abs()
    count = round(top * len(change)) if bool(change.any()) else 0
    free = torch.ones_like(change)
    free[change.topk(count).indices] = 0
    moved = _staged(own, sight, "neurotoxin", stages, lambda rows: rows * free)
    return Lies(moved, remember(sight), {"frozen": count})


def alternating(
    own: Rows,
    sight: Sight,
    *,
    stages: int = 2,
    boost: float | None = None,
    leash: float = 0.1,
) -> Lies:
    """Take turns: train on poisoned examples and boost that, then on clean ones and be discreet.

    Args:
        own: Rows the hostile computed, on poisoned examples.
        sight: The model, local training on poisoned and on clean examples, and how many rows
            there are.
        stages: Turns, 1 or more.
        boost: What each poisoned pass is multiplied by, above 0; ``None`` is the number of rows
            of the round over those of the hostile.
        leash: Pull back to where the clean pass starts, 0 or more (FedProx's mu).

    Raises:
        ValueError: A knob is out of range, or clients do not train in epochs.

    Source:
        Bhagoji et al. 2019, arXiv:1811.12470, section 4.2. The distance that keeps a row discreet
        is FedProx's, to where the pass starts, in place of that to the last benign update.
    """
    factor = (sight.good + len(own)) / max(len(own), 1) if boost is None else boost
    above_zero("boost", factor)
    if not leash >= 0:
        raise ValueError(f"attack.leash must be 0 or more, got {leash}")
    train, here = _trainer(sight, "alternating"), _begin(own, sight, "alternating", stages)
    first = here
    for stage in range(stages):
        here = here + factor * train(here, stage=2 * stage + 1, epochs=1)
        here = here + train(here, clean=True, stage=2 * stage + 2, epochs=1, proximal=leash)
    return Lies(here - first, record={"boost": factor})


def _trainer(sight: Sight, name: str) -> Retrain:
    if sight.train is None:
        raise ValueError(f"attack={name} trains again: it needs a federation")
    return sight.train


def _begin(own: Rows, sight: Sight, name: str, stages: int) -> Rows:
    if stages < 1:
        raise ValueError(f"attack.stages must be 1 or more, got {stages}")
    assert sight.state is not None
    params, width = sight.state.params, own.shape[1]
    if width != len(params):
        raise ValueError(
            f"attack={name} takes rows for changes of {len(params)} parameters and they hold "
            f"{width} numbers: choose local=sgd or another that sends nothing beside"
        )
    return params.expand(len(own), -1)


def _staged(own: Rows, sight: Sight, name: str, stages: int, back: Callable[[Rows], Rows]) -> Rows:
    """Train pass by pass; after each, ``back`` says what remains of the whole way gone."""
    train, begin = _trainer(sight, name), _begin(own, sight, name, stages)
    moved = torch.zeros_like(own)
    for stage in range(1, stages + 1):
        here = begin + moved
        moved = back(moved + train(here, stage=stage, epochs=1))
    return moved


def _shortened(rows: Rows, norm: float) -> Rows:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    factors = (norm / lengths.clamp_min(torch.finfo(rows.dtype).tiny)).clamp_max(1)
    return torch.mul(rows, factors)
