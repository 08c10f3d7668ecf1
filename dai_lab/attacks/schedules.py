"""When an attack is awake, and how strong it is."""

from __future__ import annotations

from dataclasses import replace

import torch

from dai_lab.attacks.needs import in_unit
from dai_lab.core import Attack, Lies, Rows, Sight


def sometimes(own: Rows, sight: Sight, *, attack: Attack, probability: float = 0.5) -> Lies:
    """Sleep in some rounds, and run another attack in the others.

    Args:
        own: Rows the hostile computed.
        sight: Where the coin falls, and what ``attack`` knows.
        attack: What to do when awake; it draws from a stream of its own.
        probability: How often to be awake, in [0, 1]; all hostile wake together.

    Raises:
        ValueError: A probability out of range.
    """
    in_unit("probability", probability)
    awake = float(torch.rand((), generator=(sight.key / "awake").stream())) < probability
    return _within(attack, own, sight) if awake else behaved(own, sight)


def between(
    own: Rows, sight: Sight, *, attack: Attack, start: int = 1, stop: int | None = None
) -> Lies:
    """Attack only from one round to another: late, or early and then behave.

    Args:
        own: Rows the hostile computed.
        sight: The round, and what ``attack`` knows.
        attack: What to do then.
        start: First round of the attack, from 1.
        stop: Last round of it; ``None`` never stops.

    Raises:
        ValueError: An attack that ends before it starts.
    """
    if start < 1 or (stop is not None and stop < start):
        raise ValueError(f"attack.start must be 1 or more and up to stop, got {start} and {stop}")
    awake = start <= sight.round and (stop is None or sight.round <= stop)
    return _within(attack, own, sight) if awake else behaved(own, sight)


def sleeper(own: Rows, sight: Sight, *, attack: Attack, sleep: int = 9, awake: int = 1) -> Lies:
    """Earn trust for some rounds, strike in the next, and sleep again.

    Args:
        own: Rows the hostile computed.
        sight: The round, and what ``attack`` knows.
        attack: What to do when awake.
        sleep: Honest rounds in a row, 0 or more.
        awake: Rounds of attack that follow, 1 or more.

    Raises:
        ValueError: Fewer rounds than that.
    """
    if sleep < 0 or awake < 1:
        raise ValueError(
            f"attack.sleep must be 0 or more and attack.awake 1 or more, got {sleep} and {awake}"
        )
    up = (sight.round - 1) % (sleep + awake) >= sleep
    return _within(attack, own, sight) if up else behaved(own, sight)


def partly(own: Rows, sight: Sight, *, attack: Attack, strength: float = 0.5) -> Lies:
    """Send something between what is honest and what an attack would send.

    Args:
        own: Rows the hostile computed.
        sight: What ``attack`` knows.
        attack: The attack at full strength.
        strength: 0 behaves, 1 attacks; above, it exaggerates.

    Raises:
        ValueError: A negative strength.
    """
    if not strength >= 0:
        raise ValueError(f"attack.strength must be 0 or more, got {strength}")
    if strength == 0:
        return behaved(own, sight)
    lies = _within(attack, own, sight)
    straight = behaved(own, sight).rows
    rows = lies.rows if strength == 1 else straight + strength * (lies.rows - straight)
    return Lies(rows, lies.memory, lies.record, lies.quiet)


def behaved(own: Rows, sight: Sight) -> Lies:
    """Send what an honest client would, whatever the data were poisoned to."""
    return Lies(own if sight.clean is None else sight.clean(), quiet=True)


def _within(attack: Attack, own: Rows, sight: Sight) -> Lies:
    return attack(own, replace(sight, key=sight.key / "attack"))
