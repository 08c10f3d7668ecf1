"""The lineage of a run's model: whose data, through which updates and rounds, to which payouts."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.ledger import Event, Forged, History, Log, told, verify
from dai_lab.report.grid import COLORS, RIMS, Column, Grid, Row, clean, draw_grid, placed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

LOG = "ledger.sqlite"
"""Where in a run's folder its log lies."""

OWNERS, ROUNDS, PAYOUTS = 400, 400, 2000
"""How many are drawn, so that a page stays small whatever a log holds: who took part most, the last
rounds, the first payouts."""

DETAIL = 130_000
"""Letters that may be spent on single updates: commitments are shortened, or left to the log."""


@dataclass(frozen=True)
class Lineage:
    """Where a run's model comes from; a notebook shows it as a picture to walk through."""

    history: History
    """What the events whose signatures hold tell."""
    payouts: tuple[Event, ...]
    """Those the lab or its server signed, for rounds that there are."""
    doubts: tuple[str, ...]
    """What in the log is not believed and left out, or cannot have happened as it says."""

    def __repr__(self) -> str:
        """Say what is drawn in one line."""
        counts = f"{len(self.history.owners)} owners, {len(self.history.rounds)} rounds"
        return f"Lineage of {self.history.run}: {counts}"

    @cached_property
    def owners(self) -> tuple[str, ...]:
        """Whose data is drawn, sorted by number."""
        counts = {owner: 0 for owner in self.history.owners}
        for one in self.history.rounds.values():
            for client in one.updates:
                counts[f"client/{client}"] += 1
        most = sorted(counts, key=lambda owner: -counts[owner])[:OWNERS]
        return tuple(sorted(most, key=_by_number))

    @cached_property
    def rounds(self) -> tuple[int, ...]:
        """Which rounds are drawn."""
        return tuple(sorted(self.history.rounds)[-ROUNDS:])

    @cached_property
    def paid(self) -> dict[int, list[Event]]:
        """Who is paid for which round."""
        found: dict[int, list[Event]] = {}
        for one in self.payouts:
            found.setdefault(one.body["round"], []).append(one)
        return found

    @cached_property
    def anchors(self) -> dict[int, Event]:
        """From a round to the first anchor the lab says is at or after it: it covers all before."""
        known = sorted(self.history.anchors, key=lambda one: int(one.body["round"]))
        found: dict[int, Event] = {}
        for number in self.rounds:
            over = [one for one in known if one.body["round"] >= number]
            found |= {number: over[0]} if over else {}
        return found

    @cached_property
    def grid(self) -> Grid:
        """Where everything stands."""
        at = {owner: place for place, owner in enumerate(self.owners)}
        owners = [Row(name, self.history.owners[name].body["size"]) for name in self.owners]
        columns = []
        for number in self.rounds:
            one = self.history.rounds[number]
            clients = {f"client/{client}" for client in one.updates}
            columns.append(
                Column(
                    number,
                    frozenset(at[owner] for owner in clients & at.keys()),
                    str(one.steps["model"].body["cid"]) if "model" in one.steps else "",
                    used="aggregate" in one.steps,
                    anchored=number in self.anchors,
                    paid=len(self.paid.get(number, ())),
                )
            )
        return placed(owners, columns)

    def figure(self, *, dark: bool = False) -> Figure:
        """Draw it for paper, or for a dark page."""
        return draw_grid(self.grid, dark=dark)

    def _repr_html_(self) -> str:
        from jinja2 import Environment, StrictUndefined

        template = files("dai_lab.report").joinpath("lineage.html").read_text(encoding="utf-8")
        # A log is anybody's text: every word is escaped, and scripts write it as text alone.
        jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        return jinja.from_string(template).render(
            grid=self.grid,
            colors=COLORS,
            rims=RIMS,
            told=_told(self),
            counts=self.counts,
            doubts=[clean(one, 300) for one in self.doubts[:3]],
            more=max(0, len(self.doubts) - 3),
            anchored=bool(self.anchors),
            bundles=any(len(some) > 1 for some in (*self.grid.rows, *self.grid.columns)),
        )

    @property
    def counts(self) -> str:
        """Say how much there is."""
        us = self.history
        updates = sum(len(one.updates) for one in us.rounds.values())
        examples = sum(one.body["size"] for one in us.owners.values())
        said = (
            f"{len(us.owners):,} owners of {examples:,} examples, {updates:,} updates in "
            f"{len(us.rounds):,} rounds"
        )
        if len(us.owners) > OWNERS or len(us.rounds) > ROUNDS:
            said += f"; drawn: {len(self.owners)} owners, the last {len(self.rounds)} rounds"
        return said


def lineage(folder: Path | str) -> Lineage:
    """Read where a run's model comes from.

    Only events whose signatures hold, and whose authors may say them, are taken; ``doubts`` names
    the others. Whether chain, files and models agree with the log is what ``dai-lab verify`` finds
    out.

    Args:
        folder: A run's, with its log (``ledger=local``).

    Raises:
        ValueError: There is no log, it cannot be read, or tells of no whole round.
    """
    if not (Path(folder) / LOG).exists():
        raise ValueError(f"lineage: {folder} holds no {LOG}: give one run's that had ledger=local")
    log = Log(Path(folder) / LOG, readonly=True)
    try:
        raws = list(log.events())
        identity = log.tree.leaf(0) if raws else b""
    finally:
        log.close()
    events, doubts = [], []
    for place, raw in enumerate(raws):
        try:
            events.append(verify(raw))
        except Forged as error:
            doubts.append(f"event {place}: {error}")
    us = told(events, identity)
    doubts += us.doubts
    if us.start is None or not us.rounds:
        why = f" ({clean(doubts[0], 200)})" if doubts else ""
        raise ValueError(f"lineage: the log in {folder} tells of no whole round{why}")
    ours = {us.start.author, us.start.body["server"]}
    said = [one for one in events if one.kind == "payout"]
    paid = [one for one in said if one.author in ours and one.body["round"] in us.rounds]
    if len(paid) < len(said):
        doubts.append(f"{len(said) - len(paid)} payouts are of no round, or by another")
    return Lineage(us, tuple(paid), tuple(doubts))


def _by_number(owner: str) -> tuple[bool, int, str]:
    found = re.fullmatch(r"client/([0-9]{1,18})", owner)
    return found is None, int(found[1]) if found else 0, owner


def _told(us: Lineage) -> dict[str, Any]:
    """Write down what the picture's panel can say."""
    start, at = us.history.start, {owner: place for place, owner in enumerate(us.owners)}
    assert start is not None
    sent = {
        number: sorted(
            (at[owner], one.body["weight"], one.body["commitment"])
            for client, one in us.history.rounds[number].updates.items()
            if (owner := f"client/{client}") in at
        )
        for number in us.rounds
    }
    weights = {number: _weights(us, found) for number, found in sent.items()}
    room = DETAIL - sum(10 * len(one) for one in weights.values() if isinstance(one, list))
    if room < 0:
        room, weights = DETAIL, dict.fromkeys(weights, "in the log")
    size = min(32, room * 3 // 4 // max(1, sum(map(len, sent.values()))))
    size = 0 if size < 4 else size  # fewer bytes would not tell one from another
    anchors = list({one.body["round"]: one for one in us.anchors.values()}.values())
    spoken = ("round", "transaction", "block", "chain", "contract")
    payees: dict[str, int] = {}
    return {
        "lab": _key(start.author),
        "server": _key(start.body["server"]),
        "bytes": size,
        "rows": [[some[0], some[-1]] for some in us.grid.rows],
        "columns": [[some[0], some[-1]] for some in us.grid.columns],
        "anchors": [{name: _text(one.body[name]) for name in spoken} for one in anchors],
        "owners": [_owner(us, owner) for owner in us.owners],
        "rounds": [
            {
                **_steps(us, number),
                "who": f"{sum(1 << place for place, _, _ in found):x}",
                "weights": weights[number],
                "commitments": _base64(b"".join(one[:size] for _, _, one in found)),
                "anchor": anchors.index(us.anchors[number]) if number in us.anchors else None,
                "payouts": _payouts(us, number, payees),
            }
            for number, found in sent.items()
        ],
        "payees": list(payees),
    }


def _owner(us: Lineage, owner: str) -> dict[str, Any]:
    event = us.history.owners[owner]
    return {
        "name": _text(owner),
        "key": _key(event.author),
        "examples": str(event.body["size"]),
        "root": _base64(event.body["root"]),
        "license": _text(event.body["license"]),
        "granted": str(us.history.granted.get(owner, 0)),
    }


def _steps(us: Lineage, number: int) -> dict[str, Any]:
    one = us.history.rounds[number]
    said = {kind: event.body for kind, event in one.steps.items()}
    model = said.get("model", {})
    return {
        "round": number,
        "count": len(one.updates),
        "aggregate": _base64(said["aggregate"]["digest"]) if "aggregate" in said else None,
        "transcript": _base64(said["transcript"]["digest"]) if "transcript" in said else None,
        "cid": _text(model.get("cid", "")),
        "digest": _base64(model.get("digest", b"")),
        "snapshot": _text(model.get("snapshot") or ""),
    }


def _payouts(us: Lineage, number: int, payees: dict[str, int]) -> dict[str, Any] | None:
    """Write down who is paid; whoever is paid again is a number in ``payees``, which grows."""
    found = us.paid.get(number)
    if found is None:
        return None
    shown = found[: max(1, PAYOUTS // len(us.rounds))]
    return {
        "count": len(found),
        "amount": str(sum(one.body["amount"] for one in found)),
        "roots": [_base64(root) for root in dict.fromkeys(one.body["root"] for one in found)][:3],
        "keys": [_key(key) for key in dict.fromkeys(one.author for one in found)],
        "to": [
            [payees.setdefault(_text(one.body["to"]), len(payees)), str(one.body["amount"])]
            for one in shown
        ],
    }


def _weights(
    us: Lineage, found: Sequence[tuple[int, float, bytes]]
) -> list[float] | float | str | None:
    """Leave out weights that are the owners' numbers of examples, or write one for all."""
    sizes = [us.history.owners[us.owners[place]].body["size"] for place, _, _ in found]
    weights = [float(f"{weight:.4g}") for _, weight, _ in found]
    if [weight for _, weight, _ in found] == sizes:
        return None
    return weights[0] if len(set(weights)) == 1 else weights


def _text(value: Any) -> str:
    return clean(str(value), 90)


def _key(raw: bytes) -> str:
    return raw.hex()[:8]


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()
