"""Rules that look for a point in the middle of the rows, step by step.

Every step is arithmetic on inner products: only the last one touches the rows.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from dai_lab.aggregators.seen import Seen, judged, look, need, squared_distances
from dai_lab.core import ALONE, Aggregate, Context, Visible

STEPS = 200
"""Steps to the geometric median at most; ten are usual."""
EPSILON = torch.finfo(torch.float64).eps


def geometric_median(
    visible: Visible,
    context: Context = ALONE,
    *,
    iterations: int | None = None,
    smoothing: float = 1e-6,
    start: str = "mean",
    weighted: bool = False,
) -> Aggregate:
    """Return the point whose distances to the rows add up to the least.

    With ``iterations``, take that many smoothed Weiszfeld steps toward it instead, as RFA does:
    few of them do not get away from a liar that is far enough. Where rows lie on a line and many
    points are best, the middle one of them is taken.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half of them may
            lie, so below three rows nobody can be outvoted: a warning says so.
        context: Not needed.
        iterations: Weiszfeld steps, at least 1 (RFA takes 3), or ``None`` for the geometric
            median itself.
        smoothing: Steps count no distance as smaller than this (the paper's nu), above 0.
        start: Steps begin at the ``mean`` of the rows, or at ``zero``, which is the model before
            this round.
        weighted: Whether a row counts by the examples its members claim, or all the same.

    Raises:
        TooFew: No finite row.
        ValueError: A knob is out of its range, or claimed examples weigh nothing.

    Source:
        Pillutla, Kakade and Harchaoui 2022, arXiv:1912.13445, algorithm 2 (smoothed Weiszfeld);
        Overton 1983 and Kuhn 1973 for the point itself.
    """
    if iterations is not None and iterations < 1:
        raise ValueError(f"aggregator.iterations must be at least 1 or null, got {iterations}")
    if not 0 < smoothing < torch.inf:
        raise ValueError(f"aggregator.smoothing must be above 0, got {smoothing}")
    if start not in ("mean", "zero"):
        raise ValueError(f"aggregator.start must be mean or zero, got {start!r}")
    seen = look(visible, products=True)
    need("geometric_median", visible, seen.count)
    if visible.count < 3:
        warnings.warn(
            f"aggregator=geometric_median sees {visible.count} of the 3 rows it takes to outvote "
            "one: raise secagg.groups or the cohort",
            stacklevel=2,
        )
    mass = _masses(visible, seen, weighted)
    inner = seen.holds @ seen.inner @ seen.holds.T
    if iterations is None:
        counted = mass > 0
        shares = torch.zeros_like(mass)
        shares[counted] = _median(inner[counted][:, counted], mass[counted])
    else:
        shares = mass
        apart = _lengths(_gaps(mass), inner) if start == "mean" else seen.norms
        for step in range(iterations):
            if step:
                apart = _lengths(_gaps(shares), inner)
            pull = mass / apart.clamp_min(smoothing)
            shares = pull / pull.sum()
    return judged(
        visible,
        seen.vector(shares),
        seen.finite,
        shares=shares,
        suspicion=_lengths(_gaps(shares), inner),
        suspects=0,
    )


def centered_clipping(
    visible: Visible, context: Context = ALONE, *, tau: float = 10.0, iterations: int = 3
) -> Aggregate:
    """Move from the last update toward every row, no more than ``tau`` for each.

    Args:
        visible: What the server may see; at least one finite row.
        context: The memory ``aggregator/center``, the last update; zeros at first.
        tau: Length beyond which the way to a row is clipped, above 0. With a client momentum of
            beta the paper suggests a multiple of ``1 / (1 - beta)``.
        iterations: Moves in each round, at least 1.

    Raises:
        TooFew: No finite row.
        ValueError: A knob is out of its range.

    Source:
        Karimireddy, He and Jaggi 2021, arXiv:2012.10333, section 4 (centered clipping).
    """
    if not tau > 0:
        raise ValueError(f"aggregator.tau must be above 0, got {tau}")
    if iterations < 1:
        raise ValueError(f"aggregator.iterations must be at least 1, got {iterations}")
    last = context.state.memory.get("aggregator/center") if context.state else None
    seen = look(visible, () if last is None else (last,), products=True)
    need("centered_clipping", visible, seen.count)
    if last is None:
        # The origin, as seen from the row that all are seen from.
        origin = torch.zeros_like(seen.holds[0])
        origin[-1] = -1.0
    else:
        origin = seen.other(0)
    shares = torch.zeros(seen.count, dtype=torch.float64, device=seen.holds.device)
    kept = 1.0
    for _ in range(iterations):
        center = shares @ seen.holds + kept * origin
        apart = _lengths(seen.holds - center, seen.inner)
        moves = (tau / apart).clamp_max(1.0) / seen.count
        stays = 1.0 - float(moves.sum())
        shares, kept = shares * stays + moves, kept * stays
    update = seen.vector(shares) if last is None else seen.vector(shares, kept)
    center = shares @ seen.holds + kept * origin
    return judged(
        visible,
        update,
        seen.finite,
        shares=shares,
        suspicion=_lengths(seen.holds - center, seen.inner),
        suspects=0,
        memory={"aggregator/center": update},
        record={"clipped": float((apart > tau).double().mean())},
    )


def _masses(visible: Visible, seen: Seen, weighted: bool) -> Float64[Tensor, "m"]:
    """Return what each finite row counts for, 1 in all."""
    if not weighted:
        return torch.full_like(seen.holds[:, 0], 1 / seen.count)
    claimed = visible.weights.double().to(seen.finite.device)[seen.finite]
    total = float(claimed.sum())
    if not (0 < total < torch.inf and bool((claimed >= 0).all())):
        raise ValueError(
            f"aggregator=geometric_median sees rows that claim {total:g} examples in all, some "
            "perhaps below 0: set aggregator.weighted=false to count all rows the same"
        )
    return claimed / total


def _gaps(shares: Float64[Tensor, "m"]) -> Float64[Tensor, "m m"]:
    """Return the ways from a mean of the rows to each of them."""
    return torch.eye(len(shares), dtype=shares.dtype, device=shares.device) - shares


def _lengths(
    vectors: Float64[Tensor, "_ basis"], inner: Float64[Tensor, "basis basis"]
) -> Float64[Tensor, "_"]:
    return ((vectors @ inner) * vectors).sum(1).clamp_min(0).sqrt()


def _median(inner: Float64[Tensor, "m m"], mass: Float64[Tensor, "m"]) -> Float64[Tensor, "m"]:
    """Return the geometric median as a mean of the rows: what each row weighs in it."""
    squares = squared_distances(inner)
    own = inner.diagonal()
    same = squares <= 16 * EPSILON * (own.unsqueeze(1) + own)
    same.fill_diagonal_(True)
    apart = squares.sqrt()
    pulls = torch.where(same, 0.0, mass / apart.where(~same, 1.0))
    ways = pulls - pulls.sum(1).diag()
    held = same.double() @ mass
    # A row is a median if the others, each pulling with its mass, do not move what is there.
    pulled = _lengths(ways, inner)
    best = pulled <= held + 1e-12
    if bool(best.any()):
        return _between(best, apart, same, mass)
    # Below the best of all rows there is no row, and distances are smooth. This step leads there.
    row = _best_row(apart, inner, mass)
    rate = 1 - held[row] / pulled[row]
    shares = rate * pulls[row] / pulls[row].sum()
    shares[row] += 1 - rate
    return _newton(shares, inner, mass)


def _best_row(
    apart: Float64[Tensor, "m m"], inner: Float64[Tensor, "m m"], mass: Float64[Tensor, "m"]
) -> int:
    """Return the row whose distances to the others add up to the least.

    Sums would be those of the farthest liar, and of rounding: what tells rows apart is added up.
    """
    own = inner.diagonal()
    near = int(own.argmin())
    squares = own.unsqueeze(1) - own[near] - 2 * (inner - inner[near])
    both = apart + apart[near]
    return int((torch.where(both > 0, squares / both, 0.0) @ mass).argmin())


def _between(
    best: Bool[Tensor, "m"],
    apart: Float64[Tensor, "m m"],
    same: Bool[Tensor, "m m"],
    mass: Float64[Tensor, "m"],
) -> Float64[Tensor, "m"]:
    """Return the middle of all medians, where rows are among them: they are on one line."""
    rows = best.nonzero().flatten()
    farthest = int(apart[rows][:, rows].argmax())
    ends = rows[[farthest // len(rows), farthest % len(rows)]]
    shares = torch.where(same[ends], mass, 0.0)
    return (shares / shares.sum(1, keepdim=True)).mean(0)


def _newton(
    shares: Float64[Tensor, "m"], inner: Float64[Tensor, "m m"], mass: Float64[Tensor, "m"]
) -> Float64[Tensor, "m"]:
    """Descend to the geometric median from a point that is better than every row."""
    last = torch.inf
    for _ in range(STEPS):
        gaps = _gaps(shares)
        lengths = _lengths(gaps, inner)
        lengths = lengths.clamp_min(EPSILON * float(lengths.median()))
        # The gradient is -pull @ gaps, the matrix of second derivatives
        # total - gaps.T @ diag(mass / lengths**3) @ gaps: both stay among the rows.
        pull = mass / lengths
        total = float(pull.sum())
        products = gaps @ inner @ gaps.T
        root = pull.sqrt() / lengths
        system = -root.unsqueeze(1) * products * root
        system.diagonal().add_(total)
        factor, failed = torch.linalg.cholesky_ex(system)
        step = pull / total  # Weiszfeld's, where Newton's does not exist
        if not bool(failed):
            right = (root * lengths.square()).unsqueeze(1)
            step = root * torch.cholesky_solve(right, factor).flatten()
        move = step - step.sum() * shares
        slope = float(move @ inner @ (pull - total * shares))
        moved = float(_lengths(move.unsqueeze(0), inner))
        # So close, rounding decides which point is better: go on while moves get shorter.
        close = slope <= 1e-10 * moved
        if close and moved >= last / 2:
            break
        last, rate = moved if close else torch.inf, 1.0
        toward = gaps @ inner @ move
        while not close and rate > EPSILON:
            longer = _lengths(gaps - rate * move, inner)
            squares = rate * (rate * moved**2 - 2 * toward)
            if float(mass @ (squares / (longer + lengths))) <= -1e-4 * rate * slope:
                break
            rate /= 2
        shares = shares + rate * move
    # At the median these are its weights, none of them below 0.
    pull = mass / lengths
    return pull / pull.sum()
