"""Numbers about clients from a user's own CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


def read(path: str, columns: Sequence[str], *, clients: int, knob: str) -> Mapping[str, Tensor]:
    """Read columns of numbers, one of which is ``client``.

    Args:
        path: A CSV file in UTF-8 whose first line names its columns, in any order; columns
            nobody asks for are left alone.
        columns: Columns to read beside ``client``.
        clients: Registered clients; a client is a whole number below.
        knob: Who asked for the file, for errors (``devices.path``).

    Returns:
        A tensor for each column, and ``line`` with the place of each row in the file.

    Raises:
        ValueError: The file is missing or no CSV, or lacks a column, or holds something that is
            not a number or no registered client; line and column are named.
    """
    where = Path(path).expanduser()
    if not where.is_file():
        raise ValueError(f"{knob}: there is no file {path}")
    asked = ("client", *columns)
    rows: list[list[float]] = []
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, skipinitialspace=True)
            if lacking := [one for one in asked if one not in (lines.fieldnames or ())]:
                raise ValueError(
                    f"{knob}={path} must have the columns {', '.join(asked)}, "
                    f"and has no {lacking[0]}"
                )
            for line in lines:
                at = f"{knob}={path}, line {lines.line_num}"
                values = [_number(line[one], f"{at}: {one}") for one in asked]
                if values[0] not in range(clients):
                    raise ValueError(
                        f"{at}: client must be a whole number in 0..{clients - 1}, "
                        f"got {line['client']}"
                    )
                rows.append([*values, lines.line_num])
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{knob}={path} cannot be read as CSV") from None
    if not rows:
        raise ValueError(f"{knob}={path} names no client")
    table = torch.tensor(rows, dtype=torch.float64)
    whole = {"client": table[:, 0].long(), "line": table[:, -1].long()}
    return {**dict(zip(columns, table[:, 1:-1].unbind(1), strict=True)), **whole}


def _number(text: str | None, at: str) -> float:
    """Read a number; a short line has none."""
    try:
        value = float(text or "nothing")
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{at} must be a number, got {text!r}")
    return value
