"""Noise that every client adds to its own row: privacy toward whoever sees it, the server too."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from dai_lab.core import Event, Key, Protected, Rows, State
from dai_lab.privacy.central import promises
from dai_lab.privacy.clipping import shortened


def local_gaussian(
    rows: Rows, *, state: State, key: Key, norm: float = 1.0, noise: float = 1.0
) -> Protected:
    """Bound every row and add Gaussian noise to each.

    Args:
        rows: What clients computed.
        state: Unused.
        key: Where noise is drawn.
        norm: Largest length of a row, above 0. ``inf``, with no noise, promises nothing.
        noise: Standard deviation of each entry's noise over ``norm``; with 0 nothing is kept.

    Raises:
        ValueError: A knob out of range, or noise without a bound.

    Source:
        Dwork and Roth 2014, appendix A, priced by an accountant.
    """
    if not promises(norm, noise):
        return Protected(rows)
    short = shortened(rows, norm)
    if not noise:
        return Protected(short, norm, local=(Event("open"),))
    drawn = torch.randn(rows.shape, generator=key.stream()).to(rows)
    return Protected(short + noise * norm * drawn, norm, local=(Event("gaussian", (noise,)),))


def local_laplace(
    rows: Rows, *, state: State, key: Key, norm: float = 1.0, noise: float = 1.0
) -> Protected:
    """Bound the sum of a row's absolute entries and add Laplace noise to each.

    Args:
        rows: What clients computed.
        state: Unused.
        key: Where noise is drawn.
        norm: Largest sum of absolute entries, above 0. ``inf``, with no noise, promises nothing.
        noise: Scale of each entry's noise over ``norm``: the inverse of epsilon.

    Raises:
        ValueError: A knob out of range, or noise without a bound.

    Source:
        Dwork et al. 2006, Calibrating noise to sensitivity, proposition 1.
    """
    if not promises(norm, noise):
        return Protected(rows)
    sums = rows.abs().sum(1, keepdim=True)
    short = rows * (norm / sums.clamp_min(norm))
    if not noise:
        return Protected(short, norm, local=(Event("open"),))
    stream = key.stream()
    # The difference of two exponentials; a uniform draw of 0 would have no logarithm.
    one, other = (torch.empty(rows.shape).exponential_(generator=stream) for _ in range(2))
    drawn = (one - other).to(rows)
    return Protected(short + noise * norm * drawn, norm, local=(Event("laplace", (noise,)),))


def private_unit(
    rows: Rows, *, state: State, key: Key, norm: float = 1.0, epsilon: float = 4.0
) -> Protected:
    """Send a random vector that leans toward the row: unbiased, and private without a delta.

    A row shorter than ``norm`` first becomes one of that length, its own direction or the
    opposite by a coin whose mean it is.

    Args:
        rows: What clients computed; an empty direction becomes any.
        state: Unused.
        key: Where vectors are drawn.
        norm: Largest length of a row, above 0. ``inf``, with ``epsilon=inf``, promises nothing.
        epsilon: What one message may give away, above 0.

    Raises:
        ValueError: A knob out of range.

    Source:
        PrivUnitG: Asi, Feldman and Talwar 2022, arXiv:2203.00463, algorithm 2; after Bhowmick et
        al. 2018, arXiv:1812.00984.
    """
    if not epsilon > 0:
        raise ValueError(f"privacy.epsilon must be above 0, got {epsilon}")
    if math.isinf(norm) and math.isinf(epsilon):
        return Protected(rows)
    if math.isinf(norm) or math.isinf(epsilon) or not norm > 0:
        raise ValueError("privacy.norm and privacy.epsilon must both be above 0, and both finite")
    stream = key.stream()
    short = shortened(rows, norm).double().cpu()
    lengths = torch.linalg.vector_norm(short, dim=1, keepdim=True)
    fresh = torch.randn(short.shape, generator=stream, dtype=torch.float64)
    any_way = torch.nn.functional.normalize(fresh, dim=1)
    ways = torch.where(lengths > 0, short / lengths.clamp_min(1e-300), any_way)
    coins = torch.rand((len(rows), 1), generator=stream, dtype=torch.float64)
    ways = ways * torch.where(coins < (1 + lengths / norm) / 2, 1.0, -1.0)
    cap, chance, lean = _leaning(epsilon)
    inside = torch.rand((len(rows), 1), generator=stream, dtype=torch.float64) < chance
    below = torch.special.ndtr(torch.tensor(cap, dtype=torch.float64))
    uniform = torch.rand((len(rows), 1), generator=stream, dtype=torch.float64)
    # A standard normal draw given on which side of the cap's rim it falls.
    along = torch.special.ndtri(torch.where(inside, below + (1 - below) * uniform, below * uniform))
    across = torch.randn(short.shape, generator=stream, dtype=torch.float64)
    across -= (across * ways).sum(1, keepdim=True) * ways
    sent = norm / lean * (along.clamp(-1e3, 1e3) * ways + across)
    return Protected(sent.to(rows), norm, local=(Event("pure", (epsilon,)),))


@lru_cache(64)
def _leaning(epsilon: float) -> tuple[float, float, float]:
    """Return the rim, the chance to land beyond it, and how far that leans: the most there is."""
    from scipy.optimize import minimize_scalar
    from scipy.stats import norm

    def chance(cap: float) -> float:
        odds = epsilon + float(norm.logsf(cap) - norm.logcdf(cap))
        return 1 / (1 + math.exp(-odds))

    def lean(cap: float) -> float:
        beyond, within = norm.sf(cap), norm.cdf(cap)
        inside = chance(cap)
        return float(norm.pdf(cap) * (inside / beyond - (1 - inside) / within))

    best = minimize_scalar(lambda cap: -lean(cap), bounds=(-3.0, 12.0), method="bounded").x
    return float(best), chance(float(best)), lean(float(best))
