"""What a run computes on, and what it shows meanwhile."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dai_lab.core import Compute


def computer(asked: Mapping[str, Any], recorded: Mapping[str, Any]) -> Compute:
    """Decide where to compute; a run goes on with what it began with, to end bit-identical.

    Raises:
        ValueError: The device is not here.
    """
    import torch

    from dai_lab.core import Compute

    wish = {**asked, **recorded}
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    device = str(wish["device"])
    if device == "auto":
        device = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    kind, _, number = device.partition(":")
    if not present[kind] or (number and int(number) >= torch.cuda.device_count()):
        began = " (the run began there)" if recorded else ""
        raise ValueError(f"compute.device: there is no {device} here{began}")
    torch.set_num_threads(int(wish["threads"]))
    return Compute(
        device=device,
        threads=int(wish["threads"]),
        method=str(wish["method"]),
        group=int(wish["group"]),
        memory=float(wish["memory"]),
        precision=str(wish["precision"]),
        compile=bool(wish["compile"]),
    )


def keep_memory() -> None:
    """Let the C library keep what is freed: a round's rows are as many as the last round's.

    Blocks above some size are otherwise given back to the system, which clears every page when
    they are asked for again: a sixth of a step of distributed SGD with 25 clients of 159,010
    parameters. Elsewhere than with glibc nothing happens.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        tune = ctypes.CDLL(None).mallopt
        for knob in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            tune(knob, KEPT)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls by these names."""

KEPT = 2**30
"""Bytes of free memory above which some is given back."""


@contextlib.contextmanager
def one_setting_of_threads() -> Iterator[None]:
    """Give torch's and BLAS's threads back to whoever called, such as a notebook."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        # Not imported for this: a run that never used it need not wait for a compiler to load.
        if products := sys.modules.get("dai_lab.learning.products"):
            products.give_back()
        torch.set_num_threads(before)  # last, because giving back touches OpenMP, torch's too


@contextlib.contextmanager
def bar_of(name: str, *, total: int, done: int, shown: bool) -> Iterator[Any]:
    """Show rounds, the current accuracy and the time left, if anyone is watching."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm

    with tqdm(
        total=total, initial=done, desc=name, unit="round", leave=False, disable=not shown or None
    ) as bar:

        def show(record: Mapping[str, Any]) -> None:
            accuracy = record.get("test_accuracy")
            known = [] if accuracy is None else [f"accuracy {accuracy:.3f}"]
            known += [
                f"epsilon {record[name]:.2f}"
                for name in ("privacy/client_epsilon", "privacy/record_epsilon")
                if record.get(name) is not None
            ]
            if known:
                bar.set_postfix_str(", ".join(known), refresh=False)
            bar.update()

        yield show
