"""A federation, the order of a round, and a run of rounds."""

from dai_lab.federation.founding import Federation, choice, found
from dai_lab.federation.rounds import Played, play

__all__ = ["Federation", "Played", "choice", "found", "play"]
