"""Commitments: to a row before it is sent, to the examples a client holds, to a model."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import torch
from torch import Tensor

from dai_lab.core import Examples, Rows
from dai_lab.ledger.merkle import Tree, leaf_hash

ROW = b"dai_lab row 1\n"
"""Precedes what is hashed, so that no commitment to anything else passes for one to a row."""


def committed(row: Tensor, salt: bytes) -> bytes:
    """Commit to a row without showing it.

    Whoever can guess the row, such as a server that trains on examples it suspects a client
    of, could otherwise check the guess, also where rows are summed in secret.

    Args:
        row: One client's row, as it sends it.
        salt: 32 bytes that only its client knows until it opens the commitment.

    Returns:
        32 bytes (SHA-256).
    """
    found = hashlib.sha256(ROW + salt + _described(row))
    found.update(_bytes(row))
    return found.digest()


def salt(opening: bytes, client: int, round: int) -> bytes:
    """Return what hides one row, from what opens all rows of a run."""
    return hmac.digest(opening, f"{client} {round}".encode(), "sha256")


def tensors_digest(named: Mapping[str, Tensor]) -> bytes:
    """Name tensors by what is in them; their order does not matter."""
    found = hashlib.sha256()
    for name in sorted(named):
        found.update(f"{name}\n".encode() + _described(named[name]))
        found.update(_bytes(named[name]))
    return found.digest()


def examples_root(held: Examples) -> bytes:
    """Return the root of a tree with a leaf for each example, in the order they are held."""
    columns = [
        held.inputs,
        held.targets,
        *(held.attributes[one] for one in sorted(held.attributes)),
    ]
    matrices = [
        _bytes(one.reshape(len(held), -1)) if len(held) else memoryview(b"") for one in columns
    ]
    widths = [len(one) // max(len(held), 1) for one in matrices]
    pairs = list(zip(matrices, widths, strict=True))
    return Tree(
        leaf_hash(b"".join(one[at * wide : (at + 1) * wide] for one, wide in pairs))
        for at in range(len(held))
    ).root()


def row_views(rows: Rows) -> list[Tensor]:
    """Bring rows to where they are hashed; they may be changed only after that is done."""
    return list(rows.detach().cpu().contiguous())


def _described(values: Tensor) -> bytes:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}\n".encode()


def _bytes(values: Tensor) -> memoryview:
    """Return the numbers as they lie in memory; on every machine torch runs on, little-endian."""
    there = values.detach().cpu().contiguous()
    if not there.numel():
        return memoryview(b"")
    return there.reshape(-1).view(torch.uint8).numpy().data
