"""The nouns and verbs every room shares: rows, keys, states, what parts take and return."""

from dai_lab.core.data import Card, Dataset, Examples, Partition, Shards
from dai_lab.core.keys import Key, TooFew
from dai_lab.core.model import Loss, Model, Rows, Vector, cross_entropy, squared_error
from dai_lab.core.parts import (
    Aggregator,
    Attack,
    Cohort,
    Engine,
    LocalTraining,
    Partitioner,
    Privacy,
    SecureAggregation,
    Server,
    Tracker,
    Watcher,
)
from dai_lab.core.round import Compute, Record, State, Task, Trace, Updates, Visible

__all__ = [
    "Aggregator",
    "Attack",
    "Card",
    "Cohort",
    "Compute",
    "Dataset",
    "Engine",
    "Examples",
    "Key",
    "LocalTraining",
    "Loss",
    "Model",
    "Partition",
    "Partitioner",
    "Privacy",
    "Record",
    "Rows",
    "SecureAggregation",
    "Server",
    "Shards",
    "State",
    "Task",
    "TooFew",
    "Trace",
    "Tracker",
    "Updates",
    "Vector",
    "Visible",
    "Watcher",
    "cross_entropy",
    "squared_error",
]
