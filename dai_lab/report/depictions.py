"""Which figures a study has data for, and what each shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dai_lab.metrics import final
from dai_lab.report.figures import METRICS, draw_curves, draw_finals
from dai_lab.report.groups import Group
from dai_lab.report.measures import RESOURCES, metric, spent, target
from dai_lab.report.planes import draw_planes, pictured
from dai_lab.report.ranking import standing
from dai_lab.report.trials import Trial, tried
from dai_lab.report.worlds import draw_costs, draw_ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

FIGURES = ("curves", "costs", "final", "ranking", "rows")
"""Names a report's figures may have."""

LINES = "Lines are interquartile means over seeds, bands 95 % intervals."


def depictions(groups: Sequence[Group]) -> dict[str, tuple[Callable[..., Figure], str]]:
    """Name the figures of a study, how to draw each, and what it shows."""
    found: dict[str, tuple[Callable[..., Figure], str]] = {}
    trials = tried(groups)
    drawn = [name for name in METRICS if any(trial.has(name) for trial in trials)]
    accuracies = [name for name in ("test_accuracy", "personal_accuracy") if name in drawn]
    worlds = len({trial.world for trial in trials})
    if worlds > 1 and accuracies:
        draw = partial(draw_costs, trials, metrics=accuracies, resources=("round",))
        found["curves"] = (draw, f"Over rounds, world by world: {_said(accuracies)}. {LINES}")
    elif drawn:
        found["curves"] = (partial(draw_curves, groups), f"Over rounds: {_said(drawn)}. {LINES}")
    bought = [name for name in RESOURCES if _bought(trials, name)]
    if accuracies and len(bought) > 1:
        aims = _aims(groups)
        found["costs"] = (
            partial(draw_costs, trials, metrics=accuracies, targets=aims),
            f"What it costs: {_said(accuracies)} against "
            f"{', '.join(RESOURCES[name].title for name in bought)}. {LINES} Steps: seeds were "
            "judged at different amounts, and each counts with the last value it was judged at; "
            "a line begins where all seeds have been judged and ends where the first one ends. "
            "What spends none of a resource has no line there."
            + (" Dotted: the target." if aims else ""),
        )
    for name in [one for one in ("test_accuracy", "test_loss") if one in drawn][:1]:
        if any(final(run.rounds, name) is not None for group in groups for run in group.runs):
            found["final"] = (
                partial(draw_finals, groups, metric=name),
                f"Final {METRICS[name]}: interquartile mean, 95 % interval, and a tick per seed.",
            )
    if worlds > 1 and _ranked(trials):
        found["ranking"] = (
            partial(draw_ranks, trials),
            "Place by final test accuracy in every world, 1 is best, and its mean over worlds "
            "with a 95 % interval that redraws the seeds of each world.",
        )
    if pictured(groups):
        found["rows"] = (
            partial(draw_planes, groups),
            "What the server saw, on the two directions in which rows differ most, in the first "
            "and the last round that was kept, first seed of each setting. Open marks were "
            "dropped, crosses accused, the star is the update; whatever lies more than three times "
            "as far out as the median row is a diamond at that border.",
        )
    return found


def _said(metrics: Sequence[str]) -> str:
    return ", ".join(METRICS[name] for name in metrics)


def _bought(trials: Sequence[Trial], resource: str) -> bool:
    return any(
        spent(record, resource)
        for trial in trials
        for records in trial.seeds.values()
        for record in records
    )


def _aims(groups: Sequence[Group]) -> dict[str, float]:
    """Give the target, and whose accuracy it is, if all runs have the same."""
    found = {(metric(run), target(run)) for group in groups for run in group.runs}
    name, aim = found.pop() if len(found) == 1 else ("", None)
    return {} if aim is None else {name: aim}


def _ranked(trials: Sequence[Trial]) -> bool:
    """Tell whether several methods were tried with the same seeds in every world."""
    try:
        return len(standing(trials).ranks) > 1
    except ValueError:
        return False
