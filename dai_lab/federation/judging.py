"""How good a model is, on the common test set and for each client."""

from __future__ import annotations

from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Record, Shards, State
from dai_lab.federation.founding import Federation
from dai_lab.learning import predict
from dai_lab.metrics import accuracy, correct, mean_loss, per_client, spread


def judge(us: Federation, state: State) -> Record:
    """Measure the model on the test set, and on what each client held out.

    Clients that stay alone are measured each with its own model, those that ever trained.
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
        outputs = predict(model, state.params, data.inputs[held.indices])
    if outputs is None or not len(outputs) or not us.classes:
        return record
    in_order = Shards(torch.arange(len(outputs)), held.offsets)
    targets = data.targets[held.indices]
    spreads = spread(per_client(correct(outputs, targets), in_order))
    return record | {
        "client_accuracy": spreads["mean"],
        "client_accuracy_worst10": spreads["worst10"],
        "client_accuracy_variance": spreads["variance"],
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
