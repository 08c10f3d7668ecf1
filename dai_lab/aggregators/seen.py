"""What a server sees of the rows: which are finite, how far apart they are, whom to accuse.

**Rows that are not finite.** A row with a NaN or an infinity came from a liar or from a diverged
client. Every rule leaves it out, counts it among the ``f`` liars it was told to expect, accuses it,
and gives it infinite suspicion. Rules that look at distances do the same to a row so long that the
square of its length is no float64.

**Ties** go to whoever comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.core import Aggregate, Gram, Record, TooFew, Vector, Visible


@dataclass(frozen=True)
class Seen:
    """The finite rows of ``visible`` in the space of their inner products.

    A vector of that space says how much it holds of every row of the base, of whatever is
    ``beside`` them, and, last, of the row all others are seen from. Where ``m`` finite rows of
    ``n`` are left, everything here has ``m`` rows, in their order.
    """

    visible: Visible
    beside: tuple[Vector, ...]
    gram: Gram
    finite: Int[Tensor, "m"]
    """Which of the visible rows are finite."""
    holds: Float64[Tensor, "m basis"]
    """Each finite row as a vector of the space, less the row all are seen from."""

    @property
    def count(self) -> int:
        """Number of finite rows."""
        return len(self.finite)

    @property
    def lost(self) -> int:
        """Number of rows that are not finite."""
        return self.visible.count - self.count

    @cached_property
    def inner(self) -> Float64[Tensor, "basis basis"]:
        """Inner products of the basis; 0 for what is not finite and never held."""
        return self.gram.inner.nan_to_num(0.0, 0.0, 0.0)

    @cached_property
    def distances(self) -> Float64[Tensor, "m m"]:
        """Squared Euclidean distances between finite rows; rows mixed alike have the same."""
        unlike, which = _unlike(self.holds, self.visible.mix is not None)
        return squared_distances(unlike @ self.inner @ unlike.T)[which][:, which]

    @cached_property
    def products(self) -> Float64[Tensor, "m m"]:
        """Inner products of finite rows, seen from the origin."""
        whole = self.whole
        return whole @ self.inner @ whole.T

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
        return self.holds.new_zeros(self.holds.shape[1]).index_fill_(
            0, torch.tensor(len(self.visible.base) + place, device=self.holds.device), 1.0
        )

    def vector(self, weights: Float64[Tensor, "m"], *others: float) -> Vector:
        """Add up the finite rows, each times its weight, and whatever is ``beside`` them."""
        base = self.visible.base
        mix = self.visible.mix
        own = weights.new_zeros(self.visible.count).index_copy_(0, self.finite, weights)
        own = own if mix is None else own @ mix
        rest = own.new_tensor([*others] + [0.0] * (len(self.beside) - len(others)))
        return kernels.combine(base, torch.cat([own, rest]), self.beside)


def look(visible: Visible, beside: Sequence[Vector] = ()) -> Seen:
    """Take the inner products of all visible rows, or those at hand, and find the finite ones.

    Args:
        visible: What the server may see.
        beside: Finite vectors to have in the same space, such as the last update.
    """
    base, mix = visible.base, visible.mix
    known = visible.gram is not None and not beside
    found = visible.gram if known else kernels.gram(base, tuple(beside))
    assert found is not None
    basis = len(found.inner)
    good = found.inner.diagonal()[: len(base)].isfinite()
    if mix is None:
        finite = good.nonzero().flatten()
        holds = found.inner.new_zeros((len(finite), basis))
        holds[torch.arange(len(finite)), finite] = 1.0
    else:
        finite = (mix[:, ~good] == 0).all(1).nonzero().flatten()
        holds = found.inner.new_zeros((len(finite), basis))
        holds[:, : len(base)] = mix[finite]
        holds[:, -1] = mix[finite].sum(1) - 1.0
    return Seen(visible, tuple(beside), found, finite, holds)


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
        worst = suspicion.argsort(descending=True, stable=True)[:suspects]
        suspects = torch.zeros(len(finite), dtype=torch.bool, device=finite.device)
        suspects[worst] = True
    count = visible.count
    all_shares = torch.zeros(count, dtype=torch.float64, device=finite.device)
    everyone = torch.full_like(all_shares, torch.inf)
    accused = torch.ones(count, dtype=torch.bool, device=finite.device)
    all_shares[finite], everyone[finite] = shares.double(), suspicion.double()
    accused[finite] = suspects
    return Aggregate(update, all_shares, everyone, accused, memory or {}, record or {})
