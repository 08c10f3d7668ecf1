"""What our side writes once for everybody: digits, dealing, and the weights to start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

import numpy as np
import torch

from benchmarks.peers.setting import build
from benchmarks.simulation import jobs
from dai_lab.core import Key
from dai_lab.data import mnist10k


def write(folder: Path) -> None:
    """Write the three tasks of ``benchmarks/simulation.py``, every array a file of its own.

    Dealt are 60,000 examples as there, but only training digits, each seven or eight times, so
    that an accuracy on the others means something.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = mnist10k()
    times = -(-60_000 // len(digits.train))
    arrays = {
        "inputs": digits.train.inputs.repeat(times, 1, 1, 1)[:60_000],
        "targets": digits.train.targets.repeat(times)[:60_000],
        "order": torch.randperm(60_000, generator=(Key(0) / "deal").stream()),
        "test_inputs": digits.test.inputs,
        "test_targets": digits.test.targets,
    }
    sizes = {}
    for name, job in jobs().items():
        arrays[f"start_{name}"] = job.model.initial
        sizes[name] = {
            "clients": job.clients,
            "held": job.held,
            "cohort": job.cohort,
            "batch": job.batch,
        }
        shapes = [each.shape for each in build(name).parameters()]
        assert shapes == list(job.model.shapes), f"{name} differs from benchmarks/simulation.py"
    for name, array in arrays.items():
        _replace(folder / f"{name}.npy", partial(np.save, arr=array.contiguous().numpy()))
    _replace(folder / "tasks.json", lambda file: file.write(json.dumps(sizes).encode()))


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside and rename: whoever still maps the old file keeps it."""
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        write(file)
    Path(file.name).replace(path)
