"""Flower's records of arrays as the lab's vectors and rows, and back."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import torch
from flwr.app import Array, ArrayRecord

from dai_lab.core import Rows, Vector

Numbers: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def unpacked(
    record: ArrayRecord | None, like: Mapping[str, Numbers] | None = None
) -> dict[str, Numbers] | None:
    """Look into a record without copying it.

    Args:
        record: Whatever somebody sent.
        like: Arrays it must have, of these shapes, and no others.

    Returns:
        Its arrays, read only; none where it is anything else.
    """
    if record is None or (like is not None and record.keys() != like.keys()):
        return None
    try:
        found = {name: read(array) for name, array in record.items()}
    except Exception as broken:  # these are bytes of a stranger, who must not stop the server
        logging.getLogger("flwr").warning("a record cannot be read: %s", broken)
        return None
    if like is None:
        return found
    shapes = all(found[name].shape == there.shape for name, there in like.items())
    counters = [name for name, there in like.items() if there.dtype.kind != "f"]
    fits = shapes and all(found[name].dtype == like[name].dtype for name in counters)
    return {name: found[name] for name in like} if fits else None


def read(array: Array) -> Numbers:
    """See the numbers in serialized bytes, of which nothing is believed before it is checked.

    Raises:
        ValueError: They are no array of numbers.
    """
    head = BytesIO(array.data)
    version = np.lib.format.read_magic(head)
    reader = {(1, 0): np.lib.format.read_array_header_1_0}
    reader[2, 0] = np.lib.format.read_array_header_2_0
    if array.stype != "numpy.ndarray" or version not in reader:
        raise ValueError(f"{array.stype} of version {version} is not numpy's format")
    shape, transposed, dtype = reader[version](head)
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of {dtype} holds no real numbers")
    flat = np.frombuffer(array.data, dtype, math.prod(shape), head.tell())
    return flat.reshape(shape, order="F" if transposed else "C")


def flattened(arrays: Mapping[str, Numbers]) -> Vector:
    """Put all floating-point arrays into one vector, at least as precise as float32."""
    parts = [one for one in arrays.values() if one.dtype.kind == "f"]
    kind = np.result_type(np.float32, *parts)
    if not parts or kind not in (np.float32, np.float64):
        raise ValueError("RobustStrategy needs arrays of float16, float32 or float64 to aggregate")
    return torch.from_numpy(np.concatenate([one.ravel() for one in parts], dtype=kind))


def differences(
    arrived: Sequence[Mapping[str, Numbers] | None], start: Mapping[str, Numbers], flat: Vector
) -> Rows:
    """Write what each reply changed into a row; of what is no reply, a row of NaN."""
    rows = torch.full((len(arrived), len(flat)), torch.nan, dtype=flat.dtype)
    places = np.cumsum([0, *(one.size for one in start.values() if one.dtype.kind == "f")])
    floating = [name for name, one in start.items() if one.dtype.kind == "f"]
    with np.errstate(all="ignore"):  # what overflows is a row that is not finite
        for row, arrays in zip(rows.numpy(), arrived, strict=True):
            for name, low, high in zip(floating, places[:-1], places[1:], strict=True):
                if arrays is not None:
                    new, old, out = arrays[name].ravel(), start[name].ravel(), row[low:high]
                    np.subtract(new, old, out=out, dtype=out.dtype, casting="unsafe")
    return rows


def packed(
    flat: Vector, start: Mapping[str, Numbers], others: Sequence[Mapping[str, Numbers]]
) -> ArrayRecord:
    """Put a vector back into arrays named, shaped and typed as ``start``.

    Args:
        flat: All floating-point numbers.
        start: What the arrays must look like.
        others: Records whose middle value is taken where numbers are not floating-point.
    """
    numbers, at, arrays = flat.numpy(), 0, {}
    for name, old in start.items():
        if old.dtype.kind == "f":
            new, at = numbers[at : at + old.size].reshape(old.shape), at + old.size
        elif others:
            values = np.stack([one[name] for one in others])
            new = np.sort(values, axis=0)[(len(values) - 1) // 2]
        else:
            new = old
        arrays[name] = Array(np.asarray(new).astype(old.dtype))
    return ArrayRecord(arrays)
