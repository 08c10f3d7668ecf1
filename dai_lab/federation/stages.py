"""A federated round, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dai_lab.compression import dense
from dai_lab.core import Key, Protected, Rows, State, TooFew, Trace, Training, Updates
from dai_lab.federation.aggregating import aggregated
from dai_lab.federation.canaries import join, listen
from dai_lab.federation.clock import Clock
from dai_lab.federation.founding import Federation
from dai_lab.federation.hostile import Told, told
from dai_lab.federation.private import (
    bills,
    equal,
    nobody,
    noised,
    noised_rows,
    refuse,
    voted,
)
from dai_lab.federation.verdicts import known, verdict
from dai_lab.privacy import charged, shortened

NEEDED = 12
"""Bytes a device needs for each parameter: the weight, its gradient, and where it started."""

NOTHING = {
    "arrived": 0,
    "hostile": 0,
    "rows_changed": 0,
    "rows_not_finite": 0,
    "visible_rows": 0,
    "rows_dropped": 0,
    "rows_suspected": 0,
    "hostile_suspected": 0,
    "train_loss": None,
    "update_norm": 0.0,
    "bytes_up": 0,
    "bytes_down": 0,
    "flops": 0.0,
    "seconds": 0.0,
}
"""The record of a round nobody joined."""

AGAIN = 60.0
"""Simulated seconds after which a server that found too few clients looks again."""


@dataclass(frozen=True)
class Mail:
    """Messages on their way to the server, sorted by client."""

    clients: tuple[int, ...]
    rows: Rows
    weights: Float[Tensor, "_"]
    losses: Float[Tensor, "_"]
    finish: Float[Tensor, "_"]
    """Simulated seconds at which each arrives."""
    born: Tensor
    """The round in which each client was given its model."""

    def some(self, mask: Bool[Tensor, "_"]) -> Mail:
        """Keep some of the messages."""
        if bool(mask.all()):
            return self
        there = mask.to(self.rows.device)
        chosen = tuple(c for c, one in zip(self.clients, mask.tolist(), strict=True) if one)
        return Mail(
            chosen, self.rows[there], self.weights[mask], self.losses[mask], self.finish[mask],
            self.born[mask],
        )  # fmt: skip


def together(
    us: Federation, train: Training, state: State, number: int, key: Key, clock: Clock
) -> tuple[State, dict[str, Any]]:
    """Play a federated round.

    Sample, train, protect, attack, compress, wait, clip, conceal, aggregate, step.
    """
    now = float(state.memory.get("federation/seconds", torch.zeros(())))
    flying = state.memory.get("flying/clients")
    away = set() if flying is None else set(flying.tolist())
    with clock("cohort"):
        drawn = us.cohort(us.task.shards.sizes, now=now, key=key / "cohort")
        cohort, unfit, failing = _present(us, drawn, away, key / "devices")
    counts = {"cohort": len(cohort) + failing}
    if us.profiles is not None:
        counts |= {"unfit": unfit, "dropped": failing}
    holds = bool(cohort) and int(us.task.shards.sizes[list(cohort)].sum())
    # Without it the hour would never come at which somebody is there.
    nothing = {**NOTHING, "seconds": 0.0 if us.profiles is None else AGAIN}
    if not away and not holds:
        return nobody(us, state, number, key) or state, {**counts, **nothing}
    try:
        return _carried_out(us, train, state, number, key, clock, cohort, now, counts)
    except TooFew as few:
        if number == 1:
            raise
        # A small cohort drawn by chance must not end a long run for good.
        return state, {**counts, **nothing, "skipped": str(few)}


def _present(
    us: Federation, drawn: Sequence[int], away: set[int], key: Key
) -> tuple[tuple[int, ...], int, int]:
    """Return who starts and does not drop out, how many cannot, and how many will drop out."""
    free = [client for client in drawn if client not in away]
    # Whoever is still at work counts for the cohort: only the places left are filled.
    places = max(len(drawn) - len(away), 0)
    if places < len(free):
        order = torch.randperm(len(free), generator=(key / "free").stream())[:places]
        free = [free[at] for at in order.sort().values.tolist()]
    if us.profiles is None or not free:
        return tuple(free), 0, 0
    fits = us.profiles.memory[free] >= NEEDED * us.task.model.params
    able = [client for client, one in zip(free, fits.tolist(), strict=True) if one]
    coins = torch.rand(len(able), generator=(key / "failing").stream())
    lasts = (coins >= us.profiles.failing[able]).tolist()
    stay = tuple(client for client, one in zip(able, lasts, strict=True) if one)
    return stay, len(free) - len(able), len(able) - len(stay)


def _carried_out(
    us: Federation,
    train: Training,
    state: State,
    number: int,
    key: Key,
    clock: Clock,
    cohort: tuple[int, ...],
    now: float,
    counts: dict[str, int],
) -> tuple[State, dict[str, Any]]:
    """Play a round whose cohort is known."""
    spent: dict[str, Any] = {"bytes_up": 0, "bytes_down": 0, "flops": 0.0}
    liars: tuple[int, ...] = tuple(client for client in cohort if client in us.hostile)
    meant: Told | None = None
    learned: Mapping[str, Tensor] = {}
    mail = _flying(state)
    if cohort:
        with clock("train"):
            updates = train(state, state.params, cohort, key=key / "local", round=number)
        with clock("protect"):
            meant = told(us, updates.rows, updates.weights.cpu(), cohort, state, number, key)
            shapes = us.task.model.shapes
            sent = us.compression(
                meant.rows, clients=cohort, state=state, shapes=shapes, key=key / "compression"
            )
            share = len(cohort) / len(us.task.shards)
            planted, theirs = join(us, meant.protected, state, sent.rows.shape[1], share, key)
        learned = {**updates.learned, **sent.learned}
        state = state.remember({**updates.memory, **meant.memory})
        up = min(sent.bytes / len(cohort), math.inf if updates.up is None else float(updates.up))
        width = updates.rows.shape[1] * updates.rows.itemsize
        down = width if updates.down is None else updates.down
        spent = {
            "bytes_up": round(up * len(cohort)),
            "bytes_down": down * (counts["cohort"]),
            "flops": us.work * float(updates.looks.sum()),
        }
        finish = now + _seconds(us, cohort, updates.looks, up, down)
        born = torch.full((len(cohort),), number)
        weights, losses = updates.weights.cpu(), updates.losses.cpu()
        fresh = Mail(cohort, sent.rows, weights, losses, finish, born)
        if planted:
            fresh = _with(fresh, planted, theirs)
        mail = fresh if mail is None else _joined(mail, fresh)
    assert mail is not None
    pace = us.pace(mail.finish - now, number - mail.born, key=key / "pace")
    state = _sent_off(state, mail, ~pace.taken if pace.flying else pace.taken & False)
    late = 0 if pace.flying else int((~pace.taken).sum())
    taken = dict(zip(mail.clients, pace.taken.tolist(), strict=True))
    # Whoever is sent home stops where it is, and remembers nothing of this round.
    stay = [at for at, client in enumerate(cohort) if pace.flying or taken[client]]
    if stay:
        for name, memories in learned.items():
            who = [cohort[at] for at in stay]
            rows = memories if len(stay) == len(cohort) else memories[stay]
            state = state.remember(state.keep(name, who, rows))
    if us.profiles is not None:
        counts = {**counts, "dropped": counts["dropped"] + late}
    votes = None if meant is None else meant.protected.votes
    if votes is not None:
        if pace.flying:
            raise ValueError("privacy: bounds that adapt need pace=everyone or deadline")
        votes = _padded(votes, len(mail.clients))[pace.taken]
    mail = mail.some(pace.taken)
    spent |= {"seconds": pace.until}
    # What was promised is the same for all; who sent nothing in this round promised nothing new.
    guard = meant.protected if meant else _promised(us, state, mail, key)
    if not mail.clients:
        return state, {**counts, **NOTHING, **spent}
    with clock("protect"):
        rows = mail.rows if us.clip is None else shortened(mail.rows, us.clip)
        if guard.noise is not None and (us.hostile or not _as_computed(us)):
            rows = shortened(rows, guard.bound)  # what was sent may be longer: a lie, or compressed
        factors = pace.factors[pace.taken].to(rows)
        if bool((factors != 1).any()):
            rows = rows * factors.unsqueeze(1)
        weights = equal(guard, mail.weights).to(rows.device)
        if us.ledger is not None:
            us.ledger.sent(number, mail.clients, rows, weights)
        visible = us.secagg(
            rows, weights, clients=mail.clients, key=key / "secagg", encoding=guard.encoding
        )
        refuse(us, guard, visible, rows.shape[1])
        visible = noised_rows(guard, visible, key)
    with clock("aggregate"):
        context, worked = known(us, train, state, number, key / "aggregator")
        found, took = aggregated(us.aggregator, visible, context)
        # A protocol counts its own bytes, where it has any.
        spent |= {name: took[name] for name in ("bytes_up", "bytes_down") if name in took}
        spent["flops"] += worked()
        found = noised(us, guard, visible, found, key)
        if us.ledger is not None:
            us.ledger.revealed(number, mail.clients, visible, found)
        state = state.remember(found.memory)
        if votes is not None:
            state = state.remember(voted(us, guard, votes, mail.clients, key))
        owed = bills(us, guard, mail.clients, visible, updates if cohort else None, cohort)
        if owed:
            state = state.remember(charged(state.memory, owed, round=number))
        seen = visible if guard.local else None
        state = state.remember(listen(us, state, found, key, seen))
        after = us.server(state.remember(_spoken_for(us, mail)), found.update)
    lying = torch.tensor([client in us.hostile for client in mail.clients])
    record: dict[str, Any] = {
        **counts,
        "arrived": len(mail.clients),
        "hostile": int(lying.sum()),
        "rows_changed": meant.changed if meant else 0,
        "rows_not_finite": int((~rows.sum(1).isfinite()).sum()),
        "visible_rows": visible.count,
        **{f"secagg/{name}": one for name, one in took.items() if name not in spent},
        **verdict(visible, found, us.hostile),
        **({f"attack/{name}": one for name, one in meant.record.items()} if meant else {}),
        "train_loss": mean(mail.losses, mail.weights * ~lying),
        "update_norm": float(found.update.norm()),
        **spent,
    }
    if pace.flying:
        record["staleness"] = float((number - mail.born).double().mean())
    with clock("watch"):
        if us.watch:
            liars = tuple(client for client in mail.clients if client in us.hostile)
            trace = Trace(
                number, key, state, after, mail.clients, liars, rows, weights, visible, found
            )
            for name, watcher in us.watch.items():
                noted = watcher(trace)
                record |= {f"{name}/{entry}": value for entry, value in noted.items()}
    return after, record


def _with(mail: Mail, planted: tuple[int, ...], rows: Rows) -> Mail:
    """Add clients that are planted for an audit, who are as quick as anybody."""
    count, more = len(planted), mail.finish.max()
    return Mail(
        mail.clients + planted,
        torch.cat([mail.rows, rows]),
        _padded(mail.weights, len(mail.clients) + count, 1.0),
        _padded(mail.losses, len(mail.clients) + count),
        _padded(mail.finish, len(mail.clients) + count, float(more)),
        _padded(mail.born, len(mail.clients) + count, float(mail.born[0])),
    )


def _padded(values: Tensor, count: int, fill: float = 0.0) -> Tensor:
    return torch.cat([values, values.new_full((count - len(values),), fill)])


def _as_computed(us: Federation) -> bool:
    """Tell whether rows arrive as clients meant to send them."""
    return getattr(us.compression, "func", us.compression) is dense


def _promised(us: Federation, state: State, mail: Mail, key: Key) -> Protected:
    """Return what is promised of rows that were sent in earlier rounds."""
    return us.privacy(mail.rows[:0], state=state, key=key / "privacy")


def learn(state: State, cohort: Sequence[int], updates: Updates) -> State:
    """Remember what clients keep to themselves, and what is nobody's own."""
    for name, rows in updates.learned.items():
        state = state.remember(state.keep(name, cohort, rows))
    return state.remember(updates.memory) if updates.memory else state


def mean(values: Float[Tensor, "_"], weights: Float[Tensor, "_"]) -> float | None:
    """Mean over clients by their examples; ``None`` where nobody has any."""
    total = float(weights.sum())
    return float((values * weights.to(values.device)).sum()) / total if total else None


def _spoken_for(us: Federation, mail: Mail) -> dict[str, Tensor]:
    """Say what share of all clients, and of all examples, a round's update speaks for."""
    sizes = us.task.shards.sizes
    clients = torch.tensor(len(mail.clients) / len(sizes))
    real = [client for client in mail.clients if client < len(sizes)]  # and not planted
    examples = sizes[real].sum() / sizes.sum()
    return {"federation/participation": clients, "federation/examples": examples}


def _seconds(
    us: Federation, cohort: Sequence[int], looks: Float[Tensor, "_"], up: float, down: int
) -> Float[Tensor, "_"]:
    """Say how long each client takes to receive, compute and send."""
    if us.profiles is None:
        return torch.zeros(len(cohort), dtype=torch.float64)
    asked = list(cohort)
    computing = us.work * looks.double() / us.profiles.speed[asked]
    return down / us.profiles.down[asked] + computing + up / us.profiles.up[asked]


FLYING = ("rows", "weights", "losses", "finish", "born")


def _flying(state: State) -> Mail | None:
    """Recall messages that were on their way when the last round ended."""
    if "flying/clients" not in state.memory:
        return None
    clients = tuple(state.memory["flying/clients"].tolist())
    rows, *others = (state.memory[f"flying/{name}"] for name in FLYING)
    # A run that goes on has moved all its memories to where it computes.
    return Mail(clients, rows, *(one.cpu() for one in others))


def _sent_off(state: State, mail: Mail, rest: Bool[Tensor, "_"]) -> State:
    """Remember the messages that are still on their way."""
    if not bool(rest.any()):
        ground = {name: one for name, one in state.memory.items() if not name.startswith("flying/")}
        return State(state.params, ground)
    left = mail.some(rest)
    memory = {f"flying/{name}": getattr(left, name) for name in FLYING}
    return state.remember({"flying/clients": torch.tensor(left.clients), **memory})


def _joined(old: Mail, new: Mail) -> Mail:
    """Put messages of several rounds together, sorted by client."""
    clients = old.clients + new.clients
    order = sorted(range(len(clients)), key=clients.__getitem__)
    parts = [torch.cat([getattr(old, name), getattr(new, name)])[order] for name in FLYING]
    return Mail(tuple(clients[at] for at in order), *parts)
