"""How the clients' learning rate changes over rounds: from a round to a multiplier.

Rounds count from 1, and round 1 has multiplier 1.
"""

from __future__ import annotations

import math


def constant(round: int) -> float:
    """Keep the rate.

    Args:
        round: The round about to be played, from 1.
    """
    return 1.0


def exponential(round: int, *, decay: float = 0.99) -> float:
    """Multiply the rate by ``decay`` after every round.

    Args:
        round: The round about to be played, from 1.
        decay: Rate of a round in rates of the one before, in (0, 1].

    Raises:
        ValueError: A decay out of range.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"schedule.decay must be above 0 and at most 1, got {decay}")
    return float(decay ** (round - 1))


def step(round: int, *, every: int = 10, factor: float = 0.5) -> float:
    """Multiply the rate by ``factor`` once every so many rounds.

    Args:
        round: The round about to be played, from 1.
        every: Rounds between drops, at least 1.
        factor: Rate after a drop in rates before it, in (0, 1].

    Raises:
        ValueError: A knob out of range.
    """
    if every < 1:
        raise ValueError(f"schedule.every must be at least 1, got {every}")
    if not 0 < factor <= 1:
        raise ValueError(f"schedule.factor must be above 0 and at most 1, got {factor}")
    return float(factor ** ((round - 1) // every))


def cosine(round: int, *, rounds: int = 100, floor: float = 0.0) -> float:
    """Lower the rate along half a cosine, slowly at first and at the end.

    Args:
        round: The round about to be played, from 1.
        rounds: Rounds until the floor is reached, at least 1: round ``rounds + 1`` is the
            first at the floor, so the last of ``rounds`` rounds still learns.
        floor: Multiplier to stay at from there on, in [0, 1].

    Raises:
        ValueError: A knob out of range.

    Source:
        Loshchilov and Hutter 2017, arXiv:1608.03983, section 3, without restarts.
    """
    if rounds < 1:
        raise ValueError(f"schedule.rounds must be at least 1, got {rounds}")
    if not 0 <= floor <= 1:
        raise ValueError(f"schedule.floor must be in [0, 1], got {floor}")
    passed = min(round - 1, rounds) / rounds
    return floor + (1 - floor) * (1 + math.cos(math.pi * passed)) / 2
