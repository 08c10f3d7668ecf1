"""The part of a card that says how well a model does, for whom, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dai_lab.experiment.card.findings import Findings
from dai_lab.experiment.card.numbers import PERFECT, Cell
from dai_lab.experiment.card.words import plain, spelled, table, titled

RATES = {
    "accuracy": "right answers among all",
    "selection_rate": "favorable answers among all",
    "true_positive_rate": "favorable answers among those whose truth is favorable",
    "false_positive_rate": "favorable answers among the others",
    "precision": "favorable truths among favorable answers",
}
GAPS = {
    "demographic_parity_difference": "of selection rates (demographic parity)",
    "demographic_parity_ratio": "lowest selection rate over the highest",
    "equalized_odds_difference": "of true or of false positive rates, the larger (equalized odds)",
    "equalized_odds_ratio": "lowest of these rates over the highest, the smaller",
    "equal_opportunity_difference": "of true positive rates (equal opportunity)",
    "predictive_parity_difference": "of precisions (predictive parity)",
    "accuracy_difference": "of accuracies",
    "error_rate_ratio": "lowest error rate over the highest",
    "worst_group_accuracy": "accuracy of the group that fares worst",
}
EVEN = {
    "mean": "mean of clients' accuracies",
    "worst10": "mean of the worst tenth (at least one client)",
    "deviation": "standard deviation over clients, 0 where all fare alike",
}

SMALL = " (too small)"
"""What a group's name is followed by."""


def metrics(found: Findings) -> Iterator[str]:
    """Say what the numbers are."""
    yield from titled("## Metrics")
    yield (
        "A number is written with its 95 % interval: 0.853 [0.847, 0.858]. Intervals are over the "
        "examples tested; another seed gives another model, about which they say nothing."
    )
    if found.us.task.sensitive is None:
        return
    yield ""
    for name, what in RATES.items():
        yield f"- {name.replace('_', ' ')}: {what}"
    yield (
        "- gap: the highest rate of a group less the lowest. Gaps measured on few people are too "
        "large; where the interval begins at 0, chance alone may explain one. There is none where "
        "fewer than two groups are large enough and have the rates"
    )
    yield "- calibration offset: mean score less share that is favorable; above 0 is overrated"


def evaluation(found: Findings) -> Iterator[str]:
    """Say how well the model does: over all, by group and over clients."""
    us, test = found.us, found.test
    yield from titled("## Evaluation")
    rows = [["loss", spelled(test.loss)]]
    if us.classes:
        rows = [
            ["accuracy", spelled(test.accuracy)],
            ["accuracy of always giving the most frequent class", spelled(test.frequent)],
            *rows,
        ]
    if (success := found.summary.get("attack_success")) is not None:
        rows.append(["success of the attack, as the run recorded it", f"{success:.3f}"])
    yield from table([f"on {len(us.test):,} test examples", ""], rows)
    yield ""
    if us.task.sensitive is None:
        yield from titled("### By group")
        yield (
            "Not measured: the run was not told what divides people into groups. Run it again with "
            "`fairness.attribute=`, such as `sex`, `sex+race` or `class`: whatever its data know."
            if us.classes
            else "Not measured: gaps are between answers that are classes."
        )
    else:
        yield from _by_group(found)
        yield ""
        yield from titled("### Gaps between groups")
        yield from _gaps("gap", test.gaps)
        yield ""
        yield from _calibration(found)
    yield ""
    yield from _over_clients(found)


def _by_group(found: Findings) -> Iterator[str]:
    names, sensitive = ["everybody", *_names(found)], found.us.task.sensitive
    assert sensitive is not None
    body = [
        [name, f"{group.size:,}", *(spelled(group.rates[rate]) for rate in RATES)]
        for name, group in zip(names, found.test.groups, strict=True)
    ]
    yield from titled("### By group")
    yield from table(["group", "people", *(rate.replace("_", " ") for rate in RATES)], body)
    few = [
        f"{name.removesuffix(SMALL)} ({group.size})"
        for name, group in zip(names, found.test.groups, strict=True)
        if group.too_small
    ]
    if few:
        yield ""
        yield (
            f"> **Warning.** Fewer than {sensitive.minimum} people: {'; '.join(few)}. Their rates "
            "say next to nothing, and they take no part in the gaps below: how the model treats "
            "them is not known."
        )


def _calibration(found: Findings) -> Iterator[str]:
    rows = []
    for name, (offset, error, below) in zip(_names(found), found.test.calibration, strict=True):
        told = "none" if error is None or below is None else f"{error:.3f} ({below:.3f})"
        rows.append([name, spelled(offset), told])
    yield from titled("### Calibration by group")
    yield from table(["group", "offset", "expected calibration error (by chance up to)"], rows)
    yield ""
    yield (
        "Of the scores, before a decision is made of them. In brackets: what 95 of 100 models with "
        f"these scores and perfect calibration would stay below, from {PERFECT} draws."
    )


def _over_clients(found: Findings) -> Iterator[str]:
    clients = found.clients
    yield from titled("### Clients")
    if not clients.even:
        held = "clients held out nothing to be judged by (`federation.holdout=0.1`)"
        yield f"Not measured: {held if found.us.classes else 'without classes, no accuracy'}."
        return
    rows = [[EVEN[name], spelled(cell)] for name, cell in clients.even.items()]
    yield from table([f"{clients.measured} clients, on what each held out", ""], rows)
    if clients.gaps:
        yield ""
        yield from _gaps("gap, on what all clients held out", clients.gaps)


def _gaps(title: str, gaps: Mapping[str, Cell]) -> Iterator[str]:
    yield from table([title, ""], [[what, spelled(gaps[name])] for name, what in GAPS.items()])


def _names(found: Findings) -> list[str]:
    sensitive = found.us.task.sensitive
    assert sensitive is not None
    names = sensitive.names(found.data)
    return [
        plain(name) + (SMALL if group.too_small else "")
        for name, group in zip(names, found.test.groups[1:], strict=True)
    ]
