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
    from dai_lab.ledger import History

TOLERANCE = 1e-3
"""Distance of a row from its replay, as a share of its length, that another kind of machine may
account for by rounding."""

SAME = ("commit", "dirty", "cpu", "instruction_set", "threads", "gpu", "versions")
"""What must be as it was for a replay to come out the same to the bit."""

ROOMS = (
    "aggregators", "attacks", "compression", "data", "engines", "fairness", "learning", "metrics",
    "models", "participation", "privacy", "secagg",
)  # fmt: skip
"""Whose functions a stranger's settings may name: none of them writes a file or asks a network,
but for public data sets that are downloaded."""

Line = tuple[str, str, str]


def audit(folder: str | Path, round: int, client: int | None = None) -> Verdict:
    """Play a round once more, from its model and everybody's data, and name who lied.

    What a client committed to must follow from the data it registered, by the training that the
    run's settings say; what the server made of it must follow from what was sent. Honest or not,
    everything up to this round is played as it was.

    Args:
        folder: ``results/<name>/<digest>`` of a finished run with a log.
        round: From 1.
        client: Whom to look at; everybody who sent something unless given.

    Raises:
        ValueError: The run is not what its log says, there is no such round or client, or what a
            replay needs is not here.
    """
    from dai_lab.experiment.machine import one_setting_of_threads

    place = Folder(Path(folder))
    try:
        for one in (place.log, place.signatures, place.seal, place.rounds, place.records):
            one()
    except (ValueError, OSError) as error:
        raise ValueError(
            f"audit: {folder} is not what its log says ({error}): see dai-lab verify"
        ) from None
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
    sure = all(mark != LEFT for mark, _, _ in lines)
    good = "nobody lied" if sure else "nobody lied, as far as can be told here"
    return Verdict(f"{place.path}, round {round}", lines, (good, "SOMEBODY LIED"))


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


def _replayed(place: Path, history: History, number: int, client: int | None) -> Iterator[Line]:
    from dai_lab.core import Key
    from dai_lab.federation import play
    from dai_lab.ledger import tensors_digest

    us, settings, exact, machine = _rebuilt(place)
    key, rounds = Key(settings["seed"]), settings["rounds"]
    yield machine
    state, done = _nearest(place, history, number, us.compute.device)
    for played in play(us, key, rounds=rounds, state=state, done=done) if done < number - 1 else ():
        state, done = played.state, done + 1
        if tensors_digest({"params": state.params}) != _digest(history, done, "model"):
            why = f"the model of round {done} is not what its settings give"
            said = why if exact else f"{why}, and rounding on this machine may be why"
            yield DOUBT if exact else LEFT, "server", said
            return
        if done == number - 1:
            break
    yield FINE, "model", f"the model before round {number} is the one in the log"
    truth, honest = Witness(), Witness()
    ended = next(play(replace(us, ledger=truth), key, rounds=rounds, state=state, done=done))
    next(play(replace(_behaved(us), ledger=honest), key, rounds=rounds, state=state, done=done))
    flying = state.memory.get("flying/clients") if state is not None else None
    late = set() if flying is None else set(flying.tolist())
    asked = sorted(history.rounds[number].updates) if client is None else [client]
    marks = []
    for one in asked:
        if one in late:
            marks.append((LEFT, "sent what it computed in an earlier round: not judged here"))
        else:
            row = honest.rows.get(one)
            marks.append(_judged(place, us, history, number, one, row, exact))
    if good := sum(mark == FINE for mark, _ in marks):
        yield FINE, "clients", f"{good} of {len(asked)} sent what their data give"
    for one, (mark, why) in zip(asked, marks, strict=True):
        if mark != FINE:
            yield mark, f"client {one}", why
    yield from _server(place, history, number, truth, ended, exact)


def _rebuilt(place: Path) -> tuple[Federation, dict[str, Any], bool, Line]:
    """Build a run's federation again, and say how like its machine this one is."""
    from omegaconf import OmegaConf

    from dai_lab.config import targets
    from dai_lab.experiment.environment import environment
    from dai_lab.experiment.machine import computer, keep_memory
    from dai_lab.experiment.simulate import founded

    whole: Any = OmegaConf.to_container(OmegaConf.load(place / "config.yaml"), resolve=False)
    settings = {
        name: one for name, one in whole.items() if name not in ("tracker", "chain", "ledger")
    }
    if "${" in str(settings):  # a run writes them resolved, and others' may ask for secrets
        raise ValueError(f"audit: {place / 'config.yaml'} holds references: a run writes none")
    for target in targets(settings):
        lab, _, rest = target.partition(".")
        if lab == "dai_lab" and rest.partition(".")[0] not in ROOMS:
            raise ValueError(f"audit: will not call {target} for somebody's settings")
    before = files.read(place / "environment.json")
    compute = computer(settings["compute"], before["compute"])
    keep_memory()
    settings["engine"] = {"_target_": "dai_lab.engines.local"}
    us = founded(settings, compute)
    now = environment(compute.threads)
    sessions = [before, *before.get("earlier", [])]
    other = [one for one in SAME if any(now.get(one) != each.get(one) for each in sessions)]
    if not other:
        text = "as it was: a replay must come out the same to the bit"
        return us, settings, True, (FINE, "machine", text)
    text = f"another {', '.join(other)}: a replay may differ by rounding, up to {TOLERANCE:g}"
    return us, settings, False, (LEFT, "machine", text)


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
    """Return the same federation in which nobody lies.

    Liars keep their places, by which noise is drawn and rows are protected.
    """
    from dai_lab.attacks import none, unpoisoned

    return replace(us, attack=none, poison=unpoisoned, task=us.clean or us.task, clean=None)


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
    root, size = holdings(us, client)
    if registered is None or (registered.body["root"], registered.body["size"]) != (root, size):
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
    place: Path, history: History, number: int, truth: Witness, ended: Played, exact: bool
) -> Iterator[Line]:
    """Say whether the server made of what was sent what the settings say."""
    from dai_lab.ledger import committed, salt, tensors_digest
    from dai_lab.storage import cid_of

    said, opening = history.rounds[number], _opening(place)
    others = [
        client
        for client, event in said.updates.items()
        if client not in truth.rows
        or committed(truth.rows[client], salt(opening, client, number)) != event.body["commitment"]
    ]
    if others:
        why = f"not judged: the rows of {len(others)} clients are not those of the run's settings"
        yield LEFT, "server", why
        return
    update = None if truth.update is None else tensors_digest({"update": truth.update})
    kept = said.steps["model"].body["snapshot"]
    params = tensors_digest({"params": ended.state.params})
    wrong = ""
    if update != _digest(history, number, "aggregate"):
        wrong = "the aggregate does not follow from what was sent"
    elif params != _digest(history, number, "model"):
        wrong = "the next model does not follow from what was sent"
    elif kept is not None and cid_of(files.packed(ended.state, number)) != kept:
        wrong = "what it remembers does not follow from what was sent"
    elif name := _differing(place, number, ended.record):
        wrong = f"the record of the round says something else of {name}"
    if not wrong:
        yield FINE, "server", "made of the rows what the settings say"
    elif exact:
        yield DOUBT, "server", f"LIED: {wrong}"
    else:
        yield LEFT, "server", f"{wrong}, and rounding on this machine may be why"


def _differing(place: Path, number: int, record: Mapping[str, Any]) -> str | None:
    """Name an entry of a round's record that a replay does not give."""
    import json

    line = (place / "records.jsonl").read_bytes().splitlines()[number - 1]
    told, found = json.loads(line), json.loads(files.line(record))
    # Keys of secure sums are drawn by the system, and with them what is sent.
    names = [one for one in {**told, **found} if not one.startswith("secagg/")]
    return next((one for one in names if told.get(one) != found.get(one)), None)


def _opening(place: Path) -> bytes:
    """Read what opens clients' commitments."""
    path = place / OPENING
    try:
        return bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        raise ValueError(f"audit: without {path} no commitment can be opened") from None


def _kept(place: Path, number: int, client: int) -> Tensor | None:
    from safetensors.torch import load_file

    path = place / ROWS / f"{number}.safetensors"
    return load_file(path).get(str(client)) if path.exists() else None
