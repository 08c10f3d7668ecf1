"""How a card writes numbers, parts of a run, and what others wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dai_lab.experiment.card.numbers import Cell


def spelled(cell: Cell) -> str:
    """Write a number with its interval, as ``0.853 [0.847, 0.858]``."""
    if cell is None:
        return "none"
    # A loss may explode; and adding 0 to -0 leaves no sign.
    form = ".3f" if abs(cell[2]) < 1e4 else ".3g"
    value, low, high = (format(round(one, 3) + 0.0, form) for one in cell)
    return f"{value} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write a table, line by line."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def titled(title: str) -> Iterator[str]:
    """Begin a section."""
    yield title
    yield ""


def plain(text: object) -> str:
    """Keep what others wrote, such as names in a file, from being read as markup."""
    shown = "".join(one if one.isprintable() else " " for one in str(text))
    shown = shown.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]!|])", r"\\\1", shown)


def name_of(node: Mapping[str, Any]) -> str:
    """Name the function that a part is."""
    return str(node["_target_"]).rpartition(".")[2]


def written(node: Any) -> str:
    """Write a part as ``sgd (epochs=1, rate=0.1)``.

    What is null is left out, and so are paths, which are of somebody's machine.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    if isinstance(node, bool):
        return str(node).lower()
    if not isinstance(node, Mapping):
        return str(node)
    hidden = ("_target_", "path")
    knobs = {name: one for name, one in node.items() if name not in hidden and one is not None}
    said = ", ".join(f"{name}={written(one)}" for name, one in sorted(knobs.items()))
    if "_target_" not in node:
        return f"{{{said}}}"
    return name_of(node) + (f" ({said})" if said else "")
