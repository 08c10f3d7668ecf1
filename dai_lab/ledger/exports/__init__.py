"""A finished run in the formats that others read: values in, JSON out."""

from dai_lab.ledger.exports.attestations import statement
from dai_lab.ledger.exports.crates import crate
from dai_lab.ledger.exports.envelopes import canonical, envelope, key_id
from dai_lab.ledger.exports.finished import File, Finished
from dai_lab.ledger.exports.graphs import graph
from dai_lab.ledger.exports.models import model_bundle, model_statement

__all__ = [
    "File",
    "Finished",
    "canonical",
    "crate",
    "envelope",
    "graph",
    "key_id",
    "model_bundle",
    "model_statement",
    "statement",
]
