"""What passes through a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from dai_lab.core.data import Examples, Shards
from dai_lab.core.fairness import Sensitive
from dai_lab.core.keys import Key
from dai_lab.core.model import Model, Rows, Vector
from dai_lab.core.privacy import Event

Record: TypeAlias = Mapping[str, float | int | str | None]
"""One line of results; ``None`` where a number does not exist."""


@dataclass(frozen=True)
class Gram:
    """Inner products of rows as seen from one of them, so that a common offset cancels nothing.

    ``inner[i, j]`` is the product of ``x[i] - x[center]`` and ``x[j] - x[center]``; the last row
    and column belong to ``x[center]`` itself. NaN where a row is not finite.
    """

    inner: Float64[Tensor, "n n"]
    center: int


@dataclass(frozen=True)
class Visible:
    """What the server may look at: one row per revealed client or group of clients.

    Only secure aggregation makes one, and an aggregator takes nothing else.
    """

    base: Rows
    """What was revealed. It is what the rows are made of; without ``mix``, it is the rows."""
    members: tuple[tuple[int, ...], ...]
    """Clients behind each row."""
    weights: Float[Tensor, "_"]
    """What each row counts for in a weighted mean: the examples its members claim."""
    mix: Float64[Tensor, "rows base"] | None = None
    """What each row holds of each of ``base``, where a rule mixed or scaled them."""
    gram: Gram | None = None
    """Inner products of ``base``, where they are known already."""
    distances: Float64[Tensor, "base base"] | None = None
    """Squared distances of ``base``, where they are known already."""
    compare: Callable[[], Gram] | None = None
    """Takes inner products of ``base``, where most of them were taken before."""
    record: Record = field(default_factory=dict)
    """What it took to reveal just this, such as bytes and a transcript's hash."""
    longer: float = 0.0
    """How much longer than its client sent it a row may have gone into its sum, by rounding."""
    sum: Callable[[Float64[Tensor, "rows"]], Visible] | None = None
    """Reveals one weighted sum of rows that are not revealed: ``base`` is then no more than their
    likeness, vectors of a small space with the same lengths and angles."""

    def __post_init__(self) -> None:
        if not self.count == len(self.members) == len(self.weights):
            raise ValueError("visible: rows, members and weights differ in number")

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.base) if self.mix is None else len(self.mix)

    @cached_property
    def rows(self) -> Rows:
        """The rows multiplied out; rules that need no mixed row never pay for it."""
        if self.mix is None:
            return self.base
        held = self.mix.ne(0).any(0)  # a row nobody holds any of may be NaN
        rows = self.mix[:, held].to(self.base) @ self.base[held]
        if not bool(rows.isfinite().all()):
            # 0 times NaN is NaN: only who holds some of a row that is not finite is not either.
            held &= self.base.isfinite().all(1)
            rows = self.mix[:, held].to(self.base) @ self.base[held]
            rows[self.mix[:, ~held].ne(0).any(1)] = torch.nan
        return rows


@dataclass(frozen=True)
class State:
    """What a round needs from the round before: the model and the memories of parts.

    A memory is named ``room/what`` (``server/momentum``, ``clients/momentum``); all are
    tensors, so a checkpoint is a plain file of tensors.
    """

    params: Vector
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the model and all memories."""
        return self.params.nbytes + sum(one.nbytes for one in self.memory.values())

    def remember(self, memories: Mapping[str, Tensor]) -> State:
        """Return a state with these memories added or replaced."""
        return replace(self, memory={**self.memory, **memories})

    def recall(self, name: str, clients: Sequence[int], otherwise: Tensor) -> Tensor:
        """Return what each of these clients remembers as ``name``, one a row.

        Args:
            name: Such as ``clients/momentum``.
            clients: Whose memories.
            otherwise: What a client remembers that was never asked before.
        """
        ids = self.memory.get(f"{name}/of")
        if ids is not None and ids.tolist() == list(clients):
            return self.memory[name].clone()
        found = otherwise.expand(len(clients), -1).clone()
        if ids is not None:
            asked = torch.as_tensor(clients, dtype=torch.long, device=ids.device)
            at = torch.searchsorted(ids, asked).clamp_max(len(ids) - 1)
            known = ids[at] == asked
            found[known] = self.memory[name][at[known]]
        return found

    def keep(self, name: str, clients: Sequence[int], rows: Tensor) -> Mapping[str, Tensor]:
        """Return the memories after these clients learned ``rows``, for ``remember``.

        Only clients that ever took part take space, whoever else is registered.
        """
        fresh = torch.as_tensor(clients, dtype=torch.long, device=rows.device)
        old = self.memory.get(f"{name}/of", fresh[:0])
        ids = torch.cat([old, fresh]).unique()
        if torch.equal(ids, fresh):
            return {name: rows, f"{name}/of": ids}  # nobody else remembers anything
        kept = rows.new_empty((len(ids), rows.shape[1]))
        if len(old):
            kept[torch.searchsorted(ids, old)] = self.memory[name]
        kept[torch.searchsorted(ids, fresh)] = rows
        return {name: kept, f"{name}/of": ids}


@dataclass(frozen=True)
class Context:
    """What a server knows beside the rows it sees; what it lacks is ``None``."""

    key: Key = field(default_factory=lambda: Key(0))
    state: State | None = None
    """The model before this round, and what parts remember."""
    model: Model | None = None
    root: Callable[[], Vector] | None = None
    """Trains on examples of the server's own as clients do on theirs; returns the update."""
    judge: Callable[[Rows], tuple[Float[Tensor, "_"], Float[Tensor, "_"]]] | None = None
    """From parameters, one model a row, to losses and error rates on the server's examples."""


ALONE = Context()
"""A server that knows nothing but what it sees."""


@dataclass(frozen=True)
class Aggregate:
    """What an aggregator makes of the rows, and what it thinks of each of them."""

    update: Vector
    shares: Float[Tensor, "_"]
    """How much of the update is each visible row's, 0 where it was dropped; sums to 1 for means."""
    suspicion: Float[Tensor, "_"]
    """How strange each visible row looks, on the rule's own scale; infinite if not finite."""
    suspected: Bool[Tensor, "_"]
    """Rows the rule would accuse."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What the rule needs to remember, named ``aggregator/what``."""
    record: Record = field(default_factory=dict)
    """Further numbers for the round's record."""


@dataclass(frozen=True)
class Task:
    """What clients are asked to learn: a model, and who holds which examples."""

    model: Model
    data: Examples
    shards: Shards
    sensitive: Sensitive | None = None
    """What divides people into groups, where that matters."""

    def __post_init__(self) -> None:
        held = self.shards.indices
        if len(held) and not 0 <= int(held.min()) <= int(held.max()) < len(self.data):
            raise ValueError(f"shards: examples must be in 0..{len(self.data) - 1}")


@dataclass(frozen=True)
class Updates:
    """What came out of local training, before privacy, attacks and secrecy."""

    rows: Rows
    weights: Float[Tensor, "_"]
    """Examples behind each row."""
    losses: Float[Tensor, "_"]
    """Mean loss each client saw while it trained."""
    looks: Float[Tensor, "_"]
    """Examples whose gradient each client computed, counted every time."""
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    """What each client keeps to itself for its next round, one row a client."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """Memories that are nobody's own, to carry into the next state."""
    up: int | None = None
    """Bytes a client sends, where they are not those of its row."""
    down: int | None = None
    """Bytes a client receives, where they are not as many as those of a row."""
    events: Sequence[tuple[Event, ...]] = ()
    """What each client's row gives away of its records; empty where nothing is promised."""


@dataclass(frozen=True)
class Sent:
    """What arrives of rows that were compressed on their way."""

    rows: Rows
    """As the server decodes them."""
    bytes: int
    """Sent by all clients together, counted on the wire format."""
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    """What each client keeps to itself, one row a client; such as what was left out."""


@dataclass(frozen=True)
class Profiles:
    """What each registered client's device can do."""

    speed: Float[Tensor, "clients"]
    """Floating-point operations a second in training, above 0."""
    down: Float[Tensor, "clients"]
    """Bytes a second received, above 0."""
    up: Float[Tensor, "clients"]
    """Bytes a second sent, above 0."""
    memory: Float[Tensor, "clients"]
    """Bytes free for training; who has too few for a model takes no part."""
    failing: Float[Tensor, "clients"]
    """Probability of dropping out in the middle of a round, in [0, 1]."""


@dataclass(frozen=True)
class Arrivals:
    """Whose updates the server takes for its next step, and when it takes it."""

    taken: Bool[Tensor, "_"]
    factors: Float[Tensor, "_"]
    """What each update is multiplied by; 1 unless it is stale."""
    until: float
    """Seconds from the start of the round to the step."""
    flying: bool = False
    """Whether those not taken may still arrive in a later round, or are sent home."""


@dataclass(frozen=True)
class Trace:
    """Everything that happened in one round, for watchers; nobody may change it."""

    round: int
    key: Key
    before: State
    after: State
    cohort: tuple[int, ...]
    hostile: tuple[int, ...]
    """Clients of the cohort that are hostile."""
    sent: Rows
    weights: Float[Tensor, "_"]
    visible: Visible
    aggregate: Aggregate
    """What the aggregator made of ``visible``, and what it thinks of each row."""


@dataclass(frozen=True)
class Compute:
    """Where and how gradients are computed; never what they are."""

    device: str = "cpu"
    threads: int = 1
    method: str = "auto"
    """``auto``, ``flat``, ``vmap``, ``chain`` or ``compiled``; see ``learning.methods``."""
    group: int = 0
    """Clients trained side by side; 0 lets the documented rule choose."""
    memory: float = 4.0
    """GiB on a GPU for the weights and gradients of clients side by side."""
    precision: str = "float32"
    """``float32``, or ``bfloat16`` for products while weights stay float32 (autocast)."""
    compile: bool = False
    """Whether ``vmap`` goes through ``torch.compile``, on a GPU with CUDA graphs."""

    def __post_init__(self) -> None:
        methods = ("auto", "flat", "vmap", "chain", "compiled")
        if self.method not in methods:
            raise ValueError(f"compute.method must be one of {methods}, got {self.method!r}")
        if self.threads < 1:
            raise ValueError(f"compute.threads must be at least 1, got {self.threads}")
        if self.group < 0:
            raise ValueError(f"compute.group must be 0 or more, got {self.group}")
        if not self.memory > 0:
            raise ValueError(f"compute.memory must be above 0 (GiB), got {self.memory}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute.precision must be float32 or bfloat16, got {self.precision!r}"
            )
