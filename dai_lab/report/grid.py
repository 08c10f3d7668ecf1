"""Where the parts of a run's lineage stand, and a still picture of them.

Owners are rows and rounds are columns; whoever commits to an update in a round has a mark where the
two meet. Below its column stands the round, below that the model it ends with, then who is paid.
Nothing crosses, however many there are; what there is too much of is drawn in bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any
from unicodedata import category, east_asian_width

from dai_lab.report.figures import canvas, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

ROWS, COLUMNS = 20, 16
"""How many there are before bundles are made of them: what fits a page."""

LETTER = 6.7
"""Pixels that a letter of a monospaced font takes, of 11 pixels."""

LEFT, CHIP, TOP, GAP = 170.0, 146.0, 40.0, 26.0
"""Pixels: where columns begin, how wide an owner is, where rows begin, between levels."""

COLORS = {
    "data": ("#0072B2", "#56B4E9"),
    "update": ("#009E73", "#009E73"),
    "round": ("#D55E00", "#E69F00"),
    "model": ("#1b1f24", "#e8e6e3"),
    "payout": ("#CC79A7", "#CC79A7"),
}
"""Of each kind of node on light and on dark ground; Okabe and Ito's, and ink."""

RIMS = {"data": 4, "round": 0, "model": 8, "payout": 11}
"""Pixels by which corners are rounded: kinds differ in shape, too."""


@dataclass(frozen=True)
class Row:
    """An owner of data."""

    name: str
    examples: int


@dataclass(frozen=True)
class Column:
    """A round, and what came of it."""

    number: int
    rows: frozenset[int]
    """Which owners committed to an update."""
    cid: str
    used: bool = True
    """Whether it has an aggregate: none where too few took part or it was withheld."""
    anchored: bool = False
    paid: int = 0


@dataclass(frozen=True)
class Node:
    """One mark: its middle and its size in pixels."""

    kind: str
    row: int
    column: int
    """Which bundles it is of; -1 where it is of all."""
    x: float
    y: float
    wide: float
    high: float
    lines: tuple[str, ...]
    """What is written in it."""
    said: str
    """What it is, for those who hear it."""
    sources: tuple[str, ...] = ()
    """Names of the nodes it was made from."""
    after: str = ""
    """Name of the model it starts from."""
    anchored: bool = False
    unused: bool = False

    @property
    def name(self) -> str:
        """Name it among all others."""
        return _named(self.kind, self.row, self.column)


@dataclass(frozen=True)
class Grid:
    """All there is to draw."""

    wide: float
    high: float
    rows: tuple[range, ...]
    columns: tuple[range, ...]
    nodes: tuple[Node, ...]
    lines: tuple[tuple[float, float, float, float], ...]
    """From where to where."""
    tips: tuple[tuple[float, float, bool], ...]
    """Points of arrows, which go right, or else down."""
    heads: tuple[tuple[float, float, str], ...]
    """Words, and where they begin."""


def placed(owners: Sequence[Row], rounds: Sequence[Column]) -> Grid:
    """Place the parts of a lineage.

    Args:
        owners: One row each, or for a few together.
        rounds: One column each, or for a few together; at least one, in their order.
    """
    rows, columns = bundled(len(owners), ROWS), bundled(len(rounds), COLUMNS)
    roomy = len(rows) <= ROWS / 2
    pitch = 38.0 if roomy else 22.0
    spans = [_span(rounds[some[0]].number, rounds[some[-1]].number) for some in columns]
    widest = LETTER * max(6, *map(len, spans)) + 8
    across = max(widest + 10, min(104.0, 1040 / len(columns)))
    box = max(widest, min(across - 18, 86.0))
    ys = [TOP + (at + 0.5) * pitch for at in range(len(rows))]
    xs = [LEFT + (at + 0.5) * across for at in range(len(columns))]
    bottom, high = TOP + pitch * len(rows), 40.0 if any(one.anchored for one in rounds) else 24.0
    levels = {
        "round": (bottom + GAP + high / 2, high),
        "model": (bottom + GAP + high + GAP + 12, 24.0),
        "payout": (bottom + GAP + high + GAP + 24 + GAP + 11, 22.0),
    }
    nodes = []
    for at, some in enumerate(rows):
        lines, said = _owners([owners[one] for one in some], roomy=roomy)
        nodes.append(Node("data", at, -1, 8 + CHIP / 2, ys[at], CHIP, pitch - 6, lines, said))
    wires, tips = [], []
    for at, some in enumerate(columns):
        here = [rounds[one] for one in some]
        model = _named("model", -1, at - 1) if at else ""
        cells = []
        for row, members in enumerate(rows):
            count = sum(len(one.rows.intersection(members)) for one in here)
            if count:
                # The area says how many of those who might have took part.
                side = 16 * sqrt(count / (len(members) * len(here)))
                said = f"{_many(count, 'update')} by {nodes[row].lines[0]} in round {spans[at]}"
                source = (_named("data", row, -1),)
                size = max(side, 5.0)
                cells.append(
                    Node("update", row, at, xs[at], ys[row], size, size, (), said, source, model)
                )
        below = _below(here, spans[at], at, xs[at], box, levels, cells, model)
        nodes += [*cells, *below]
        for upper, lower in pairwise((*cells[:1], *below)):
            if lower.sources:
                wires.append((xs[at], upper.y, xs[at], lower.y))
                tips.append((xs[at], lower.y - lower.high / 2, False))
    # From an owner a line goes as far as its last update.
    ends = {one.row: one.x for one in nodes if one.kind == "update"}
    wires += [(8 + CHIP, ys[row], x, ys[row]) for row, x in ends.items()]
    middle = levels["model"][0]
    for before, after in pairwise(xs):
        wires.append((before, middle, after, middle))
        tips.append((after - box / 2, middle, True))
    kinds = [kind for kind in levels if any(one.kind == kind for one in nodes)]
    heads = [(8.0, levels[kind][0] + 4, f"{kind}s") for kind in kinds]
    return Grid(
        wide=LEFT + across * len(columns) + 12,
        high=max(one.y + one.high / 2 for one in nodes) + 12,
        rows=rows,
        columns=columns,
        nodes=tuple(nodes),
        lines=tuple(wires),
        tips=tuple(tips),
        heads=((8.0, TOP - 16, "data"), (LEFT, TOP - 16, "updates"), *heads),
    )


def bundled(count: int, most: int) -> tuple[range, ...]:
    """Cut ``count`` things into at most ``most`` bundles of 1, 2, 5, 10, 20, 50... of them."""
    size = 1
    while ceil(count / size) > most:
        size = size * 5 // 2 if str(size).startswith("2") else size * 2
    return tuple(range(at, min(at + size, count)) for at in range(0, count, size))


def clean(text: str, most: int) -> str:
    """Cut anybody's text to the width of ``most`` letters, and show what cannot be seen.

    Accents are left out: piled on one another they would leave their line.
    """
    seen = [
        letter if letter.isprintable() else "\ufffd"
        for letter in text
        if not category(letter).startswith("M")
    ]
    width = [2 if east_asian_width(letter) in "WF" else 1 for letter in seen]
    if sum(width) <= most:
        return "".join(seen)
    kept = 0
    while sum(width[: kept + 1]) < most:
        kept += 1
    return "".join(seen[:kept]) + "…"


def draw_grid(grid: Grid, *, dark: bool = False) -> Figure:
    """Draw a still picture."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

    with theme(dark=dark):
        # What is 11 pixels high in a browser is 8 points here.
        figure = canvas(Figure(figsize=(grid.wide / 96, grid.high / 96)), dark=dark)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, grid.wide), ylim=(grid.high, 0))
        axes.axis("off")
        ground, faint = axes.get_facecolor(), "#6b7480" if dark else "#a9b1bb"
        wires = [((x, y), (right, down)) for x, y, right, down in grid.lines]
        axes.add_collection(LineCollection(wires, colors=faint, linewidths=1, zorder=1))
        for right, mark, dx, dy in ((True, ">", 3.5, 0), (False, "v", 0, 3.5)):
            tips = [(x - dx, y - dy) for x, y, way in grid.tips if way == right]
            if tips:
                xs, ys = zip(*tips, strict=True)
                axes.scatter(xs, ys, s=22, color=faint, marker=mark, lw=0, zorder=3)
        for x, y, word in grid.heads:
            axes.text(x, y, word, fontsize=8.5, alpha=0.8)
        for one in grid.nodes:
            color = COLORS[one.kind][dark]
            corner = (one.x - one.wide / 2, one.y - one.high / 2)
            look: dict[str, Any] = {"fc": ground, "ec": color, "lw": 1.4, "zorder": 2}
            if one.kind == "update":
                look["fc"] = color
                lone = Circle((one.x, one.y), one.wide / 2, **look)
                many = len(grid.rows[one.row]) * len(grid.columns[one.column]) > 1
                axes.add_patch(Rectangle(corner, one.wide, one.high, **look) if many else lone)
                continue
            style = f"round,pad=0,rounding_size={RIMS[one.kind] or 0.01}"
            stroke = "--" if one.unused else "-"
            axes.add_patch(FancyBboxPatch(corner, one.wide, one.high, style, ls=stroke, **look))
            written = [(line, 8) for line in one.lines] + [("⚓", 11)] * one.anchored
            for at, (line, size) in enumerate(written):
                y = one.y + 14 * (at - (len(written) - 1) / 2)
                # Text of a log is no formula, whatever dollars are in it.
                axes.text(
                    one.x, y, line, family="monospace", fontsize=size, ha="center",
                    va="center_baseline", parse_math=False, zorder=4,
                )  # fmt: skip
        figure.draw_without_rendering()
    return figure


def _below(
    here: Sequence[Column], span: str, at: int, x: float, box: float,
    levels: dict[str, tuple[float, float]], cells: Sequence[Node], model: str,
) -> list[Node]:  # fmt: skip
    """Place what comes of the updates of some rounds."""
    updates, paid = sum(len(one.rows) for one in here), sum(one.paid for one in here)
    used = any(one.used for one in here)
    found = [
        Node(
            "round", -1, at, x, levels["round"][0], box, levels["round"][1], (span,),
            f"round {span}: {_many(updates, 'update')}", tuple(one.name for one in cells), model,
            anchored=any(one.anchored for one in here), unused=not used,
        ),
        Node(
            "model", -1, at, x, levels["model"][0], box, levels["model"][1],
            (f"…{clean(here[-1].cid[-5:], 5)}",), f"model after round {here[-1].number}",
            # A round without an aggregate ends with the model it began with.
            (_named("round", -1, at),) if used else (), model,
        ),
    ]  # fmt: skip
    if paid:
        found.append(
            Node(
                "payout", -1, at, x, levels["payout"][0], box, levels["payout"][1],
                (f"{paid} paid" if len(f"{paid} paid") * LETTER < box - 8 else f"{paid}",),
                f"{_many(paid, 'payout')} for round {span}", (_named("model", -1, at),),
            )
        )  # fmt: skip
    return found


def _owners(some: Sequence[Row], *, roomy: bool) -> tuple[tuple[str, ...], str]:
    """Write on a chip whose data it is, and say it."""
    first, last = clean(some[0].name, 19), clean(some[-1].name, 19)
    name = first
    if len(some) > 1:
        name = clean(f"{first}–{last.removeprefix('client/')}", 19)  # noqa: RUF001 (a range)
    size = _many(sum(one.examples for one in some), "example")
    return (name, clean(size, 19)) if roomy else (name,), f"data of {name}: {size}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"  # noqa: RUF001 (a range)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _named(kind: str, row: int, column: int) -> str:
    """Name a node by its first letter and where it is; there may be hundreds on a page."""
    return kind[0] + ".".join(str(one) for one in (row, column) if one >= 0)
