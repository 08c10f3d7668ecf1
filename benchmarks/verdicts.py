"""What was timed of an aggregator, as a row of a table, and what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

LIMIT = 1.2
"""What a rule may hold beside its input, as a share of it."""
READS = {"median": (1.3, 4, 7), "trimmed_mean": (1.3, 4, 7), "krum": (4, 8, 11)}
"""What issue 4 allows, in reads, for up to 16, 50 and 100 rows."""


@dataclass
class Figures:
    """What one rule took at one size on so many threads, in seconds."""

    rule: str
    rows: int
    params: int
    threads: int
    f: int
    reads: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    liners: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def multiple(self, times: Sequence[float]) -> float:
        """Return the least time in readings of the matrix."""
        return min(times) / min(self.reads)

    def best(self, kind: str) -> tuple[str, float] | None:
        """Return the fastest of ``peers`` or ``liners``."""
        found = {name: min(times) for name, times in getattr(self, kind).items() if times}
        return min(found.items(), key=lambda one: one[1]) if found else None


def line(found: Figures) -> str:
    """Write a row of the table."""
    if not found.ours:
        return f"| {found.rule} | | | | | | {'; '.join(found.notes)} |"
    cells = [found.rule, f"{found.multiple(found.ours):.1f}"]
    for kind in ("peers", "liners"):
        best = found.best(kind)
        if best is None:
            cells += ["", ""]
        else:
            cells += [f"{best[0]} {best[1] / min(found.reads):.1f}"]
            cells += [f"{best[1] / min(found.ours):.1f}"]
    return f"| {' | '.join([*cells, '; '.join(found.notes)])} |"


def gates(figures: list[Figures], memory: dict[str, float | None]) -> Iterator[str]:
    """Say which of the issue's figures are met and which are not."""
    for one in figures:
        if not one.ours:
            continue
        where = f"{one.rule} at {one.rows} x {one.params}, {one.threads} threads"
        multiple = one.multiple(one.ours)
        if one.threads == 1 and one.rule in READS:
            allowed = READS[one.rule][int(np.searchsorted([16, 50], one.rows))]
            word = "met" if multiple <= allowed else "missed"
            yield f"{word}: {where}: {multiple:.2f} reads, {allowed} allowed"
        peer, liner = one.best("peers"), one.best("liners")
        if peer and peer[1] < 2 * min(one.ours):
            yield f"missed: {where}: {peer[1] / min(one.ours):.2f} x faster than {peer[0]}, not 2"
        if liner and liner[1] < min(one.ours):
            yield f"missed: {where}: slower than {liner[0]} ({liner[1] / min(one.ours):.2f} x)"
    for rule, share in memory.items():
        if share is None:
            yield f"no figure: {rule} refuses so many rows, or fails"
        elif share > LIMIT:
            yield f"missed: {rule} holds {share:.2f} x its input beside it, {LIMIT} allowed"
    for rule in dict.fromkeys(one.rule for one in figures):
        ways = {(o.rows, o.params, o.threads): min(o.ours) for o in figures
                if o.rule == rule and o.ours}  # fmt: skip
        gains = {(n, d): ways[n, d, 1] / ways[n, d, 2] for n, d, t in ways
                 if t == 2 and (n, d, 1) in ways}  # fmt: skip
        if gains:
            told = ", ".join(f"{n} x {d}: {gain:.2f}" for (n, d), gain in gains.items())
            yield f"two threads against one: {rule}: {told}"
