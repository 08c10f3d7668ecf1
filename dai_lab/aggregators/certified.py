"""A rule whose result can be certified against backdoors, and the certificate.

The server keeps the model short and blurs it; at test time many blurred copies vote. How much a
backdoor would have to change training examples before any vote could turn is then a formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from dai_lab.aggregators.coordinates import mean
from dai_lab.aggregators.seen import begun
from dai_lab.core import ALONE, Aggregate, Aggregator, Context, Key, Model, Vector, Visible

CLEAN = "aggregator/crfl_model"
"""Memory of the model before noise: what :func:`vote` starts from."""


def crfl(
    visible: Visible,
    context: Context = ALONE,
    *,
    radius: float = 15.0,
    growth: float = 0.0,
    noise: float = 0.01,
    then: Aggregator = mean,
) -> Aggregate:
    """Aggregate, shorten the new model to ``radius`` and add noise to it.

    It is the model that is clipped, not the update, so ``server=fedavg`` with ``server.rate=1``
    must add the update as it is. Nobody is accused beyond what ``then`` says. The last model
    before noise is remembered as ``aggregator/crfl_model``: :func:`vote` blurs that one.

    Args:
        visible: What the server may see; enough rows for ``then``.
        context: Must hold ``state``; noise is drawn from ``key``.
        radius: Length of the model from the origin that is allowed, above 0. The paper has 2,
            growing by 0.1, for logistic regression on MNIST.
        growth: What the radius grows by in each round, the first included, 0 or more.
        noise: Standard deviation of the noise on each parameter, 0 or more; 0 certifies nothing.
        then: Aggregates the rows. The certificate is about what it gives each attacker: its
            share.

    Raises:
        ValueError: No model, or a knob is out of range.
        TooFew: Too few rows for ``then``.

    Source:
        Xie et al. 2021, arXiv:2106.08283, algorithm 1.
    """
    for name, amount in {"growth": growth, "noise": noise}.items():
        if not 0 <= amount < math.inf:
            raise ValueError(f"aggregator.{name} must be at least 0, got {amount}")
    if not 0 < radius < math.inf:
        raise ValueError(f"aggregator.radius must be above 0, got {radius}")
    state = begun("crfl", visible, context)
    params, memory = state.params, state.memory
    number = int(memory.get("aggregator/crfl_rounds", torch.zeros(()))) + 1
    found = then(visible, context)
    whole = params.double() + found.update.double()
    length, allowed = float(whole.norm()), radius + growth * number
    clipped = whole * min(1.0, allowed / length) if length > 0 else whole
    drawn = torch.randn(len(params), dtype=torch.float64, generator=(context.key / "crfl").stream())
    update = clipped + noise * drawn.to(clipped.device) - params.double()
    return replace(
        found,
        update=update.to(found.update),
        memory={
            **found.memory,
            CLEAN: clipped.to(params),
            "aggregator/crfl_rounds": torch.tensor(number),
        },
        record={**found.record, "model_norm": length},
    )


@torch.no_grad()
def vote(
    model: Model,
    params: Vector,
    inputs: Tensor,
    *,
    noise: float,
    samples: int = 1000,
    key: Key,
) -> Int[Tensor, "inputs classes"]:
    """Let blurred copies of a model vote on the class of each input.

    Args:
        model: The network; one output a class.
        params: Its parameters before noise, clipped to the last round's radius.
        inputs: What to classify, ``[inputs, ...]``.
        noise: Standard deviation of what each copy adds to each parameter, above 0.
        samples: Copies, at least 1; the paper takes 1000.
        key: Where noise is drawn.

    Returns:
        Votes for each class.

    Source:
        Xie et al. 2021, arXiv:2106.08283, algorithm 2.
    """
    if samples < 1 or not noise > 0:
        raise ValueError(
            f"vote: samples must be at least 1 and noise above 0, got {samples} and {noise}"
        )
    stream = key.stream()
    counts: Tensor | None = None
    for _ in range(samples):
        drawn = torch.randn(len(params), dtype=params.dtype, generator=stream).to(params)
        outputs = model(params + noise * drawn, inputs)
        if counts is None:
            counts = torch.zeros(outputs.shape, dtype=torch.long, device=outputs.device)
        counts.scatter_add_(1, outputs.argmax(1, keepdim=True), torch.ones_like(counts[:, :1]))
    assert counts is not None
    return counts


def vote_bounds(
    counts: Int[Tensor, "inputs classes"],
    *,
    error: float = 0.001,
    method: Literal["hoeffding", "clopper_pearson"] = "hoeffding",
) -> tuple[Int[Tensor, "inputs"], Float64[Tensor, "inputs"], Float64[Tensor, "inputs"]]:
    """Bound the probabilities of the class with most votes and of the runner-up.

    The bounds hold together, for one input, with probability ``1 - error``: as the votes
    themselves say which class is first, ``error`` is split over all classes. The paper's code
    spends all of it on each of two bounds; so these are a little wider.

    Args:
        counts: Votes, from :func:`vote`.
        error: Probability that a bound is wrong, in (0, 1).
        method: ``hoeffding`` as in the paper, or ``clopper_pearson``, which is tighter.

    Returns:
        The class with most votes (the first of several), a lower bound on its probability, and
        an upper bound on that of any other class.

    Source:
        Xie et al. 2021, arXiv:2106.08283, section 4.3.
    """
    if not 0 < error < 1:
        raise ValueError(f"vote_bounds: error must be in (0, 1), got {error}")
    votes, each = counts.double(), error / counts.shape[1]
    samples = votes.sum(1)
    first = counts.argmax(1)
    most = votes.gather(1, first.unsqueeze(1)).squeeze(1)
    second = votes.scatter(1, first.unsqueeze(1), -1.0).amax(1)
    if method == "hoeffding":
        slack = (math.log(1 / each) / (2 * samples)).sqrt()
        low, high = most / samples - slack, second / samples + slack
    else:
        low = _beta(each, most, samples - most + 1)
        high = _beta(1 - each, second + 1, samples - second)
    return first, low.clamp(0, 1), torch.minimum(high.clamp(0, 1), 1 - low.clamp(0, 1))


def lipschitz(radius: float) -> float:
    """Bound how fast the gradient of multi-class logistic regression changes with an example.

    It is the constant of the paper's certificate for cross-entropy after one linear layer without
    bias, of weights no longer than ``radius``, on inputs no longer than 1. An example is its input
    and, as a unit vector, its class.

    Source:
        Xie et al. 2021, arXiv:2106.08283, its lemma on multi-class logistic regression.
    """
    return math.sqrt(2 + 2 * radius + radius**2)


def certified_radius(
    low: Float64[Tensor, "_"],
    high: Float64[Tensor, "_"],
    *,
    radius: float,
    growth: float = 0.0,
    noise: float,
    vote_noise: float | None = None,
    attack_round: int,
    last_round: int,
    shares: Sequence[float],
    boost: float,
    steps: float,
    rate: float,
    poisoned: float,
    batch: float,
    smoothness: float | None = None,
) -> Float64[Tensor, "_"]:
    """Say how far attackers may move their poisoned examples without turning a prediction.

    It holds if all of this does: attackers poison in one round alone; each moves at most
    ``poisoned`` examples of each batch, input and class together, by less than the radius; losses
    are convex, with gradients that change no faster than ``1 / rate`` with the model; the server
    and its noise are honest; knobs are those the model was trained with. An attacker who sends
    what no training gives is not covered. It is 0 where ``low`` is not above ``high``, and
    infinite where all copies are sure to vote alike.

    Args:
        low: Lower bounds on the first class's probability.
        high: Upper bounds on the runner-up's.
        radius: As ``aggregator.radius``.
        growth: As ``aggregator.growth``.
        noise: As ``aggregator.noise``, above 0.
        vote_noise: What :func:`vote` blurs by; ``noise`` if not given.
        attack_round: When attackers poison, counted from 1.
        last_round: The round whose model votes.
        shares: What share of the update each attacker is given in that round.
        boost: Factor by which attackers scale their update (the paper's gamma).
        steps: Local steps of an attacker.
        rate: Local learning rate.
        poisoned: Examples poisoned in a batch.
        batch: Examples in a batch.
        smoothness: How fast gradients change with an example; :func:`lipschitz` of the attack
            round's radius if not given.

    Source:
        Xie et al. 2021, arXiv:2106.08283, corollary 1; constants, the 2 R and the last round's
        factor among them, as in the authors' code (AI-secure/CRFL, certify_mnist.py).
    """
    amounts = (radius, noise, boost, steps, rate, poisoned, batch, *shares)
    spread = noise if vote_noise is None else vote_noise
    if not (shares and min(*amounts, spread) > 0 and growth >= 0):
        raise ValueError("certified_radius: all knobs must be above 0, growth at least 0")
    if not 1 <= attack_round <= last_round:
        raise ValueError(
            f"certified_radius: attack_round must be in 1..{last_round}, got {attack_round}"
        )
    fast = lipschitz(radius + growth * attack_round) if smoothness is None else smoothness
    kept = math.prod(
        # Twice the normal distribution function less 1: noise hides a model within the radius.
        math.erf((radius + growth * one) / (noise if one < last_round else spread) / math.sqrt(2))
        for one in range(attack_round + 1, last_round + 1)
    )
    pull = sum((one * boost * steps * rate * poisoned / batch) ** 2 for one in shares)
    gap = (low.double().sqrt() - high.double().sqrt()).clamp_min(0)
    room = -torch.log1p(-gap.square()) * noise**2
    return (room / (2 * len(shares) * fast**2 * pull * kept)).sqrt()


def _beta(
    quantile: float, one: Float64[Tensor, "_"], other: Float64[Tensor, "_"]
) -> Float64[Tensor, "_"]:
    from scipy.stats import beta

    found = beta.ppf(quantile, one.cpu().numpy(), other.cpu().numpy())
    return torch.as_tensor(found).to(one)
