"""Who takes part in a round, on what devices, and whom the server waits for."""

from dai_lab.participation.cohorts import poisson, uniform
from dai_lab.participation.devices import untimed
from dai_lab.participation.paces import everyone

__all__ = ["everyone", "poisson", "uniform", "untimed"]
