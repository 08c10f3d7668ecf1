"""How good a model is, on the common test set, for each client and for each group of people."""

from __future__ import annotations

from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core import Decide, Evidence, Examples, Key, Shards, State
from dai_lab.fairness import cells, group_fairness, over_clients
from dai_lab.federation.founding import Federation
from dai_lab.learning import predict
from dai_lab.metrics import accuracy, correct, mean_loss, per_client, spread

ABREAST = 32
"""Clients whose own models are held at once while they are judged."""

Record = dict[str, float | int | None]


def judge(us: Federation, state: State, key: Key) -> Record:
    """Measure the model on the test set, and on what each client held out.

    Clients that stay alone are measured each with its own model, those that ever trained. Where
    clients have models of their own beside the common one, those are measured too.
    """
    model, held, test, data = us.task.model, us.holdout, us.test, us.task.data
    if us.frame == "local_only":
        own = state.memory.get("local/params", state.params.unsqueeze(0)[:0])
        lone = state.memory.get("local/params/of", torch.arange(0)).tolist()
        rows = own if len(own) else state.params.unsqueeze(0)  # untouched, all are still alike
        outputs = (predict(model, row, test.inputs) for row in rows)
        scores = [_score(us, each, answers(each)) for each in outputs]
        record = _mean_of(scores)
        held = Shards.of([held[client].cpu() for client in lone])
        parts = [predict(model, own[at], data.inputs[held[at]]) for at in range(len(lone))]
        kept = torch.cat(parts) if parts else None
        decide = None
    else:
        decide = us.decision(lambda: evidence(us, state, key), key=key / "decision")
        found = predict(model, state.params, test.inputs)
        given = decided(us, found, decide, test, torch.arange(len(test)))
        record = _score(us, found, given)
        if us.probe is not None and len(us.probe):
            shown = predict(model, state.params, us.probe.inputs)
            record["attack_success"] = accuracy(correct(shown, us.probe.targets))
        kept = predict(model, state.params, data.inputs[held.indices])
    if kept is None or not len(kept) or not us.classes:
        return record
    in_order = Shards(torch.arange(len(kept)), held.offsets)
    given = decided(us, kept, decide, data, held.indices)
    record |= _over_clients(us, "client", given, held.indices, in_order)
    if us.frame != "federated":
        return record
    own_outputs = _personal(us, state, key)
    if own_outputs is None:
        return record
    return record | _over_clients(us, "personal", answers(own_outputs), held.indices, in_order)


def answers(outputs: Float[Tensor, "examples ..."]) -> Int[Tensor, "examples"]:
    """Give each example the class with the highest score, -1 where that is no number."""
    if outputs.dim() == 1:
        return torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)
    return outputs.argmax(1).masked_fill(outputs.isnan().any(1), -1)


def decided(
    us: Federation,
    outputs: Float[Tensor, "examples ..."],
    decide: Decide | None,
    examples: Examples,
    which: Int[Tensor, "_"],
) -> Int[Tensor, "examples"]:
    """Answer some examples as the federation decides."""
    if decide is None:
        return answers(outputs)
    sensitive = us.task.sensitive
    assert sensitive is not None
    groups = sensitive.of(examples, which.to(examples.targets.device))
    others = outputs.clone()
    others[:, sensitive.favorable] = -torch.inf
    given = decide(_favored(us, outputs).cpu(), groups.cpu()).to(outputs.device)
    found = torch.where(given, sensitive.favorable, others.argmax(1))
    return found.masked_fill(outputs.isnan().any(1), -1)


def evidence(us: Federation, state: State, key: Key) -> Evidence:
    """Have clients score what they trained on; what they count of it is summed as rows are."""
    sensitive, data, shards = us.task.sensitive, us.task.data, us.task.shards
    if sensitive is None:
        raise ValueError("decision: thresholds of groups need fairness.attribute, which is null")
    held = shards.indices.to(data.targets.device)
    outputs = predict(us.task.model, state.params, data.inputs[held])

    def reveal(counts: Float[Tensor, "clients cells"]) -> Float[Tensor, "cells"]:
        # As shares of what the largest client holds, which everybody may know: secure sums take
        # numbers up to 1, and whether they weigh clients by examples must not matter here.
        there = [at for at, size in enumerate(counts.sum(1).tolist()) if size > 0]
        largest = counts[there].sum(1).max()
        visible = us.secagg(
            (counts[there] / largest).to(state.params),
            torch.ones(len(there)),
            clients=tuple(there),
            key=key / "decision" / "secagg",
        )
        if visible.sum is not None:
            raise ValueError(
                "decision: secagg=gram reveals no counts: use secagg=ideal or pairwise"
            )
        members = torch.tensor([len(one) for one in visible.members]).double().unsqueeze(1)
        return (visible.rows.double().cpu() * members).sum(0) * float(largest)

    return Evidence(
        scores=_favored(us, outputs).cpu(),
        favorable=(data.targets[held] == sensitive.favorable).cpu(),
        groups=sensitive.of(data, held).cpu(),
        count=sensitive.count,
        sizes=shards.sizes,
        reveal=reveal,
    )


def _favored(us: Federation, outputs: Tensor) -> Float[Tensor, "examples"]:
    assert us.task.sensitive is not None
    return outputs.softmax(1)[:, us.task.sensitive.favorable]


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


def _over_clients(
    us: Federation, whose: str, given: Int[Tensor, "_"], which: Int[Tensor, "_"], held: Shards
) -> Record:
    """Measure answers to examples that clients held out, by client and by group."""
    data = us.task.data
    at = which.to(data.targets.device)
    right: Bool[Tensor, "_"] = given == data.targets[at]
    accuracies = per_client(right, held)
    spreads = spread(accuracies)
    record: Record = {
        f"{whose}_accuracy": spreads["mean"],
        f"{whose}_accuracy_worst10": spreads["worst10"],
        f"{whose}_accuracy_variance": spreads["variance"],
    }
    sensitive = us.task.sensitive
    if sensitive is not None:
        even = over_clients(accuracies)
        record |= {f"{whose}_accuracy_{name}": even[name] for name in ("jain", "gini", "cosine")}
        groups = sensitive.of(data, at)
        record |= _groups(us, f"{whose}_", given, data.targets[at], groups)
    return record


def _score(
    us: Federation,
    outputs: Float[Tensor, "examples ..."],
    given: Int[Tensor, "examples"],
) -> Record:
    """Measure outputs, and the answers made of them, on the test set."""
    targets = us.test.targets
    found: Record = {"test_loss": mean_loss(us.task.model.loss(outputs, targets))}
    if us.classes:
        found["test_accuracy"] = accuracy(given == targets)
    if us.task.sensitive is not None:
        found |= _groups(us, "", given, targets, us.task.sensitive.of(us.test))
    return found


def _groups(us: Federation, whose: str, given: Tensor, targets: Tensor, groups: Tensor) -> Record:
    sensitive = us.task.sensitive
    assert sensitive is not None
    counts = cells(given, targets, groups, count=sensitive.count, classes=us.classes)
    found = group_fairness(counts, favorable=sensitive.favorable, minimum=sensitive.minimum)
    return {f"{whose}{name}": value for name, value in found.items()}


def _mean_of(scores: list[Record]) -> Record:
    """Average measures of models one by one, over those that have each."""
    found: Record = {}
    for name in scores[0]:
        known = [one for one in (score[name] for score in scores) if one is not None]
        found[name] = fmean(known) if known else None
    return found
