"""The provenance of a model as a graph: who did what, with what, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from dai_lab.ledger.exports.finished import Finished
from dai_lab.ledger.history import Round

ENDS = {
    "used": ("activity", "entity"),
    "wasGeneratedBy": ("entity", "activity"),
    "wasDerivedFrom": ("generatedEntity", "usedEntity"),
    "wasAssociatedWith": ("activity", "agent"),
    "wasAttributedTo": ("entity", "agent"),
    "actedOnBehalfOf": ("delegate", "responsible"),
}
"""What each relation calls its two ends."""

Said = tuple[str, str, dict[str, Any]]
"""A kind of record, its name (none for a relation), what it says."""

LAB, SERVER, RUN, CONFIG = "run:lab", "run:server", "run:run", "run:config"


def graph(run: Finished) -> dict[str, Any]:
    """Tell a run's provenance in the words of the W3C.

    Models, updates, aggregates and data sets are entities; training, aggregation and rounds are
    activities; the lab, its server and the owners of data are agents. A model is derived from
    every data set whose owner's update is in it.

    Source:
        PROV-DM (W3C recommendation, 2013); PROV-JSON (W3C member submission, 2013).
    """
    found: dict[str, dict[str, Any]] = {
        "prefix": {"run": f"{run.name}:", "dai": "urn:dai-lab:terms:"}
    }
    rounds = (one for number in sorted(run.history.rounds) for one in _round(run, number))
    for kind, name, about in (*_frame(run), *_owners(run), *rounds):
        records = found.setdefault(kind, {})
        records[name or f"_:{kind}{len(records)}"] = about
    return found


def _frame(run: Finished) -> Iterator[Said]:
    """Tell what is there before any client takes part, and what is left in the end."""
    start = run.start.body
    yield "agent", LAB, {"prov:label": "lab", "dai:key": run.lab.hex()}
    yield "agent", SERVER, _software("server", start["server"])
    yield _bond("actedOnBehalfOf", SERVER, LAB)
    yield "entity", CONFIG, {"prov:type": _name("prov:Plan"), "dai:sha256": start["config"].hex()}
    commits = sorted({one["commit"] for one in run.sessions if one["commit"]})
    yield "activity", RUN, {"prov:label": f"run {run.history.run}", "dai:commit": commits}
    yield _bond("wasAssociatedWith", RUN, LAB, {"prov:plan": CONFIG})
    yield "entity", "run:model/0", {"prov:type": _name("dai:Model")}
    yield from _made("run:model/0", RUN, SERVER)
    log = {"prov:type": _name("dai:Log"), "dai:events": run.size, "dai:root": run.root.hex()}
    yield "entity", "run:log", log
    yield from _made("run:log", RUN, LAB)


def _owners(run: Finished) -> Iterator[Said]:
    """Tell who registered which data, and until when they may be used."""
    for owner, event in sorted(run.history.owners.items()):
        data, who = _data(owner), _agent(owner)
        yield "agent", who, _software(owner, event.author)
        about = {
            "prov:type": _name("dai:DataSet"),
            "dai:root": event.body["root"].hex(),
            "dai:examples": event.body["size"],
            "dai:license": event.body["license"],
            "dai:consentedRounds": run.history.granted.get(owner, 0),
        }
        yield "entity", data, about
        yield _bond("wasAttributedTo", data, who)


def _round(run: Finished, number: int) -> Iterator[Said]:
    """Tell one round, from its clients' training to the next model."""
    there, name = run.history.rounds[number], f"run:round/{number}"
    before, after = f"run:model/{number - 1}", f"run:model/{number}"
    yield from _updates(there, number, before)
    record = there.steps["evaluation"].body["record"].hex()
    yield "activity", name, {"prov:type": _name("dai:Round"), "dai:record": record}
    yield _bond("wasAssociatedWith", name, SERVER)
    made = there.steps["model"].body
    about = {"dai:cid": made["cid"], "dai:digest": made["digest"].hex()}
    yield "entity", after, {"prov:type": _name("dai:Model"), **about}
    yield from _made(after, name, SERVER)
    sources = [before]
    if "aggregate" in there.steps:
        sources.append(f"run:aggregate/{number}")
        yield from _aggregation(there, number)
    for one in sources:
        yield from _made_of(after, one, name)


def _updates(there: Round, number: int, before: str) -> Iterator[Said]:
    """Tell who trained the model before on which data, and committed to what."""
    for client, event in sorted(there.updates.items()):
        training, update = f"run:training/{number}/{client}", f"run:update/{number}/{client}"
        who, data = _agent(f"client/{client}"), _data(f"client/{client}")
        yield "activity", training, {"prov:type": _name("dai:Training")}
        yield _bond("wasAssociatedWith", training, who)
        about = {
            "prov:type": _name("dai:Update"),
            "dai:commitment": event.body["commitment"].hex(),
            "dai:weight": {"$": repr(float(event.body["weight"])), "type": "xsd:double"},
        }
        yield "entity", update, about
        yield from _made(update, training, who)
        for one in (before, data):
            yield from _made_of(update, one, training)


def _aggregation(there: Round, number: int) -> Iterator[Said]:
    """Tell what the server made of the updates."""
    name, aggregate = f"run:aggregation/{number}", f"run:aggregate/{number}"
    yield "activity", name, {"prov:type": _name("dai:Aggregation")}
    yield _bond("wasAssociatedWith", name, SERVER)
    about = {"dai:digest": there.steps["aggregate"].body["digest"].hex()}
    if "transcript" in there.steps:
        about["dai:transcript"] = there.steps["transcript"].body["digest"].hex()
    yield "entity", aggregate, {"prov:type": _name("dai:Aggregate"), **about}
    yield from _made(aggregate, name, SERVER)
    for client in sorted(there.updates):
        yield from _made_of(aggregate, f"run:update/{number}/{client}", name)


def _made(entity: str, activity: str, agent: str) -> Iterator[Said]:
    yield _bond("wasGeneratedBy", entity, activity)
    yield _bond("wasAttributedTo", entity, agent)


def _made_of(entity: str, source: str, activity: str) -> Iterator[Said]:
    yield _bond("used", activity, source)
    yield _bond("wasDerivedFrom", entity, source, {"prov:activity": activity})


def _bond(kind: str, one: str, other: str, more: dict[str, Any] | None = None) -> Said:
    first, second = ENDS[kind]
    return kind, "", {f"prov:{first}": one, f"prov:{second}": other, **(more or {})}


def _software(name: str, key: bytes) -> dict[str, Any]:
    kind = _name("prov:SoftwareAgent")
    return {"prov:type": kind, "prov:label": name, "dai:key": key.hex()}


def _agent(owner: str) -> str:
    # Whoever registers data chooses a name, and not every text may stand in a name of PROV.
    return f"run:owner/{quote(owner)}"


def _data(owner: str) -> str:
    return f"run:data/{quote(owner)}"


def _name(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}
