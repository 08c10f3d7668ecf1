"""Rules that try what rows would do to the model, on examples of the server's own.

The server's examples must be clean; what a liar can still do is whatever they do not show, such as
a backdoor whose trigger none of them carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, islice

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.coordinates import mean
from dai_lab.aggregators.seen import begun, judged, need
from dai_lab.aggregators.trust import project
from dai_lab.core import ALONE, Aggregate, Aggregator, Context, Vector, Visible

TOGETHER = 8
"""Models that are judged side by side."""


def zeno(
    visible: Visible, context: Context = ALONE, *, f: int = 1, rho: float = 0.0005
) -> Aggregate:
    """Average all but the ``f`` rows that lower the server's loss least for their length.

    A row's score is the loss before it less the loss after it less ``rho`` times its squared
    length; suspicion is the score's negative. A row that makes the loss infinite scores lowest.

    Args:
        visible: What the server may see; more than ``f`` rows. The paper needs one honest row
            among the clients, and ``f`` at least the number of liars.
        context: Must hold ``state`` and ``judge``.
        f: Hostile rows to expect; those that are not finite are counted off.
        rho: Charge on squared length, 0 or more. Rows here are steps, not gradients: it is the
            paper's divided by the square of the learning rate.

    Raises:
        ValueError: No model, no examples of the server's own, or ``rho`` below 0.
        TooFew: Nothing would be left.

    Source:
        Xie, Koyejo and Gupta 2019, arXiv:1805.10032, definitions 2 and 3.
    """
    if not rho >= 0:
        raise ValueError(f"aggregator.rho must be at least 0, got {rho}")
    params, judge = _court("zeno", visible, context)
    _, lengths = project(visible, params)
    finite = lengths.isfinite().nonzero().flatten()
    left = need("zeno", visible, len(finite), f=f, least=f + 1)
    base, mix = visible.base, visible.mix
    holds = torch.eye(visible.count, dtype=torch.float64, device=finite.device)
    holds = (holds if mix is None else mix)[finite]
    steps = (kernels.combine(base, one) for one in holds)
    losses, _ = judge(chain([torch.zeros_like(params)], steps))
    # A loss that is infinite already cannot get worse.
    before = losses[0] if bool(losses[0].isfinite()) else torch.zeros_like(losses[0])
    scores = before - losses[1:].to(lengths.device) - rho * lengths[finite].square()
    kept = torch.zeros_like(scores)
    kept[scores.argsort(descending=True, stable=True)[: len(finite) - left]] = 1.0
    shares = kept / kept.sum()
    return judged(
        visible,
        kernels.combine(base, shares @ holds),
        finite,
        shares=shares,
        suspicion=-scores,
        suspects=kept == 0,
    )


def fang_lfr(
    visible: Visible, context: Context = ALONE, *, f: int = 1, then: Aggregator = mean
) -> Aggregate:
    """Drop the ``f`` rows without which the server's loss would be lowest, then aggregate.

    A row's impact, here its suspicion, is the loss of the model aggregated from all rows less
    that of the model aggregated from all others.

    Args:
        visible: What the server may see; more than ``f`` rows, and enough for ``then`` without
            one of them.
        context: Must hold ``state`` and ``judge``.
        f: Rows to drop (the paper's c); those that are not finite are counted off.
        then: Aggregates whichever rows.

    Raises:
        ValueError: No model, or no examples of the server's own.
        TooFew: Nothing would be left, or too few for ``then``.

    Source:
        Fang et al. 2020, arXiv:1911.11815, section 6 (loss function based rejection).
    """
    return _rejecting("lfr", visible, context, f, then, by=(0,))


def fang_err(
    visible: Visible, context: Context = ALONE, *, f: int = 1, then: Aggregator = mean
) -> Aggregate:
    """Drop the ``f`` rows without which the server's error rate would be lowest, then aggregate.

    As :func:`fang_lfr`, but by the share of the server's examples that are classified wrongly;
    of rows with the same impact, the first are dropped.

    Args:
        visible: What the server may see; more than ``f`` rows, and enough for ``then`` without
            one of them.
        context: Must hold ``state`` and ``judge``.
        f: Rows to drop (the paper's c); those that are not finite are counted off.
        then: Aggregates whichever rows.

    Raises:
        ValueError: No model, or no examples of the server's own.
        TooFew: Nothing would be left, or too few for ``then``.

    Source:
        Fang et al. 2020, arXiv:1911.11815, section 6 (error rate based rejection).
    """
    return _rejecting("err", visible, context, f, then, by=(1,))


def fang_union(
    visible: Visible, context: Context = ALONE, *, f: int = 1, then: Aggregator = mean
) -> Aggregate:
    """Drop the rows that either loss or error rate would drop, up to ``2 f``, then aggregate.

    Suspicion is the larger of the two impacts.

    Args:
        visible: What the server may see; more than ``2 f`` rows, and enough for ``then``.
        context: Must hold ``state`` and ``judge``.
        f: Rows each of the two may drop (the paper's c); those that are not finite are counted
            off.
        then: Aggregates whichever rows.

    Raises:
        ValueError: No model, or no examples of the server's own.
        TooFew: Nothing would be left, or too few for ``then``.

    Source:
        Fang et al. 2020, arXiv:1911.11815, section 6 (union).
    """
    return _rejecting("lfr_err", visible, context, f, then, by=(0, 1))


Judge = Callable[[Iterable[Vector]], tuple[Float64[Tensor, "_"], Float64[Tensor, "_"]]]


def _court(rule: str, visible: Visible, context: Context) -> tuple[Vector, Judge]:
    """Return the model, and what says how it does after each of some updates."""
    if context.judge is None:
        raise ValueError(
            f"aggregator={rule} needs examples of the server's own: set federation.root"
        )
    params, ask = begun(rule, visible, context).params, context.judge

    def judge(updates: Iterable[Vector]) -> tuple[Tensor, Tensor]:
        losses, errors, waiting = [], [], iter(updates)
        while some := list(islice(waiting, TOGETHER)):
            found = ask(torch.stack([params + one for one in some]))
            losses.append(found[0].double())
            errors.append(found[1].double())
        # A loss that is no number is the worst there is.
        return (
            torch.cat(losses).nan_to_num(torch.inf, torch.inf),
            torch.cat(errors).nan_to_num(torch.inf, torch.inf),
        )

    return params, judge


def _rejecting(
    rule: str,
    visible: Visible,
    context: Context,
    f: int,
    then: Aggregator,
    *,
    by: tuple[int, ...],
) -> Aggregate:
    """Drop the rows of the largest impact on losses (0), error rates (1), or either."""
    _, judge = _court(rule, visible, context)
    base_good = kernels.finite(visible.base)
    mix = visible.mix
    good = base_good if mix is None else (mix[:, ~base_good] == 0).all(1)
    finite = good.nonzero().flatten()
    count = len(finite)
    left = need(rule, visible, count, f=f, least=len(by) * f + 1)
    sound = _some(visible, finite)
    everyone = torch.arange(count, device=finite.device)

    def without() -> Iterable[Vector]:
        yield then(sound, context).update
        for one in everyone:
            yield then(_some(sound, everyone[everyone != one]), context).update

    dropped = torch.zeros(count, dtype=torch.bool, device=finite.device)
    impacts = torch.full((count,), -torch.inf, dtype=torch.float64, device=finite.device)
    if count > 1 and left:
        measured = judge(without())
        for which in by:
            # Without a row the model may be as broken as with it: then the row has no impact.
            with_all, with_others = measured[which][0], measured[which][1:]
            impact = (with_all - with_others).nan_to_num(0.0, torch.inf, -torch.inf)
            impact = impact.to(finite.device)
            worst = impact.argsort(descending=True, stable=True)[:left]
            dropped[worst] = True
            impacts = torch.maximum(impacts, impact)
    else:
        impacts = torch.zeros_like(impacts)
    kept = (~dropped).nonzero().flatten()
    found = then(_some(sound, kept), context)
    shares = torch.zeros(count, dtype=torch.float64, device=finite.device)
    shares[kept] = found.shares.double().to(finite.device)
    accused = dropped.clone()
    accused[kept] |= found.suspected.to(finite.device)
    return judged(
        visible,
        found.update,
        finite,
        shares=shares,
        suspicion=impacts,
        suspects=accused,
        memory=found.memory,
        record=found.record,
    )


def _some(visible: Visible, rows: Int[Tensor, "_"]) -> Visible:
    """Show only these rows."""
    if len(rows) == visible.count:
        return visible
    members = tuple(visible.members[one] for one in rows.tolist())
    weights = visible.weights[rows.to(visible.weights.device)]
    mix = visible.mix
    if mix is None:  # not a copy of the rows, which is made for each that is left out
        mix = torch.eye(visible.count, dtype=torch.float64, device=visible.base.device)
    return replace(visible, mix=mix[rows], members=members, weights=weights)
