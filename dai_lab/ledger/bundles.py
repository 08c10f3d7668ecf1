"""Bundles: one event of a run, and all it takes to check it far from its lab.

A bundle holds the event, the start of its log, its author's registration and the last anchor, each
with a proof that it is in the log, and a signed checkpoint of that log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libipld

from dai_lab.ledger.events import Event, Forged, verify
from dai_lab.ledger.history import LABS, STEPS
from dai_lab.ledger.log import Log
from dai_lab.ledger.merkle import leaf_hash, verify_inclusion
from dai_lab.ledger.notes import Checkpoint, read_checkpoint

VERSION = "dai_lab bundle 1"


@dataclass(frozen=True)
class Proven:
    """What a bundle proves."""

    event: Event
    place: int
    start: Event
    registration: Event | None
    anchor: Event | None
    at: Checkpoint


def bundle(log: Log, place: int, lab: str = "lab") -> bytes:
    """Write the bundle of one event, in canonical DAG-CBOR.

    Args:
        log: The run's log.
        place: The event's number in it.
        lab: Name of who signs its checkpoints.

    Raises:
        ValueError: There is no such event, or no checkpoint has it yet.
    """
    notes = log.notes()
    size, note = notes[-1] if notes else (0, "")
    if not 0 <= place < size:
        raise ValueError(f"prove: the log's last checkpoint has {size} events, and no {place}")
    events = [verify(raw) for raw in log.events()][:size]
    wanted, author = {0, place}, events[place].author
    wanted |= _first(at for at, one in enumerate(events) if _registers(one, author))
    wanted |= _first(at for at in range(size - 1, 0, -1) if events[at].kind == "anchored")
    raws = list(log.events())
    shown = [[one, raws[one], log.tree.inclusion(one, size)] for one in sorted(wanted)]
    found: bytes = libipld.encode_dag_cbor(
        {"is": VERSION, "place": place, "events": shown, "note": note, "lab": lab}
    )
    return found


def opened(raw: bytes) -> Proven:
    """Check a bundle; everything in it is used, so that no byte of it may change.

    Raises:
        Forged: Something in it does not hold; the message says what.
    """
    try:
        found = libipld.decode_dag_cbor(raw)
        canonical = libipld.encode_dag_cbor(found) == raw
    except Exception:
        raise Forged("it is no bundle: not DAG-CBOR") from None
    if not (isinstance(found, dict) and canonical and found.get("is") == VERSION):
        raise Forged("it is no bundle, or not written in the one canonical way")
    if found.keys() != {"is", "place", "events", "note", "lab"}:
        raise Forged("it is no bundle: it has other entries")
    shown, events = _listed(found["events"]), {}
    for place, one, _ in shown:
        events[place] = verify(one)
    if list(events) != sorted(events) or len(events) != len(shown) or 0 not in events:
        raise Forged("it lacks the start of the log, or shows an event twice")
    start = events[0]
    if start.kind != "started" or not isinstance(found["note"], str):
        raise Forged("its log does not begin with a start")
    at = read_checkpoint(found["note"], str(found["lab"]), start.author)
    if at is None or at.origin != f"dai_lab/{start.body['run']}":
        raise Forged("its checkpoint is not signed by the lab that started the run")
    for place, one, proof in shown:
        if not verify_inclusion(leaf_hash(one), place, at.size, proof, at.root):
            raise Forged(f"its event {place} is not in the log")
    return _proven(found["place"], events, at)


def _proven(place: Any, events: dict[int, Event], at: Checkpoint) -> Proven:
    """Say what events that are in a log prove about one of them."""
    if type(place) is not int or place not in events:
        raise Forged("it lacks the event it is about")
    event, start = events[place], events[0]
    rest = {number: one for number, one in events.items() if number not in (0, place)}
    registrations = [one for one in rest.values() if _registers(one, event.author)]
    anchors = [one for one in rest.values() if one.kind == "anchored"]
    few = len(registrations) <= 1 and len(anchors) <= 1
    if len(registrations) + len(anchors) != len(rest) or not few:
        raise Forged("it holds events that say nothing about the one it is about")
    if any(one.author != start.author for one in anchors):
        raise Forged("its anchor is not by the lab")
    who = {one.author for one in registrations}
    if event.kind in ("started", *LABS):
        who = {start.author}
    elif event.kind in STEPS[1:]:
        who = {start.body["server"]}
    elif event.kind == "dataset":
        who = {event.author}
    if event.author not in who:
        raise Forged("nothing in it says that the event's author may say this")
    if event.kind == "update" and registrations:
        owner = registrations[0].body["owner"]
        if owner != f"client/{event.body['client']}":
            raise Forged(f"its author is {owner}, and not the client it is about")
    anchor = anchors[-1] if anchors else None
    return Proven(event, place, start, registrations[0] if registrations else None, anchor, at)


def _listed(shown: Any) -> list[tuple[int, bytes, list[bytes]]]:
    right = isinstance(shown, list) and all(
        isinstance(one, list)
        and len(one) == 3
        and type(one[0]) is int
        and isinstance(one[1], bytes)
        and isinstance(one[2], list)
        for one in shown
    )
    if not right:
        raise Forged("it is no bundle: its events are not listed as they should be")
    return [(one[0], one[1], one[2]) for one in shown]


def _registers(event: Event, author: bytes) -> bool:
    return event.kind == "dataset" and event.author == author


def _first(places: Any) -> set[int]:
    for one in places:
        return {one}
    return set()
