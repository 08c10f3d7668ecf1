"""A federation, the order of a round, and a run of rounds."""

from dai_lab.federation.founding import Federation, choice, found
from dai_lab.federation.rounds import Played, play
from dai_lab.federation.terms import Accounting, Audit

__all__ = ["Accounting", "Audit", "Federation", "Played", "choice", "found", "play"]
