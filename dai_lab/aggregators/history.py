"""Rules that remember what each client sent before.

They must know whose row is whose: behind sums of several clients they refuse. Whoever can take part
under a new name starts with a clean record, so identities must cost something.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.layers import output_layer
from dai_lab.aggregators.seen import judged, need, squared_distances
from dai_lab.core import ALONE, Aggregate, Context, Rows, State, TooFew, Visible

BLOCK = 2**14
"""Columns that are worked on at once, in float64."""
SAME = 1e-12
"""Distance from 1 at which a cosine is rounding, and two histories are the same."""


def foolsgold(
    visible: Visible,
    context: Context = ALONE,
    *,
    features: Literal["output", "all"] = "output",
    average: bool = False,
) -> Aggregate:
    """Give less weight to clients whose updates, summed over rounds, point the same way.

    Sybils who share a goal resemble each other more than honest clients do, who hold different
    data; it does not matter how many they are. It is no defense against one liar alone, nor
    where honest clients hold much the same data. Histories that coincide count for nothing,
    so where all clients always sent the same, nothing moves; one client alone counts in full.

    As in the authors' code a client resembles another at least 0 (a cosine below 0 counts as
    0, or pardoning would turn signs), and a history of zeros resembles none.

    Args:
        visible: What the server may see; at least one finite row, each of a single client.
        context: ``state`` holds the histories; ``features=output`` needs ``model``.
        features: What to compare: the parameters of the last layer, which tell goals apart
            best, or all.
        average: Whether to divide the update by the sum of weights. The paper adds up
            gradients, so that n clients make n steps.

    Raises:
        ValueError: A row holds several clients, or the model is needed and not known.
        TooFew: No finite row.

    Source:
        Fung, Yoon and Beschastnikh 2020, arXiv:1808.04866, algorithm 1.
    """
    clients = single("foolsgold", visible)
    state = context.state or nothing(visible)
    compared = slice(None)
    if features == "output":
        places = output_layer("foolsgold", visible, context.model)
        compared = slice(places.start, places.stop)
    rows, finite = sound("foolsgold", visible)
    whose = [clients[one] for one in finite.tolist()]
    sent = rows[:, compared]
    before = state.recall("aggregator/foolsgold", whose, torch.zeros_like(sent[0]))
    history = before.to(sent).add_(sent).nan_to_num_()  # a sum of finite rows may still overflow
    weights, likeness = _pardoned(_cosines(history))
    total = weights.sum()
    shares = weights / torch.where(total > 0, total, 1.0) if average else weights
    return judged(
        visible,
        kernels.combine(rows, shares),
        finite,
        shares=shares,
        suspicion=likeness,
        suspects=weights == 0,
        memory=state.keep("aggregator/foolsgold", whose, history),
    )


def safeguard(
    visible: Visible,
    context: Context = ALONE,
    *,
    short: int = 10,
    long: int = 60,
    short_threshold: float | None = None,
    long_threshold: float | None = None,
    floor: float = 0.0,
    noise: float = 0.0,
) -> Aggregate:
    """Evict, for good, whoever strays from the concentrated median over a window of rounds.

    What each client sent is added up over two windows. The median is a client with more than
    half of all within the threshold; whoever is further from it than twice the threshold no
    longer counts from the next round on. A lie too small to be seen in one round adds up, an
    honest client's noise grows with the root of the rounds only. With ``long`` equal to
    ``short`` there is a single safeguard, as in the paper's section 4.

    Where no threshold is given it is the smallest for which a median exists, at least ``floor``
    (the paper's come from trial runs). Where a given one has no median, whoever has the most
    near stands in. Only sums over the same rounds compare: a warning says where they are not.

    Args:
        visible: What the server may see, each row of a single client; fewer than half may lie.
        context: ``state`` holds the sums and who is evicted; noise is drawn from ``key``.
        short: Rounds in the short window, at least 1.
        long: Rounds in the long window, at least ``short``.
        short_threshold: Distance of sums over the short window, above 0; the sums are of rows
            divided by the number of clients that counted. ``None`` finds it.
        long_threshold: As ``short_threshold``, for the long window.
        floor: Smallest threshold to find, 0 or more; without it honest clients are evicted
            where more than half of all send the very same.
        noise: Standard deviation of what is added to each coordinate of the update, which lets
            it leave saddle points; 0 or more.

    Raises:
        ValueError: A row holds several clients, or a knob is out of range.
        TooFew: Nobody is left who counts.

    Source:
        Allen-Zhu et al. 2021, arXiv:2012.14368, algorithm 1.
    """
    _check_safeguard(short, long, (short_threshold, long_threshold), floor, noise)
    clients = single("safeguard", visible)
    state = context.state or nothing(visible)
    clock = int(state.memory.get("aggregator/safeguard_rounds", torch.zeros(())))
    gone = state.memory.get("aggregator/safeguard_gone", torch.empty(0, dtype=torch.long))
    rows, finite = sound("safeguard", visible)
    device = rows.device
    whose = [clients[one] for one in finite.tolist()]
    good = ~torch.isin(torch.tensor(whose), gone.cpu()).to(device)
    if not bool(good.any()):
        raise TooFew(
            f"aggregator=safeguard has evicted all {len(rows)} finite rows it sees: "
            "raise aggregator.floor or the thresholds"
        )
    memory: dict[str, Tensor] = {}
    excess = torch.zeros(len(rows), dtype=torch.float64, device=device)
    windows = {"short": (short, short_threshold), "long": (long, long_threshold)}
    for name, (rounds, threshold) in windows.items():
        what = f"aggregator/safeguard_{name}"
        # A new window forgets all sums, also those of clients who are not here.
        held = nothing(visible) if clock % rounds == 0 else state
        nobody = torch.zeros(rows.shape[1] + 1, dtype=rows.dtype, device=device)
        sums = held.recall(what, whose, nobody)
        # The last column counts the rounds a client was there.
        sums[:, :-1].add_(rows, alpha=1 / int(good.sum()))
        sums[:, -1] += 1
        if bool((sums[good, -1] != sums[good, -1][0]).any()):
            warnings.warn(
                "aggregator=safeguard compares clients that were there in different rounds of a "
                "window: set cohort.fraction=1",
                stacklevel=2,
            )
        memory |= held.keep(what, whose, sums)
        excess = torch.maximum(excess, _strays(sums[:, :-1], good, visible.count, threshold, floor))
    evicted = good & (excess > 1)
    lost = set(range(visible.count)) - set(finite.tolist())
    bad = {one for one, out in zip(whose, evicted.tolist(), strict=True) if out}
    bad |= {clients[one] for one in lost} | set(gone.tolist())
    memory["aggregator/safeguard_gone"] = torch.tensor(sorted(bad), dtype=torch.long)
    memory["aggregator/safeguard_rounds"] = torch.tensor(clock + 1)
    shares = good.double() / good.sum()
    update = kernels.combine(rows, shares)
    if noise:
        drawn = torch.randn(
            len(update), dtype=update.dtype, generator=(context.key / "safeguard").stream()
        )
        update = update + noise * drawn.to(update)
    return judged(
        visible,
        update,
        finite,
        shares=shares,
        suspicion=excess,
        suspects=~good | evicted,
        memory=memory,
        record={"evicted": len(bad)},
    )


def single(rule: str, visible: Visible) -> tuple[int, ...]:
    """Return the client behind each row, or refuse."""
    if any(len(some) != 1 for some in visible.members):
        raise ValueError(
            f"aggregator={rule} remembers every client, and here a row holds several: "
            "set secagg=plain"
        )
    return tuple(some[0] for some in visible.members)


def sound(rule: str, visible: Visible) -> tuple[Rows, Int[Tensor, "m"]]:
    """Return the finite rows, and which they are."""
    rows = visible.rows
    good = kernels.finite(rows)
    finite = good.nonzero().flatten()
    need(rule, visible, len(finite))
    return rows if len(finite) == len(rows) else rows[finite], finite


def nothing(visible: Visible) -> State:
    """Return a state in which nobody remembers anything."""
    return State(visible.base.new_zeros(visible.base.shape[1]))


def _cosines(rows: Float[Tensor, "m _"]) -> Float64[Tensor, "m m"]:
    """Return the cosine of each row with each other; 0 where a row is 0."""
    # Not a centered Gram matrix: the most may be liars, and next to their lengths others vanish.
    tiny, blocks = torch.finfo(torch.float64).tiny, rows.split(BLOCK, dim=1)
    largest = rows.abs().amax(1, keepdim=True).double().clamp_min(tiny)
    lengths = torch.stack([(one / largest).square().sum(1) for one in blocks]).sum(0).sqrt()
    units = 1.0 / torch.where(lengths > 0, lengths, 1.0).unsqueeze(1)
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in blocks:
        some = block / largest * units
        found += some @ some.T
    return found


def _pardoned(
    alike: Float64[Tensor, "m m"],
) -> tuple[Float64[Tensor, "m"], Float64[Tensor, "m"]]:
    """Weigh each history by how little it resembles the others, and say how much it does."""
    alike = alike.clamp(-1, 1).fill_diagonal_(0)
    most = alike.amax(1)
    # Pardon: who resembles another less than that other resembles someone was not its partner.
    ratio = most.unsqueeze(1) / torch.where(most > 0, most, 1.0)
    pardon = torch.where(most > most.unsqueeze(1), ratio, 1.0)
    likeness = (alike * pardon).amax(1)
    weights = 1.0 - likeness
    weights = torch.where(weights > SAME, weights, 0.0)
    best = weights.max()
    weights = (weights / torch.where(best > 0, best, 1.0)).clamp_max(0.99)
    return (torch.logit(weights) + 0.5).clamp(0, 1), likeness


def _check_safeguard(
    short: int,
    long: int,
    thresholds: tuple[float | None, float | None],
    floor: float,
    noise: float,
) -> None:
    if not 1 <= short <= long:
        raise ValueError(
            f"aggregator.short must be in 1..aggregator.long, got {short} and long={long}"
        )
    for name, one in zip(("short", "long"), thresholds, strict=True):
        if one is not None and not 0 < one < math.inf:
            raise ValueError(f"aggregator.{name}_threshold must be above 0, got {one}")
    for name, amount in {"floor": floor, "noise": noise}.items():
        if not 0 <= amount < math.inf:
            raise ValueError(f"aggregator.{name} must be at least 0, got {amount}")


def _strays(
    sums: Float[Tensor, "m params"],
    good: Bool[Tensor, "m"],
    total: int,
    threshold: float | None,
    floor: float,
) -> Float64[Tensor, "m"]:
    """Say how far each is from the concentrated median, as a multiple of what is tolerated."""
    count = len(sums)
    apart = squared_distances(kernels.gram(sums).inner[:count, :count]).sqrt()
    apart = apart.nan_to_num(torch.inf, torch.inf)  # sums may overflow
    among = apart[good][:, good]
    ranked = among.sort(dim=1).values
    # So many, itself included, are more than half of all.
    reach = ranked[:, min(total // 2, len(ranked) - 1)]
    if threshold is None:
        # The two ends of the shortest reach tie; who is nearer to its neighbors wins, or the
        # order of rows would decide.
        near = ranked[:, : total // 2 + 1].sum(1)
        middle = int(torch.where(reach == reach.min(), near, torch.inf).argmin())
        threshold = max(float(reach[middle]), floor)
    else:
        near = (among <= threshold).sum(1)
        some = (near > total / 2).nonzero().flatten()
        middle = int(some[0]) if len(some) else int(near.argmax())
    distance = apart[:, good.nonzero().flatten()[middle]]
    tolerated = 2 * threshold
    if tolerated > 0:
        return distance / tolerated
    return torch.where(distance > 0, torch.inf, 0.0).to(distance)
