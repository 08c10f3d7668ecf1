"""Noise that a trusted server adds to a sum of bounded rows: a client's privacy toward others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dai_lab.core import Event, Key, Noise, Privacy, Protected, Rows, State
from dai_lab.privacy.clipping import lengths_of, shortened


def central(
    rows: Rows, *, state: State, key: Key, norm: float = 1.0, noise: float = 1.0, each: bool = False
) -> Protected:
    """Bound every row; the server adds Gaussian noise to their sum.

    Noise is drawn in floating point from the run's seed: right for experiments, not for release.

    Args:
        rows: What clients computed.
        state: Unused.
        key: Unused.
        norm: Largest length of a row, above 0. ``inf``, with no noise, promises nothing.
        noise: Standard deviation of the noise over ``norm``, 0 or more; with 0 nothing is kept.
        each: Add as much to every row that the server sees, and no more to the update: then any
            rule may aggregate, and secrecy in groups makes it cheaper. Otherwise the rule must
            be the mean.

    Raises:
        ValueError: A knob out of range, or noise without a bound.

    Source:
        McMahan et al. 2018, arXiv:1710.06963, algorithm 1; for ``each``, parallel composition.
    """
    if not promises(norm, noise):
        return Protected(rows)
    released = Event("gaussian", (noise,)) if noise else Event("open")
    return Protected(
        shortened(rows, norm), norm, central=(released,), each=each,
        noise=partial(_white, scale=noise * norm),
    )  # fmt: skip


def adaptive(
    rows: Rows,
    *,
    state: State,
    key: Key,
    norm: float = 0.1,
    noise: float = 1.0,
    quantile: float = 0.5,
    rate: float = 0.2,
    blur: float = 1.0,
) -> Protected:
    """Bound rows by a quantile of their own lengths, which is learned under noise as well.

    Every client votes on whether its row is longer than the bound. The noise on the sum of rows
    is made larger, so that both sums together give away what ``noise`` alone would.

    Args:
        rows: What clients computed.
        state: Remembers the bound, as ``privacy/norm``.
        key: Unused.
        norm: The first bound, above 0.
        noise: What is promised: as if only rows were summed, with this noise over the bound.
        quantile: Share of rows, in [0, 1], that the bound should not shorten.
        rate: How fast the bound follows, above 0.
        blur: Standard deviation of the noise on the sum of votes, above half of ``noise``; the
            paper takes a twentieth of the expected number of clients.

    Raises:
        ValueError: A knob out of range, or votes that give away more than is promised.

    Source:
        Andrew et al. 2021, arXiv:1905.03871, algorithm 1 and theorem 1.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"privacy.quantile must be in [0, 1], got {quantile}")
    if not 0 < rate < math.inf:
        raise ValueError(f"privacy.rate must be above 0, got {rate}")
    if not promises(norm, noise):
        return Protected(rows)
    if not noise:
        raise ValueError("privacy.noise must be above 0 where bounds adapt")
    if not 2 * blur > noise:
        raise ValueError(f"privacy.blur must be above privacy.noise / 2 ({noise / 2}), got {blur}")
    here = float(state.memory.get("privacy/norm", torch.tensor(norm)))
    more = (noise**-2 - (2 * blur) ** -2) ** -0.5
    lengths = lengths_of(rows)
    return Protected(
        shortened(rows, here, lengths), here, central=(Event("gaussian", (noise,)),),
        noise=partial(_white, scale=more * here),
        # Centered, a vote moves the sum by a half.
        votes=(lengths <= here).to(rows) - 0.5,
        learn=partial(_next, here=here, quantile=quantile, rate=rate, blur=blur),
    )  # fmt: skip


def unsound(rows: Rows, *, state: State, key: Key, of: Privacy, share: float = 0.0) -> Protected:
    """Promise what another mechanism does, and draw only a share of its noise.

    A mistake as it happens, made on purpose: an audit must find it.

    Args:
        rows: What clients computed.
        state: For ``of``.
        key: For ``of``.
        of: A mechanism whose noise the server adds.
        share: How much of its noise is drawn, in [0, 1).

    Raises:
        ValueError: A knob out of range, or a mechanism whose noise clients add.
    """
    if not 0 <= share < 1:
        raise ValueError(f"privacy.share must be in [0, 1), got {share}")
    claimed = of(rows, state=state, key=key)
    if claimed.noise is None:
        raise ValueError("privacy.of must be a mechanism whose noise the server adds, as central")
    return replace(claimed, noise=partial(_part, of=claimed.noise, share=share))


def promises(norm: float, noise: float) -> bool:
    """Tell whether rows are bounded, so that noise means something.

    Raises:
        ValueError: A knob out of range, or noise without a bound.
    """
    if not norm > 0:
        raise ValueError(f"privacy.norm must be above 0, got {norm}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"privacy.noise must be 0 or more, got {noise}")
    if math.isinf(norm) and noise:
        raise ValueError("privacy.norm=inf bounds nothing that noise could hide: lower it")
    return not math.isinf(norm)


def _white(size: int, key: Key, *, scale: float) -> Noise:
    return Noise(scale * torch.randn(size, generator=key.stream()))


def _part(size: int, key: Key, *, of: object, share: float) -> Noise:
    whole: Noise = of(size, key)  # type: ignore[operator]
    return Noise(share * whole.vector, whole.memory)


def _next(
    votes: float, count: float, key: Key, *, here: float, quantile: float, rate: float, blur: float
) -> Mapping[str, Tensor]:
    drawn = float(torch.randn((), generator=key.stream()))
    kept = (votes + blur * drawn) / count + 0.5
    # A bound of 0 or infinity would never come back.
    step = max(-1.0, min(1.0, rate * (kept - quantile)))
    return {"privacy/norm": torch.tensor(here * math.exp(-step), dtype=torch.float64)}
