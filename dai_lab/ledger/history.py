"""What a log of events tells, and whether it can have happened like that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dai_lab.ledger.events import Event
from dai_lab.ledger.scribe import PURPOSE

STEPS = ("update", "consent_used", "transcript", "aggregate", "model", "evaluation")
"""What happens in a round, in this order; all but updates once at most."""

LABS = ("resumed", "anchored", "finished")
"""What nobody but the lab may say, whose log it is."""


@dataclass
class Round:
    """One round, as it was written down."""

    updates: dict[int, Event] = field(default_factory=dict)
    """By client."""
    steps: dict[str, Event] = field(default_factory=dict)
    """By kind, of what happens once."""

    def same_as(self, other: Round) -> bool:
        """Tell whether everything came out the same."""
        return self.updates == other.updates and self._said() == other._said()

    def _said(self) -> dict[str, dict[str, Any]]:
        # Which states are kept is a setting that a later session may have changed.
        bodies = {kind: dict(event.body) for kind, event in self.steps.items()}
        return {kind: body | {"snapshot": None} for kind, body in bodies.items()}


@dataclass
class History:
    """What a log tells, and what in it does not fit (``doubts``)."""

    run: str = ""
    start: Event | None = None
    environment: bytes = b""
    """Digest of what the last session ran on."""
    rounds: dict[int, Round] = field(default_factory=dict)
    """Complete ones, as the last session that played them wrote them down."""
    owners: dict[str, Event] = field(default_factory=dict)
    """Who registered which data."""
    granted: dict[str, int] = field(default_factory=dict)
    """Up to which round an owner's data may be trained on."""
    anchors: list[Event] = field(default_factory=list)
    end: Event | None = None
    sessions: int = 1
    again: int = 0
    """Rounds that were played twice, because a session ended before its work was safe."""
    doubts: list[str] = field(default_factory=list)
    _open: Round = field(default_factory=Round)
    _last: int = 0

    def client(self, number: int) -> Event | None:
        """Return the registration of a client."""
        return self.owners.get(f"client/{number}")


def told(events: Iterable[Event], identity: bytes) -> History:
    """Follow events whose signatures hold, and note whatever does not fit.

    Nobody else speaks for the lab, for the server or for a client; a round follows upon the one
    before; who commits does so before anything is revealed, once, and has given consent.

    Args:
        events: In the order of the log.
        identity: Hash of the first leaf.
    """
    us = History()
    for place, event in enumerate(events):
        why = _odd(us, event, place, identity) or _taken(us, event)
        if why:
            us.doubts.append(f"event {place}, {event.kind} {why}")
    if us.start is not None and (us._open.updates or us._open.steps):
        us.doubts.append(f"round {us._last + 1} has no end")
    return us


def _odd(us: History, event: Event, place: int, identity: bytes) -> str | None:
    """Say why an event cannot be said here, or by its author."""
    kind, body = event.kind, event.body
    if (place == 0) != (kind == "started"):
        return "is not where a log starts, or starts another"
    if us.start is None:
        return None
    if us.end is not None:
        return "comes after the end"
    if kind in LABS and event.author != us.start.author:
        return "is not by the lab, whose log it is"
    if kind in STEPS[1:] and event.author != us.start.body["server"]:
        return "is not by the server of this run"
    if kind == "update" or (kind.startswith("consent_") and "owner" in body):
        owner = body["owner"] if "owner" in body else f"client/{body['client']}"
        if owner not in us.owners or us.owners[owner].author != event.author:
            return f"is not by {owner}, or {owner} registered no data before"
    if body.get("run", us.run) not in (us.run, identity):
        return "is of another run"
    return None


def _taken(us: History, event: Event) -> str | None:
    """Take an event into account; say why it does not fit what came before."""
    kind, body = event.kind, event.body
    if kind == "started":
        us.start, us.run, us.environment = event, body["run"], body["environment"]
    elif kind == "resumed":
        us.sessions, us.environment, us._open = us.sessions + 1, body["environment"], Round()
        if body["round"] > us._last:
            return f"goes on from round {body['round']}, after round {us._last}"
        us._last = body["round"]
    elif kind == "dataset":
        before = us.owners.setdefault(body["owner"], event)
        if before != event:
            return f"makes {body['owner']} somebody or something else"
    elif kind == "consent_granted" and body["purpose"] == PURPOSE:
        us.granted[body["owner"]] = body["rounds"]
    elif kind == "consent_revoked" and body["purpose"] == PURPOSE:
        us.granted[body["owner"]] = min(us.granted.get(body["owner"], 0), body["round"])
    elif kind in STEPS:
        return _step(us, event)
    elif kind == "anchored":
        us.anchors.append(event)
    elif kind == "finished":
        us.end = event
        if body["rounds"] != us._last:
            return f"says {body['rounds']} rounds, and {us._last} are in the log"
    return None


def _step(us: History, event: Event) -> str | None:
    """Take a step of a round into account."""
    number, here = event.body["round"], us._open
    if number != us._last + 1:
        return f"is of round {number}, after round {us._last}"
    if event.kind == "update":
        client = event.body["client"]
        if here.steps:
            return f"commits client {client} to a row when others are revealed already"
        if client in here.updates:
            return f"commits client {client} to a second row in round {number}"
        here.updates[client] = event
        return None
    if any(STEPS.index(one) >= STEPS.index(event.kind) for one in here.steps):
        return f"comes too late, or again, in round {number}"
    here.steps[event.kind] = event
    return _closed(us, number, here) if event.kind == "evaluation" else None


def _closed(us: History, number: int, here: Round) -> str | None:
    """End a round; say what it lacks, or what came out differently when it was played before."""
    before, us.rounds[number] = us.rounds.get(number), here
    us._open, us._last = Round(), number
    if "model" not in here.steps:
        return f"ends round {number} without a model"
    if before is not None:
        us.again += 1
        if not here.same_as(before):
            return f"ends round {number}, which came out differently when it was played before"
    if "aggregate" not in here.steps:
        return None  # too few took part, or the round was withheld
    used = here.steps.get("consent_used")
    owners = [f"client/{client}" for client in here.updates]
    said = hashlib.sha256("\n".join(owners).encode()).digest()
    if used is None or used.body["owners"] != said or used.body["count"] != len(owners):
        return f"ends round {number}, which uses others' rows than were committed to"
    if bad := [one for one in owners if us.granted.get(one, 0) < number]:
        return f"ends round {number}, which uses data of {bad[0]} without consent"
    return None
