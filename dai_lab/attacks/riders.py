"""Free riders: clients that want the model and do no work."""

from __future__ import annotations

from typing import Literal

import torch

from dai_lab.core import Lies, Rows, Sight

PREVIOUS = "attack/previous"
"""The model of the round before."""


def free_rider(
    own: Rows,
    sight: Sight,
    *,
    kind: Literal["plain", "disguised", "delta", "random"] = "disguised",
    noise: float = 0.001,
    decay: float = 1.0,
) -> Lies:
    """Pretend to have trained.

    Args:
        own: Rows to replace.
        sight: The round, the model, and where noise is drawn, anew for each row.
        kind: ``plain`` sends the model back as it came, a row of zeros; ``disguised`` adds noise
            that fades as training would; ``delta`` sends what the last round changed, plus
            noise; ``random`` sends noise alone, uniform in ``[-noise, noise]``.
        noise: Standard deviation of the noise in the first round, 0 or more.
        decay: The noise of round t is divided by ``t ** decay``, 0 or more; not with ``random``.

    Raises:
        ValueError: A negative knob.

    Source:
        Fraboni, Vidal and Lorenzi 2021, arXiv:2006.11901, section 3 (plain, disguised); Lin, Du
        and Liu 2019, arXiv:1911.12560, sections 4.1 (random) and 4.2, 4.3 (delta).
    """
    for knob, value in (("noise", noise), ("decay", decay)):
        if not value >= 0:
            raise ValueError(f"attack.{knob} must be 0 or more, got {value}")
    stream = sight.key.stream()
    if kind == "random":
        draws = 2 * torch.rand(own.shape, generator=stream, dtype=own.dtype) - 1
        return Lies((noise * draws).to(own.device))
    rows = torch.zeros_like(own)
    if kind == "plain":
        return Lies(rows)
    draws = torch.randn(own.shape, generator=stream, dtype=own.dtype).to(own.device)
    faked = noise * sight.round**-decay * draws
    if kind == "disguised":
        return Lies(faked)
    return Lies(rows + last_change(sight, own.shape[1], own) + faked, remember(sight))


def last_change(sight: Sight, params: int, like: Rows) -> Rows:
    """Say how the common model changed since the hostile last saw it; at first, not at all."""
    memory = {} if sight.state is None else sight.state.memory
    if sight.state is None or PREVIOUS not in memory:
        return like.new_zeros((1, params))
    return (sight.state.params - memory[PREVIOUS]).unsqueeze(0)


def remember(sight: Sight) -> dict[str, torch.Tensor]:
    """Keep the model as it is now."""
    return {} if sight.state is None else {PREVIOUS: sight.state.params}
