"""What a round promises about people: charged, priced, kept within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.aggregators import mean
from dai_lab.core import Aggregate, Event, Key, Protected, State, Updates, Visible
from dai_lab.fairness import thresholds
from dai_lab.federation.founding import Federation
from dai_lab.participation import everyone, poisson
from dai_lab.privacy import FINE, charged, epsilon, repeated, same, spent

STOPPED = "privacy/stopped"

PRICINGS = 20
"""How often in a run a sum of sampled releases is priced, which takes as long as a small round."""

COARSE = 1e-3
"""Width of a step of a discretized loss while a run goes on."""

AHEAD = (64, 16, 4, 1)
"""Rounds to look ahead, where they are all alike, so that few of them need a look of their own."""

Bills = list[tuple[Event, Sequence[int] | None]]


def sampling(us: Federation) -> float | None:
    """Return the rate with which clients secretly join by coins of their own, where they do.

    Raises:
        ValueError: It is claimed, and it is not so.
    """
    asked = us.accounting.amplified
    holds = {
        "cohort=poisson": getattr(us.cohort, "func", us.cohort) is poisson,
        "pace=everyone": getattr(us.pace, "func", us.pace) is everyone,
        "devices=none": us.profiles is None,
    }
    if missing := [one for one, there in holds.items() if not there]:
        if asked:
            raise ValueError(
                f"accounting.amplified needs {missing[0]}: only independent coins that nobody "
                "sees make a promise stronger"
            )
        return None
    return None if asked is False else float(getattr(us.cohort, "keywords", {}).get("rate", 0.1))


def equal(protected: Protected, weights: Float[Tensor, "_"]) -> Float[Tensor, "_"]:
    """Count every client the same where rows are bounded: how much it holds is private as well."""
    return weights if math.isinf(protected.bound) else torch.ones_like(weights)


def refuse(us: Federation, protected: Protected, visible: Visible, width: int) -> None:
    """Refuse what would make a promise of noise on the server's side wrong.

    Raises:
        ValueError: Names the knob.
    """
    if us.accounting.amplified and (protected.local or protected.encoding or protected.each):
        raise ValueError(
            "accounting.amplified is not for what the server sees, who knows whom it asked: only "
            "for privacy=central or adaptive with privacy.each=false"
        )
    if protected.noise is None:
        return
    if visible.sum is not None:
        raise ValueError("privacy: noise on the server needs another secagg than gram")
    if protected.each:
        return
    rule = us.aggregator
    weighted = getattr(rule, "keywords", {}).get("weighted", True)
    if getattr(rule, "func", rule) is not mean or not weighted:
        raise ValueError(
            "privacy: noise for a mean hides nobody behind another rule: choose aggregator=mean "
            "(aggregator.weighted=true), or privacy.each=true"
        )
    if sampling(us) is not None and width != us.task.model.params:
        raise ValueError("accounting.amplified needs rows of parameters alone: choose local=sgd")


def noised_rows(protected: Protected, visible: Visible, key: Key) -> Visible:
    """Add noise to the sum behind every visible row, where that is what was promised."""
    if protected.noise is None or not protected.each:
        return visible
    rows, memory = visible.rows.clone(), dict[str, Tensor]()
    for at, members in enumerate(visible.members):
        drawn = protected.noise(rows.shape[1], key / "noise" / at)
        rows[at] += drawn.vector.to(rows) / max(len(members), 1)
        memory |= drawn.memory
    return Visible(
        rows, visible.members, visible.weights, record=visible.record, longer=visible.longer
    )


def noised(
    us: Federation, protected: Protected, visible: Visible, found: Aggregate, key: Key
) -> Aggregate:
    """Add the noise of a sum to a mean, and divide by what nobody can learn anything from."""
    if protected.noise is None or protected.each:
        return found
    there = found.shares != 0
    count = float(visible.weights[there.to(visible.weights.device)].sum())
    drawn = protected.noise(len(found.update), key / "noise")
    over = _expected(us, float(visible.weights.sum()))
    update = (found.update * count + drawn.vector.to(found.update)) / over
    return replace(found, update=update, memory={**found.memory, **drawn.memory})


def _expected(us: Federation, there: float) -> float:
    rate = sampling(us)
    return there if rate is None else rate * len(us.task.shards)


def voted(
    us: Federation, protected: Protected, votes: Float[Tensor, "_"], clients: tuple[int, ...],
    key: Key,
) -> Mapping[str, Tensor]:  # fmt: skip
    """Let the server learn the noisy sum of what clients voted, by the protocol rows go through."""
    if protected.learn is None:
        return {}
    total, count = 0.0, _expected(us, float(len(clients)))
    if clients:
        seen = us.secagg(
            votes.unsqueeze(1), torch.ones_like(votes), clients=clients, key=key / "votes"
        )
        total = float((seen.rows[:, 0] * seen.weights.to(seen.rows)).sum())
    return protected.learn(total, count, key / "votes" / "noise")


def nobody(us: Federation, state: State, number: int, key: Key) -> State | None:
    """Play a round in which, by chance, nobody joined, so that it looks like any other.

    Returns:
        ``None`` where nothing depends on it.
    """
    rate = sampling(us)
    none = state.params.new_zeros((0, us.task.model.params))
    if rate is None:
        return None
    protected = us.privacy(none, state=state, key=key / "privacy")
    if protected.noise is None or protected.each:
        return None
    drawn = protected.noise(none.shape[1], key / "noise")
    update = drawn.vector.to(state.params) / _expected(us, 0.0)
    votes = voted(us, protected, none.new_zeros(0), (), key)
    spoken = {"federation/participation": torch.tensor(0.0), "federation/examples": torch.tensor(0)}
    after = us.server(state.remember({**drawn.memory, **votes, **spoken}), update)
    return after.remember(charged(after.memory, bills(us, protected, (), None), round=number))


def bills(
    us: Federation, protected: Protected, clients: Sequence[int], visible: Visible | None,
    updates: Updates | None = None, cohort: Sequence[int] = (),
) -> Bills:  # fmt: skip
    """List what a round gave away about whom.

    Raises:
        ValueError: Thresholds are chosen from counts that no noise covers.
    """
    found: Bills = [(event, clients) for event in protected.local]
    rate = None if protected.each else sampling(us)
    told = us.accounting.claimed or rate
    for event in protected.central:
        if visible is not None and visible.longer and event.mechanism == "gaussian":
            # What one client changes is longer than what it sent, and the noise that much weaker.
            much = protected.bound / (protected.bound + visible.longer)
            event = replace(event, numbers=(float(f"{event.numbers[0] * much:.6g}"),))
        if told is None:
            found.append((event, clients))
        else:
            found.append((replace(event, rate=told), None))
    if protected.encoding is not None and visible is not None:
        for members in visible.members:
            found += [(event, members) for event in protected.encoding.events(len(members))]
    if updates is not None:
        for client, events in zip(cohort, updates.events, strict=False):
            found += [(event, [client]) for event in events]
    decision = us.decision
    counted = getattr(decision, "keywords", {}).get("counts", "federated") == "federated"
    if found and counted and getattr(decision, "func", decision) is thresholds:
        raise ValueError(
            "decision.counts=federated tells the server counts that privacy puts no noise on: "
            "choose decision=local_thresholds, decision=highest or privacy=none"
        )
    return found


@dataclass
class Budget:
    """Prices a run round by round, and says when the next round would cost too much."""

    us: Federation
    rounds: int
    allowed: Mapping[str, Tensor] = field(default_factory=dict)
    """What the next round may bring the ledger to without a further look."""
    sure: int = 0
    """How many more rounds like the last would not exceed the budget."""

    def record(self, memory: Mapping[str, Tensor], number: int, *, last: bool) -> dict[str, Any]:
        """Return the round's epsilons, by unit, at rounds that are priced."""
        found = {}
        for unit, some in spent(memory).items():
            sampled = any(event.rate < 1 for bill in some for event in bill)
            apart = math.ceil(self.rounds / PRICINGS)
            if sampled and not last and number % apart:
                continue
            found[f"privacy/{unit}_epsilon"] = self._price(some, FINE if last else COARSE)
        return found

    def reached(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
        """Tell whether one more round like the last would exceed the budget."""
        if self.us.accounting.epsilon is None:
            return False
        like_before = bool(self.allowed) and same(after, self.allowed)
        self.sure = self.sure - 1 if like_before else 0
        self.allowed = repeated(before, after)
        if self.sure > 0:
            return False
        for ahead in AHEAD:
            if self._within(repeated(before, after, ahead)):
                self.sure = ahead
                return False
        return True

    def exceeded(self, after: Mapping[str, Tensor]) -> bool:
        """Tell whether a round has cost more than there was."""
        if self.us.accounting.epsilon is None or (self.allowed and same(after, self.allowed)):
            return False
        return not self._within(after)

    def _within(self, memory: Mapping[str, Tensor]) -> bool:
        bills = [bill for some in spent(memory).values() for bill in some]
        budget = self.us.accounting.epsilon
        assert budget is not None
        # What a coarse look allows, a fine one would.
        return self._price(bills, COARSE) <= budget or self._price(bills, FINE) <= budget

    def _price(self, bills: Sequence[Mapping[Event, int]], step: float) -> float:
        terms = self.us.accounting
        prices = (epsilon(bill, delta=terms.delta, by=terms.by, step=step) for bill in bills)
        return max(prices, default=0.0)
