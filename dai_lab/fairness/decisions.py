"""What people are answered once a model is trained, and thresholds that make groups fare alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core import Decide, Evidence, Key

Equal: TypeAlias = Literal["odds", "opportunity", "parity"]
Array: TypeAlias = NDArray[Any]


def highest(ask: Callable[[], Evidence], *, key: Key) -> None:
    """Give everybody the class with the highest score, whatever their group."""


def thresholds(
    ask: Callable[[], Evidence],
    *,
    key: Key,
    equal: Equal = "odds",
    counts: Literal["federated", "local"] = "federated",
    bins: int = 1000,
) -> Decide:
    """Give each group a threshold of its own, so that groups fare alike at the highest accuracy.

    Each client counts its scores, by group and truth, in bins of equal width. Thresholds lie
    between bins; where groups meet between two thresholds, a draw decides, and within a group
    whoever scores higher is never less likely to be given the favorable answer. Where no example
    tells two thresholds apart, the one nearest to 1/2 is taken.

    A group with no example in a class that ``equal`` conditions on cannot be compared: it gets
    the one threshold that is most accurate on all examples counted. So does everybody where
    fewer than two groups can be compared.

    Args:
        ask: Has clients score what they trained on.
        key: Where people's draws are; the same people in the same order get the same answers.
        equal: What groups have in common: their true and false positive rates (``odds``), their
            true positive rates (``opportunity``) or their selection rates (``parity``).
        counts: ``federated`` chooses thresholds from the sum of all clients' counts, which is
            all the server sees of them and may carry noise. In ``local`` every client chooses
            from its own counts, and a client that holds examples, drawn for each person, decides.
        bins: Bins that scores are counted in, at least 2; with noise fewer are better.

    Raises:
        ValueError: Fewer than two bins.

    Source:
        Hardt, Price and Srebro 2016, arXiv:1610.02413, section 4. Noisy counts become rising
        sums by isotonic regression, as in Hay et al. 2010, arXiv:0904.0942, section 3.
    """
    if bins < 2:
        raise ValueError(f"decision.bins must be at least 2, got {bins}")
    evidence = ask()
    shape = (evidence.count, 2, bins)
    held = _histograms(evidence, bins)
    there = held.any(1)
    if not there.any():
        chances = _chances(np.zeros(shape), equal)
    elif counts == "federated":
        # They are whole numbers; a secure sum returns them to within its own rounding.
        total = evidence.reveal(held).double().round().cpu().numpy()
        chances = _chances(_mended(total.reshape(shape)), equal)
    else:
        # To draw a client and then its answer is to draw from the mean of clients' chances.
        own = held[there].double().cpu().numpy().reshape(-1, *shape)
        chances = np.mean([_chances(one, equal) for one in own], axis=0)
    table = torch.from_numpy(chances)

    def decide(
        scores: Float[Tensor, "people"], groups: Int[Tensor, "people"]
    ) -> Bool[Tensor, "people"]:
        known = ~scores.isnan()
        chance = table.to(scores.device)[groups, _bin(scores, bins)]
        draws = torch.rand(len(scores), generator=key.stream(), dtype=torch.float64)
        return (draws.to(scores.device) < chance) & known

    return decide


def _bin(scores: Float[Tensor, "_"], bins: int) -> Int[Tensor, "_"]:
    return (scores.nan_to_num(0.0) * bins).long().clamp(0, bins - 1)


def _histograms(evidence: Evidence, bins: int) -> Float[Tensor, "clients cells"]:
    """Count what each client holds, by group, by truth (unfavorable first) and by score."""
    scores, clients = evidence.scores, len(evidence.sizes)
    known = ~scores.isnan()
    owners = torch.arange(clients, device=scores.device)
    owners = owners.repeat_interleave(evidence.sizes.to(scores.device))
    cells = (owners * evidence.count + evidence.groups) * 2 + evidence.favorable.long()
    places = (cells * bins + _bin(scores, bins))[known]
    counts = torch.bincount(places, minlength=clients * evidence.count * 2 * bins)
    return counts.view(clients, -1).float()


def _mended(counts: Array) -> Array:
    """Return histograms without negative counts, of the nearest ROC curves that never fall.

    To raise negative counts to 0 would make people of noise, the more the more bins there are.
    """
    if (counts >= 0).all():
        return counts
    from scipy.optimize import isotonic_regression

    rows = counts.reshape(-1, counts.shape[-1])[:, ::-1].cumsum(1)
    rising = np.stack([isotonic_regression(row).x.clip(0) for row in rows])
    return np.diff(rising, axis=1, prepend=0.0)[:, ::-1].reshape(counts.shape)


@dataclass(frozen=True)
class _Curve:
    """What thresholds on the hull of a group's ROC curve come to, from nobody to everybody."""

    accepted: Array
    """Bins accepted at each, from the highest score down."""
    rates: Array
    """What is to be equal, rising from 0 to 1."""
    worth: Array
    """False positive rate below 0 for odds, else favorable examples accepted less the others."""

    @classmethod
    def of(cls, counts: Array, equal: Equal) -> _Curve:
        """Find it in one group's counts ``[2, bins]``."""
        accepted, negatives, positives = _cuts(counts)
        on = _hull(negatives.tolist(), positives.tolist())
        accepted, negatives, positives = accepted[on], negatives[on], positives[on]
        if equal == "parity":
            rates = (negatives + positives) / (negatives[-1] + positives[-1])
        else:
            rates = positives / positives[-1]
        worth = -negatives / negatives[-1] if equal == "odds" else positives - negatives
        # Of thresholds with one rate the first accepts the fewest whose truth is unfavorable.
        rates, first = np.unique(rates, return_index=True)
        return cls(accepted[first], rates, worth[first])

    def at(self, rates: Array | float) -> Array:
        """Give the worth at any rate, by draws between the two thresholds beside it."""
        return np.asarray(np.interp(rates, self.rates, self.worth))

    def chances(self, rate: float, bins: int) -> Array:
        """Give the chance of each bin, the lowest score first, at a rate."""
        after = int(np.searchsorted(self.rates, rate).clip(1))
        share = (rate - self.rates[after - 1]) / (self.rates[after] - self.rates[after - 1])
        below, above = (_above(int(self.accepted[one]), bins) for one in (after - 1, after))
        return below + float(share) * (above - below)


def _above(accepted: int, bins: int) -> Array:
    return (np.arange(bins) >= bins - accepted).astype(float)


def _cuts(counts: Array) -> tuple[Array, Array, Array]:
    """List the thresholds that differ on the examples: bins, negatives, positives accepted."""
    bins = counts.shape[-1]
    falling = counts[:, ::-1]
    filled = np.flatnonzero(falling.any(0))
    # Between two filled bins any threshold will do, and 1/2 is the model's own.
    first, last = np.append(0, filled + 1), np.append(filled, bins)
    sums = np.zeros((2, len(first)))
    falling[:, filled].cumsum(1, out=sums[:, 1:])
    return np.clip(bins // 2, first, last), sums[0], sums[1]


def _hull(negatives: list[float], positives: list[float]) -> list[int]:
    """Say which points are on the upper left of all, by Andrew's monotone chain."""
    kept: list[tuple[int, float, float]] = []
    for at, (x, y) in enumerate(zip(negatives, positives, strict=True)):
        while len(kept) > 1:
            _, x0, y0 = kept[-2]
            _, x1, y1 = kept[-1]
            # On a straight line all are kept: fewer people are left to a draw.
            if (y1 - y0) * (x - x1) >= (y - y1) * (x1 - x0):
                break
            kept.pop()
        kept.append((at, x, y))
    return [at for at, _, _ in kept]


def _chances(counts: Array, equal: Equal) -> Array:
    """Turn counts ``[groups, 2, bins]`` into chances of the favorable answer ``[groups, bins]``."""
    groups, _, bins = counts.shape
    accepted, negatives, positives = _cuts(counts.sum(0))
    one_for_all = _above(int(accepted[np.argmax(positives - negatives)]), bins)
    chances = np.tile(one_for_all, (groups, 1))
    sizes = counts.sum(-1)
    filled = {"odds": sizes.all(1), "opportunity": sizes[:, 1] > 0, "parity": sizes.any(1)}
    compared = np.flatnonzero(filled[equal])
    if len(compared) < 2:
        return chances
    curves = [_Curve.of(counts[group], equal) for group in compared]
    if equal != "odds":
        rates = np.unique(np.concatenate([curve.rates for curve in curves]))
        rate = float(rates[np.argmax(sum(curve.at(rates) for curve in curves))])
        for group, curve in zip(compared, curves, strict=True):
            chances[group] = curve.chances(rate, bins)
        return chances
    true, false = _meet(curves, *sizes[compared].sum(0))
    for group, curve in zip(compared, curves, strict=True):
        chances[group] = curve.chances(true, bins)
        # Where others cannot reach a false positive rate as low, some are answered by a draw that
        # looks at nobody's score.
        own = -float(curve.at(true))
        if own < false:
            chances[group] += (false - own) / (true - own) * (true - chances[group])
    return chances


def _meet(curves: list[_Curve], negatives: float, positives: float) -> tuple[float, float]:
    """Find the most accurate true and false positive rates that every group can have."""

    def reached(rates: Array | float) -> Array:
        return np.stack([curve.at(rates) for curve in curves])

    def best(rates: Array) -> int:
        return int(np.argmax(positives * rates + negatives * reached(rates).min(0)))

    rates = np.unique(np.concatenate([curve.rates for curve in curves]))
    # Between corners all curves are straight. Accuracy is concave, so beside the best corner is
    # the only place where two of them may cross at a better one.
    rates = rates[max(best(rates) - 1, 0) :][:3]
    apart = reached(rates)[:, None] - reached(rates)
    before, after = apart[..., :-1], apart[..., 1:]
    first, second, at = np.nonzero(before * after < 0)
    share = before[first, second, at] / (before - after)[first, second, at]
    rates = np.append(rates, rates[at] + share * np.diff(rates)[at])
    rate = rates[best(rates)]
    return float(rate), -float(reached(rate).min())
