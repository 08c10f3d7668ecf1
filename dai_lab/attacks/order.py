"""Attacks on what order statistics leave: just outside, or just like, what honest clients send."""

from __future__ import annotations

import torch

from dai_lab.attacks.needs import at_least
from dai_lab.core import Lies, Rows, Sight, Vector


def fang_trimmed_mean(own: Rows, sight: Sight, *, reach: float = 2.0) -> Lies:
    """Send values just beyond the extreme honest ones, against the sign of the honest mean.

    Args:
        own: Rows to replace, each drawn by itself.
        sight: Rows the attacker knows, at least two, and where values are drawn.
        reach: How many times as far from 0 as the extreme honest value they may lie, above 1.

    Raises:
        TooFew: Fewer than two rows are known.
        ValueError: A reach that leaves no room.

    Source:
        Fang et al. 2020, USENIX Security, arXiv:1911.11815, section 4.3, full knowledge; against
        the median it is the same.
    """
    at_least(2, sight, "fang_trimmed_mean")
    if not reach > 1:
        raise ValueError(f"attack.reach must be above 1, got {reach}")
    low, high = sight.honest.amin(dim=0), sight.honest.amax(dim=0)
    rises = sight.honest.mean(dim=0) > 0
    nearest = torch.where(rises, low, high)
    # Away from 0 or towards it, but always beyond.
    outwards = torch.where(rises, low < 0, high > 0)
    furthest = torch.where(outwards, reach * nearest, nearest / reach)
    draws = torch.rand(own.shape, generator=sight.key.stream(), dtype=own.dtype).to(own.device)
    return Lies(nearest + draws * (furthest - nearest))


def mimic(own: Rows, sight: Sight, *, warmup: int = 1) -> Lies:
    """Copy an honest client, so that rules which drop outliers count it over and over.

    While it warms up, it learns in which direction honest rows differ most and copies whoever is
    furthest along it; then it stays with that client. Every row sent is an honest one.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows, at least one and who sent them; and where the first
            direction is drawn.
        warmup: Rounds in which it learns, 1 or more.

    Raises:
        TooFew: No row is known.
        ValueError: No round to learn in.

    Source:
        Karimireddy, He and Jaggi 2022, arXiv:2006.09365, section 3.2 and appendix A.
    """
    at_least(1, sight, "mimic")
    if warmup < 1:
        raise ValueError(f"attack.warmup must be 1 or more, got {warmup}")
    memory = {} if sight.state is None else dict(sight.state.memory)
    target = int(memory.get("attack/target", torch.tensor(-1)))
    if target in sight.clients:
        return _copy(own, sight, sight.clients.index(target), {})
    if target >= 0:  # whoever is copied sits this round out
        return _copy(own, sight, _furthest(sight.honest, memory["attack/direction"]), {})
    seen = int(memory.get("attack/rounds", torch.tensor(0)))
    direction, mean = _learned(sight, memory, seen)
    at = _furthest(sight.honest, direction)
    learned = {
        "attack/mean": mean,
        "attack/direction": direction,
        "attack/rounds": torch.tensor(seen + 1),
    }
    if seen + 1 >= warmup and sight.clients:
        learned["attack/target"] = torch.tensor(sight.clients[at])
    return _copy(own, sight, at, learned)


def _learned(sight: Sight, memory: dict[str, torch.Tensor], seen: int) -> tuple[Vector, Vector]:
    """Take a step of Oja's rule on how honest rows differ from their mean so far."""
    honest = sight.honest
    here = honest.mean(dim=0)
    if seen:
        mean = memory["attack/mean"] * (seen / (seen + 1)) + here / (seen + 1)
        before = memory["attack/direction"]
    else:
        mean = here
        noise = torch.randn(honest.shape[1], generator=sight.key.stream(), dtype=honest.dtype)
        before = noise.to(honest.device)
        before /= before.norm().clamp_min(torch.finfo(before.dtype).tiny)
    apart = honest - mean
    step = apart.T @ (apart @ before)
    step /= step.norm().clamp_min(torch.finfo(step.dtype).tiny)
    direction = before * (seen / (seen + 1)) + step / (seen + 1)
    return direction / direction.norm().clamp_min(torch.finfo(step.dtype).tiny), mean


def _furthest(honest: Rows, direction: Vector) -> int:
    return int((honest @ direction).argmax())


def _copy(own: Rows, sight: Sight, at: int, memory: dict[str, torch.Tensor]) -> Lies:
    who = sight.clients[at] if sight.clients else None
    row = sight.honest[at].expand(len(own), -1)
    return Lies(row, memory, {} if who is None else {"copied": who})
