"""Model poisoning: what hostile clients send instead of what they computed.

Every attack says what it knows. ``own`` are the rows the hostile would honestly send;
``honest`` the rows the others send, which only an attacker who listens to them can know.
"""

from __future__ import annotations

import torch

from dai_lab.core import Attack, Key, Rows, TooFew


def none(honest: Rows, *, own: Rows, key: Key) -> Rows:
    """Behave: send what was computed; the baseline every attack is measured against.

    Args:
        honest: Unused.
        own: Rows the hostile computed, sent as they are.
        key: Unused.
    """
    return own


def sign_flip(honest: Rows, *, own: Rows, key: Key, scale: float = 1.0) -> Rows:
    """Push the model back along the own update, ``scale`` times as far.

    Args:
        honest: Unused; the attacker knows its own clients only.
        own: Rows the hostile computed.
        key: Unused; the attack is deterministic.
        scale: Length of what is sent in lengths of what was computed, above 0.

    Raises:
        ValueError: A scale that flips nothing.

    Source:
        Li et al. 2019, arXiv:1811.03761, the sign-flipping attack of the experiments.
    """
    _above_zero("scale", scale)
    return -scale * own


def gaussian(honest: Rows, *, own: Rows, key: Key, std: float = 1.0) -> Rows:
    """Send noise that has nothing to do with the task.

    Args:
        honest: Unused; the attacker knows nothing.
        own: Rows to replace.
        key: Where the noise is drawn, anew for each row.
        std: Standard deviation of each coordinate, above 0; the source uses 200.

    Raises:
        ValueError: Noise without spread.

    Source:
        Blanchard et al. 2017, arXiv:1703.02757, the Gaussian attack of the experiments.
    """
    _above_zero("std", std)
    noise = torch.randn(own.shape, generator=key.stream(), dtype=own.dtype)
    return std * noise.to(own.device)


def alie(honest: Rows, *, own: Rows, key: Key, z: float = 1.5) -> Rows:
    """A Little Is Enough: hide ``z`` standard deviations below the honest mean.

    Args:
        honest: What the honest clients send, known to the attacker; at least two rows.
        own: Rows to replace, all by the same one.
        key: Unused; the attack is deterministic.
        z: Distance from the mean in per-coordinate standard deviations; 0 sends the mean.

    Raises:
        TooFew: Fewer than two honest rows, so no spread to hide in.

    Source:
        Baruch et al. 2019, arXiv:1902.06156, section 3.
    """
    _at_least(2, honest, "alie")
    row = honest.mean(dim=0) - z * honest.std(dim=0)
    return row.expand(len(own), -1)


def ipm(honest: Rows, *, own: Rows, key: Key, epsilon: float = 0.5) -> Rows:
    """Inner Product Manipulation: send the honest mean, backwards and ``epsilon`` times as long.

    Args:
        honest: What the honest clients send, known to the attacker; at least one row.
        own: Rows to replace, all by the same one.
        key: Unused; the attack is deterministic.
        epsilon: Length of what is sent in lengths of the honest mean, above 0: small values
            deceive median-like rules, large ones the mean.

    Raises:
        TooFew: No honest row.
        ValueError: An epsilon that manipulates nothing.

    Source:
        Xie et al. 2020, arXiv:1903.03936, section 4.
    """
    _above_zero("epsilon", epsilon)
    _at_least(1, honest, "ipm")
    return (-epsilon * honest.mean(dim=0)).expand(len(own), -1)


def sometimes(
    honest: Rows, *, own: Rows, key: Key, attack: Attack, probability: float = 0.5
) -> Rows:
    """Sleep in most rounds, and run another attack in the others.

    Args:
        honest: What the honest clients send, passed on to ``attack``.
        own: Rows the hostile computed, sent as they are in quiet rounds.
        key: Where the coin falls; ``attack`` draws from a stream of its own.
        attack: What to do when awake.
        probability: How often to be awake, in [0, 1]; all hostile wake together.

    Raises:
        ValueError: A probability out of range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"attack.probability must be in [0, 1], got {probability}")
    awake = float(torch.rand((), generator=(key / "awake").stream())) < probability
    return attack(honest, own=own, key=key / "attack") if awake else own


def _above_zero(knob: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"attack.{knob} must be above 0, got {value}")


def _at_least(least: int, honest: Rows, name: str) -> None:
    if len(honest) < least:
        raise TooFew(
            f"attack={name} needs at least {least} honest rows a round and sees {len(honest)}: "
            "lower the number of hostile clients or raise the cohort"
        )
