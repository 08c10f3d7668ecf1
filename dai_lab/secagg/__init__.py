"""Secure aggregation: what the server may see of what clients send, and how it is kept to that."""

from dai_lab.secagg.client import Client
from dai_lab.secagg.gram import gram
from dai_lab.secagg.server import Server, Sum
from dai_lab.secagg.sessions import session
from dai_lab.secagg.sums import masked, one_shot
from dai_lab.secagg.terms import Terms
from dai_lab.secagg.views import grouped, ideal, plain
from dai_lab.secagg.wire import Refused

__all__ = [
    "Client",
    "Refused",
    "Server",
    "Sum",
    "Terms",
    "gram",
    "grouped",
    "ideal",
    "masked",
    "one_shot",
    "plain",
    "session",
]
