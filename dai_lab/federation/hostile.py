"""Hostile clients: who they are, what they hold, what they know, and what they send."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.attacks import none as behave
from dai_lab.core import (
    Context,
    Examples,
    Gram,
    Key,
    Lies,
    Outcome,
    Plot,
    Protected,
    Rows,
    Shards,
    Sight,
    State,
    Updates,
    Vector,
)
from dai_lab.federation.aggregating import aggregated
from dai_lab.federation.founding import Federation
from dai_lab.federation.private import equal, noised_rows
from dai_lab.federation.verdicts import judge_on
from dai_lab.privacy import shortened


@dataclass(frozen=True)
class Told:
    """What the clients of a round mean to send, honest or not."""

    rows: Rows
    protected: Protected
    """What honest clients promised of theirs; votes are everybody's."""
    changed: int = 0
    """Rows that are not what an honest client would have sent."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


def poisoned(us: Federation, state: State, key: Key, *, again: bool) -> tuple[Federation, State]:
    """Let hostile clients change what they train on; ``again`` takes what they remember doing.

    Their examples are appended to the common data, so that nobody else's change. Poison that is
    never renewed remembers nothing when it is called: a run that goes on calls it once more.

    Raises:
        ValueError: The poison changes none of the examples that hostile clients hold, or returns
            others than came in.
    """
    if not us.poisons:
        return us, state
    clean = us.clean or us.task
    if us.renew and not again:
        # A run that goes on from a later model shows what this one does.
        state = state.remember({"poison/params": state.params.clone()})
    kept = state.memory if us.renew else {}
    plot = Plot(
        key=key,
        classes=us.classes,
        victims=us.test,
        model=clean.model,
        params=kept.get("poison/params", state.params),
        memory={name: one for name, one in kept.items() if name.startswith("poison/")},
        compute=us.compute,
    )
    held, owners = _held(clean.shards, us.hostile)
    if len(held):
        honest = clean.data.some(held.to(clean.data.targets.device))
        if again:
            bad = Examples(
                kept["poison/inputs"],
                kept["poison/targets"],
                {name: kept[f"poison/attributes/{name}"] for name in honest.attributes},
            )
        else:
            found = us.poison(honest, replace(plot, owners=owners))
            bad = found.examples
            _as_many(honest, bad)
            state = state.remember(found.memory)
            plot = replace(plot, memory={**plot.memory, **found.memory})
            if us.renew:
                done = {"poison/inputs": bad.inputs, "poison/targets": bad.targets}
                done |= {f"poison/attributes/{name}": one for name, one in bad.attributes.items()}
                state = state.remember(done)
        differs = changed(honest, bad).cpu()
        if not bool(differs.any()):
            raise ValueError(
                f"poison changes none of the {len(held)} examples that hostile clients hold: "
                "choose poison=none, or raise what share of them it changes"
            )
        lists = [clean.shards[client] for client in range(len(clean.shards))]
        places = len(clean.data) + torch.arange(len(held))
        for rank, client in enumerate(us.hostile):
            lists[client] = places[owners == rank]
        task = replace(clean, data=clean.data.followed_by(bad), shards=Shards.of(lists))
        us = replace(us, task=task, clean=clean, spoiled=_counted(differs, owners, us.hostile))
    shown = us.poison(us.test, plot).examples
    _as_many(us.test, shown)
    which = changed(us.test, shown)
    return replace(us, probe=shown.some(which.nonzero().flatten())), state


def _as_many(before: Examples, after: Examples) -> None:
    shapes = tuple(before.inputs.shape), tuple(after.inputs.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(f"poison: inputs of shape {shapes[0]} came back as {shapes[1]}")


def _held(shards: Shards, hostile: Sequence[int]) -> tuple[Tensor, Int[Tensor, "_"]]:
    parts = [shards[client] for client in hostile]
    owners = [torch.full((len(one),), rank) for rank, one in enumerate(parts)]
    nothing = torch.zeros(0, dtype=torch.long)
    return torch.cat([nothing, *parts]), torch.cat([nothing, *owners])


def _counted(differs: Tensor, owners: Tensor, hostile: Sequence[int]) -> Mapping[int, int]:
    return {client: int(differs[owners == rank].sum()) for rank, client in enumerate(hostile)}


def changed(before: Examples, after: Examples) -> Bool[Tensor, "examples"]:
    """Say which examples are not what they were."""
    inputs = (before.inputs != after.inputs).flatten(1).any(1)
    return inputs | (before.targets != after.targets)


def told(
    us: Federation,
    rows: Rows,
    weights: Float[Tensor, "_"],
    cohort: Sequence[int],
    state: State,
    number: int,
    key: Key,
) -> Told:
    """Return what the clients of a round mean to send, and how many rows a lie changed.

    Raises:
        ValueError: An attack that was not quiet changed nothing.
    """
    lying, straight = _places(cohort, us.hostile, rows.device)
    if not len(lying):
        alone = us.privacy(rows, state=state, key=key / "privacy")
        return Told(alone.rows, alone)
    liars = [client for client in cohort if client in us.hostile]
    computed, before = _some(rows, straight), rows._version
    protected = us.privacy(computed, state=state, key=key / "privacy")
    honest = protected.rows
    theirs = us.privacy(_some(rows, lying), state=state, key=key / "privacy" / "hostile")
    own = theirs.rows
    spoiled = torch.tensor([us.spoiled.get(client, 0) > 0 for client in liars])

    def train(
        start: Vector | Rows | None = None,
        *,
        clean: bool = False,
        stage: int = 0,
        **knobs: float | int,
    ) -> Rows:
        takes = inspect.signature(us.local).parameters
        if missing := [name for name in knobs if name not in takes]:
            raise ValueError(f"attack needs local.{missing[0]}: choose local=sgd")
        again = key / "again" / stage if stage else key
        task = us.clean if clean and us.clean else us.task
        begin = state.params if start is None else start
        local: Callable[..., Updates] = partial(us.local, **knobs)  # type: ignore[arg-type]
        found = local(
            task, state, begin, liars, key=again / "local", round=number, compute=us.compute
        )
        return found.rows

    @cache
    def clean() -> Rows:
        trained = train(clean=True)
        return us.privacy(trained, state=state, key=key / "privacy" / "hostile").rows

    seen = own if us.knows == "own" else honest
    if us.knows == "mean" and len(honest):
        seen = honest.mean(dim=0, keepdim=True)
    others = tuple(client for client in cohort if client not in us.hostile)
    heard = {"own": tuple(liars), "mean": ()}.get(us.knows, others)
    sight = Sight(
        honest=seen,
        clients=heard,
        key=key / "attack",
        others=len(honest),
        round=number,
        state=state,
        model=us.task.model,
        train=train,
        clean=clean if bool(spoiled.any()) else None,
        compute=us.compute,
    )
    if us.knows == "defense":
        guess = _imagined(
            us, state, protected, own, lying, straight, weights, cohort, key / "imagined"
        )
        sight = replace(sight, defense=guess)
    lies = us.attack(own, sight)
    if rows._version != before:
        raise ValueError("attack writes into the rows it is shown: let it copy them first")
    count = _lied(lies, own, clean() if clean.cache_info().currsize else None, spoiled)
    attacks = getattr(us.attack, "func", us.attack) is not behave
    # Later, a model that is broken or perfect may leave nothing to change.
    if attacks and not (count or lies.quiet or "federation/lied" in state.memory):
        raise ValueError(
            "attack changed none of the rows that hostile clients send: raise its strength, "
            "choose a poison where it boosts what one does, or attack=none"
        )
    memory = {**lies.memory, **({"federation/lied": torch.tensor(True)} if count else {})}
    sent = rows.clone()
    if honest is not computed:
        _put(sent, straight, honest)
    _put(sent, lying, lies.rows)
    if protected.votes is not None and theirs.votes is not None:
        votes = protected.votes.new_empty(len(cohort))
        votes[straight], votes[lying] = protected.votes, theirs.votes
        protected = replace(protected, votes=votes)
    return Told(sent, protected, count, memory, lies.record)


def _places(
    cohort: Sequence[int], hostile: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "_"], Int[Tensor, "_"]]:
    """Say where in a cohort those are who lie, and where the others."""
    lying = torch.tensor([client in hostile for client in cohort], device=device)
    return lying.nonzero().flatten(), (~lying).nonzero().flatten()


def _some(rows: Rows, at: Int[Tensor, "_"]) -> Rows:
    """Show some of the rows, uncopied where they follow each other."""
    run = _run(at)
    return rows[run] if isinstance(run, slice) else rows.index_select(0, run)


def _put(rows: Rows, at: Int[Tensor, "_"], others: Rows) -> None:
    """Replace some of the rows."""
    run = _run(at)
    if isinstance(run, slice):
        rows[run] = others
    else:
        rows.index_copy_(0, run, others.expand(len(run), -1))


def _run(at: Int[Tensor, "_"]) -> slice | Int[Tensor, "_"]:
    """Say as a slice, if it is one, which rows are meant: indices are ten times as slow."""
    if not len(at):
        return at
    first, last = int(at[0]), int(at[-1])
    return slice(first, last + 1) if last - first == len(at) - 1 else at


def _lied(lies: Lies, own: Rows, clean: Rows | None, spoiled: Bool[Tensor, "_"]) -> int:
    """Count rows that honest clients would not have sent."""
    straight = own if clean is None else clean
    same = [_alike(lie, row) for lie, row in zip(lies.rows, straight, strict=True)]
    if clean is None:  # what they would have sent without poison is another row
        same = [one and not bad for one, bad in zip(same, spoiled.tolist(), strict=True)]
    return same.count(False)


def _alike(one: Vector, other: Vector) -> bool:
    parts = (slice(0, 256), slice(256, None))  # lies seldom agree with the truth so far
    return all(
        torch.equal(one[part], other[part])
        or torch.allclose(one[part], other[part], rtol=0, atol=0, equal_nan=True)
        for part in parts
    )


def _imagined(
    us: Federation,
    state: State,
    protected: Protected,
    own: Rows,
    lying: Int[Tensor, "_"],
    straight: Int[Tensor, "_"],
    weights: Float[Tensor, "_"],
    cohort: Sequence[int],
    key: Key,
) -> Callable[[Rows], Outcome]:
    """Return the defense as hostile clients can run it themselves.

    They know its rule, its knobs and its memory; what it draws they draw anew, and in place of
    the server's examples they have their own.
    """
    honest = protected.rows
    sent = honest.new_empty((len(cohort), honest.shape[1]))
    _put(sent, straight, honest)
    liars = [cohort[at] for at in lying.tolist()]
    context = Context(key / "aggregator", state, us.task.model)
    if len(us.root):
        clean = us.clean or us.task
        held = _held(clean.shards, us.hostile)[0][: len(us.root)]
        context = replace(context, root=lambda: own.mean(0), judge=judge_on(us, held))

    @cache
    def among_honest() -> Gram:
        return kernels.gram(honest)

    def defense(rows: Rows) -> Outcome:
        _put(sent, lying, rows)
        shapes = us.task.model.shapes
        way = us.compression(
            sent, clients=cohort, state=state, shapes=shapes, key=key / "compression"
        )
        arrived = way.rows if us.clip is None else shortened(way.rows, us.clip)
        counts = equal(protected, weights).to(arrived.device)
        visible = us.secagg(
            arrived, counts, clients=tuple(cohort), key=key / "secagg", rehearsal=True,
            encoding=protected.encoding,
        )  # fmt: skip
        visible = noised_rows(protected, visible, key)
        if visible.base is sent:
            # Only the hostile send something else than before.
            compare = partial(_compared, among_honest, honest, rows, straight, lying)
            visible = replace(visible, compare=compare)
        found, _ = aggregated(us.aggregator, visible, context)
        kept = {
            one
            for members, share in zip(visible.members, found.shares.tolist(), strict=True)
            for one in members
            if share
        }
        return Outcome(found.update, torch.tensor([one in kept for one in liars]))

    return defense


def _compared(
    among_honest: Callable[[], Gram],
    honest: Rows,
    rows: Rows,
    straight: Int[Tensor, "_"],
    lying: Int[Tensor, "_"],
) -> Gram:
    """Take the inner products of a cohort's rows, where those of the honest were taken before."""
    unlike: list[Vector] = []
    which = []  # of those that are not the same each hostile client sends
    for row in rows[:1] if rows.stride(0) == 0 else rows:
        same = [at for at, one in enumerate(unlike) if torch.equal(one, row)]
        which += same or [len(unlike)]
        unlike += [] if same else [row]
    which += [0] * (len(rows) - len(which))
    known = kernels.beside(among_honest(), honest, unlike)
    count = len(honest)
    order = torch.empty(count + len(rows) + 1, dtype=torch.long)
    order[straight.cpu()] = torch.arange(count)
    order[lying.cpu()] = count + torch.tensor(which)
    order[-1] = count + len(unlike)
    return Gram(known.inner[order][:, order], int(straight[known.center]))
