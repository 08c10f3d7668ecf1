"""Data whose bias is known: put there by hand, or, in a world made up for it, not there at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from dai_lab.core import Card, Dataset, Examples, Key, Sensitive
from dai_lab.data.cards import content_hash


def biased(
    *,
    of: Callable[[], Dataset],
    attribute: str = "sex",
    value: int = 0,
    favorable: int = 1,
    flip: float = 0.0,
    drop: float = 0.0,
    keep: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Bias what is trained on against one group, by so much; the test data stay as they are.

    First ``keep`` thins out the group, then ``drop`` those of its examples that truly are
    favorable, then ``flip`` denies what is left of these. A group of which a share p is favorable
    is afterwards favorable in p (1 - flip) (1 - drop) / (1 - p drop) on average, whatever ``keep``
    is.

    With one seed, more bias hits the same examples and others.

    Args:
        of: The data, with classes; of two, where ``flip`` is not 0.
        attribute: What divides people into groups, such as ``sex``, ``sex+race`` or ``class``.
        value: The group, counted from 0 in the order of the data's names, the first attribute
            changing slowest.
        favorable: Class that people hope for.
        flip: Labeling bias: probability that a favorable example of the group is called
            unfavorable, in [0, 1].
        drop: Under-representation bias: probability that a favorable example of the group is
            missing, in [0, 1].
        keep: Probability that an example of the group is there at all, in [0, 1]; 0 leaves the
            group out.
        seed: Decides which examples, the same for every seed of a run.

    Raises:
        ValueError: A knob is out of range, or the data have no such attribute, or not two classes.

    Source:
        Blum and Stangl 2020, arXiv:1912.01094, section 2.
    """
    for name, chance in {"flip": flip, "drop": drop, "keep": keep}.items():
        if not 0 <= chance <= 1:
            raise ValueError(f"data.{name} must be in [0, 1], got {chance}")
    data = of()
    if flip and data.classes != 2:
        raise ValueError(
            f"data.flip calls one of two classes the other, {data.card.name} has {data.classes}: "
            "choose another data.of, or flip=0"
        )
    groups = _groups(data, attribute, favorable)
    names = groups.names(data)
    if not 0 <= value < groups.count:
        raise ValueError(
            f"data.value must be in 0..{groups.count - 1} ({'; '.join(names)}), got {value}"
        )
    train, key = data.train, Key(seed, ("data", "biased"))
    group = groups.of(train) == value
    hoped = group & (train.targets == favorable)
    gone = group & ~_drawn(train, keep, key / "keep") | hoped & _drawn(train, drop, key / "drop")
    denied = hoped & _drawn(train, flip, key / "flip")
    labels = torch.where(denied, 1 - favorable, train.targets)
    left = replace(train, targets=labels).some((~gone).nonzero().flatten())
    card = replace(
        data.card,
        name=f"{data.card.name}, biased against {names[value]} "
        f"(flip {flip:g}, drop {drop:g}, keep {keep:g})",
    )
    return replace(data, train=left, card=card)


def planted(
    *,
    examples: int = 10_000,
    shares: Sequence[float] = (0.7, 0.3),
    features: int = 8,
    strength: float = 2.0,
    sensitive: str = "keep",
    seed: int = 0,
) -> Dataset:
    """Make up people whose group says nothing about them, so that every gap was put there.

    Features are standard normal, and the log-odds of class 1, which people hope for, is
    ``strength`` times their sum, divided by the root of their number: half of every group is
    favorable, and the best rule is to ask whether the sum is positive.

    Put ``biased`` around it for a bias whose effect is known too: ``drop`` lowers a group's
    log-odds by -log(1 - drop), so whoever learns them well and is shown the group selects
    Phi(log(1 - drop) / strength) of it in place of half, Phi being the normal distribution.

    Args:
        examples: People to train on; as many more to test.
        shares: Probability of each group, of the attribute ``group``; they add up to 1.
        features: Inputs that matter.
        strength: Standard deviation of the log-odds, above 0: how far features tell the class.
        sensitive: ``keep`` adds an input for each group, ``drop`` hides it from the model.
        seed: Decides who they are, the same for every seed of a run.

    Raises:
        ValueError: A knob is out of range.
    """
    for name, count in {"examples": examples, "features": features}.items():
        if count < 1:
            raise ValueError(f"data.{name} must be at least 1, got {count}")
    if not strength > 0:
        raise ValueError(f"data.strength must be above 0, got {strength}")
    if len(shares) < 2 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"data.shares must be two or more above 0 that add up to 1, got {list(shares)}"
        )
    if sensitive not in ("keep", "drop"):
        raise ValueError(f"data.sensitive must be 'keep' or 'drop', got {sensitive!r}")

    def people(key: Key) -> Examples:
        inputs = torch.randn(examples, features, generator=(key / "features").stream())
        odds = strength * inputs.sum(1) / features**0.5
        targets = torch.rand(examples, generator=(key / "class").stream()) < odds.sigmoid()
        draw = torch.rand(examples, generator=(key / "group").stream())
        group = torch.bucketize(draw, torch.tensor(shares).cumsum(0)[:-1])
        if sensitive == "keep":
            marks = torch.nn.functional.one_hot(group, len(shares))
            inputs = torch.cat([inputs, marks.float()], dim=1)
        return Examples(inputs, targets.long(), {"group": group})

    train, test = (people(Key(seed, ("data", "planted", part))) for part in ("train", "test"))
    columns = (train.inputs, train.targets, test.inputs, test.targets)
    card = Card("planted", "made up, a fair world", "none needed", content_hash(*columns))
    names = {
        "classes": ("unfavorable", "favorable"),
        "group": tuple(f"group {one}" for one in range(len(shares))),
    }
    return Dataset(train, test, 2, card, names)


def _groups(data: Dataset, attribute: str, favorable: int) -> Sensitive:
    """Find the groups, naming the knobs of this part where there are none."""
    try:
        return Sensitive.in_data(data, attribute, favorable)
    except ValueError as error:
        raise ValueError(f"data.{str(error).removeprefix('fairness.')}") from None


def _drawn(examples: Examples, chance: float, key: Key) -> Bool[Tensor, "examples"]:
    """Say of each example whether something of this probability befalls it."""
    return torch.rand(len(examples), generator=key.stream()).to(examples.targets.device) < chance
