"""A model card, written down: Markdown for people, front matter for the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from dai_lab.experiment.card.evaluation import evaluation, metrics
from dai_lab.experiment.card.findings import Findings
from dai_lab.experiment.card.words import name_of, plain, table, titled, written

PARTS = (
    "local", "cohort", "devices", "pace", "privacy", "attack", "poison", "compression", "secagg",
    "aggregator", "server", "decision", "personal",
)  # fmt: skip
IDLE = ("none", "unpoisoned", "untimed", "common", "dense")
"""Parts that do nothing, which a card need not name."""


def page(found: Findings) -> str:
    """Write a card; the same findings give the same bytes."""
    parts = (
        _details(found), _use(), _data(found), metrics(found), evaluation(found),
        _privacy(found), _provenance(found), _caveats(found),
    )  # fmt: skip
    summary = found.summary
    head = [f"---\n{yaml.safe_dump(front(found), sort_keys=False, allow_unicode=True)}---", ""]
    head += [f"# Model card: {plain(summary['name'])} {summary['digest']}", ""]
    lines = [*head, *(line for part in parts for line in (*part, ""))]
    return "\n".join(lines).rstrip() + "\n"


def front(found: Findings) -> dict[str, Any]:
    """Give what the hub reads: the same numbers as on the page.

    Source:
        The model card specification of huggingface/hub-docs, modelcard.md.
    """
    us, test, name = found.us, found.test, found.data.card.name
    flat = len(found.data.shape) == 1
    kind = "classification" if us.classes else "regression"
    task = f"{'tabular' if flat else 'image'}-{kind}"
    cells = {"accuracy": test.accuracy, "loss": test.loss, **test.gaps}
    found_metrics = [
        {
            "type": one,
            "name": f"{one}, 95 % {cell[1]:.3f} to {cell[2]:.3f}",
            "value": round(cell[0], 4),
        }
        for one, cell in cells.items()
        if cell is not None
    ]
    known = [found.summary.get(f"privacy/{unit}_epsilon") for unit in ("client", "record")]
    tags = {
        "dai_lab": True,
        "federated-learning": us.frame == "federated",
        "fairness": us.task.sensitive is not None,
        "differential-privacy": any(one is not None for one in known),
    }
    result = {
        "task": {"type": task},
        "dataset": {"type": name, "name": name},
        "metrics": found_metrics,
    }
    model = f"{found.summary['name']}-{found.summary['digest']}"
    return {
        "license": "unknown",  # a person has to say it
        "pipeline_tag": task,
        "tags": [tag for tag, holds in tags.items() if holds],
        "model-index": [{"name": model, "results": [result]}],
    }


def _details(found: Findings) -> Iterator[str]:
    us, cfg, about = found.us, found.settings, found.environment
    summary, clip, knobs = found.summary, cfg["federation"]["clip"], cfg["fairness"]
    parts = [name for name in PARTS if name_of(cfg[name]) not in IDLE]
    parts = [name for name in parts if us.hostile or name not in ("attack", "poison")]
    how = {
        "federated": f"by a federation of {len(us.task.shards)} clients",
        "centralized": f"on the data of {len(us.task.shards)} clients, pooled",
    }[us.frame]
    ends = " (it diverged)" if summary["diverged"] else ""
    commit = about["commit"] or "unknown"
    dirty = ", with changes that are in no commit" if about["dirty"] else ""
    versions = ", ".join(f"{name} {one}" for name, one in about["versions"].items())
    before = len(about.get("earlier", ()))
    rows = {
        "model": f"{written(cfg['model'])}, {us.task.model.params:,} parameters",
        "input": " x ".join(map(str, found.data.shape)),
        "answers": _answers(found),
        "trained": f"{how}, in {summary['rounds']} rounds{ends}",
        **{name: written(cfg[name]) for name in parts},
        "seed": str(cfg["seed"]),
        "settings": f"digest {summary['digest']}; all of them are in config.yaml",
        "code": f"dai_lab at commit {commit}{dirty}",
        "ran on": f"{versions}; {about['cpu']}"
        + (f"; {about['gpu']}" if about["compute"]["device"].startswith("cuda") else "")
        + (f"; after {before} earlier sessions on others" if before else ""),
        "license": "nobody has said one for this model; its data have theirs, below",
    }
    if us.hostile:
        rows["liars"] = f"{len(us.hostile)} of {len(us.task.shards)} clients, put there on purpose"
    if knobs["penalty"]:
        rows["penalty"] = f"{knobs['penalty']:g} for gaps of {knobs['penalizes']} within a batch"
    if clip is not None:
        rows["clipping"] = f"the protocol shortens rows to {clip:g}"
    yield from titled("## Model details")
    yield from table(["", ""], [[name, plain(text)] for name, text in rows.items()])


def _use() -> Iterator[str]:
    yield from titled("## Intended use")
    yield (
        "**This is a research run**: one end of one experiment, made to measure what its settings "
        "do. It is not meant to decide about people, and nobody has checked it for that. Who wants "
        "to use it, or to say something of the method, needs more than this run: other seeds, "
        "people like those it would meet, and a look at what its mistakes cost them."
    )


def _data(found: Findings) -> Iterator[str]:
    us, card = found.us, found.data.card
    shards, sizes = us.task.shards, us.task.shards.sizes
    low, high = int(sizes.min()), int(sizes.max())
    rows = {
        "name": card.name,
        "source": card.source,
        "license": card.license,
        "sha256": card.sha256,
        **({"note": card.note} if card.note else {}),
        "trained on": f"{len(shards.indices):,} examples, {low:,} to {high:,} a client",
        "held out by clients": f"{len(us.holdout.indices):,}",
        "tested on": f"{len(us.test):,}",
        "dealt": written(found.settings["partition"]),
    }
    if len(us.root):
        rows["the server's own"] = f"{len(us.root):,}"
    yield from titled("## Data")
    yield from table(["", ""], [[name, plain(text)] for name, text in rows.items()])
    sensitive = us.task.sensitive
    if sensitive is None:
        return
    yield ""
    word = _favorable(found)
    yield f"Groups by `{'+'.join(sensitive.attributes)}`; the answer people hope for is *{word}*."
    yield ""
    data, held = us.task.data, shards.indices.to(us.task.data.targets.device)
    both = [
        (sensitive.of(data)[held], data.targets[held]),
        (sensitive.of(us.test), us.test.targets),
    ]
    body = []
    for group, name in enumerate(sensitive.names(found.data)):
        row = [plain(name)]
        for groups, targets in both:
            there = targets[groups == group]
            hoped = int((there == sensitive.favorable).sum())
            row += [f"{len(there):,}", f"{hoped:,} ({hoped / len(there):.0%})" if hoped else "0"]
        body.append(row)
    head = ["group", "trained on", f"of these {word}", "tested on", f"of these {word}"]
    yield from table(head, body)


def _privacy(found: Findings) -> Iterator[str]:
    summary, terms = found.summary, found.settings["accounting"]
    yield from titled("## Privacy")
    rows = []
    for unit in ("client", "record"):
        if (name := f"privacy/{unit}_epsilon") not in summary:
            continue
        most, least = summary[name], summary.get(f"audit/{unit}_epsilon")
        bound = "unbounded" if most is None else f"{most:.3f}"
        audited = "not audited" if least is None else f"at least {least:.3f}"
        rows.append([f"a {unit}", bound, f"{terms['delta']:g}", audited])
    if not rows:
        yield (
            "Nothing is promised about anyone: what the model gives away about those it was "
            "trained on is not bounded."
        )
        return
    yield from table(["about", "epsilon at most", "delta", "audited"], rows)
    yield ""
    yield (
        f"Differential privacy, priced by `{terms['by']}`: an upper bound of what the run says it "
        "did. How it is promised and to whom: docs/privacy.md."
    )


def _provenance(found: Findings) -> Iterator[str]:
    yield from titled("## Provenance")
    if not found.log:
        yield (
            "The run kept no log (`ledger=none`): that these settings gave this model is shown by "
            "nothing but running them again."
        )
        return
    yield "The run signed and logged each step; `dai-lab verify` found:"
    yield ""
    yield from table(["", ""], [[what, plain(why)] for what, why in found.log])


def _caveats(found: Findings) -> Iterator[str]:
    us, cfg = found.us, found.settings
    yield from titled("## Caveats")
    yield "- One run with one seed. Its settings may have been chosen by looking at this test set."
    if us.task.sensitive is not None:
        yield (
            "- Gaps cannot all be closed: where groups differ in how many are favorable, no useful "
            "score is calibrated in each and has equal error rates (Kleinberg et al. 2016, "
            "arXiv:1609.05807; Chouldechova 2017, arXiv:1610.07524). Which gap matters is not for "
            "the model to say."
        )
        yield (
            "- Groups are what the owner of the data recorded, in the owner's categories; people "
            "may see themselves otherwise, and groups that nobody recorded are not measured."
        )
        yield (
            "- Truth is what the test data call so. Where past decisions were unfair, answering "
            "like them counts as right."
        )
    if name_of(cfg["decision"]) != "highest":
        yield (
            "- Who is answered what depends on the group (`decision`), so whoever uses the model "
            "must know it of everybody, and be allowed to. Answers may be drawn by lot."
        )
        if any(f"privacy/{unit}_epsilon" in found.summary for unit in ("client", "record")):
            yield "- Thresholds come from counts that the epsilon above does not cover."
    if us.hostile:
        yield (
            f"- {len(us.hostile)} clients lied on purpose. What they truly hold is among the data "
            "described here, and what they held out among what clients are judged by."
        )
    if "personal_accuracy" in found.summary:
        yield "- Clients also have models of their own, which this card does not describe."
    if cfg["audit"]["records"]:
        yield f"- {cfg['audit']['records']} made-up records were planted for an audit."
    if found.summary["diverged"]:
        yield "- **Training diverged**: the model's parameters are not finite numbers."


def _answers(found: Findings) -> str:
    if not found.us.classes:
        return "a number"
    names = found.data.names.get("classes")
    return f"{found.us.classes} classes" + (f": {', '.join(map(str, names))}" if names else "")


def _favorable(found: Findings) -> str:
    assert found.us.task.sensitive is not None
    at, names = found.us.task.sensitive.favorable, found.data.names.get("classes")
    return plain(names[at]) if names else f"class {at}"
