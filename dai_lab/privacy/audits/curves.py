"""How often an attack is right at each rate of false alarms, in numbers and on log axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

Scores: TypeAlias = Float[np.ndarray, "trials"]
"""How much each trial looks like a member; higher is more."""

Truth: TypeAlias = Bool[np.ndarray, "trials"]
"""Which trials are members."""

# Okabe and Ito's colors, told apart by colorblind eyes; the palest go last on each ground.
ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ON_DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF")
STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Rate:
    """A share of trials with its exact interval; ``str`` gives ``0.084 [0.071, 0.099]``."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Roc:
    """Rates at every threshold there is, from "nobody" to "everybody is a member"."""

    fpr: Float[np.ndarray, "points"]
    """Share of non-members called members, ascending from 0 to 1."""
    tpr: Float[np.ndarray, "points"]
    """Share of members called members."""
    thresholds: Float[np.ndarray, "points"]
    """Lowest score that is called a member; infinite at first."""


def exact(hits: int, trials: int, *, confidence: float = 0.95) -> Rate:
    """Give the share of ``hits`` and its Clopper-Pearson interval.

    Args:
        hits: 0 to ``trials``.
        trials: Independent ones; 1 or more.
        confidence: Probability, in (0, 1), that the interval holds the truth, at least.

    Raises:
        ValueError: A number out of range.

    Source:
        Clopper and Pearson 1934, Biometrika 26, pages 404-413.
    """
    from scipy.special import betaincinv

    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"exact: {hits} hits of {trials} trials")
    if not 0 < confidence < 1:
        raise ValueError(f"audit.confidence must be in (0, 1), got {confidence}")
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0
    return Rate(hits / trials, low, high)


def roc(scores: Scores, members: Truth) -> Roc:
    """Count true and false alarms at every threshold; equal scores are called alike.

    Args:
        scores: How much each trial looks like a member.
        members: Which are.

    Raises:
        ValueError: NaN among the scores, or no member, or members only.
    """
    if bool(np.isnan(scores).any()):
        raise ValueError(f"roc: {int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    inside = int(members.sum())
    if not 0 < inside < len(members):
        raise ValueError(f"roc: {inside} of {len(members)} are members; it takes both kinds")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(float)
    last = np.append(ranked[1:] != ranked[:-1], True)
    called = np.arange(1, len(scores) + 1)[last]
    right = np.cumsum(members[order])[last]
    return Roc(
        np.append(0.0, (called - right) / (len(members) - inside)),
        np.append(0.0, right / inside),
        np.append(np.inf, ranked[last]),
    )


def auc(scores: Scores, members: Truth) -> float:
    """Give the chance that a member scores above a non-member; a tie counts half."""
    points = roc(scores, members)
    return float(np.trapezoid(points.tpr, points.fpr))


def advantage(scores: Scores, members: Truth) -> float:
    """Give the largest difference of true and false alarms over all thresholds, in [0, 1].

    The threshold is chosen in hindsight, so this is above 0 for scores that know nothing.

    Source:
        Yeom et al. 2018, arXiv:1709.01604, definition 4.
    """
    points = roc(scores, members)
    return float((points.tpr - points.fpr).max())


def balanced_accuracy(scores: Scores, members: Truth) -> float:
    """Give the best share of right calls if members are as many as others; in hindsight too."""
    return (1 + advantage(scores, members)) / 2


def tpr_at(scores: Scores, members: Truth, *, fpr: float, confidence: float = 0.95) -> Rate:
    """Give the share of members found while at most a share ``fpr`` of others are accused.

    Args:
        scores: How much each trial looks like a member.
        members: Which are.
        fpr: In [0, 1]; below one in the number of non-members, nobody may be accused wrongly.
        confidence: Of the interval, which takes the threshold as given.

    Raises:
        ValueError: ``fpr`` is out of range.
    """
    found = _found(scores, members, fpr)
    inside = int(members.sum())
    return exact(round(found * inside), inside, confidence=confidence)


def tprs_at(
    scores: Float[np.ndarray, "targets trials"],
    members: Bool[np.ndarray, "targets trials"],
    *,
    fpr: float,
) -> Float[np.ndarray, "targets"]:
    """Give ``tpr_at`` of each target model, one a row, for an interval over targets."""
    pairs = zip(scores, members, strict=True)
    return np.array([_found(one, inside, fpr) for one, inside in pairs])


def draw_roc(
    curves: Mapping[str, Roc | Sequence[Roc]], *, least: float = 1e-4, dark: bool = False
) -> Figure:
    """Draw attacks on log axes, where it shows whether anybody is found with certainty.

    Args:
        curves: For each attack the curve of one target, or those of several: then the line is
            their mean at each rate of false alarms, and the band their middle 80 %.
        least: Where both axes begin, in (0, 1). A curve is drawn from the smallest rate of false
            alarms its scores can tell from 0, which many equal scores make larger.
        dark: Draw for a dark page.

    Raises:
        ValueError: ``least`` is out of range.

    Source:
        Carlini et al. 2022, arXiv:2112.03570, section III-A (why log axes).
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawn

    if not 0 < least < 1:
        raise ValueError(f"draw_roc: least must be in (0, 1), got {least}")
    ink, faint, ground = ("#e8e6e3", "#4a4f57", "#15181c") if dark else _LIGHT
    colors = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    grounds = ("figure.facecolor", "axes.facecolor")
    settings: Any = dict.fromkeys(colors, ink) | dict.fromkeys(grounds, ground)
    settings |= {"grid.color": faint, "svg.hashsalt": "dai_lab", "font.size": 11}
    with matplotlib.rc_context(settings):
        figure = Drawn(figsize=(5.2, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot([least, 1], [least, 1], ":", color=ink, linewidth=1, label="chance")
        looks = zip(cycle(ON_DARK if dark else ON_LIGHT), cycle(STROKES), strict=False)
        for (name, some), (color, stroke) in zip(curves.items(), looks, strict=False):
            targets = [some] if isinstance(some, Roc) else list(some)
            # Below the first false alarm a rate cannot be told from none.
            first = max(least, *(float(one.fpr[one.fpr > 0].min()) for one in targets))
            grid = np.geomspace(first, 1, 400)
            heights = np.stack([_at(one, grid) for one in targets])
            axes.plot(grid, heights.mean(0), color=color, linestyle=stroke, label=name)
            if len(targets) > 1:
                low, high = np.quantile(heights, [0.1, 0.9], axis=0)
                low = low.clip(least / 10)
                axes.fill_between(grid, low, high, color=color, alpha=0.18, linewidth=0)
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1), aspect="equal")
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.grid(True, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
        # Ticks take their colors when they are first needed, which must not be after the theme.
        figure.draw_without_rendering()
    return figure


_LIGHT = ("#1b1f24", "#d0d4da", "#ffffff")


def _at(points: Roc, grid: Float[np.ndarray, "grid"]) -> Float[np.ndarray, "grid"]:
    """Return the highest true rate at each rate of false alarms that is not exceeded."""
    return points.tpr[np.searchsorted(points.fpr, grid * (1 + 1e-12), side="right") - 1]


def _found(scores: Scores, members: Truth, fpr: float) -> float:
    if not 0 <= fpr <= 1:
        raise ValueError(f"audit.fpr must be in [0, 1], got {fpr}")
    return float(_at(roc(scores, members), np.array([fpr]))[0])
