"""Attacks that try their rows on the defense and send those that harm most."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dai_lab.attacks.needs import a_defense, above_zero, at_least, center
from dai_lab.attacks.spread import Direction, away
from dai_lab.core import Lies, Outcome, Rows, Sight, Vector


def opt_alie(
    own: Rows,
    sight: Sight,
    *,
    evals: int = 20,
    start: float = 0.0,
    step: float = 10.0,
    ratio: float = 0.8,
) -> Lies:
    """ALIE with the ``z`` that moves the update furthest from the honest mean.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows, and the defense.
        evals: How often the defense is run, 1 or more.
        start: First ``z``.
        step: First step, doubled while it helps; negative searches the other way.
        ratio: What is left of the step each time it does not help, in (0.5, 1).

    Raises:
        TooFew: Fewer than two rows are known.
        ValueError: The attacker does not know the defense, or a knob is out of range.

    Source:
        Shejwalkar and Houmansadr 2021, NDSS, section IV-A, as searched by ByzFL, arXiv:2505.24802.
    """
    at_least(2, sight, "opt_alie")
    mean, spread = center(sight.honest)
    return _line(own, sight, "opt_alie", mean, mean, spread, evals, start, step, ratio)


def opt_ipm(
    own: Rows,
    sight: Sight,
    *,
    evals: int = 20,
    start: float = 0.0,
    step: float = 10.0,
    ratio: float = 0.8,
) -> Lies:
    """IPM with the ``epsilon`` that moves the update furthest from the honest mean.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows, and the defense.
        evals: How often the defense is run, 1 or more.
        start: First ``epsilon``.
        step: First step, doubled while it helps; negative searches the other way.
        ratio: What is left of the step each time it does not help, in (0.5, 1).

    Raises:
        TooFew: No row is known.
        ValueError: The attacker does not know the defense, or a knob is out of range.

    Source:
        Xie et al. 2020, arXiv:1903.03936, searched as by ByzFL, arXiv:2505.24802.
    """
    at_least(1, sight, "opt_ipm")
    mean = sight.honest.mean(dim=0)
    return _line(
        own, sight, "opt_ipm", mean, torch.zeros_like(mean), mean, evals, start, step, ratio
    )


def _line(
    own: Rows,
    sight: Sight,
    name: str,
    mean: Vector,
    origin: Vector,
    way: Vector,
    evals: int,
    start: float,
    step: float,
    ratio: float,
) -> Lies:
    """Send ``origin - x * way`` with the ``x`` whose outcome is furthest from the mean."""
    defense = a_defense(sight, name)

    def distance(x: float) -> float:
        outcome = defense((origin - x * way).expand(len(own), -1))
        return float((outcome.update - mean).norm())

    best, found = longest(distance, evals=evals, start=start, step=step, ratio=ratio)
    return Lies(
        (origin - best * way).expand(len(own), -1), record={"strength": best, "distance": found}
    )


def longest(
    height: Callable[[float], float], *, evals: int, start: float, step: float, ratio: float
) -> tuple[float, float]:
    """Climb: double the step while it helps, then shrink it; return where, and how high.

    Args:
        height: What to climb.
        evals: How often it is asked, 1 or more.
        start: Where to begin.
        step: First step, not 0.
        ratio: What is left of the step each time it does not help, in (0.5, 1).

    Raises:
        ValueError: A knob is out of range.
    """
    if evals < 1:
        raise ValueError(f"attack.evals must be 1 or more, got {evals}")
    if not step:
        raise ValueError("attack.step must not be 0")
    if not 0.5 < ratio < 1:
        raise ValueError(f"attack.ratio must be above 0.5 and below 1, got {ratio}")
    best, top, grows = start, height(start), True
    for _ in range(evals - 1):
        here = height(best + step)
        helps = here > top
        if helps:
            best, top = best + step, here
        if grows and helps:
            step *= 2
        else:
            step, grows = step * ratio, False
    return best, top


def agr_tailored(
    own: Rows,
    sight: Sight,
    *,
    direction: Direction = "std",
    aim: str = "far",
    evals: int = 30,
) -> Lies:
    """Go as far from the honest mean as the defense in place lets through.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows, and the defense.
        direction: Where to go from the mean, as for :func:`dai_lab.attacks.min_max`.
        aim: ``kept`` goes as far as all hostile rows are kept, for rules that choose rows (Krum,
            Multi-Krum, Bulyan); ``far`` as far as moves the update furthest, for all others.
        evals: How often the defense is run, 2 or more.

    Raises:
        TooFew: Fewer than two rows are known.
        ValueError: The attacker does not know the defense, or a knob is out of range.

    Source:
        Shejwalkar and Houmansadr 2021, NDSS, section IV-A and B. Krum keeps one row of several
        that are alike, so one kept is enough where the rule keeps only one.
    """
    at_least(2, sight, "agr_tailored")
    defense = a_defense(sight, "agr_tailored")
    if aim not in ("kept", "far"):
        raise ValueError(f"attack.aim must be kept or far, got {aim!r}")
    if evals < 2:
        raise ValueError(f"attack.evals must be 2 or more, got {evals}")
    mean, way = sight.honest.mean(dim=0), away(sight.honest, direction)
    # A step of 1 is as long as the honest are spread.
    way = way * (_radius(sight.honest, mean) / way.norm().clamp_min(torch.finfo(way.dtype).tiny))

    def outcome(gamma: float) -> tuple[Vector, Outcome]:
        row = mean + gamma * way
        return row, defense(row.expand(len(own), -1))

    if aim == "far":

        def distance(gamma: float) -> float:
            return float((outcome(gamma)[1].update - mean).norm())

        gamma, _ = longest(distance, evals=evals, start=0.0, step=1.0, ratio=0.8)
    else:

        def kept(gamma: float) -> bool:
            row, found = outcome(gamma)
            alone = bool(torch.isclose(found.update, row, rtol=1e-4, atol=0).all())
            return bool(found.kept.all()) or (alone and bool(found.kept.any()))

        gamma = last(kept, evals=evals)
    return Lies((mean + gamma * way).expand(len(own), -1), record={"gamma": gamma})


def last(holds: Callable[[float], bool], *, evals: int) -> float:
    """Find how far from 0 something holds: double the reach while it does, then bisect.

    Args:
        holds: What must be true; taken to be true at 0.
        evals: How often it is asked.
    """
    low, high = 0.0, math.inf
    for _ in range(evals):
        here = (low + high) / 2 if high < math.inf else max(2 * low, 1.0)
        low, high = (here, high) if holds(here) else (low, here)
    return low


def fang_krum(own: Rows, sight: Sight, *, smallest: float = 1e-5) -> Lies:
    """Go against the sign of the honest mean in all coordinates, as far as Krum still picks it.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows, and the defense; at least three rows.
        smallest: Step per coordinate at which it gives up, above 0; that step is sent then.

    Raises:
        TooFew: Fewer than three rows are known.
        ValueError: The attacker does not know the defense, or ``smallest`` is not above 0.

    Source:
        Fang et al. 2020, USENIX Security, arXiv:1911.11815, section 4.2 with full knowledge;
        rows are updates, so its ``w_Re`` is zero. The bound is theorem 1, halved until picked.
    """
    above_zero("smallest", smallest)
    at_least(3, sight, "fang_krum")
    defense, honest = a_defense(sight, "fang_krum"), sight.honest
    way = -honest.mean(dim=0).sign()
    clients, hostile = sight.good + len(own), len(own)
    near = max(clients - 2 * hostile - 1, 1)
    distances = torch.cdist(honest.double(), honest.double())
    nearest = distances.sort(dim=1).values[:, 1 : max(clients - hostile - 1, 2)].sum(dim=1).min()
    root = math.sqrt(honest.shape[1])
    step = float(nearest) / (near * root) + float(honest.norm(dim=1).max()) / root
    while step > smallest:
        row = step * way
        found = defense(row.expand(hostile, -1))
        if bool(found.kept.any()):
            break
        step /= 2
    return Lies((step * way).expand(hostile, -1), record={"step": step})


def _radius(honest: Rows, mean: Vector) -> float:
    return float((honest - mean).norm(dim=1).max())
