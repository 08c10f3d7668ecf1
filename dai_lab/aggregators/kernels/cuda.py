"""Sorting networks on a GPU: a thread a column, its values in registers.

Neighboring threads take neighboring columns, so every row is read in whole lines. The network is
written out as straight code, since a register cannot be looked up by number.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from numba import cuda

from dai_lab.aggregators.kernels.networks import selecting, sorting
from dai_lab.core import Rows, Vector

THREADS = 128
"""Threads of a block."""


def by_column(rows: Rows, low: int, high: int, near: int) -> tuple[Vector, bool]:
    """Aggregate each column, as ``passes.window`` does, or ``passes.nearest`` with ``near > 0``.

    Args:
        rows: ``[n, d]`` where CUDA can read it, float32 or float64.
        low: First rank.
        high: One past the last.
        near: How many values closest to the average of those ranks to average instead.
    """
    count, length = rows.shape
    rows = rows.detach()
    out = torch.empty(length, dtype=rows.dtype, device=rows.device)
    strange = torch.zeros(1, dtype=torch.int32, device=rows.device)
    if length:
        kernel = _kernel(count, low, high, near, rows.dtype == torch.float64)
        kernel[-(-length // THREADS), THREADS](_seen(rows), _seen(out), _seen(strange))
    return out, not bool(strange.item())


def _seen(tensor: torch.Tensor) -> Any:
    """Show a tensor to CUDA without copying it; the simulator reads the processor's memory."""
    return cuda.as_cuda_array(tensor) if tensor.is_cuda else tensor.numpy()


@cache
def _kernel(count: int, low: int, high: int, near: int, double: bool) -> Any:
    """Write and compile the code for one number of rows and one choice of ranks."""
    number = "float64" if double else "float32"
    net = sorting(count) if near else selecting(count, low, high)
    lines = [f"v{row} = rows[{row}, at]" for row in range(count)]
    # NaN from here on if a number is not finite.
    lines += [f"flag = {number}(0)", *(f"flag += v{row} * {number}(0)" for row in range(count))]
    lines += ["if flag != flag:", "    strange[0] = 1"]
    for a, b, smaller, larger in net.exchanges:
        lines.append(f"a, b = v{a}, v{b}")
        lines += [f"v{a} = a if a < b else b"] * smaller
        lines += [f"v{b} = a if a > b else b"] * larger
    places = [f"v{place}" for place in net.places]
    if near:
        lines.append(f"center = {_mean(places[low:high], number)}")
        slots = places[:near]
        for place in range(count - near):
            first, last = places[place], places[place + near]
            # A slot is written over only after the value in it was compared.
            slot = slots[place % near]
            lines += [f"if {last} - center < center - {first}:", f"    {slot} = {last}"]
        places = slots
    lines.append(f"out[at] = {_mean(places, number)}")
    body = "\n        ".join(lines)
    code = (
        "def kernel(rows, out, strange):\n"
        "    at = cuda.grid(1)\n"
        f"    if at < out.shape[0]:\n        {body}\n"
    )
    import numpy as np

    space: dict[str, Any] = {"cuda": cuda, "float32": np.float32, "float64": np.float64}
    exec(compile(code, f"<network of {count} rows>", "exec"), space)
    return cuda.jit(space["kernel"])


def _mean(values: list[str], number: str) -> str:
    """Spell an average of pairs of pairs."""
    count = len(values)
    if count == 2:  # halved first: the sum of two finite numbers may not be finite
        values = [f"{one} * {number}(0.5)" for one in values]
    while len(values) > 1:
        pairs = [f"({a} + {b})" for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(values) // 2 * 2 :]
    return values[0] if count <= 2 else f"{values[0]} / {number}({count})"
