"""Planted clients and records by which a run is audited while it goes on.

Each is there or not by a fair coin; who sees the rounds, or the model, guesses which. What is
guessed better than the promise allows gives it the lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core import Aggregate, Key, Protected, Rows, State, Visible
from dai_lab.federation.founding import Federation
from dai_lab.federation.private import sampling
from dai_lab.learning import predict
from dai_lab.privacy.audits import audited

SCORES = "audit/scores"


def join(
    us: Federation, protected: Protected, state: State, width: int, share: float, key: Key
) -> tuple[tuple[int, ...], Rows]:
    """Return the planted clients of a round and what they send: one entry, as long as may be.

    Its sign is drawn anew each round, so that a model is not driven anywhere. Noise of one's own
    promises that a row might as well be zeros, not that there is none: behind it, who does not
    exist sends zeros, through the same mechanism.

    Args:
        us: The federation; clients are numbered on from its own.
        protected: What honest clients promised and how long their rows may be.
        state: The model.
        width: Entries of a row.
        share: Part of all clients that is in the round, where they do not come by coins.
        key: The round's.
    """
    count = us.audit.clients
    if not count or protected.bound == torch.inf:
        return (), state.params.new_zeros((0, width))
    included, places = _who(us, width, key)
    rate = sampling(us) or share
    coins = torch.rand(count, generator=(key / "audit" / "joining").stream()) < rate
    there = (coins if protected.local else included & coins).nonzero().flatten()
    rows = state.params.new_zeros((len(there), width))
    signs = (_signs(us, key) * included)[there].to(rows)
    rows[torch.arange(len(there)), places[there]] = protected.bound * signs
    sent = us.privacy(rows, state=state, key=key / "privacy" / "audit").rows
    return tuple((len(us.task.shards) + there).tolist()), sent


def listen(
    us: Federation, state: State, found: Aggregate, key: Key, seen: Visible | None
) -> Mapping[str, Tensor]:
    """Remember how much of each planted client, there or not, a round seems to hold.

    Args:
        us: The federation.
        state: Holds what earlier rounds seemed to hold.
        found: The update, which everybody sees.
        key: The round's.
        seen: What the server sees, where clients' own noise is against that. Where each row is one
            client's, that row is what is listened to: the update has nothing to add.
    """
    if not us.audit.clients:
        return {}
    _, places = _who(us, len(found.update), key)
    heard = found.update[places.to(found.update.device)].double().cpu()
    if seen is not None and seen.sum is None and all(len(one) == 1 for one in seen.members):
        first = len(us.task.shards)
        at = [row for row, (client,) in enumerate(seen.members) if client >= first]
        who = torch.tensor([seen.members[row][0] - first for row in at], dtype=torch.long)
        entries = seen.rows[at, places[who].to(seen.rows.device)].double().cpu()
        heard = torch.zeros_like(heard).index_add(0, who, entries)
    heard *= _signs(us, key)
    return {SCORES: state.memory.get(SCORES, torch.zeros_like(heard)).cpu() + heard}


def verdicts(us: Federation, state: State, key: Key) -> dict[str, Any]:
    """Return what epsilon a finished run has at least, by what was guessed right."""
    found: dict[str, Any] = {}
    judged = partial(audited, delta=us.accounting.delta, confidence=us.audit.confidence)
    if us.audit.clients and SCORES in state.memory:
        included, _ = _who(us, us.task.model.params, key)
        bound = judged(state.memory[SCORES].numpy(), included.numpy())
        found["audit/client_epsilon"] = bound.epsilon
    if us.canaries is not None:
        chosen = us.canaries.examples.to(us.task.data.targets.device)
        data = (us.clean or us.task).data
        outputs = predict(us.task.model, state.params, data.inputs[chosen])
        losses = us.task.model.loss(outputs, data.targets[chosen]).double().cpu()
        bound = judged(-losses.numpy(), us.canaries.included.numpy())
        found["audit/record_epsilon"] = bound.epsilon
    return found


def _who(
    us: Federation, width: int, key: Key
) -> tuple[Bool[Tensor, "canaries"], Int[Tensor, "canaries"]]:
    """Return which planted clients exist, and which entry each of them sends."""
    root, count = Key(key.seed) / "audit", us.audit.clients
    most = us.task.model.params
    if count > most:
        raise ValueError(f"audit.clients must be at most {most} (a parameter each), got {count}")
    included = torch.rand(count, generator=(root / "included").stream()) < 0.5
    return included, torch.randperm(most, generator=(root / "places").stream())[:count]


def _signs(us: Federation, key: Key) -> Float[Tensor, "canaries"]:
    coins = torch.rand(us.audit.clients, generator=(key / "audit" / "signs").stream())
    return torch.where(coins < 0.5, -1.0, 1.0).double()
