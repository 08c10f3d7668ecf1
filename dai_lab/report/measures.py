"""What is measured of every finished run, and in which unit it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, TypeAlias

from dai_lab.metrics import cost_to, final, peak, rounds_to, seconds_to
from dai_lab.report.groups import Group, flat
from dai_lab.report.runs import Run

Units: TypeAlias = Sequence[tuple[str, float]]
"""Names of a unit and what one of it is worth, smallest first."""

BYTES: Units = (("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
FLOPS: Units = (("MFLOP", 1e6), ("GFLOP", 1e9), ("TFLOP", 1e12), ("PFLOP", 1e15))
SECONDS: Units = (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0))


@dataclass(frozen=True)
class Resource:
    """Something a run spends: entries of its records that add up to it."""

    title: str
    axis: str
    """How an axis is called; holds ``{}`` where the unit goes."""
    entries: tuple[str, ...]
    units: Units = (("", 1.0),)


TIME = "simulated_seconds"

RESOURCES = {
    "round": Resource("rounds", "rounds", ("round",)),
    "bytes": Resource("bytes sent", "{} sent, up and down", ("bytes_up", "bytes_down"), BYTES),
    "flops": Resource("arithmetic of training", "{} of training", ("flops",), FLOPS),
    "simulated_seconds": Resource(
        "simulated time", "simulated {}", ("simulated_seconds",), SECONDS
    ),
}
"""What accuracy is bought with, in the order of tables and figures."""


@dataclass(frozen=True)
class Column:
    """One measure of a finished run, and how to write it."""

    name: str
    """Holds ``{}`` where the unit goes, if there is a choice of units."""
    measure: Callable[[Run], float | None]
    spec: str = ".3f"
    needs: tuple[str, ...] = ()
    """Entries of the records it rests on; none for what is not in the records."""
    short: bool = False
    """Whether it belongs in a terminal's width."""
    aimed: bool = False
    """Whether it asks for a target; a run that never gets there has no number."""
    units: Units = ()

    def applies(self, run: Run) -> bool:
        """Tell a number that is missing from one that nobody asked for."""
        if self.aimed and target(run) is None:
            return False
        wanted = (*self.needs, metric(run)) if self.aimed else self.needs
        if wanted:
            return all(any(entry in record for record in run.rounds) for entry in wanted)
        return self.measure(run) is not None


def columns(groups: Sequence[Group]) -> list[Column]:
    """Choose the measures that at least one finished run has, each in one unit for all."""
    everyone = [run for group in groups for run in group.runs]
    return [
        _in_one_unit(column, everyone)
        for column in COLUMNS
        if any(column.applies(run) for run in everyone)
    ]


def unit(size: float, units: Units) -> tuple[str, float]:
    """Choose the largest unit of which ``size`` holds at least one."""
    return next((one for one in reversed(units) if size >= one[1]), units[0])


def spent(record: Mapping[str, Any], resource: str) -> float | None:
    """Add up what was spent of a resource by the end of a round; ``None`` if it is not known."""
    found = [record.get(entry) for entry in RESOURCES[resource].entries]
    known = [float(one) for one in found if isinstance(one, (int, float)) and isfinite(one)]
    return sum(known) if len(known) == len(found) else None


def target(run: Run) -> float | None:
    """Return the accuracy a run aims for, if it does."""
    found = flat(run.config).get("evaluation.target")
    return float(found) if isinstance(found, (int, float)) else None


def metric(run: Run) -> str:
    """Name the accuracy a run's target is about."""
    return str(flat(run.config).get("evaluation.metric", "test_accuracy"))


def _in_one_unit(column: Column, everyone: Iterable[Run]) -> Column:
    if not column.units:
        return column
    found = [column.measure(run) for run in everyone]
    # The smallest number decides, so that none is written as zero.
    name, worth = unit(min((one for one in found if one), default=0.0), column.units)

    def scaled(run: Run) -> float | None:
        size = column.measure(run)
        return None if size is None else size / worth

    return replace(column, name=column.name.format(name), measure=scaled)


def _peak(run: Run) -> float | None:
    return peak(run.rounds, "test_accuracy")


def _last(metric: str) -> Callable[[Run], float | None]:
    return lambda run: final(run.rounds, metric)


def _megabytes(metric: str) -> Callable[[Run], float | None]:
    def measure(run: Run) -> float | None:
        sent = final(run.rounds, metric)
        return None if sent is None else sent / 1e6

    return measure


def _cost(resource: str, worth: float = 1.0) -> Callable[[Run], float | None]:
    def measure(run: Run) -> float | None:
        aim, entries = target(run), RESOURCES[resource].entries
        cost = None if aim is None else cost_to(run.rounds, metric(run), aim, *entries)
        return None if cost is None else cost / worth

    return measure


def _time(run: Run) -> float | None:
    aim = target(run)
    if aim is None or not run.seconds:
        return None
    return seconds_to(rounds_to(run.rounds, metric(run), aim), run.seconds)


def _seconds(run: Run) -> float | None:
    return sum(run.seconds.values()) if run.seconds else None


def _entry(
    name: str, entry: str, spec: str = ".3f", *, short: bool = False, units: Units = ()
) -> Column:
    return Column(name, _last(entry), spec, (entry,), short=short, units=units)


def _aim(
    name: str, measure: Callable[[Run], float | None], spec: str, *needs: str, **more: Any
) -> Column:
    return Column(name, measure, spec, needs, aimed=True, **more)


SENT = RESOURCES["bytes"].entries

COLUMNS = (
    _entry("final accuracy", "test_accuracy", short=True),
    Column("peak accuracy", _peak, needs=("test_accuracy",)),
    _entry("final loss", "test_loss", short=True),
    _entry("client accuracy", "client_accuracy"),
    _entry("worst 10 % of clients", "client_accuracy_worst10", short=True),
    _entry("variance over clients", "client_accuracy_variance", ".4f"),
    _entry("personal accuracy", "personal_accuracy", short=True),
    _entry("worst 10 % of personal", "personal_accuracy_worst10"),
    _entry("variance of personal", "personal_accuracy_variance", ".4f"),
    _aim("rounds to target", _cost("round"), ".1f", short=True),
    _aim("MB to target", _cost("bytes", 1e6), ".2f", *SENT),
    _aim("training {} to target", _cost("flops"), ".2f", "flops", units=FLOPS),
    _aim("simulated {} to target", _cost(TIME), ".2f", TIME, units=SECONDS),
    _aim("seconds to target", _time, ".1f"),
    Column("MB up", _megabytes("bytes_up"), ".2f", ("bytes_up",)),
    Column("MB down", _megabytes("bytes_down"), ".2f", ("bytes_down",)),
    _entry("training {}", "flops", ".2f", units=FLOPS),
    _entry("simulated {}", TIME, ".2f", units=SECONDS),
    Column("seconds", _seconds, ".1f"),
)
"""What is measured of every run, in the order of the tables."""
