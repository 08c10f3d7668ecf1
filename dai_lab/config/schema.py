"""What every experiment has, and which values make sense."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore

Part = dict[str, Any]
"""``_target_`` and knobs; what they are is the part's own business."""


class Frame(Enum):
    """Who trains with whom: the federation, nobody, or everybody's data in one place."""

    federated = "federated"
    local_only = "local_only"
    centralized = "centralized"


@dataclass
class Federation:
    """Who takes part, who lies, and what the protocol enforces."""

    clients: int = 20
    """0: as many as the partition finds in the data."""
    hostile: int = 0
    who: str = "random"
    """Which clients lie: ``random``, ``first``, or those who hold most (``largest``) or least
    (``smallest``)."""
    holds: str = "dealt"
    """What liars hold: what they are dealt like everybody, or examples drawn from all that others
    hold (``drawn``), while these share the data among themselves."""
    knows: str = "rows"
    """What liars know of what others send: nothing but their ``own``, the ``mean``, all ``rows``,
    or all rows and the whole ``defense``."""
    renew: int = 0
    """Rounds after which liars poison their examples anew, against the model as it is; 0: once."""
    holdout: float = 0.1
    """Share of each client's own examples kept for judging it."""
    root: int = 0
    """Training examples the server has of its own, which no client then holds."""
    clip: float | None = None
    """L2 norm above which the protocol scales a row down."""


@dataclass
class Accounting:
    """In what terms promises about people are priced, and how much may be given away."""

    delta: float = 1e-5
    epsilon: float | None = None
    """The budget: the run ends before it gives away more."""
    by: str = "pld"
    """``pld``, ``prv`` or ``rdp``."""
    amplified: bool | None = None
    """Whether secret sampling makes promises stronger; null: where it does."""
    claimed: float | None = None
    """A sampling rate the accountant is told instead of the true one, for an audit to find out."""


@dataclass
class Audit:
    """Planted clients and records, each there or not by a coin, that are looked for."""

    clients: int = 0
    records: int = 0
    confidence: float = 0.95


@dataclass
class Fairness:
    """Between whom a model should make no difference, and what it costs a step of training."""

    attribute: str | None = None
    """What is known about people and divides them into groups, such as ``sex``, or several such
    as ``sex+race``; null measures nothing."""
    favorable: int = 1
    """Class that people hope to be given."""
    minimum: int = 30
    """Examples below which a group is too small for its rate to say anything."""
    penalty: float = 0.0
    """What a step is charged for gaps between groups within its batch, in any local training."""
    penalizes: str = "odds"
    """Gaps of ``odds``, ``opportunity`` or ``parity``."""


@dataclass
class Evaluation:
    """When the model is judged, and what counts as good enough."""

    every: int = 1
    target: float | None = None
    """Accuracy whose first round, and what it took to get there, is reported."""
    metric: str = "test_accuracy"
    """Whose accuracy the target is: of the common model, on the test set or on what clients held
    out, or of the models that clients have of their own."""


@dataclass
class Machine:
    """Where and how gradients are computed; never part of a run's name."""

    device: str = "auto"
    threads: int = 1
    method: str = "auto"
    group: int = 0
    memory: float = 4.0
    """GiB on a GPU for the weights and gradients of clients side by side."""
    precision: str = "float32"
    """bfloat16 changes what is computed: then it is part of a run's name."""
    compile: bool = False


@dataclass
class Experiment:
    """Everything a run depends on."""

    data: Part
    partition: Part
    model: Part
    local: Part
    cohort: Part
    devices: Part
    pace: Part
    privacy: Part
    attack: Part
    poison: Part
    compression: Part
    secagg: Part
    aggregator: Part
    server: Part
    decision: Part
    personal: Part
    engine: Part
    tracker: Part
    ledger: Part
    chain: Part
    watch: Part = field(default_factory=dict)
    frame: Frame = Frame.federated
    federation: Federation = field(default_factory=Federation)
    evaluation: Evaluation = field(default_factory=Evaluation)
    accounting: Accounting = field(default_factory=Accounting)
    audit: Audit = field(default_factory=Audit)
    fairness: Fairness = field(default_factory=Fairness)
    compute: Machine = field(default_factory=Machine)
    rounds: int = 20
    seed: int = 0
    name: str = "run"
    results: str = "results"


PARTS = tuple(one.name for one in fields(Experiment) if one.type == "Part" and one.name != "watch")
"""Groups of which every experiment has exactly one part."""

CHOICES = {
    "who": ("random", "first", "largest", "smallest"),
    "holds": ("dealt", "drawn"),
    "knows": ("own", "mean", "rows", "defense"),
}
"""Words that settings of the federation may have."""

AIMS = ("test_accuracy", "client_accuracy", "personal_accuracy")
"""Accuracies that may have a target."""

FOLDER = "letters, digits and any of - _ . = + ,"
"""What a run's name may be made of."""

ConfigStore.instance().store("schema", node=Experiment)


def check(cfg: Mapping[str, Any]) -> None:
    """Refuse settings that no run could make sense of.

    Raises:
        ValueError: Names the knob, its range and what it got.
    """
    known = {one.name for one in fields(Experiment)}
    if unknown := sorted(str(key) for key in cfg if key not in known):
        raise ValueError(f"there is no {unknown[0]}: an experiment has {', '.join(sorted(known))}")
    for group in PARTS:
        node = cfg[group]
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ValueError(f"{group} must be a part (a node with _target_), got {node!r}")
    if cfg["fairness"]["attribute"] is None and cfg["fairness"]["penalty"]:
        raise ValueError("fairness.penalty needs fairness.attribute, which is null")
    frame = getattr(cfg["frame"], "value", cfg["frame"])
    if frame == "local_only" and cfg["decision"]["_target_"] != "dai_lab.fairness.highest":
        raise ValueError("decision must be highest where frame=local_only: nobody decides for all")
    us, evaluation, compute = cfg["federation"], cfg["evaluation"], cfg["compute"]
    rules: list[tuple[str, Any, str, bool]] = [
        ("rounds", cfg["rounds"], "at least 1", cfg["rounds"] >= 1),
        ("seed", cfg["seed"], "0 or more", cfg["seed"] >= 0),
        ("name", cfg["name"], FOLDER, is_folder(cfg["name"])),
        ("results", cfg["results"], "a folder", bool(str(cfg["results"]).strip())),
        (
            "federation.clients",
            us["clients"],
            "0 (as many as in the data) or more",
            us["clients"] >= 0,
        ),
        ("federation.hostile", us["hostile"], "0 or more", us["hostile"] >= 0),
        ("federation.renew", us["renew"], "0 (once) or more rounds", us["renew"] >= 0),
        *(
            (f"federation.{knob}", us[knob], f"one of {', '.join(words)}", us[knob] in words)
            for knob, words in CHOICES.items()
        ),
        ("federation.holdout", us["holdout"], "in [0, 1)", 0 <= us["holdout"] < 1),
        ("federation.root", us["root"], "0 or more", us["root"] >= 0),
        (
            "federation.clip",
            us["clip"],
            "above 0 (or null)",
            us["clip"] is None or 0 < us["clip"] < math.inf,
        ),
        ("evaluation.every", evaluation["every"], "at least 1", evaluation["every"] >= 1),
        (
            "evaluation.target",
            evaluation["target"],
            "an accuracy in (0, 1] (or null)",
            evaluation["target"] is None or 0 < evaluation["target"] <= 1,
        ),
        (
            "evaluation.metric",
            evaluation["metric"],
            f"one of {', '.join(AIMS)}",
            evaluation["metric"] in AIMS,
        ),
        ("compute.threads", compute["threads"], "at least 1", compute["threads"] >= 1),
        (
            "compute.device",
            compute["device"],
            "auto, cpu, cuda, cuda:<number> or mps",
            bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", compute["device"])),
        ),
    ]
    for knob, got, wanted, holds in rules:
        if not holds:
            raise ValueError(f"{knob} must be {wanted}, got {got!r}")
    if us["clients"] and us["hostile"] >= us["clients"]:
        raise ValueError(
            f"federation.hostile must be below federation.clients ({us['clients']}), "
            f"got {us['hostile']}"
        )


def is_folder(name: str) -> bool:
    """Tell whether ``name`` can be one folder's name on every system."""
    return bool(re.fullmatch(r"[\w.=+,-]{1,100}", name)) and not name.startswith(".")
