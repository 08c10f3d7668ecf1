"""What a server sees of the rows: which are finite, how far apart they are, whom to accuse.

**Rows that are not finite.** A row with a NaN or an infinity came from a liar or from a diverged
client. Every rule leaves it out, counts it among the ``f`` liars it was told to expect, accuses it,
and gives it infinite suspicion. Rules that look at distances do the same to a row so long that the
square of its length is no float64.

**Ties** go to whoever comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.core import Aggregate, Context, Gram, Record, Rows, State, TooFew, Vector, Visible


@dataclass(frozen=True)
class Seen:
    """The finite rows of ``visible``, how far apart they are, and their inner products.

    Rows are vectors of a small space, which says how much of every row of the base they hold, of
    whatever is ``beside`` them, and, last, of the row all others are seen from. Where ``m`` finite
    rows of ``n`` are left, everything here has ``m`` rows, in their order.
    """

    visible: Visible
    beside: tuple[Vector, ...]
    finite: Int[Tensor, "m"]
    """Which of the visible rows are finite."""

    @property
    def count(self) -> int:
        """Number of finite rows."""
        return len(self.finite)

    @cached_property
    def gram(self) -> Gram:
        """Inner products of the base and what is beside it: a pass over all rows, taken once."""
        return _products(self.visible, self.beside)

    @cached_property
    def inner(self) -> Float64[Tensor, "basis basis"]:
        """Inner products of the space; 0 for what is not finite and never held."""
        return self.gram.inner.nan_to_num(0.0, 0.0, 0.0)

    @cached_property
    def holds(self) -> Float64[Tensor, "m basis"]:
        """Each finite row as a vector of the space, less the row all are seen from."""
        base, mix = len(self.visible.base), self.visible.mix
        basis = base + len(self.beside) + 1
        holds = torch.zeros((self.count, basis), dtype=torch.float64, device=self.finite.device)
        if mix is None:
            holds[torch.arange(self.count, device=holds.device), self.finite] = 1.0
        else:
            holds[:, :base] = mix[self.finite]
            holds[:, -1] = mix[self.finite].sum(1) - 1.0
        return holds

    @cached_property
    def distances(self) -> Float64[Tensor, "m m"]:
        """Squared Euclidean distances between finite rows; rows mixed alike have the same."""
        known, mix = self.visible.distances, self.visible.mix
        if known is None:
            unlike, which = _unlike(self.holds, mix is not None)
            return squared_distances(unlike @ self.inner @ unlike.T)[which][:, which]
        if mix is None:
            return known[self.finite][:, self.finite]
        # Of mixtures whose weights sum to 1, from distances alone, as seen from the middle row.
        held = mix[self.finite].ne(0).any(0)
        apart, (unlike, which) = known[held][:, held], _unlike(mix[self.finite][:, held], True)
        from_middle = apart[apart.median(1).values.argmin()]
        seen = (from_middle.unsqueeze(1) + from_middle - apart) / 2
        return squared_distances(unlike @ seen @ unlike.T)[which][:, which]

    @cached_property
    def products(self) -> Float64[Tensor, "m m"]:
        """Inner products of finite rows, seen from the origin."""
        return self.whole @ self.inner @ self.whole.T

    @property
    def whole(self) -> Float64[Tensor, "m basis"]:
        """Each finite row as a vector of the space, seen from the origin."""
        there = self.holds.clone()
        there[:, -1] += 1
        return there

    @property
    def norms(self) -> Float64[Tensor, "m"]:
        """Euclidean lengths of finite rows."""
        unlike, which = _unlike(self.whole, self.visible.mix is not None)
        return ((unlike @ self.inner) * unlike).sum(1).clamp_min(0).sqrt()[which]

    def other(self, place: int) -> Float64[Tensor, "basis"]:
        """Return one of ``beside`` as a vector of the space, less the row all are seen from."""
        there = torch.zeros(len(self.inner), dtype=torch.float64, device=self.inner.device)
        there[len(self.visible.base) + place] = 1.0
        return there

    def vector(self, weights: Float64[Tensor, "m"], *others: float) -> Vector:
        """Add up the finite rows, each times its weight, and whatever is ``beside`` them."""
        base, mix = self.visible.base, self.visible.mix
        own = weights.new_zeros(self.visible.count).index_copy_(0, self.finite, weights)
        own = own if mix is None else own @ mix
        rest = own.new_tensor([*others] + [0.0] * (len(self.beside) - len(others)))
        return kernels.combine(base, torch.cat([own, rest]), self.beside)


def look(visible: Visible, beside: Sequence[Vector] = (), *, products: bool = False) -> Seen:
    """Compare all visible rows with each other, unless that was done, and find the finite ones.

    Args:
        visible: What the server may see.
        beside: Finite vectors to have in the same space, such as the last update.
        products: Whether inner products are wanted, not only distances; with ``beside`` they are.
    """
    some(visible)
    products = products or bool(beside)
    mix = visible.mix
    even = mix is None or bool(((mix.sum(1) - 1).abs() < 1e-12).all())
    easy = visible.gram is not None or visible.compare is not None
    if products or not even or (easy and visible.distances is None):
        found = _products(visible, beside)
        good = found.inner.diagonal()[: len(visible.base)].isfinite()
        visible = visible if beside else replace(visible, gram=found)
    else:
        found = None
        apart = visible.distances
        apart = kernels.distances(visible.base) if apart is None else apart
        good = _mutual(visible.base, apart)
        visible = replace(visible, distances=apart)
    if mix is None:
        finite = good.nonzero().flatten()
    else:
        finite = (mix[:, ~good] == 0).all(1).nonzero().flatten()
    seen = Seen(visible, tuple(beside), finite)
    if found is not None:
        seen.__dict__["gram"] = found
    return seen


def _products(visible: Visible, beside: Sequence[Vector]) -> Gram:
    """Take the inner products of the base and what is beside it, as far as they are not known."""
    known, base = visible.gram, visible.base
    if known is None and visible.compare is not None:
        known = visible.compare()
    if known is None:
        return kernels.gram(base, tuple(beside))
    return kernels.beside(known, base, beside) if beside else known


def some(visible: Visible) -> None:
    """Refuse to look at no row.

    Raises:
        TooFew: There is none.
    """
    if not visible.count:
        raise TooFew("aggregator sees no row: raise cohort.fraction or cohort.rate")


def _mutual(base: Rows, apart: Float64[Tensor, "n n"]) -> Bool[Tensor, "n"]:
    """Find the finite rows, given squared distances: the most that have finite ones."""
    reached = apart.isfinite()
    if bool(reached.all()) and len(base) > 1:
        return reached[0]
    # Only its own numbers tell of a row that is alone.
    best = reached.sum(1).argsort(descending=True, stable=True).tolist()
    for row in best:
        if bool(base[row].isfinite().all()):
            found: Tensor = reached[row].clone()
            found[row] = True
            return found
    return torch.zeros_like(reached[0])


def _unlike(
    holds: Float64[Tensor, "m basis"], mixed: bool
) -> tuple[Float64[Tensor, "_ basis"], Int[Tensor, "m"]]:
    """Return rows without repetition, and which of them each row is.

    Mixing makes many rows alike, and a matrix product need not round them alike: without this,
    rounding and not their order would say who of them comes first.
    """
    if not mixed:
        return holds, torch.arange(len(holds), device=holds.device)
    unlike, which = holds.unique(dim=0, return_inverse=True)
    return unlike, which


def squared_distances(products: Float64[Tensor, "m m"]) -> Float64[Tensor, "m m"]:
    """Return squared distances from inner products, never below 0."""
    own = products.diagonal()
    apart = (own.unsqueeze(1) + own - 2 * products).clamp_min(0)
    return apart.fill_diagonal_(0)


def need(rule: str, visible: Visible, count: int, *, f: int | None = None, least: int = 1) -> int:
    """Refuse too few rows; return how many of the ``f`` liars are still among the finite rows.

    Args:
        rule: Its name, for the error.
        visible: What the server may see.
        count: How many of the rows are finite.
        f: Liars the rule was told to expect, where it has to be told.
        least: Rows its source needs for that ``f``, whether or not they are finite.

    Raises:
        ValueError: ``f`` is below 0.
        TooFew: Too few rows, or none is finite.
    """
    if f is not None and f < 0:
        raise ValueError(f"aggregator.f must be at least 0, got {f}")
    total = visible.count
    # A liar who gives itself away leaves one row and one liar fewer.
    left = max(0, (f or 0) - (total - count))
    if total < least or not count or count <= left:
        told = "" if f is None else f" with f={f}"
        lower = "" if not f else "lower aggregator.f or "
        raise TooFew(
            f"aggregator={rule}{told} needs at least {least} visible rows and sees {total} "
            f"({count} finite): {lower}raise secagg.groups or the cohort"
        )
    return left


def begun(rule: str, visible: Visible, context: Context) -> State:
    """Return the model that the rows would change, or refuse rows that hold more than changes.

    Raises:
        ValueError: No model, or rows of another width.
    """
    state, width = context.state, visible.base.shape[1]
    if state is None:
        raise ValueError(f"aggregator={rule} needs the model that the rows would change")
    if len(state.params) != width:
        raise ValueError(
            f"aggregator={rule} takes rows for changes of {len(state.params)} parameters and they "
            f"hold {width} numbers: choose local=sgd or another that sends nothing beside, or "
            "another aggregator"
        )
    return state


def judged(
    visible: Visible,
    update: Vector,
    finite: Int[Tensor, "m"],
    *,
    shares: Float[Tensor, "m"],
    suspicion: Float[Tensor, "m"],
    suspects: int | Bool[Tensor, "m"],
    memory: Mapping[str, Tensor] | None = None,
    record: Record | None = None,
) -> Aggregate:
    """Put what a rule thinks of the finite rows into a verdict on all visible rows.

    Args:
        visible: What the server may see.
        update: What the rule makes of it.
        finite: Which visible rows are finite; the following speak of those.
        shares: How much of the update is each one's.
        suspicion: How strange each one looks, higher is stranger.
        suspects: Whom the rule accuses, or how many of the strangest.
        memory: What the rule needs to remember.
        record: Further numbers for the round's record.
    """
    if isinstance(suspects, int):
        how_many = suspects
        suspects = torch.zeros(len(finite), dtype=torch.bool, device=finite.device)
        if how_many:
            suspects[suspicion.argsort(descending=True, stable=True)[:how_many]] = True
    count = visible.count
    if count == len(finite):
        shares, suspicion = shares.double(), suspicion.double()
        return Aggregate(update, shares, suspicion, suspects, memory or {}, record or {})
    all_shares = torch.zeros(count, dtype=torch.float64, device=finite.device)
    everyone = torch.full_like(all_shares, torch.inf)
    accused = torch.ones(count, dtype=torch.bool, device=finite.device)
    all_shares[finite], everyone[finite] = shares.double(), suspicion.double()
    accused[finite] = suspects
    return Aggregate(update, all_shares, everyone, accused, memory or {}, record or {})
