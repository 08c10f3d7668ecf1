"""From a folder of finished runs to tables, figures and one page."""

from dai_lab.report.commands import command
from dai_lab.report.figures import curves, finals
from dai_lab.report.groups import Group, grouped
from dai_lab.report.heat import draw_heat
from dai_lab.report.lineage import Lineage, lineage
from dai_lab.report.planes import draw_rows
from dai_lab.report.ranking import costs, ranking, standing
from dai_lab.report.runs import Run, read, runs
from dai_lab.report.study import publish, recomputed, summarize, tabulate
from dai_lab.report.tables import frame, table, terminal
from dai_lab.report.trials import Trial, recalled, tried
from dai_lab.report.worlds import expenses
from dai_lab.report.write import report

__all__ = [
    "Group",
    "Lineage",
    "Run",
    "Trial",
    "command",
    "costs",
    "curves",
    "draw_heat",
    "draw_rows",
    "expenses",
    "finals",
    "frame",
    "grouped",
    "lineage",
    "publish",
    "ranking",
    "read",
    "recalled",
    "recomputed",
    "report",
    "runs",
    "standing",
    "summarize",
    "table",
    "tabulate",
    "terminal",
    "tried",
]
