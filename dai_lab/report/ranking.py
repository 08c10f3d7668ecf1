"""Methods side by side in several worlds: who leads where, and what it costs to get there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.metrics import Estimate, cost_to, difference, estimate, final, iqm, mean_ranks
from dai_lab.report.measures import RESOURCES, TIME, unit
from dai_lab.report.trials import Records, Trial

TITLES = {
    "test_accuracy": "accuracy of the common model on the test set",
    "client_accuracy": "accuracy of the common model on what clients held out",
    "personal_accuracy": "accuracy of each client's own model on what it held out",
    "best": "accuracy of the model each client would use on what it held out: its own where it "
    "has one, else the common one",
}
"""What may be ranked, and how it is called."""

LEVEL = 0.95

ENOUGH = 6
"""Seeds from which on all of them agreeing by chance is rarer than one time in twenty."""


@dataclass(frozen=True)
class Standing:
    """Where every method stands in every world, and over all of them."""

    worlds: tuple[str, ...]
    algorithms: tuple[str, ...]
    """Best mean rank first, those without one last."""
    cells: Mapping[tuple[str, str], Estimate]
    """How each algorithm ended in each world, where it was tried and has the metric."""
    leading: frozenset[tuple[str, str]]
    """The best of each world, and whatever its seeds do not tell from it."""
    places: Mapping[tuple[str, str], float]
    """The rank in each world of every algorithm that has a mean rank."""
    ranks: Mapping[str, Estimate]
    """The mean rank of every algorithm that has the metric in all worlds."""
    seeds: tuple[int, ...]
    """How many seeds each world has."""


def standing(trials: Sequence[Trial], metric: str = "test_accuracy") -> Standing:
    """Compare how methods ended, world by world.

    Args:
        trials: One for each method and world.
        metric: A final accuracy, or ``best``: that of clients' own models where a method
            makes them, else that of the common model on the same examples.

    Raises:
        ValueError: No trial has the metric, or two of a world were not run with the same seeds.
    """
    if metric not in TITLES:
        raise ValueError(f"ranking: metric must be one of {', '.join(TITLES)}, got {metric}")
    # Where methods meet attacks, each attack makes a world of its own.
    trials = [
        replace(one, world=f"{one.world}, {one.attack}", attack="") if one.attack else one
        for one in trials
    ]
    ends: dict[str, dict[str, NDArray[Any]]] = {}
    for trial in trials:
        name = reading(trial, metric)
        if any(name in row for rows in trial.seeds.values() for row in rows):
            found = [final(trial.seeds[seed], name) for seed in sorted(trial.seeds)]
            numbers = np.array([nan if one is None else one for one in found])
            ends.setdefault(trial.world, {})[trial.algorithm] = numbers
    if not ends:
        raise ValueError(f"ranking: no finished run has {metric}")
    _same_seeds(trials)
    everyone = list(dict.fromkeys(name for table in ends.values() for name in table))
    ranked = [name for name in everyone if all(name in table for table in ends.values())]
    tables = [np.array([table[name] for name in ranked]) for table in ends.values()]
    ranks = dict(zip(ranked, mean_ranks(tables), strict=True)) if ranked else {}
    places: dict[tuple[str, str], float] = {}
    if ranked:
        for world, table in zip(ends, tables, strict=True):
            alone = mean_ranks([table], resamples=1)
            places |= {(world, name): one.value for name, one in zip(ranked, alone, strict=True)}
    return Standing(
        worlds=tuple(ends),
        algorithms=tuple(
            sorted(everyone, key=lambda name: ranks[name].value if name in ranks else np.inf)
        ),
        cells={
            (world, name): estimate(numbers, missing="count")
            for world, table in ends.items()
            for name, numbers in table.items()
        },
        leading=frozenset(
            (world, name) for world, table in ends.items() for name in leaders(table)
        ),
        places=places,
        ranks=ranks,
        seeds=tuple(len(next(iter(table.values()))) for table in ends.values()),
    )


def leaders(ends: Mapping[str, NDArray[Any]]) -> set[str]:
    """Name the best method and those that its seeds do not tell from it.

    Whoever trails the best on paired seeds, by an interval that lies above 0 after Bonferroni's
    correction for the number of rivals, does not lead; with fewer than six seeds, where no
    such interval holds what it promises, it must trail with every single one. A method of which
    a run broke down does not lead either. If nobody is told from the best, nobody leads.

    Args:
        ends: One number per seed for each method, same seeds in the same order.
    """
    whole = {name: numbers for name, numbers in ends.items() if np.isfinite(numbers).all()}
    if len(ends) < 2 or not whole or min(map(len, whole.values())) < 2:
        return set()
    best = max(whole, key=lambda name: iqm(whole[name]))
    level = 1 - (1 - LEVEL) / (len(ends) - 1)

    def trails(name: str) -> bool:
        behind = whole[best] - whole[name]
        if len(behind) < ENOUGH and not (behind > 0).all():
            return False
        return difference(whole[best], whole[name], resamples=10_000, level=level).low > 0

    found = {name for name in whole if name == best or not trails(name)}
    return found if len(found) < len(ends) else set()


def reading(trial: Trial, metric: str) -> str:
    """Name the entry of the records that a metric reads."""
    if metric != "best":
        return metric
    return "personal_accuracy" if trial.has("personal_accuracy") else "client_accuracy"


def ranking(trials: Sequence[Trial], metric: str = "test_accuracy") -> str:
    """Write where methods stand as a Markdown table, and below it how to read it.

    Raises:
        ValueError: See ``standing``.
    """
    found = standing(trials, metric)
    lines = [["", *found.worlds, "mean rank"]]
    for name in found.algorithms:
        cells = []
        for world in found.worlds:
            cell = str(found.cells.get((world, name), "-"))
            value, space, rest = cell.partition(" ")
            bold = (world, name) in found.leading
            cells.append(f"**{value}**{space}{rest}" if bold else cell)
        lines.append([name, *cells, f"{found.ranks[name]:.1f}" if name in found.ranks else "-"])
    return f"{rows(lines)}\n{_note(found, metric)}\n"


def costs(
    trials: Sequence[Trial],
    targets: Mapping[str, float],
    *,
    metric: str = "test_accuracy",
    resource: str = "bytes",
) -> str:
    """Write what every method spent to reach an accuracy, world by world, as a Markdown table.

    Args:
        trials: One for each method and world.
        targets: The accuracy asked for in each world; under an empty name, in all others.
        metric: Whose accuracy it is; see ``standing``.
        resource: One of ``round``, ``bytes`` (up and down), ``flops``, ``simulated_seconds``.

    Raises:
        ValueError: A world without a target, or a metric or resource that does not exist.
    """
    if resource not in RESOURCES:
        raise ValueError(f"cost: of must be one of {', '.join(RESOURCES)}, got {resource}")
    order, entries = standing(trials, metric), RESOURCES[resource].entries
    if bare := sorted(set(order.worlds) - set(targets)) if "" not in targets else []:
        raise ValueError(f"cost: target names no accuracy for {bare[0]}: add {bare[0]}:<accuracy>")
    aims = {world: targets.get(world, targets.get("", nan)) for world in order.worlds}

    def paid(trial: Trial, rounds: Records) -> float | None:
        return cost_to(rounds, reading(trial, metric), aims[trial.world], *entries)

    found = {
        (trial.world, trial.algorithm): [paid(trial, rows) for rows in trial.seeds.values()]
        for trial in trials
        if all(trial.has(entry) for entry in (*entries, reading(trial, metric)))
    }
    least = min((one for each in found.values() for one in each if one), default=0.0)
    name, worth = unit(least, RESOURCES[resource].units)
    said = f"simulated {name}" if resource == TIME else name or "rounds"
    lines = [["", *(f"{said} to {aims[world]:.0%} in {world}" for world in order.worlds)]]
    for algorithm in order.algorithms:
        each = [found.get((world, algorithm)) for world in order.worlds]
        lines.append([algorithm, *("-" if one is None else _paid(one, worth) for one in each)])
    return rows(lines)


def rows(lines: Sequence[Sequence[str]]) -> str:
    """Write cells as a Markdown table, the first line its head."""
    safe = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in line] for line in lines]
    whole = [safe[0], ["---"] * len(safe[0]), *safe[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in whole)


def _paid(costs: Sequence[float | None], worth: float) -> str:
    cell = estimate([nan if one is None else one / worth for one in costs], missing="count")
    if cell.n == 0:
        return "never"
    spec = ".0f" if max(one for one in costs if one is not None) >= 1000 * worth else ".3g"
    return format(cell, spec).replace("missing)", "never)")


def _note(found: Standing, metric: str) -> str:
    least, most = min(found.seeds), max(found.seeds)
    seeds = str(most) if least == most else f"{least} to {most}"
    text = (
        f"Final {TITLES[metric]}: interquartile mean over {seeds} seeds with its 95 % bootstrap "
        "interval."
    )
    if found.leading and least >= ENOUGH:
        text += (
            " Bold: the best of a world, with all that a difference paired by seed does not tell "
            "from it (95 % for all rivals together, by Bonferroni)."
        )
    elif found.leading:
        text += (
            " Bold: the best of a world, with all that do not fall behind it with every seed; "
            f"one just as good does one time in {2 ** (least - 1)}, so {least} seeds tell little."
        )
    return text + (
        " Mean rank: the place by these means (1 is best), averaged over worlds; its interval "
        "redraws the seeds of each world."
    )


def _same_seeds(trials: Sequence[Trial]) -> None:
    """Refuse a comparison that could not be paired."""
    for world in dict.fromkeys(trial.world for trial in trials):
        here = [trial for trial in trials if trial.world == world]
        everyone = set().union(*(trial.seeds for trial in here))
        for trial in here:
            if gap := sorted(everyone - set(trial.seeds)):
                raise ValueError(
                    f"ranking: {trial.algorithm} in {world} lacks seed {gap[0]}, which others "
                    "there have: run it, or leave it out for all"
                )
