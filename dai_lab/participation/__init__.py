"""Who takes part in a round, on what devices, and whom the server waits for."""

from dai_lab.participation.availability import available, trace
from dai_lab.participation.cohorts import by_size, poisson, uniform
from dai_lab.participation.devices import alike, phones, table, untimed
from dai_lab.participation.paces import buffered, deadline, everyone

__all__ = [
    "alike",
    "available",
    "buffered",
    "by_size",
    "deadline",
    "everyone",
    "phones",
    "poisson",
    "table",
    "trace",
    "uniform",
    "untimed",
]
