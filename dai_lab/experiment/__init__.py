"""One run into its folder: killed at any instant, it goes on where it was."""

from dai_lab.experiment.audit import audit
from dai_lab.experiment.card import card
from dai_lab.experiment.environment import environment
from dai_lab.experiment.export import export
from dai_lab.experiment.files import restore
from dai_lab.experiment.plans import study
from dai_lab.experiment.simulate import Result, simulate
from dai_lab.experiment.together import simulate_together
from dai_lab.experiment.verify import Verdict, check, prove

__all__ = [
    "Result",
    "Verdict",
    "audit",
    "card",
    "check",
    "environment",
    "export",
    "prove",
    "restore",
    "simulate",
    "simulate_together",
    "study",
]
