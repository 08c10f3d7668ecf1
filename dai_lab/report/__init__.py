"""From a folder of finished runs to tables, figures and one page."""

from dai_lab.report.commands import command
from dai_lab.report.figures import curves, finals
from dai_lab.report.groups import Group, grouped
from dai_lab.report.runs import Run, read, runs
from dai_lab.report.study import publish, recomputed, summarize, tabulate
from dai_lab.report.tables import frame, table, terminal
from dai_lab.report.write import report

__all__ = [
    "Group",
    "Run",
    "command",
    "curves",
    "finals",
    "frame",
    "grouped",
    "publish",
    "read",
    "recomputed",
    "report",
    "runs",
    "summarize",
    "table",
    "tabulate",
    "terminal",
]
