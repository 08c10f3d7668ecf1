"""Aggregators against attacks: the worst each suffers, who is better on the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.metrics import Estimate, estimate, final, mean_ranks, stratified, worst
from dai_lab.report.ranking import rows
from dai_lab.report.trials import Trial

WHEN = ("final", "peak")


def curve(trial: Trial, metric: str = "test_accuracy") -> NDArray[Any]:
    """Return a metric as a row a seed and a column a judged round; what was lost is 0.

    A run that broke down early keeps nothing from there on; where all broke down before they were
    judged, that is all there is to tell.

    Raises:
        ValueError: Seeds were judged at different rounds though none broke down.
    """
    found = [
        {int(row["round"]): row[metric] for row in trial.seeds[seed] if metric in row}
        for seed in sorted(trial.seeds)
    ]
    times = sorted({number for one in found for number in one}) or [0]
    grid = [[one.get(number) for number in times] for one in found]
    return np.array([[0.0 if one is None else one for one in row] for row in grid], dtype=float)


def worst_case(trials: Sequence[Trial], of: str = "final") -> str:
    """Write the worst each aggregator suffers in each world, and the mean place, as a table.

    Args:
        trials: One for each aggregator, world and attack.
        of: ``final`` accuracy, or the ``peak`` of the mean over seeds, which flatters.

    Raises:
        ValueError: Neither word, runs without attacks, or an attack with other seeds.
    """
    if of not in WHEN:
        raise ValueError(f"worst: of must be final or peak, got {of}")
    table = _table(trials)
    worlds, names = _order(trials)
    most = {
        world: len(
            {attack for (one, _), tried in table.items() for attack in tried if one == world}
        )
        for world in worlds
    }
    cells: dict[tuple[str, str], tuple[str, Estimate]] = {}
    for (world, name), tried in table.items():
        place, found = worst([*tried.values()], peak=of == "peak")
        label = [*tried][place]
        if len(tried) < most[world]:
            label += f", of {len(tried)} attacks"
        cells[world, name] = (label, found)
    ranks = _ranks(table, worlds, names, of)
    order = sorted(names, key=lambda name: ranks[name].value if name in ranks else np.inf)
    lines = [["", *worlds, "mean rank"]]
    for name in order:
        shown = [cells.get((world, name)) for world in worlds]
        said = ["-" if one is None else f"{one[1]} {one[0]}" for one in shown]
        lines.append([name, *said, f"{ranks[name]:.1f}" if name in ranks else "-"])
    numbers = "/".join(map(str, sorted({len(trial.seeds) for trial in trials})))
    what = "at the end" if of == "final" else "at its highest on the test set, which flatters"
    return (
        f"{rows(lines)}\nTest accuracy {what}, under the attack that leaves least of it: mean over "
        f"{numbers} seeds (interquartile), 95 % bootstrap interval, and the attack. "
        "Mean rank: the place by these (1 is best), averaged over worlds with all attacks tried.\n"
    )


def paired(trials: Sequence[Trial], against: str = "mean") -> str:
    """Write how much better each aggregator ends than another, on the same attacks and seeds.

    Raises:
        ValueError: Nobody is called ``against``, or runs without attacks.
    """
    table, (worlds, names) = _table(trials), _order(trials)
    if against not in names:
        raise ValueError(f"paired: against must be one of {', '.join(names)}, got {against}")
    ends = _ends(trials)
    lines = [["", *worlds]]
    for name in names:
        if name == against:
            continue
        cells = []
        for world in worlds:
            gaps = {
                attack: np.array(
                    [
                        value - ends[world, attack, against][seed]
                        for seed, value in ends[world, attack, name].items()
                        if seed in ends[world, attack, against]
                    ]
                )
                for attack in table.get((world, name), {})
                if attack in table.get((world, against), {})
            }
            gaps = {attack: some for attack, some in gaps.items() if len(some)}
            cells.append(_signed(stratified(gaps)) if gaps else "-")
        lines.append([name, *cells])
    return (
        f"{rows(lines)}\nFinal test accuracy above that of {against}, paired by attack and seed: "
        "interquartile mean over both, 95 % bootstrap interval over the seeds of each attack. "
        "Bold: the interval leaves out 0.\n"
    )


def poisoned(trials: Sequence[Trial]) -> str:
    """Write how often a poison gets its way at the end, and the accuracy on clean examples.

    Raises:
        ValueError: No run was poisoned.
    """
    known = [trial for trial in trials if trial.has("attack_success")]
    if not known:
        raise ValueError("poisoned: no finished run has attack_success: choose a poison")
    lines = [["", "world", "poison", "attack success", "clean accuracy"]]
    for trial in known:
        both = [_lasts(trial, metric) for metric in ("attack_success", "test_accuracy")]
        cells = [str(estimate(one, missing="count")) for one in both]
        lines.append([trial.algorithm, trial.world, trial.attack, *cells])
    return rows(lines)


def survival(trials: Sequence[Trial], own: str = "adaptive", none: str = "none") -> str:
    """Write what an attack on the rule itself leaves, beside the worst of all others, as a table.

    Args:
        trials: One for each aggregator, world and attack.
        own: The attack that knows the rule.
        none: The runs without an attack.

    Raises:
        ValueError: Runs without attacks, other seeds, or nobody met ``own`` and ``none``.
    """
    table, (worlds, names) = _table(trials), _order(trials)
    lines = [["", "world", "no attack", "worst fixed attack", f"{own} attack", "of it kept"]]
    found = []
    for world in worlds:
        for name in names:
            tried = dict(table.get((world, name), {}))
            if not {own, none} <= tried.keys():
                continue
            mine, free = tried.pop(own)[:, -1], tried.pop(none)[:, -1]
            kept = estimate(mine / np.maximum(free, np.finfo(float).tiny))
            place, worst_of = worst([*tried.values()]) if tried else (0, None)
            fixed = f"{worst_of} {[*tried][place]}" if worst_of else "-"
            cells = [str(estimate(free)), fixed, str(estimate(mine)), str(kept)]
            found.append((worlds.index(world), -kept.value, [name, world, *cells]))
    if not found:
        raise ValueError(f"survives: no aggregator met both {own} and {none}")
    lines += [line for _, _, line in sorted(found)]
    return (
        f"{rows(lines)}\nFinal test accuracy, interquartile mean over seeds, 95 % bootstrap "
        f"interval. Of it kept: accuracy under {own} by that without an attack, seed by seed.\n"
    )


def runtime(trials: Sequence[Trial]) -> str:
    """Write how many seconds a run takes, over all worlds and seeds, by aggregator and attack."""
    _, names = _order(trials)
    attacks = [*dict.fromkeys(trial.attack for trial in trials)]
    lines = [["", *attacks]]
    for name in names:
        cells = []
        for attack in attacks:
            here = [t for t in trials if (t.algorithm, t.attack) == (name, attack)]
            took = [one for trial in here for one in trial.seconds.values()]
            cells.append(f"{estimate(took):.1f}" if took else "-")
        lines.append([name, *cells])
    return f"{rows(lines)}\nSeconds a run, side by side with others on the same machine.\n"


def _signed(found: Estimate) -> str:
    value, space, rest = f"{found:+.3f}".partition(" ")
    clear = not isnan(found.low) and not found.low <= 0 <= found.high
    return f"**{value}**{space}{rest}" if clear else f"{value}{space}{rest}"


def _table(trials: Sequence[Trial]) -> dict[tuple[str, str], dict[str, NDArray[Any]]]:
    """Put curves by world and aggregator, and there by attack.

    Raises:
        ValueError: Runs are not named after attacks, or attacks were not met with the same seeds.
    """
    if not all(trial.attack for trial in trials):
        raise ValueError("name must be <study>,<world>,<attack>,<aggregator> in every run")
    found: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    seeds: dict[tuple[str, str], set[int]] = {}
    for trial in trials:
        where = trial.world, trial.algorithm
        if seeds.setdefault(where, set(trial.seeds)) != set(trial.seeds):
            raise ValueError(
                f"worst: {trial.algorithm} in {trial.world} met {trial.attack} with other seeds "
                "than other attacks: run those that are missing, or leave them out for all"
            )
        found.setdefault(where, {})[trial.attack] = curve(trial)
    return found


def _order(trials: Sequence[Trial]) -> tuple[list[str], list[str]]:
    worlds = [*dict.fromkeys(trial.world for trial in trials)]
    return worlds, [*dict.fromkeys(trial.algorithm for trial in trials)]


def _ranks(
    table: Mapping[tuple[str, str], Mapping[str, NDArray[Any]]],
    worlds: Sequence[str],
    names: Sequence[str],
    of: str,
) -> dict[str, Estimate]:
    """Rank aggregators that met the same attacks with as many seeds in every world."""
    met = [{one: len(some) for one, some in tried.items()} for tried in table.values()]
    whole = len(table) == len(worlds) * len(names) and all(one == met[0] for one in met)
    if not whole:
        return {}

    def each(world: str, name: str) -> NDArray[Any]:
        place, _ = worst([*table[world, name].values()], peak=of == "peak", resamples=1)
        curves = [*table[world, name].values()][place]
        best = int(curves.mean(axis=0).argmax()) if of == "peak" else -1
        return np.asarray(curves[:, best])

    tasks = [np.array([each(world, name) for name in names]) for world in worlds]
    return dict(zip(names, mean_ranks(tasks), strict=True))


def _lasts(trial: Trial, metric: str) -> list[float]:
    found = [final(trial.seeds[seed], metric) for seed in sorted(trial.seeds)]
    return [nan if one is None else float(one) for one in found]


def _ends(trials: Sequence[Trial]) -> dict[tuple[str, str, str], dict[int, float]]:
    """Say where every seed ended, 0 where it broke down."""
    return {
        (trial.world, trial.attack, trial.algorithm): {
            seed: final(rounds, "test_accuracy") or 0.0 for seed, rounds in trial.seeds.items()
        }
        for trial in trials
    }
