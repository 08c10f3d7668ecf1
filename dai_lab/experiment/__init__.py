"""One run into its folder: killed at any instant, it goes on where it was."""

from dai_lab.experiment.environment import environment
from dai_lab.experiment.files import restore
from dai_lab.experiment.plans import study
from dai_lab.experiment.simulate import Result, simulate
from dai_lab.experiment.together import simulate_together

__all__ = ["Result", "environment", "restore", "simulate", "simulate_together", "study"]
