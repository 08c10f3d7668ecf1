"""What torchvision can fetch, fetched so that it can neither hang nor run what it should not."""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from dai_lab.data.cards import file_hash

PATIENCE = 20.0
"""Seconds a server may be silent before a download is given up."""

PICKLED = {
    "CIFAR10": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "CIFAR100": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
}
"""SHA-256 of archives that hold pickles: whoever could change one could run anything here."""

Pixels = UInt8[Tensor, "_ ..."]
Labels = Int[Tensor, "_"]
Part = tuple[Pixels, Labels]

BROKEN = (
    AssertionError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
)
"""What torchvision raises when a file is missing, damaged or out of reach."""


def from_torchvision(
    kind: str,
    name: str,
    root: str,
    *,
    instead: str = "use a machine with internet, or data=mnist10k, which is bundled",
    **settings: str,
) -> tuple[list[Part], tuple[str, ...]]:
    """Take one of torchvision's data sets from ``root``, downloading it first if need be."""
    from filelock import FileLock
    from torchvision import datasets

    folder = Path(root).expanduser()
    build: Callable[..., Any] = getattr(datasets, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{kind}.lock"), _impatient():
            found = (
                _unpickled(build, folder, PICKLED[kind])
                if kind in PICKLED
                else [
                    build(folder, train=part, download=True, **settings) for part in (True, False)
                ]
            )
    except BROKEN as error:
        raise ValueError(
            f"data={name} is neither whole in {folder} nor could it be downloaded "
            f"({one_line(error)}): {instead}"
        ) from None
    return (
        [(_pixels(part.data), torch.as_tensor(part.targets).long()) for part in found],
        tuple(found[0].classes),
    )


def _unpickled(build: Any, folder: Path, sha256: str) -> list[Any]:
    """Read both parts of a pickled data set out of the archive of this hash, and nothing else."""
    from torchvision.datasets import utils

    archive = folder / build.filename
    utils.download_url(build.url, folder, build.filename, build.tgz_md5)
    if file_hash(archive) != sha256:
        raise ValueError(f"{archive.name} is not the published one: delete it")
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        utils.extract_archive(archive, fresh)
        return [build(fresh, train=part) for part in (True, False)]


def _pixels(data: Any) -> Pixels:
    """Put channels before height and width; gray pictures have none."""
    pixels = torch.as_tensor(data)
    return pixels.permute(0, 3, 1, 2).contiguous() if pixels.dim() == 4 else pixels


def one_line(error: BaseException) -> str:
    """Say an error in one short line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let no silent server hang the run; torchvision itself waits forever, and chats."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
