"""The nouns and verbs every room shares: rows, keys, states, what parts take and return."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

Rows: TypeAlias = Float[Tensor, "_ params"]
"""One flattened update per client, or per group of clients."""

Vector: TypeAlias = Float[Tensor, "params"]
"""One flattened model, or one update to it."""

Record: TypeAlias = Mapping[str, float | int | str | None]
"""One line of results; ``None`` where a number does not exist."""


class TooFew(ValueError):  # noqa: N818 (it says what is the matter)
    """A round's cohort is too small for a part; another round's may not be."""


@dataclass(frozen=True)
class Key:
    """A place in a run where randomness is drawn.

    Two keys with the same seed and path draw the same numbers, whatever else the run does
    before, after or beside them. Streams are for experiments: torch's generator takes 32 bits of
    a key, so nothing that must stay secret is ever drawn from one.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def __truediv__(self, part: str | int) -> Key:
        """Step into a sub-stream: ``key / "round" / 3 / "attack"``."""
        return replace(self, path=(*self.path, part))

    def number(self) -> int:
        """Name the place by 56 bits."""
        name = json.dumps([self.seed, *self.path]).encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")

    def stream(self) -> torch.Generator:
        """Open the stream; always on the CPU, so every device draws the same numbers."""
        return torch.Generator().manual_seed(self.number())

    @contextmanager
    def seeded(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """Let code that can only draw from torch's global generators draw from here."""
        cuda = [device] if torch.device(device).type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.default_generator.manual_seed(self.number())
            for each in cuda:
                with torch.cuda.device(each):
                    torch.cuda.manual_seed(self.number())
            yield


@dataclass(frozen=True)
class Card:
    """Where a data set comes from and what may be done with it."""

    name: str
    source: str
    license: str
    sha256: str
    note: str = ""


@dataclass(frozen=True)
class Examples:
    """Inputs, what they should be mapped to, and who or what they are about."""

    inputs: Float[Tensor, "examples ..."]
    targets: Int[Tensor, "examples"] | Float[Tensor, "examples"]
    attributes: Mapping[str, Int[Tensor, "examples"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"targets": self.targets, **self.attributes}
        for name, column in columns.items():
            if len(column) != len(self.inputs):
                raise ValueError(
                    f"data: {name} has {len(column)} entries for {len(self.inputs)} inputs"
                )
        if not bool(torch.isfinite(self.inputs).all()):
            bad = (~torch.isfinite(self.inputs).reshape(len(self), -1).all(1)).sum()
            raise ValueError(f"data: {int(bad)} of {len(self)} inputs hold NaN or infinity")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str) -> Examples:
        """Move everything to ``device``; nothing is copied if it is there already."""
        moved = {name: column.to(device) for name, column in self.attributes.items()}
        return Examples(self.inputs.to(device), self.targets.to(device), moved)


@dataclass(frozen=True)
class Dataset:
    """Examples to learn from and to be judged by; ``classes=0`` means regression."""

    train: Examples
    test: Examples
    classes: int
    card: Card
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Readable names of classes (``"classes"``) and of each attribute's values."""

    def __post_init__(self) -> None:
        for part in (self.train, self.test) if self.classes else ():
            if (
                len(part)
                and not 0 <= int(part.targets.min()) <= int(part.targets.max()) < self.classes
            ):
                raise ValueError(f"data: targets must be in 0..{self.classes - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, batch dimension left out."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> Dataset:
        """Move everything to ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Shards:
    """Who holds which examples: client ``i`` holds ``shards[i]``; nothing is copied."""

    indices: Int[Tensor, "examples"]
    offsets: Int[Tensor, "clients_plus_one"]

    def __post_init__(self) -> None:
        starts_right = len(self.offsets) > 0 and int(self.offsets[0]) == 0
        if not starts_right or int(self.offsets[-1]) != len(self.indices):
            raise ValueError("shards: offsets must run from 0 to the number of indices")

    @classmethod
    def of(cls, lists: Sequence[Tensor]) -> Shards:
        """Build from one index list per client."""
        sizes = torch.tensor([0, *(len(one) for one in lists)])
        indices = torch.cat([torch.zeros(0, dtype=torch.long), *lists])
        return cls(indices, sizes.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> Int[Tensor, "held"]:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.indices[int(self.offsets[client]) : int(self.offsets[client + 1])]

    @property
    def sizes(self) -> Int[Tensor, "clients"]:
        """Examples held by each client."""
        return self.offsets.diff()


@dataclass(frozen=True)
class Partition:
    """A data set dealt to clients; a feature skew may have changed its inputs."""

    data: Dataset
    shards: Shards


Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[batch, ...]`` and targets ``[batch]`` to one loss per example."""


def cross_entropy(
    outputs: Float[Tensor, "batch classes"], targets: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Charge each example the negative log-probability of its class."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def squared_error(
    outputs: Float[Tensor, "batch 1"] | Float[Tensor, "batch"], targets: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Charge each example the square of its error."""
    return (outputs.reshape(targets.shape) - targets).square()


@dataclass(frozen=True)
class Model:
    """A network seen as one flat vector.

    ``module`` is only the recipe: its own parameter values are the initial ones and never
    change. Buffers are constants.
    """

    module: nn.Module
    loss: Loss
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    initial: Vector

    @property
    def params(self) -> int:
        """Length of the flat vector."""
        return len(self.initial)

    def views(self, flat: Float[Tensor, "... params"]) -> dict[str, Tensor]:
        """See the last dimension of ``flat`` as named parameters, without copying."""
        sizes = [shape.numel() for shape in self.shapes]
        parts = zip(self.names, self.shapes, flat.split(sizes, dim=-1), strict=True)
        return {name: part.unflatten(-1, shape) for name, shape, part in parts}

    def __call__(self, flat: Vector, inputs: Tensor, *, train: bool = False) -> Tensor:
        """Run the network with the parameters ``flat`` on a batch."""
        # The mode is a flag of the shared recipe; training needs it for dropout alone.
        self.module.train(train)
        outputs: Tensor = torch.func.functional_call(self.module, self.views(flat), (inputs,))
        return outputs


@dataclass(frozen=True)
class Visible:
    """What the server may look at: one row per revealed client or group of clients.

    Only secure aggregation makes one, and an aggregator takes nothing else.
    """

    rows: Rows
    members: tuple[tuple[int, ...], ...]
    """Clients behind each row."""
    weights: Float[Tensor, "_"]
    """What each row counts for in a weighted mean: the examples its members claim."""

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.members) == len(self.weights):
            raise ValueError("visible: rows, members and weights differ in number")


@dataclass(frozen=True)
class State:
    """What a round needs from the round before: the model and the memories of parts.

    A memory is named ``room/what`` (``server/momentum``, ``clients/momentum``); all are
    tensors, so a checkpoint is a plain file of tensors.
    """

    params: Vector
    memory: Mapping[str, Tensor] = field(default_factory=dict)

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
        found = otherwise.expand(len(clients), -1).clone()
        if name in self.memory:
            ids = self.memory[f"{name}/of"]
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
        kept = rows.new_empty((len(ids), rows.shape[1]))
        if len(old):
            kept[torch.searchsorted(ids, old)] = self.memory[name]
        kept[torch.searchsorted(ids, fresh)] = rows
        return {name: kept, f"{name}/of": ids}


@dataclass(frozen=True)
class Task:
    """What clients are asked to learn: a model, and who holds which examples."""

    model: Model
    data: Examples
    shards: Shards

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
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """Client memories to carry into the next state."""


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
    update: Vector


@runtime_checkable
class Partitioner(Protocol):
    """From a data set to who holds what."""

    def __call__(self, data: Dataset, *, clients: int, key: Key) -> Partition:
        """Deal ``data.train`` to ``clients`` clients; every example goes to at most one."""


@runtime_checkable
class Cohort(Protocol):
    """From all registered clients to those who take part in a round."""

    def __call__(self, clients: int, *, key: Key) -> tuple[int, ...]:
        """Return distinct client numbers in ascending order."""


@runtime_checkable
class LocalTraining(Protocol):
    """From a state to one row per client of the cohort."""

    def __call__(
        self,
        task: Task,
        state: State,
        start: Vector | Rows,
        cohort: Sequence[int],
        *,
        key: Key,
        round: int,
        compute: Compute,
    ) -> Updates:
        """Train every client of the cohort from ``start`` (shared, or a row for each)."""


@runtime_checkable
class Privacy(Protocol):
    """From the rows honest clients computed to the rows they send."""

    def __call__(self, rows: Rows, *, key: Key) -> Rows:
        """Return as many rows as came in."""


@runtime_checkable
class Attack(Protocol):
    """From the rows honest clients send to the rows hostile clients send."""

    def __call__(self, honest: Rows, *, own: Rows, key: Key) -> Rows:
        """Return a row for each of ``own``, the rows the hostile would honestly send."""


@runtime_checkable
class SecureAggregation(Protocol):
    """From the rows clients send to what the server may see."""

    def __call__(
        self, sent: Rows, weights: Float[Tensor, "_"], *, clients: tuple[int, ...], key: Key
    ) -> Visible:
        """Return at least one row."""


@runtime_checkable
class Aggregator(Protocol):
    """From the visible rows to one update."""

    def __call__(self, visible: Visible) -> Vector:
        """Return the update the server will apply."""


@runtime_checkable
class Server(Protocol):
    """From a state and an update to the next state."""

    def __call__(self, state: State, update: Vector) -> State:
        """Return the next state; leave ``state`` as it is."""


@runtime_checkable
class Watcher(Protocol):
    """From a finished round to numbers about it."""

    def __call__(self, trace: Trace) -> Record:
        """Return entries to add to the round's record."""


@runtime_checkable
class Tracker(Protocol):
    """Somewhere results go, one record at a time."""

    def __call__(self, record: Record) -> None:
        """Take one record."""


@runtime_checkable
class Engine(Protocol):
    """From a training function and a cohort to the cohort's updates, wherever they run."""

    def __call__(self, train: Callable[[Sequence[int]], Updates], cohort: Sequence[int]) -> Updates:
        """Return one row per client, in the cohort's order."""


@dataclass(frozen=True)
class Compute:
    """Where and how gradients are computed; never what they are."""

    device: str = "cpu"
    threads: int = 1
    method: str = "auto"
    """``auto``, ``flat``, ``vmap``, ``chain`` or ``compiled``; see ``learning.methods``."""
    group: int = 0
    """Clients trained side by side; 0 lets the documented rule choose."""

    def __post_init__(self) -> None:
        methods = ("auto", "flat", "vmap", "chain", "compiled")
        if self.method not in methods:
            raise ValueError(f"compute.method must be one of {methods}, got {self.method!r}")
        if self.threads < 1:
            raise ValueError(f"compute.threads must be at least 1, got {self.threads}")
        if self.group < 0:
            raise ValueError(f"compute.group must be 0 or more, got {self.group}")
