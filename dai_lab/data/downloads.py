"""Pictures too large to bundle: found on this machine, or downloaded by torchvision."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dai_lab.core import Card, Dataset, Examples
from dai_lab.data.cards import content_hash
from dai_lab.data.fetching import BROKEN, Part, Pixels, from_torchvision, one_line

ROOT = "~/.cache/dai_lab"
"""Where downloads are kept unless ``data.root`` says otherwise."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""


def mnist(*, root: str = ROOT) -> Dataset:
    """The whole of MNIST: 60,000 digits to train, 10,000 to test; needs internet once.

    Inputs are ``[1, 28, 28]``, standardized with mean .1307 and standard deviation .3081.

    Args:
        root: Folder to keep the download in.

    Raises:
        ValueError: The data is not there and cannot be downloaded.

    Source:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    parts, names = from_torchvision("MNIST", "mnist", root)
    source = "LeCun, Cortes and Burges, MNIST, through torchvision"
    return _pictures("mnist", parts, names, (0.1307,), (0.3081,), source, "CC BY-SA 3.0")


def fashion_mnist(*, root: str = ROOT) -> Dataset:
    """The whole of Fashion-MNIST: 60,000 pictures of clothes to train, 10,000 to test.

    Debian's package ``dataset-fashion-mnist`` is used where it is installed, otherwise
    torchvision, which needs internet once. Both hold the same pictures. Inputs are
    ``[1, 28, 28]``, standardized with mean .2860 and standard deviation .3530.

    Args:
        root: Folder to keep a download in.

    Raises:
        ValueError: Neither Debian's package nor a download is to be had.

    Source:
        Xiao et al. 2017, arXiv:1708.07747.
    """
    if DEBIAN.is_dir():
        parts, names = _debian_fashion(), FASHION
    else:
        parts, names = from_torchvision(
            "FashionMNIST",
            "fashion_mnist",
            root,
            instead="run `apt install dataset-fashion-mnist`, or use a machine with internet",
        )
    source = "Zalando Research, Fashion-MNIST, through Debian or torchvision"
    return _pictures("fashion_mnist", parts, names, (0.2860,), (0.3530,), source, "MIT")


def cifar10(*, root: str = ROOT) -> Dataset:
    """CIFAR-10: 50,000 color pictures of ten things to train, 10,000 to test; needs internet once.

    Inputs are ``[3, 32, 32]``, each channel standardized with the training set's statistics.

    Its authors publish pickles, which can run code when they are read. Only those in the archive
    of known SHA-256 are, unpacked anew each time; others that lie in ``root`` are left alone.

    Args:
        root: Folder to keep the download in.

    Raises:
        ValueError: The archive is not there and cannot be downloaded, or is not the known one.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    parts, names = from_torchvision("CIFAR10", "cifar10", root)
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return _pictures("cifar10", parts, names, mean, deviation, CIFAR, UNSTATED)


def cifar100(*, root: str = ROOT) -> Dataset:
    """CIFAR-100: 50,000 color pictures of a hundred things to train, 10,000 to test.

    Needs internet once. Inputs are ``[3, 32, 32]``, each channel standardized with the training
    set's statistics.

    Its authors publish pickles, which can run code when they are read. Only those in the archive
    of known SHA-256 are, unpacked anew each time; others that lie in ``root`` are left alone.

    Args:
        root: Folder to keep the download in.

    Raises:
        ValueError: The archive is not there and cannot be downloaded, or is not the known one.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    parts, names = from_torchvision("CIFAR100", "cifar100", root)
    mean, deviation = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return _pictures("cifar100", parts, names, mean, deviation, CIFAR, UNSTATED)


def emnist(*, root: str = ROOT, part: str = "balanced") -> Dataset:
    """EMNIST: handwritten letters and digits; needs internet once (half a gigabyte).

    Pictures are turned upright (the files hold them transposed) and standardized with the mean
    and standard deviation of the training pixels. Inputs are ``[1, 28, 28]``.

    Args:
        root: Folder to keep the download in.
        part: ``balanced`` (47 classes), ``byclass`` (62), ``bymerge`` (47), ``letters`` (26),
            ``digits`` or ``mnist`` (10).

    Raises:
        ValueError: ``part`` is unknown, or the data is not there and cannot be downloaded.

    Source:
        Cohen et al. 2017, arXiv:1702.05373.
    """
    known = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
    if part not in known:
        raise ValueError(f"data.part must be one of {known}, got {part!r}")
    parts, names = from_torchvision("EMNIST", "emnist", root, split=part)
    if part == "letters":  # the files count letters from 1
        parts, names = [(pixels, labels - 1) for pixels, labels in parts], names[1:]
    parts = [(pixels.transpose(-1, -2), labels) for pixels, labels in parts]
    pixels = parts[0][0].float().div_(255)
    mean, deviation = (float(pixels.mean()),), (float(pixels.std()),)
    source = "NIST Special Database 19 as converted by Cohen et al., through torchvision"
    return _pictures(f"emnist-{part}", parts, names, mean, deviation, source, NIST)


CIFAR = "Krizhevsky, Nair and Hinton, University of Toronto, through torchvision"
UNSTATED = "none stated by its authors; used for research, cite the report"
NIST = "not stated by its authors; made from a collection of the US government"
FASHION: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _pictures(
    name: str,
    parts: Sequence[Part],
    names: Sequence[str],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
    source: str,
    license: str,
) -> Dataset:
    """Standardize the pixels of both parts and write the card."""
    (train, train_labels), (test, test_labels) = parts
    card = Card(name, source, license, content_hash(train, train_labels, test, test_labels))
    return Dataset(
        Examples(_standardized(train, mean, deviation), train_labels),
        Examples(_standardized(test, mean, deviation), test_labels),
        len(names),
        card,
        {"classes": tuple(names)},
    )


def _standardized(
    pixels: Pixels, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Float[Tensor, "examples channels height width"]:
    """Scale to 0..1, then to mean 0 and standard deviation 1, channel by channel."""
    inputs = (pixels if pixels.dim() == 4 else pixels[:, None]).float().contiguous()
    center, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, deviation))
    return inputs.div_(255).sub_(center).div_(scale)


def _debian_fashion() -> list[Part]:
    """Read the four files of Debian's package."""
    try:
        return [
            (
                _idx(DEBIAN / f"{part}-images-idx3-ubyte.gz"),
                _idx(DEBIAN / f"{part}-labels-idx1-ubyte.gz").long(),
            )
            for part in ("train", "t10k")
        ]
    except BROKEN as error:
        raise ValueError(
            f"data=fashion_mnist: {DEBIAN} is damaged ({one_line(error)}): "
            "run `apt install --reinstall dataset-fashion-mnist`"
        ) from None


def _idx(path: Path) -> UInt8[Tensor, "..."]:
    """Read one compressed array of bytes in the idx format MNIST introduced."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is not an idx file of bytes")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content, ">u4", content[3], offset=4)
    array = np.frombuffer(content, np.uint8, offset=start)
    return torch.from_numpy(array.reshape(shape.astype(int)).copy())
