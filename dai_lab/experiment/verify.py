"""Anyone's check of a run: from its folder, or from a bundle, without its lab."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.experiment.provenance import CHAIN, OPENING, ROWS, SEALED, STORE
from dai_lab.ledger import (
    Event,
    History,
    Log,
    known,
    opened,
    read_checkpoint,
    read_seal,
    tensors_digest,
    told,
    verifier,
    verify,
)

if TYPE_CHECKING:
    from dai_lab.chain import Chain

LAB = "lab"
"""The name under which a lab signs."""

DIGEST = re.compile(r"[0-9a-f]{10}")
"""How a run's folder is named."""

FINE, DOUBT, LEFT = "ok", "DOUBT", "--"
"""What holds, what does not, and what was not checked."""


@dataclass(frozen=True)
class Verdict:
    """What was checked, and what came of it."""

    what: str
    lines: tuple[tuple[str, str, str], ...]
    """``ok``, ``DOUBT`` or ``--``; the check; what it found."""
    words: tuple[str, str] = ("verified", "NOT VERIFIED")

    @property
    def holds(self) -> bool:
        """Whether there is no doubt."""
        return all(mark != DOUBT for mark, _, _ in self.lines)

    def __str__(self) -> str:
        head = f"{self.what}: {self.words[0 if self.holds else 1]}"
        lines = [head, *(f"  {mark:5}  {name:11} {why}" for mark, name, why in self.lines)]
        # What others wrote, such as the name of a file, must not write on the terminal.
        return "\n".join("".join(c if c.isprintable() else "?" for c in one) for one in lines)


def check(path: str | Path, *, key: str | None = None, url: str | None = None) -> Verdict:
    """Check a run's folder, or a bundle, as somebody who trusts nobody.

    Args:
        path: A folder ``results/<name>/<digest>``, or a file written by ``dai-lab prove``.
        key: The lab's key as one knows it (name+identity+key); without it the verdict says which
            key everything hangs on, and holds for whoever has that one.
        url: A node, where the run is anchored on one.

    Raises:
        ValueError: There is nothing at ``path``, or ``key`` is no key.
    """
    path = Path(path)
    trusted = known(key)[1] if key else None
    if path.is_dir():
        return _of_folder(path, trusted, url)
    if path.is_file():
        return _of_bundle(path, trusted)
    raise ValueError(f"verify: there is no {path}")


def _of_folder(path: Path, trusted: bytes | None, url: str | None) -> Verdict:
    files = Folder(path)
    for one in path.rglob("*"):
        if not (one.is_dir() or stat.S_ISREG(one.lstat().st_mode)) or one.is_symlink():
            # It could be read for ever, or lie anywhere.
            why = f"{one.relative_to(path)} is not a plain file"
            return Verdict(str(path), ((DOUBT, "files", why),))
    checks: list[tuple[str, Callable[[], str]]] = [
        ("log", files.log),
        ("signatures", files.signatures),
        ("checkpoints", files.checkpoints),
        ("seal", files.seal),
        ("rounds", files.rounds),
        ("consent", files.consent),
        ("records", files.records),
        ("models", files.models),
    ]
    lines = [_line(name, one) for name, one in checks]
    if files.events:
        lines.append(_line("key", lambda: _key(files.start.author, trusted)))
        lines += files.anchors(url) if lines[3][0] == FINE else []
        lines += files.uncovered()
    return Verdict(str(path), tuple(lines))


def _of_bundle(path: Path, trusted: bytes | None) -> Verdict:
    try:
        found = opened(path.read_bytes())
    except ValueError as error:
        return Verdict(str(path), ((DOUBT, "bundle", str(error)),))
    said = {
        name: one.hex() if isinstance(one, bytes) else one for name, one in found.event.body.items()
    }
    text = ", ".join(f"{name} {one}" for name, one in said.items())
    lines = [
        (FINE, "event", f"{found.event.kind}: {text}"),
        (FINE, "log", f"number {found.place} of {found.at.size} in the log of {found.at.origin}"),
    ]
    if found.registration is not None:
        lines.append(
            (FINE, "author", f"{found.registration.body['owner']}, registered in this log")
        )
    lines.append(_line("key", lambda: _key(found.start.author, trusted)))
    if found.anchor is not None:
        where = _where(found.anchor)
        lines.append((LEFT, "anchor", f"the lab says {where}: ask that chain"))
    return Verdict(str(path), tuple(lines))


def _line(name: str, call: Callable[[], str]) -> tuple[str, str, str]:
    """Carry a check out; whatever keeps it from being carried out is a doubt."""
    try:
        return FINE, name, call()
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else ""
        # What we did not foresee says what it is: it may be a mistake of ours.
        kind = "" if isinstance(error, ValueError) and text else f"{type(error).__name__}: "
        return DOUBT, name, f"{kind}{text}".removesuffix(": ")


def _key(author: bytes, trusted: bytes | None) -> str:
    said = verifier(LAB, author)
    if trusted is None:
        return f"all this is the word of {said}: compare it with the key you know (--key)"
    if trusted != author:
        raise ValueError(f"signed by {said}, which is not the key you know")
    return f"signed by {said}, the key you know"


def _where(anchor: Event) -> str:
    body = anchor.body
    return (
        f"the log was anchored in round {body['round']} at {body['size']} events, on chain "
        f"{body['chain']} in contract {body['contract']}, transaction {body['transaction']}"
    )


@dataclass
class Folder:
    """A run's folder, as far as it was read and believed."""

    path: Path
    events: list[Event] = field(default_factory=list)
    """Those whose signatures hold, up to the first that does not."""

    @cached_property
    def _log(self) -> Log:
        # A file of SQLite may be written to when it is opened: what is checked stays as it is.
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place, "ledger.sqlite")
            shutil.copyfile(self.path / "ledger.sqlite", copy)
            beside = self.path / "ledger.sqlite-wal"
            if beside.is_file() and not (self.path / "seal").exists():
                shutil.copyfile(beside, copy.with_name(beside.name))  # of a run that goes on
            log = Log(copy, readonly=True)
            self._raws = list(log.events())
            self._notes = log.notes()
            log.close()
        return log

    @cached_property
    def history(self) -> History:
        """What the log tells."""
        if len(self.events) < len(self._log):
            raise ValueError("not checked, because not all signatures in the log hold")
        return told(self.events, self._log.tree.leaf(0))

    def log(self) -> str:
        """Read the log."""
        if not (self.path / "ledger.sqlite").exists():
            raise ValueError("there is no ledger.sqlite: the run kept no log (ledger=none)")
        if not len(self._log):
            raise ValueError("it is empty")
        return f"{len(self._log)} events, root {self._log.tree.root().hex()[:16]}"

    def signatures(self) -> str:
        """Check every signature."""
        for place, raw in enumerate(self._raws if len(self._log) else ()):
            try:
                self.events.append(verify(raw))
            except ValueError as error:
                raise ValueError(f"event {place}: {error}") from None
        authors = len({one.author for one in self.events})
        return f"each of {len(self.events)} events is signed by its author; {authors} authors"

    @property
    def start(self) -> Event:
        """The event a log starts with, which says whose it is."""
        if not self.events or self.events[0].kind != "started":
            raise ValueError("not checked, because the start of the log cannot be read")
        return self.events[0]

    def checkpoints(self) -> str:
        """Check that the log only grew, by what was signed when it was smaller."""
        lab, run = self.start.author, self.start.body["run"]
        for size, note in self._notes:
            at = read_checkpoint(note, LAB, lab)
            if at is None or at.origin != f"dai_lab/{run}" or at.size != size:
                raise ValueError(f"that at {size} events is not signed by the lab for this run")
            if size > len(self._log) or at.root != self._log.tree.root(size):
                raise ValueError(f"the log is not the one that was signed at {size} events")
        if not self._notes or self._notes[-1][0] != len(self._log):
            raise ValueError("the last events are in no checkpoint")
        return f"{len(self._notes)}, each signed, and the log grew from one to the next"

    @cached_property
    def _sealed(self) -> dict[str, bytes]:
        note = self.path / "seal"
        if not note.exists():
            raise ValueError("there is none: the run is not finished, or its seal is gone")
        start = self.start
        found = read_seal(note.read_bytes().decode(), start.body["run"], LAB, start.author)
        if found is None:
            raise ValueError("it is not signed by the lab for this run, or was changed")
        return found

    def seal(self) -> str:
        """Check that no file changed since the run ended, and that it is the run it seems to be."""
        run = self.start.body["run"]
        if DIGEST.fullmatch(self.path.name) and self.path.name != run:
            raise ValueError(f"this is run {run}, in the folder of another")
        for one in self.path.glob("ledger.sqlite-*"):
            raise ValueError(f"{one.name} lies beside a log that is closed")
        needed = {*SEALED} - {CHAIN, OPENING}
        if lacking := sorted(needed - self._sealed.keys()):
            raise ValueError(f"it does not list {lacking[0]}")
        for name, digest in self._sealed.items():
            file = self.path / name
            if name.startswith((OPENING, ROWS)) and not file.exists():
                continue  # kept from us, which keeps us from replaying, not from this
            if not file.is_file():
                raise ValueError(f"{name} is gone")
            with file.open("rb") as content:
                if hashlib.file_digest(content, "sha256").digest() != digest:
                    raise ValueError(f"{name} was changed")
        return f"{len(self._sealed)} files are as they were when the run ended"

    def rounds(self) -> str:
        """Check that what the log tells can have happened."""
        us = self.history
        if us.doubts:
            more = f" (and {len(us.doubts) - 1} more)" if len(us.doubts) > 1 else ""
            raise ValueError(us.doubts[0] + more)
        if us.end is None:
            raise ValueError(f"{len(us.rounds)}, and no end: the run is not finished")
        updates = sum(len(one.updates) for one in us.rounds.values())
        sessions = f" in {us.sessions} sessions" if us.sessions > 1 else ""
        again = f", {us.again} of them played again and found the same" if us.again else ""
        return (
            f"{len(us.rounds)}{sessions}{again}: {updates} rows of {len(us.owners)} clients, "
            "committed to before anything was revealed"
        )

    def consent(self) -> str:
        """Say whose data were used, and on what terms."""
        us = self.history
        licenses = Counter(one.body["license"] or "no license" for one in us.owners.values())
        size = sum(one.body["size"] for one in us.owners.values())
        said = ", ".join(licenses)
        return f"{len(us.granted)} owners let {size} examples be trained on ({said})"

    def records(self) -> str:
        """Check that settings, records and summary are those in the log."""
        us = self.history
        assert us.start is not None
        self._is("config.yaml", us.start.body["config"])
        self._is("environment.json", us.environment)
        if us.end is not None:
            self._is("summary.json", us.end.body["summary"])
        lines = (self.path / "records.jsonl").read_bytes().splitlines(keepends=True)
        if len(lines) != len(us.rounds):
            raise ValueError(f"{len(lines)} records, and {len(us.rounds)} rounds in the log")
        for number, line in enumerate(lines, start=1):
            if (
                hashlib.sha256(line).digest()
                != us.rounds[number].steps["evaluation"].body["record"]
            ):
                raise ValueError(f"the record of round {number} is not the one in the log")
        return f"{len(lines)}, and the settings, environment and summary, are those in the log"

    def models(self) -> str:
        """Check that the models that are here are those in the log."""
        from dai_lab.experiment.files import restored
        from dai_lab.storage import Disk

        us, store, kept = self.history, Disk(self.path / STORE), 0
        steps = {number: one.steps["model"].body for number, one in us.rounds.items()}
        for number, body in steps.items():
            if body["snapshot"] is not None:
                state, done = restored(store.get(body["snapshot"]), self.path / STORE)
                if done != number or tensors_digest({"params": state.params}) != body["digest"]:
                    raise ValueError(f"what is kept of round {number} is not its model")
                kept += 1
        last = max(steps)
        final = self.path / "checkpoint.safetensors"
        state, done = restored(final.read_bytes(), final)
        if done != last or tensors_digest({"params": state.params}) != steps[last]["digest"]:
            raise ValueError("the checkpoint does not hold the last model in the log")
        return f"{len(steps)} named, {kept} kept; the last one is {steps[last]['cid']}"

    def anchors(self, url: str | None) -> list[tuple[str, str, str]]:
        """Ask the chain, where it can be asked."""
        try:
            anchors = self.history.anchors
        except ValueError:
            return []
        if not anchors:
            return [(LEFT, "anchor", "none: the lab could have replaced the whole log since")]
        if not (self.path / CHAIN).exists() and url is None:
            return [(LEFT, "anchor", f"{_where(anchors[-1])}: not asked (--url)")]
        return [_line("anchor", lambda: self._anchored(anchors, url))]

    def _anchored(self, anchors: list[Event], url: str | None) -> str:
        from dai_lab.chain import Contract

        with tempfile.TemporaryDirectory() as place:
            if url is None:
                shutil.copyfile(self.path / CHAIN, Path(place, CHAIN))
            chain = self._chain(Path(place, CHAIN), url)
            latest = {one.body["round"]: one for one in anchors}  # a chain may have lost some
            try:
                for one in latest.values():
                    body = one.body
                    if body["chain"] != chain.chain_id:
                        raise ValueError(f"the log is anchored on chain {body['chain']}, not here")
                    contract = Contract("round_ledger", body["contract"])
                    said = chain.call(contract, "commitment", body["run"], body["round"])
                    size, root = said["log_size"], said["log_root"]
                    if size != body["size"] or root != self._log.tree.root(size):
                        raise ValueError(f"the chain says otherwise about round {body['round']}")
            finally:
                chain.close()
        what = "a chain of the lab's own, replayed" if url is None else "a node, which was asked"
        return f"{len(latest)} of {len(self.history.rounds)} rounds, on {what}"

    @staticmethod
    def _chain(path: Path, url: str | None) -> Chain:
        if url is None:
            from dai_lab.chain import embedded

            return embedded(path)
        from dai_lab.chain import reader

        return reader(url)

    def uncovered(self) -> Iterator[tuple[str, str, str]]:
        """Name files that nothing was said about."""
        listed = {"seal", ".lock", f"{CHAIN}.lock"} | self.__dict__.get("_sealed", {}).keys()
        there = {str(one.relative_to(self.path)) for one in self.path.rglob("*") if one.is_file()}
        if others := sorted(one for one in there - listed if not one.startswith("exports/")):
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            yield LEFT, "not covered", ", ".join(others[:5]) + more

    def _is(self, name: str, digest: bytes) -> None:
        if hashlib.sha256((self.path / name).read_bytes()).digest() != digest:
            raise ValueError(f"{name} is not the one in the log")


def prove(
    folder: str | Path, *, round: int | None = None, client: int | None = None,
    kind: str | None = None,
) -> bytes:  # fmt: skip
    """Write the bundle of one event: of a client's row, or of a round's model unless told.

    Raises:
        ValueError: The run kept no log, or there is no such event.
    """
    from dai_lab.ledger import bundle

    kind = kind or ("model" if client is None else "update")
    asked: dict[str, Any] = {"round": round, "client": client}
    if kind == "dataset" and client is not None:
        asked = {"owner": f"client/{client}"}
    asked = {name: one for name, one in asked.items() if one is not None}
    with tempfile.TemporaryDirectory() as place:  # opening it may write to it
        copy = Path(place, "ledger.sqlite")
        if not (Path(folder) / copy.name).is_file():
            raise ValueError(f"prove: there is no log in {folder}: the run kept none (ledger=none)")
        shutil.copyfile(Path(folder) / copy.name, copy)
        log = Log(copy, readonly=True)
        try:
            found = [
                at
                for at, raw in enumerate(log.events())
                if (event := verify(raw)).kind == kind
                and all(event.body.get(name) == one for name, one in asked.items())
            ]
            if not found:
                said = " ".join(f"{name}={one}" for name, one in asked.items())
                raise ValueError(f"prove: the log holds no {kind} {said}".rstrip())
            return bundle(log, found[-1])
        finally:
            log.close()
