"""Numbers of a study, every one an estimate over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.metrics import Estimate, estimate
from dai_lab.report.groups import Group, flat, grouped
from dai_lab.report.measures import Column, columns
from dai_lab.report.runs import Run, runs

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any


def frame(groups: Sequence[Group]) -> DataFrame:
    """Lay out groups as rows and measures as columns; every cell is an ``Estimate``."""
    from pandas import DataFrame

    chosen = columns(groups)
    cells = {
        column.name: [_cell(column, group) for group in groups if group.runs] for column in chosen
    }
    return DataFrame(cells, index=[group.label for group in groups])


def table(folder: Path | str) -> DataFrame:
    """Compare the settings of the finished runs in ``folder``; every cell is an ``Estimate``.

    Raises:
        ValueError: There is no run in the folder.
    """
    return frame(grouped(runs(folder))[0])


def terminal(folder: Path | str) -> str:
    """Write the comparison as plain text, followed by every run that could not be counted.

    Raises:
        ValueError: There is no run in the folder.
    """
    found = runs(folder)
    groups, notes = grouped(found)
    chosen = [column for column in columns(groups) if column.short]
    rows = [["", *(column.name for column in chosen)]]
    rows += [[group.label, *(written(column, group) for column in chosen)] for group in groups]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if not groups:
        lines = ["no finished run"]
    broken = [f"not counted: {run.folder.name}: {run.problem}" for run in found if run.problem]
    return "\n".join([*lines, *broken, *(f"note: {note}" for note in notes)])


def written(column: Column, group: Group) -> str:
    """Write one cell; a measure that no run of the group has is a dash."""
    if not any(column.applies(run) for run in group.runs):
        return "-"
    text = format(_cell(column, group), column.spec)
    return text.replace("missing)", "never)") if column.aimed else text


def markdown(groups: Sequence[Group]) -> str:
    """Write the comparison as a Markdown table."""
    head, body = texts(groups)
    lines = [head, ["---"] * len(head), *body]
    safe = [
        [_one_line(cell).replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in lines
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in safe)


def latex(groups: Sequence[Group]) -> str:
    """Write the comparison as a LaTeX tabular for the booktabs package."""
    head, body = texts(groups)
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    lines += [" & ".join(map(_tex, head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_tex, row)) + r" \\" for row in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def spelled(groups: Sequence[Group]) -> DataFrame:
    """Spread every estimate over columns a spreadsheet can compute with."""
    from pandas import DataFrame

    rows = []
    for group in groups:
        row: dict[str, Any] = {"group": group.label, "seeds": len(group.runs)}
        for column in columns(groups):
            cell = _cell(column, group)
            row[column.name] = cell.value
            row |= {f"{column.name} low": cell.low, f"{column.name} high": cell.high}
            row |= {f"{column.name} n": cell.n, f"{column.name} missing": cell.missing}
        rows.append(row)
    return DataFrame(rows)


def every_run(found: Sequence[Run], groups: Sequence[Group]) -> DataFrame:
    """List the last record of every run, counted or not, one run a row."""
    from pandas import DataFrame

    label = {run.folder: group.label for group in groups for run in group.runs}
    return DataFrame(
        [
            {
                "folder": run.folder.name,
                "group": label.get(run.folder),
                "seed": run.config.get("seed"),
                "problem": run.problem,
                **(
                    flat(run.summary) if run.summary else dict(run.rounds[-1]) if run.rounds else {}
                ),
                "seconds": sum(run.seconds.values()) if run.seconds else None,
            }
            for run in found
        ]
    ).convert_dtypes()


def texts(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Give the head and the rows of the comparison as text."""
    chosen = columns(groups)
    head = ["", "seeds", *(column.name for column in chosen)]
    body = [
        [group.label, str(len(group.runs)), *(written(column, group) for column in chosen)]
        for group in groups
    ]
    return head, body


def _cell(column: Column, group: Group) -> Estimate:
    values = [column.measure(run) for run in group.runs]
    return estimate([nan if value is None else value for value in values], missing="count")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _mark(text: str) -> str:
    return _one_line(text).replace("|", r"\|").replace("<", "&lt;")


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {char: f"\\{char}" for char in "&%$#_{}"}
    # A bracket that opens a cell would be read as an option of the line break before it.
    plain = "".join(special.get(char, char) for char in _one_line(text))
    return f"{{{plain}}}" if plain.startswith("[") else plain
