"""The replay of a round: who sent what its data do not give, and did the server do what it says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.experiment import files
from dai_lab.experiment.provenance import OPENING, ROWS, STORE, holdings
from dai_lab.experiment.verify import DOUBT, FINE, LEFT, Folder, Verdict

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from dai_lab.core import Aggregate, Rows, State, Visible
    from dai_lab.federation import Federation, Played
    from dai_lab.ledger import Event, History

TOLERANCE = 1e-3
"""Distance of a row from its replay, as a share of its length, that another kind of machine may
account for by rounding."""

SAME = ("cpu", "instruction_set", "threads", "gpu", "versions")
"""What must be as it was for a replay to come out the same to the bit."""


def audit(folder: str | Path, round: int, client: int | None = None) -> Verdict:
    """Play a round once more, from its model and everybody's data, and name who lied.

    What a client committed to must follow from the data it registered, by the training that the
    run's settings say; what the server made of it must follow from what was sent. Honest or not,
    everything up to this round is played as it was.

    Args:
        folder: ``results/<name>/<digest>`` of a run with a log.
        round: From 1.
        client: Whom to look at; everybody who sent something unless given.

    Raises:
        ValueError: There is no such round or client, or what a replay needs is not here.
    """
    from dai_lab.experiment.machine import one_setting_of_threads

    place = Folder(Path(folder))
    place.log()
    place.signatures()
    history = place.history
    there = history.rounds.get(round)
    if there is None:
        raise ValueError(
            f"audit: round must be in 1..{max(history.rounds, default=0)}, got {round}"
        )
    if client is not None and client not in there.updates:
        raise ValueError(f"audit: client {client} sent nothing in round {round}")
    with one_setting_of_threads():
        lines = tuple(_replayed(place.path, history, round, client))
    return Verdict(f"{place.path}, round {round}", lines, ("nobody lied", "SOMEBODY LIED"))


@dataclass
class Witness:
    """Takes down what is sent and made of it, as a log would."""

    rows: dict[int, Tensor] = field(default_factory=dict)
    update: Tensor | None = None

    def sent(
        self, round: int, clients: Sequence[int], rows: Rows, weights: Float[Tensor, "_"]
    ) -> None:
        """Keep what clients send."""
        self.rows = {one: row.clone() for one, row in zip(clients, rows.cpu(), strict=True)}

    def revealed(
        self, round: int, clients: Sequence[int], visible: Visible, found: Aggregate
    ) -> None:
        """Keep what the server made of it."""
        self.update = found.update


def _replayed(
    place: Path, history: History, number: int, client: int | None
) -> Iterator[tuple[str, str, str]]:
    from dai_lab.core import Key
    from dai_lab.federation import play
    from dai_lab.ledger import tensors_digest

    us, seed, exact, machine = _rebuilt(place)
    yield machine
    start, done = _nearest(place, history, number, us.compute.device)
    state = start
    for played in play(us, Key(seed), rounds=number - 1, state=state, done=done):
        state, done = played.state, done + 1
        if tensors_digest({"params": state.params}) != _digest(history, done, "model"):
            yield (
                DOUBT if exact else LEFT,
                "server",
                f"the model of round {done} is not what its settings give"
                + ("" if exact else ", which this machine's rounding may account for"),
            )
            if exact:
                return
    yield FINE, "model", f"the model before round {number} is the one in the log"
    events = history.rounds[number].updates
    lied = Witness()
    ended = next(
        play(replace(us, ledger=lied), Key(seed), rounds=number, state=state, done=number - 1)
    )
    honest = Witness()
    next(
        play(
            replace(_behaved(us), ledger=honest), Key(seed), rounds=number, state=state,
            done=number - 1,
        )
    )  # fmt: skip
    asked = sorted(events) if client is None else [client]
    marks = [_judged(place, us, history, number, one, honest.rows.get(one), exact) for one in asked]
    good = sum(mark == FINE for mark, _ in marks)
    if good:
        yield FINE, "clients", f"{good} of {len(asked)} sent what their data give"
    for one, (mark, why) in zip(asked, marks, strict=True):
        if mark != FINE:
            yield mark, f"client {one}", why
    yield from _server(place, history, number, lied, ended, exact)


def _rebuilt(place: Path) -> tuple[Federation, int, bool, tuple[str, str, str]]:
    """Build a run's federation again, and say how like its machine this one is."""
    from omegaconf import OmegaConf

    from dai_lab.experiment.environment import environment
    from dai_lab.experiment.machine import computer, keep_memory
    from dai_lab.experiment.simulate import founded

    whole = OmegaConf.load(place / "config.yaml")
    names = [str(one) for one in whole if one != "tracker"]  # which may name a secret
    settings: Any = OmegaConf.to_container(
        OmegaConf.masked_copy(whole, names),  # type: ignore[arg-type]
        resolve=True,
    )
    before = files.read(place / "environment.json")
    compute = computer(settings["compute"], before["compute"])
    keep_memory()
    settings["engine"] = {"_target_": "dai_lab.engines.local"}
    us = founded(settings, compute)
    now = environment(compute.threads)
    other = [one for one in SAME if now.get(one) != before.get(one)]
    if not other:
        text = "as it was: a replay must come out the same to the bit"
        return us, settings["seed"], True, (FINE, "machine", text)
    text = f"another {', '.join(other)}: a replay may differ by rounding, up to {TOLERANCE:g}"
    return us, settings["seed"], False, (LEFT, "machine", text)


def _nearest(place: Path, history: History, number: int, device: str) -> tuple[State | None, int]:
    """Return the last state before a round that is kept; nothing where it is the beginning."""
    from dai_lab.experiment.simulate import moved
    from dai_lab.storage import Disk, Missing

    for one in sorted((at for at in history.rounds if at < number), reverse=True):
        cid = history.rounds[one].steps["model"].body["snapshot"]
        if cid is not None:
            try:
                state, done = files.restored(Disk(place / STORE).get(cid), place / STORE)
            except Missing:
                continue
            return moved(state, device), done
    return None, 0


def _behaved(us: Federation) -> Federation:
    """Return the same federation in which nobody lies."""
    from dai_lab.attacks import unpoisoned

    return replace(us, hostile=(), poison=unpoisoned, task=us.clean or us.task, clean=None)


def _digest(history: History, number: int, step: str) -> bytes | None:
    event = history.rounds[number].steps.get(step)
    return None if event is None else event.body["digest"]


def _judged(
    place: Path, us: Federation, history: History, number: int, client: int, row: Tensor | None,
    exact: bool,
) -> tuple[str, str]:  # fmt: skip
    """Say whether a client sent what its data give."""
    from dai_lab.ledger import committed, salt

    registered = history.client(client)
    assert registered is not None
    root, size = holdings(us, client)
    if registered.body["root"] != root or registered.body["size"] != size:
        return DOUBT, "registered other data than the run's settings give it"
    if row is None:
        return DOUBT, "sent something, and by the run's settings takes no part"
    hidden = salt(_opening(place), client, number)
    said = history.rounds[number].updates[client].body["commitment"]
    if committed(row, hidden) == said:
        return FINE, "sent what its data give"
    kept = _kept(place, number, client)
    if kept is None:
        if exact:
            return DOUBT, "LIED: what it committed to does not follow from its data"
        return LEFT, "sent something else; a lie and rounding look alike without ledger.rows=true"
    if committed(kept, hidden) != said:
        return DOUBT, "the row that is kept is not the one it committed to"
    distance = float((kept - row).norm() / row.norm().clamp_min(1e-30))
    if not exact and distance <= TOLERANCE:
        return FINE, "sent what its data give, up to rounding"
    return DOUBT, f"LIED: its row is {distance:.3g} of its length away from what its data give"


def _server(
    place: Path, history: History, number: int, lied: Witness, ended: Played, exact: bool
) -> Iterator[tuple[str, str, str]]:
    """Say whether the server made of what was sent what the settings say."""
    from dai_lab.ledger import committed, salt, tensors_digest

    events: Mapping[int, Event] = history.rounds[number].updates
    opening = _opening(place)
    others = [
        client
        for client, event in events.items()
        if client not in lied.rows
        or committed(lied.rows[client], salt(opening, client, number)) != event.body["commitment"]
    ]
    update = tensors_digest({"update": lied.update}) if lied.update is not None else None
    found = update == _digest(history, number, "aggregate")
    model = tensors_digest({"params": ended.state.params}) == _digest(history, number, "model")
    if others:
        why = f"not judged: the rows of {len(others)} clients are not those of the run's settings"
        yield LEFT, "server", why
    elif found and model:
        yield FINE, "server", "made of the rows what the settings say"
    elif not exact:
        yield LEFT, "server", "came out otherwise, which this machine's rounding may account for"
    else:
        what = "aggregate" if not found else "next model"
        yield DOUBT, "server", f"LIED: the {what} does not follow from what was sent"


def _opening(place: Path) -> bytes:
    """Read what opens clients' commitments, or work it out where the lab's secret is at hand."""
    path = place / OPENING
    try:
        return bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        raise ValueError(
            f"audit: {path} is not here: without it no commitment can be opened"
        ) from None


def _kept(place: Path, number: int, client: int) -> Tensor | None:
    from safetensors.torch import load_file

    path = place / ROWS / f"{number}.safetensors"
    return load_file(path).get(str(client)) if path.exists() else None
