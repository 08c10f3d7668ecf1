"""Signals over time: what people's watches felt."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dai_lab.core import Card, Dataset, Examples
from dai_lab.data.cards import BUNDLED, file_hash


def watch_har(*, window: int = 100, stride: int = 100) -> Dataset:
    """Ten people doing seven shoulder exercises with a smartwatch: a natural federation.

    Each person did each exercise once with either arm. Of these two recordings the one that comes
    first in the file (the arms are mixed) is for training and the other for testing, so no window
    of a recording stands on both sides, and a person is judged on the other arm. Inputs are
    ``[6, window]`` (acceleration and rotation along three axes, 50 readings a second), each
    channel standardized with the training recordings' statistics. Attributes are ``subject``
    and ``series``, the recording. Readings after a recording's last whole window are left out.

    Args:
        window: Readings in one example, from 1 to 947, the shortest recording.
        stride: Readings from one window's start to the next; at least 1. Below ``window`` the
            windows overlap, and examples a client then holds out share readings with those
            it keeps.

    Raises:
        ValueError: ``window`` or ``stride`` is out of range.

    Source:
        Burns et al. 2018, "Shoulder physiotherapy exercise recognition", arXiv:1802.01489; the
        part of its data that seglearn publishes.
    """
    path = BUNDLED / "watch_har.npz"
    with np.load(path, allow_pickle=False) as file:
        signal, length = torch.from_numpy(file["signal"]), torch.from_numpy(file["length"])
        exercise = torch.from_numpy(file["exercise"]).long()
        subject = torch.from_numpy(file["subject"]).long()
        names = tuple(file["exercise_names"].tolist())
    if not 1 <= window <= int(length.min()):
        raise ValueError(f"data.window must be in 1..{int(length.min())}, got {window}")
    if stride < 1:
        raise ValueError(f"data.stride must be at least 1, got {stride}")
    again = _second(subject * len(names) + exercise)
    training = signal[~again.repeat_interleave(length)]
    signal = (signal - training.mean(0)) / training.std(0)

    count = (length - window) // stride + 1
    series = torch.arange(len(length)).repeat_interleave(count)
    place = torch.arange(len(series)) - (count.cumsum(0) - count)[series]
    start = (length.cumsum(0) - length)[series] + stride * place
    inputs = signal.T.unfold(1, window, 1)[:, start].transpose(0, 1).contiguous()

    def part(rows: Bool[Tensor, "windows"]) -> Examples:
        attributes = {"subject": subject[series[rows]] - 1, "series": series[rows]}
        return Examples(inputs[rows], exercise[series[rows]], attributes)

    card = Card(
        "watch_har",
        "smartwatch recordings of shoulder exercises (Burns et al.), PyPI seglearn 1.2.5",
        "BSD-3-Clause",
        file_hash(path),
        "of a person's two recordings of an exercise, one arm each, one trains and one tests",
    )
    people = tuple(f"person {number}" for number in range(1, 11))
    tests = again[series]
    return Dataset(part(~tests), part(tests), 7, card, {"classes": names, "subject": people})


def _second(kinds: Int[Tensor, "series"]) -> Bool[Tensor, "series"]:
    """Mark every recording whose kind has occurred before."""
    order = kinds.sort(stable=True).indices
    repeats = torch.zeros(len(kinds), dtype=torch.bool)
    repeats[order[1:]] = kinds[order[1:]] == kinds[order[:-1]]
    return repeats
