"""From the rows the server may see to one update.

A row with a NaN or an infinity came from a liar or from a diverged client: robust rules leave
it out and count it among the liars they were told to expect. The mean, which defends nothing,
passes it on: the model is lost, and the run's record says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dai_lab.core import Rows, TooFew, Vector, Visible


def mean(visible: Visible, *, weighted: bool = True) -> Vector:
    """Average the visible rows, as federated averaging does; nothing is defended.

    Args:
        visible: What the server may see; at least one row.
        weighted: Whether a row counts by the examples behind it, or all rows the same.

    Raises:
        ValueError: No row, or counts of examples that weigh nothing.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    rows = visible.rows
    if not len(rows):
        raise ValueError("aggregator=mean sees no row: raise cohort.fraction or cohort.rate")
    weights = visible.weights.to(rows) if weighted else rows.new_ones(len(rows))
    total = weights.sum()
    if not (0 < float(total) < torch.inf and bool((weights >= 0).all())):
        raise ValueError(
            f"aggregator=mean sees rows that claim {float(total):g} examples in all, some perhaps "
            "below 0: set aggregator.weighted=false to count all rows the same"
        )
    return (weights / total) @ rows


def median(visible: Visible) -> Vector:
    """Take each coordinate's middle value, or the mean of its two middle values.

    Args:
        visible: What the server may see; at least three finite rows.

    Raises:
        TooFew: Too few finite rows for any of them to be outvoted.

    Source:
        Yin et al. 2018, arXiv:1803.01498, definition 1.
    """
    rows = _finite(visible.rows)
    count = len(rows)
    if count < 3:
        raise TooFew(
            f"aggregator=median needs at least 3 finite visible rows and sees {count} of "
            f"{len(visible.rows)}: raise secagg.groups or the cohort"
        )
    return _by_column(rows, lambda column: column[(count - 1) // 2 : count // 2 + 1].mean(0))


def trimmed_mean(visible: Visible, *, f: int = 1) -> Vector:
    """Drop each coordinate's ``f`` highest and ``f`` lowest values and average the rest.

    Args:
        visible: What the server may see; more than ``2 f`` rows.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: Nothing would be left.

    Source:
        Yin et al. 2018, arXiv:1803.01498, definition 2.
    """
    if f < 0:
        raise ValueError(f"aggregator.f must be at least 0, got {f}")
    rows = _finite(visible.rows)
    trim = max(0, f - (len(visible.rows) - len(rows)))
    if len(visible.rows) <= 2 * f or not len(rows) > 2 * trim:
        raise TooFew(
            f"aggregator=trimmed_mean with f={f} needs more than {2 * f} visible rows and sees "
            f"{len(visible.rows)} ({len(rows)} finite): lower aggregator.f or raise secagg.groups"
        )
    return _by_column(rows, lambda column: column[trim : len(rows) - trim].mean(0))


def majority_vote(visible: Visible) -> Vector:
    """Let each row vote on the sign of every coordinate: 1, -1, or 0 where votes balance.

    All votes weigh the same, however many examples are behind them, and whatever lengths the
    rows had are lost: the step is ``server.rate``, which must be small.

    Args:
        visible: What the server may see; at least one finite row. A zero abstains.

    Raises:
        TooFew: No finite row.

    Source:
        Bernstein et al. 2018, arXiv:1802.04434, and 2019, arXiv:1810.05291 (signSGD with
        majority vote).
    """
    rows = _finite(visible.rows)
    if not len(rows):
        raise TooFew(
            "aggregator=majority_vote needs at least 1 finite visible row and sees 0 of "
            f"{len(visible.rows)}: raise the cohort"
        )
    return ((rows > 0).sum(0) - (rows < 0).sum(0)).sign().to(rows.dtype)


def _finite(rows: Rows) -> Rows:
    finite = rows.isfinite().all(1)
    return rows if bool(finite.all()) else rows[finite]


def _by_column(rows: Rows, rule: Callable[[Rows], Vector]) -> Vector:
    # Sorting also returns 8-byte positions; blocks keep that to a few megabytes.
    blocks = torch.split(rows, 2**14, dim=1)
    return torch.cat([rule(block.sort(dim=0).values) for block in blocks])
