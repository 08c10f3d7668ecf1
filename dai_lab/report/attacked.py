"""Defenses under attacks: what each is worth against the worst of them, peak and final."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.metrics import Estimate, difference, estimate, final
from dai_lab.report.figures import canvas, theme
from dai_lab.report.ranking import leaders, rows, standing
from dai_lab.report.trials import Trial, over

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

NOBODY = "none"
"""The attack that is none: shown beside the others, never the worst."""

ACCURACY, SUCCESS = "test_accuracy", "attack_success"


@dataclass(frozen=True)
class Attacked:
    """One defense in one place against one attack."""

    final: Estimate
    """Accuracy at the end."""
    peak: Estimate
    """Accuracy in the round in which its mean over seeds was highest."""
    success: Estimate | None
    """Share of what the attacker shows that the final model answers as the attacker wants."""
    ends: NDArray[Any]
    """Final accuracy of each seed; NaN where a run broke down."""


def attacked(trials: Sequence[Trial]) -> dict[tuple[str, str, str], Attacked]:
    """Estimate how each defense ended, by place, attack and defense.

    Raises:
        ValueError: A world is not named ``<place>+<attack>``.
    """
    found = {}
    for trial in trials:
        place, plus, attack = trial.world.rpartition("+")
        if not plus:
            raise ValueError(f"worst: a world must be <place>+<attack>, got {trial.world}")
        seeds = [trial.seeds[seed] for seed in sorted(trial.seeds)]
        ends = np.array([_number(final(rows, ACCURACY)) for rows in seeds])
        line = over(seeds, ACCURACY, "round")
        best = max((one for one in line[1] if one.n), key=lambda one: one.value) if line else None
        success = None
        if trial.has(SUCCESS):
            shown = [_number(final(rows, SUCCESS)) for rows in seeds]
            success = estimate(shown, missing="count")
        end = estimate(ends, missing="count")
        found[place, attack, trial.algorithm] = Attacked(end, best or end, success, ends)
    return found


def worst(trials: Sequence[Trial]) -> str:
    """Write what every defense is worth against its worst attack, as a Markdown table.

    A cell is the final accuracy under the attack that leaves least of it, that attack, and the
    peak under the attack with the lowest peak, which is how others publish it. A run that broke
    down counts as having learned nothing.
    """
    found = attacked(trials)
    places = list(dict.fromkeys(place for place, _, _ in found))
    ranks = standing([one for one in trials if not one.world.endswith(f"+{NOBODY}")]).ranks
    cells: dict[tuple[str, str], str] = {}
    values: dict[str, list[float]] = {}
    for place in places:
        ends: dict[str, NDArray[Any]] = {}
        words: dict[str, tuple[Estimate, str, Estimate]] = {}
        for name in dict.fromkeys(defense for _, _, defense in found):
            here = {attack: one for (at, attack, who), one in found.items()
                    if (at, who) == (place, name) and attack != NOBODY}  # fmt: skip
            if not here:
                continue
            attack = min(here, key=lambda one: _value(here[one].final))
            lowest = min((one.peak for one in here.values()), key=_value)
            ends[name] = np.nan_to_num(here[attack].ends)
            words[name] = (here[attack].final, attack, lowest)
            values.setdefault(name, []).append(_value(here[attack].final))
        leading = leaders(ends)
        for name, (end, attack, peak) in words.items():
            number, space, rest = str(end).partition(" ")
            bold = f"**{number}**" if name in leading else number
            cells[place, name] = f"{bold}{space}{rest} {attack}; peak {peak.value:.3f}"
    order = sorted(values, key=lambda name: -sum(values[name]) / len(values[name]))
    lines = [["", *places, "mean rank over all attacks"]]
    for name in order:
        rank = f"{ranks[name]:.1f}" if name in ranks else "-"
        lines.append([name, *(cells.get((place, name), "-") for place in places), rank])
    note = (
        "Final accuracy under the worst attack with its interval over seeds, that attack, and the "
        "lowest peak over time of the mean. Bold: the best, with what its seeds do not tell from "
        "it."
    )
    return f"{rows(lines)}\n{note}\n"


def backdoored(trials: Sequence[Trial]) -> str:
    """Write accuracy and attack success of every defense, as a Markdown table."""
    found = {key: one for key, one in attacked(trials).items() if one.success is not None}
    if not found:
        raise ValueError("backdoors: no finished run has attack_success")
    both = list(dict.fromkeys((place, attack) for place, attack, _ in found))
    lines = [["", *(f"{place} {attack}" for place, attack in both)]]
    for name in dict.fromkeys(defense for _, _, defense in found):
        cells = [found.get((place, attack, name)) for place, attack in both]
        lines.append(
            [name, *("-" if one is None else f"{one.final} / {one.success}" for one in cells)]
        )
    return f"{rows(lines)}\nAccuracy on clean examples / success of the attack.\n"


def gaps(trials: Sequence[Trial], ours: str, theirs: str) -> dict[tuple[str, str], Estimate]:
    """Estimate how much more accurate one defense ends than another, paired by seed.

    Args:
        trials: One for each defense and world.
        ours: A defense.
        theirs: Another.

    Returns:
        From place and attack, where both were tried and no run broke down.
    """
    found = attacked(trials)
    return {
        (place, attack): difference(one.ends, other.ends)
        for (place, attack, name), one in found.items()
        if name == ours
        and (other := found.get((place, attack, theirs))) is not None
        and len(one.ends) == len(other.ends)
        and bool(np.isfinite(one.ends).all() and np.isfinite(other.ends).all())
    }


def draw_heat(trials: Sequence[Trial], *, metric: str = ACCURACY, dark: bool = False) -> Figure:
    """Draw how every defense ends under every attack, a panel for each place.

    Args:
        trials: One for each defense and world, worlds named ``<place>+<attack>``.
        metric: ``test_accuracy`` or ``attack_success``, at the end of a run.
        dark: Draw for a dark page.

    Raises:
        ValueError: A world's name says no place and attack, or nothing has the metric.
    """
    if metric not in (ACCURACY, SUCCESS):
        raise ValueError(f"heat: metric must be {ACCURACY} or {SUCCESS}, got {metric}")
    cells: dict[tuple[str, str, str], float] = {}
    for key, one in attacked(trials).items():
        shown = one.final if metric == ACCURACY else one.success
        if shown is not None:
            cells[key] = _value(shown)
    if not cells:
        raise ValueError(f"heat: no finished run has {metric}")
    return draw_cells(cells, title=metric.replace("_", " "), dark=dark)


def draw_cells(
    cells: Mapping[tuple[str, str, str], float], *, title: str = "", dark: bool = False
) -> Figure:
    """Draw shares in 0..1 as heat maps: a panel a place, a row a defense, a column an attack.

    Args:
        cells: By place, attack and defense.
        title: What the numbers are.
        dark: Draw for a dark page.
    """
    from matplotlib.figure import Figure

    places, attacks, names = (list(dict.fromkeys(key[at] for key in cells)) for at in range(3))
    left = 0.085 * max(map(len, names)) + 0.3
    wide = left + len(places) * (0.62 * len(attacks) + 0.35) + 0.6
    deep = 0.36 * len(names) + 0.085 * max(map(len, attacks)) + 0.75
    with theme(dark=dark):
        figure = canvas(Figure(figsize=(wide, deep), layout="constrained"), dark=dark)
        panels = figure.subplots(1, len(places), squeeze=False, sharey=True)[0]
        for axes, place in zip(panels, places, strict=True):
            table = np.array(
                [[cells.get((place, attack, name), nan) for attack in attacks] for name in names]
            )
            shades = axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
            for (row, column), value in np.ndenumerate(table):
                # Cividis is dark below and light above, on either ground.
                ink = "#ffffff" if value < 0.55 else "#000000"
                said = "" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
                axes.text(column, row, said, ha="center", va="center", color=ink, fontsize=9)
            axes.set_xticks(range(len(attacks)), attacks, rotation=60, ha="right")
            axes.set_yticks(range(len(names)), names)
            axes.set_title(fill(place, 30), loc="left")
            axes.grid(visible=False)
            axes.tick_params(length=0)
        figure.colorbar(shades, ax=[*panels], label=title, fraction=0.05, pad=0.02)
        figure.draw_without_rendering()
    return figure


def _value(one: Estimate) -> float:
    """Read an estimate, or nothing learned where every run broke down."""
    return one.value if one.n else 0.0


def _number(value: float | None) -> float:
    return nan if value is None else value
