"""Plain chains of standard layers: from the shape of one input to a network.

``classes=0`` asks for a regression network, which has one output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

Shape = tuple[int, ...]


def logistic(shape: Shape, classes: int) -> nn.Sequential:
    """Score each class by one weighted sum of the inputs; linear regression if ``classes=0``.

    Args:
        shape: Shape of one input, flattened here.
        classes: Classes to tell apart; 0 for regression.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes or 1))


def mlp(shape: Shape, classes: int, *, hidden: Sequence[int] = (200,)) -> nn.Sequential:
    """Stack fully connected layers with ReLU between them.

    Args:
        shape: Shape of one input, flattened here.
        classes: Classes to tell apart; 0 for regression.
        hidden: Width of each hidden layer, first to last; empty is ``logistic``.

    Raises:
        ValueError: A hidden layer without units.
    """
    if min(hidden, default=1) < 1:
        raise ValueError(f"model.hidden must be widths of at least 1, got {list(hidden)}")
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes or 1))


def mcmahan_cnn(shape: Shape, classes: int) -> nn.Sequential:
    """Build the convolutional network FedAvg was introduced with: 1,663,370 weights on MNIST.

    Args:
        shape: Channels, height and width of one image, at least 4 pixels a side.
        classes: Classes to tell apart; 0 for regression.

    Raises:
        ValueError: Inputs that are no images, or too small ones.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, section 3.
    """
    return _convolutional("mcmahan_cnn", shape, classes, widths=(32, 64), dense=512)


def small_cnn(shape: Shape, classes: int) -> nn.Sequential:
    """Build a light relative of ``mcmahan_cnn`` (16 and 32 filters, 128 units) for quick studies.

    Args:
        shape: Channels, height and width of one image, at least 4 pixels a side.
        classes: Classes to tell apart; 0 for regression.

    Raises:
        ValueError: Inputs that are no images, or too small ones.
    """
    return _convolutional("small_cnn", shape, classes, widths=(16, 32), dense=128)


def mnist_cnn(
    shape: Shape, classes: int, *, dropout: Sequence[float] = (0.25, 0.5)
) -> nn.Sequential:
    """Build the network of PyTorch's MNIST example, which many papers took: 1,199,882 weights.

    Args:
        shape: Channels, height and width of one image, at least 6 pixels a side.
        classes: Classes to tell apart; 0 for regression.
        dropout: Shares of the numbers dropped before and after the hidden layer, each in [0, 1).

    Raises:
        ValueError: Inputs that are no images, or too small ones, or a share out of range.

    Source:
        github.com/pytorch/examples, mnist/main.py.
    """
    channels, height, width = image("mnist_cnn", shape, least=6)
    if len(dropout) != 2 or not all(0 <= share < 1 for share in dropout):
        raise ValueError(f"model.dropout must be two shares in [0, 1), got {list(dropout)}")
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout[0]),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Dropout(dropout[1]),
        nn.Linear(128, classes or 1),
    )


def lenet5(shape: Shape, classes: int) -> nn.Sequential:
    """Build LeNet-5 as it is trained today, with ReLU and max pooling.

    Args:
        shape: Channels, height and width of one image, at least 12 pixels a side; images
            below the original's 32 pixels get its border of 2.
        classes: Classes to tell apart; 0 for regression.

    Raises:
        ValueError: Inputs that are no images, or too small ones.

    Source:
        LeCun et al. 1998, Gradient-based learning applied to document recognition,
        section II.B.
    """
    channels, height, width = image("lenet5", shape, least=12)
    border = 2 if min(height, width) < 32 else 0
    sides = [((side + 2 * border - 4) // 2 - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=border),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * math.prod(sides), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes or 1),
    )


def tanh_cnn(shape: Shape, classes: int) -> nn.Sequential:
    """Build the network private training was tuned on: tanh, few weights, 26,010 on MNIST.

    Args:
        shape: Channels, height and width of one image, at least 16 pixels a side.
        classes: Classes to tell apart; 0 for regression.

    Raises:
        ValueError: Inputs that are no images, or too small ones.

    Source:
        Papernot et al. 2020, arXiv:2007.14191, table 1 (tempered sigmoids).
    """
    channels, height, width = image("tanh_cnn", shape, least=16)
    sides = [(((side - 4) // 2) - 4) // 2 for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 8, stride=2, padding=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(32 * math.prod(sides), 32),
        nn.Tanh(),
        nn.Linear(32, classes or 1),
    )


def image(name: str, shape: Shape, *, least: int) -> tuple[int, int, int]:
    """Read ``shape`` as channels, height and width.

    Raises:
        ValueError: Inputs that are no images, or with a side below ``least`` pixels.
    """
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"model={name} needs images (channels, height, width) of at least {least} pixels "
            f"a side and the data have inputs of shape {shape}: choose model=mlp or other data"
        )
    channels, height, width = shape
    return channels, height, width


def _convolutional(
    name: str, shape: Shape, classes: int, *, widths: tuple[int, int], dense: int
) -> nn.Sequential:
    channels, height, width = image(name, shape, least=4)
    first, second = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), dense),
        nn.ReLU(),
        nn.Linear(dense, classes or 1),
    )
