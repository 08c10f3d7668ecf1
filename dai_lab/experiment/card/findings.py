"""What a model card says, found again from a run's folder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.experiment import files
from dai_lab.experiment.audit import ROOMS

if TYPE_CHECKING:
    from dai_lab.core import Dataset, Evidence, Key, State
    from dai_lab.experiment.card.numbers import OnClients, OnTest
    from dai_lab.federation import Federation

APART = 0.01
"""How far loss and accuracy may be from what the run recorded: another machine rounds otherwise,
and a few people then get another answer. What is further apart is another model."""


@dataclass(frozen=True)
class Findings:
    """What a card is written from."""

    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    us: Federation
    data: Dataset
    test: OnTest
    clients: OnClients
    log: Sequence[tuple[str, str]]
    """What ``verify`` says of the run's log; empty without one."""


def findings(place: Path) -> Findings:
    """Measure the model in a run's folder, and answer people as the run did.

    Raises:
        ValueError: See :func:`dai_lab.experiment.card.card`.
    """
    import torch

    from dai_lab.core import Key
    from dai_lab.experiment.card.numbers import on_clients, on_test
    from dai_lab.experiment.simulate import match_or_refuse, moved
    from dai_lab.federation.judging import decided, evidence
    from dai_lab.learning import predict

    if not place.is_dir():
        raise ValueError(f"card: there is no folder {place}")
    if not (place / "summary.json").exists():
        raise ValueError(f"card: no run is finished in {place}: start it again, and it goes on")
    summary, about = (files.read(place / name) for name in ("summary.json", "environment.json"))
    match_or_refuse(place, str(summary.get("digest")))
    log = _log(place)
    us, settings, data = _founded(place, about)
    state, done = files.restore(place / "checkpoint.safetensors")
    state, key = moved(state, us.compute.device), Key(settings["seed"])
    judged = key / "round" / int(summary["rounds"]) / "judge"

    def ask() -> Evidence:  # called only where the decision depends on what clients hold
        return evidence(_as_played(us, state, done, key), state, judged)

    decide = us.decision(ask, key=judged / "decision")
    held, model = us.holdout.indices, us.task.model
    outputs = predict(model, state.params, us.test.inputs)
    given = decided(us, outputs, decide, us.test, torch.arange(len(us.test)))
    kept = held
    if len(held) and us.classes:
        seen = predict(model, state.params, us.task.data.inputs[held])
        kept = decided(us, seen, decide, us.task.data, held)
    found = Findings(
        settings=settings,
        environment=about,
        summary=summary,
        us=us,
        data=data,
        test=on_test(us, outputs, given),
        clients=on_clients(us, kept),
        log=log,
    )
    _compared(place, found)
    return found


def _founded(place: Path, about: Mapping[str, Any]) -> tuple[Federation, dict[str, Any], Dataset]:
    """Build a run's federation again, and keep the data set, which names classes and groups."""
    from omegaconf import OmegaConf

    from dai_lab.config import targets
    from dai_lab.experiment.machine import computer
    from dai_lab.experiment.simulate import founded

    whole: Any = OmegaConf.to_container(OmegaConf.load(place / "config.yaml"), resolve=False)
    settings = {name: whole[name] for name in whole if name not in ("tracker", "chain", "ledger")}
    if "${" in str(settings):  # a run writes them resolved, and others' may ask for secrets
        raise ValueError(f"card: {place / 'config.yaml'} holds references: a run writes none")
    for target in targets(settings):
        lab, _, rest = target.partition(".")
        if lab == "dai_lab" and rest.partition(".")[0] not in (*ROOMS, "fairness"):
            raise ValueError(f"card: will not call {target} for somebody's settings")
    if settings["frame"] == "local_only":
        raise ValueError(
            "card: frame=local_only ends with a model for each client and none for all"
        )
    kept: list[Dataset] = []

    def load(node: Mapping[str, Any], part: Any) -> Dataset:
        kept.append(part())
        return kept[-1]

    us = founded(settings, computer(settings["compute"], about["compute"]), data=load)
    return us, settings, kept[-1]


def _as_played(us: Federation, state: State, done: int, key: Key) -> Federation:
    """Return the federation with what liars hold by the last round."""
    from dai_lab.federation.hostile import poisoned

    if us.frame != "federated":
        return us
    if us.renew:
        first = done - (done - 1) % us.renew
        return poisoned(us, state, key / "poison" / first, again=True)[0]
    begun = replace(state, params=us.task.model.initial)
    return poisoned(us, begun, key / "poison", again=False)[0]


def _compared(place: Path, found: Findings) -> None:
    """Refuse a card whose numbers are not those of the run.

    Raises:
        ValueError: They are not.
    """
    few = max(APART, 2 / len(found.us.test))
    for name, cell, apart in (
        ("test_loss", found.test.loss, APART),
        ("test_accuracy", found.test.accuracy, few),
    ):
        said = found.summary.get(name)
        if cell is None:
            continue
        if not isinstance(said, int | float) or not math.isfinite(said):
            raise ValueError(f"card: summary.json in {place} has no {name}")
        if abs(cell[0] - said) > apart:
            raise ValueError(
                f"card: the checkpoint in {place} has {name} {cell[0]:.4f}, and the run recorded "
                f"{said:.4f}: it is another model, or code or data have changed since"
            )


def _log(place: Path) -> list[tuple[str, str]]:
    """Check a run's log, if it kept one, as anybody would."""
    if not (place / "ledger.sqlite").exists():
        return []
    from dai_lab.experiment.verify import DOUBT, check

    lines = check(place).lines
    for mark, what, why in lines:
        if mark == DOUBT:
            raise ValueError(f"card: {place} is in doubt ({what}: {why}): see dai-lab verify")
    # What else lies in the folder says nothing of the model, and one of these files is the card.
    return [(what, why) for _, what, why in lines if what != "not covered"]
