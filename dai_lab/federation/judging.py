"""How good a model is, on the common test set and for each client."""

from __future__ import annotations

from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Key, Shards, State
from dai_lab.federation.founding import Federation
from dai_lab.learning import predict
from dai_lab.metrics import accuracy, correct, mean_loss, per_client, spread

ABREAST = 32
"""Clients whose own models are held at once while they are judged."""


def judge(us: Federation, state: State, key: Key) -> dict[str, float]:
    """Measure the model on the test set, and on what each client held out.

    Clients that stay alone are measured each with its own model, those that ever trained. Where
    clients have models of their own beside the common one, those are measured too.
    """
    model, held, test, data = us.task.model, us.holdout, us.test, us.task.data
    if us.frame == "local_only":
        own = state.memory.get("local/params", state.params.unsqueeze(0)[:0])
        lone = state.memory.get("local/params/of", torch.arange(0)).tolist()
        rows = own if len(own) else state.params.unsqueeze(0)  # untouched, all are still alike
        scores = [_score(us, predict(model, row, test.inputs), test.targets) for row in rows]
        record = {name: fmean(score[name] for score in scores) for name in scores[0]}
        held = Shards.of([held[client].cpu() for client in lone])
        parts = [predict(model, own[at], data.inputs[held[at]]) for at in range(len(lone))]
        outputs = torch.cat(parts) if parts else None
    else:
        record = _score(us, predict(model, state.params, test.inputs), test.targets)
        if us.probe is not None and len(us.probe):
            shown = predict(model, state.params, us.probe.inputs)
            record["attack_success"] = accuracy(correct(shown, us.probe.targets))
        outputs = predict(model, state.params, data.inputs[held.indices])
    if outputs is None or not len(outputs) or not us.classes:
        return record
    in_order = Shards(torch.arange(len(outputs)), held.offsets)
    targets = data.targets[held.indices]
    record |= _over_clients("client", outputs, targets, in_order)
    if us.frame != "federated":
        return record
    own_outputs = _personal(us, state, key)
    if own_outputs is None:
        return record
    return record | _over_clients("personal", own_outputs, targets, in_order)


def _personal(us: Federation, state: State, key: Key) -> Tensor | None:
    """Return each client's own model's outputs on what it held out; ``None`` without any."""
    model, held, data = us.task.model, us.holdout, us.task.data
    parts = []
    for few in held.sizes.nonzero().flatten().split(ABREAST):
        some = few.tolist()
        rows = us.personal(us.task, state, some, key=key / "personal", compute=us.compute)
        if rows is None:
            return None
        pairs = zip(rows, some, strict=True)
        parts += [predict(model, row, data.inputs[held[client]]) for row, client in pairs]
    return torch.cat(parts)


def _over_clients(whose: str, outputs: Tensor, targets: Tensor, held: Shards) -> dict[str, float]:
    spreads = spread(per_client(correct(outputs, targets), held))
    return {
        f"{whose}_accuracy": spreads["mean"],
        f"{whose}_accuracy_worst10": spreads["worst10"],
        f"{whose}_accuracy_variance": spreads["variance"],
    }


def _score(
    us: Federation,
    outputs: Float[Tensor, "examples ..."],
    targets: Int[Tensor, "examples"] | Float[Tensor, "examples"],
) -> dict[str, float]:
    found = {"test_loss": mean_loss(us.task.model.loss(outputs, targets))}
    if us.classes:
        found["test_accuracy"] = accuracy(correct(outputs, targets))
    return found
