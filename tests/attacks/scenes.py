"""Rows to attack, and defenses to attack them with."""

import torch

from dai_lab.core import Key, Outcome, Sight, State, Visible


def rows(seed, count, params=5, dtype=torch.float64):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=dtype)


def defended(honest, aggregator):
    """Run an aggregator on honest rows and whatever the hostile send behind them."""

    def defense(lies):
        everybody = torch.cat([honest, lies])
        members = tuple((client,) for client in range(len(everybody)))
        found = aggregator(Visible(everybody, members, torch.ones(len(everybody))))
        return Outcome(found.update, found.shares[len(honest) :] != 0)

    return defense


def sighted(honest, aggregator=None, *, seed=0, **more):
    """Let an attacker see rows and, where there is one, the defense."""
    defense = None if aggregator is None else defended(honest, aggregator)
    params = torch.zeros(honest.shape[1], dtype=honest.dtype)
    there = {"state": State(params), "clients": tuple(range(len(honest))), "defense": defense}
    return Sight(honest, key=Key(seed), **{**there, **more})
