"""Who writes a run's log while it runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Aggregate, Rows, Visible
from dai_lab.ledger.commitments import committed, row_views, salt, tensors_digest
from dai_lab.ledger.events import Body, signed, verify
from dai_lab.ledger.keys import Keyring, Signer, keyring
from dai_lab.ledger.log import Log
from dai_lab.ledger.notes import Checkpoint, checkpoint

FILE = "ledger.sqlite"
"""Where in a run's folder its log lies."""

PURPOSE = "training"
"""What owners consent to."""

Holdings = Callable[[int], tuple[bytes, int]]
"""From a client to the root over its examples, and how many they are."""


@contextmanager
def local(
    folder: Path, run: str, *, every: int = 10, largest: float = 64.0, rows: bool = False
) -> Iterator[Scribe | None]:
    """Keep a run's log beside its records, in ``ledger.sqlite``.

    Args:
        folder: The run's folder.
        run: Its digest.
        every: Rounds after which the whole state is kept, for a replay to start from; at least 1.
        largest: MiB a state may have to be kept; where it has more, a replay starts with the
            first round.
        rows: Whether to keep what every client sent, which lets a replay on another kind of
            machine tell rounding from a lie.

    Raises:
        ValueError: A knob is out of range, or the keys or the log cannot be opened.
    """
    if every < 1:
        raise ValueError(f"ledger.every must be at least 1 (rounds), got {every}")
    if not largest >= 0:
        raise ValueError(f"ledger.largest must be 0 or more (MiB), got {largest}")
    scribe = Scribe(folder / FILE, run, keyring(), every=every, largest=largest, rows=rows)
    try:
        yield scribe
    finally:
        scribe.close()


@contextmanager
def none(folder: Path, run: str) -> Iterator[Scribe | None]:
    """Keep no log."""
    yield None


class Scribe:
    """Turns what happens into signed events, and writes them once a round.

    What clients commit to is hashed and signed beside the rest of the round, and complete before
    the next one may reuse the rows.
    """

    def __init__(
        self, path: Path, run: str, keys: Keyring, *, every: int, largest: float, rows: bool
    ) -> None:
        self.run, self.keys, self.every, self.largest = run, keys, every, largest
        self.keeps_rows = rows
        self.opening = keys.salt(run)
        """Opens what all clients of this run commit to."""
        self.lab, self.server = keys.signer("lab"), keys.signer("server", run)
        self.origin = f"dai_lab/{run}"
        self.path = path
        self._opened: Log | None = None
        self._beside = ThreadPoolExecutor(1)
        self.rows: Rows | None = None
        """What was sent in this round, where it is kept."""
        self._sent: Future[list[bytes]] | None = None
        self._seen: list[bytes] = []
        self._end: Body | None = None
        self.anchor: Body | None = None
        """Where the log was anchored last."""
        self._signers: dict[int, Signer] = {}
        self.clients: tuple[int, ...] = ()
        self._registered: set[str] = set()
        self._holdings: Holdings | None = None
        self._terms = ("", 0)

    def began(
        self, *, config: bytes, environment: bytes, commit: str | None, done: int, rounds: int,
        holdings: Holdings, license: str,
    ) -> None:  # fmt: skip
        """Open a run's log with what it will compute, or go on with it after round ``done``.

        Raises:
            ValueError: The log is another's, or lacks rounds that are done.
        """
        self._holdings, self._terms = holdings, (license, rounds)
        self._opened = Log(self.path)
        about = hashlib.sha256(environment).digest()
        if not len(self._log):
            if done:
                raise ValueError(
                    f"ledger: {self._log.path} is empty, and the run is in round {done}: go on "
                    f"with ledger=none, or delete {self._log.path.parent} to start again"
                )
            of = hashlib.sha256(config).digest()
            # Without the nonce a run repeated from its seed would be the same log once more.
            body: Body = {
                "run": self.run, "nonce": os.urandom(32), "server": self.server.public,
                "config": of, "commit": commit, "environment": about,
            }  # fmt: skip
            self._log.append([signed("started", body, self.lab)])
            return
        first = verify(self._log.event(0))
        if first.kind != "started" or first.body["run"] != self.run:
            raise ValueError(f"ledger: {self._log.path} is the log of another run")
        if first.author != self.lab.public:
            raise ValueError(
                f"ledger: {self._log.path} was begun with another key than that in DAI_LAB_KEYS: "
                f"go on with that one, or delete {self._log.path.parent} to start again"
            )
        events = [verify(raw) for raw in self._log.events()]
        played = max((one.body["round"] for one in events if one.kind == "model"), default=0)
        if played < done:
            raise ValueError(
                f"ledger: {self._log.path} ends with round {played}, and the run is in round "
                f"{done}: delete {self._log.path.parent} to start again"
            )
        granted = [str(one.body["owner"]) for one in events if one.kind == "consent_granted"]
        self._registered = set(granted)
        self.anchor = next((one.body for one in events[::-1] if one.kind == "anchored"), None)
        self._end = events[-1].body if events[-1].kind == "finished" else None
        if self._end is not None:
            return  # all that a dead session left undone is to seal what is there
        body = {"run": self.run, "round": done, "environment": about}
        self._log.append([signed("resumed", body, self.lab)])

    def sent(
        self, round: int, clients: Sequence[int], rows: Rows, weights: Float[Tensor, "_"]
    ) -> None:
        """Let clients commit to their rows, before anyone sees them.

        ``rows`` must not change before :meth:`ended` was called.
        """
        counts, self.clients = weights.tolist(), tuple(clients)
        self.rows = rows if self.keeps_rows else None

        def commit() -> list[bytes]:
            events = []
            for client, row, weight in zip(clients, row_views(rows), counts, strict=True):
                seal = committed(row, salt(self.opening, client, round))
                body = {
                    "round": round, "client": client, "commitment": seal, "weight": float(weight)
                }  # fmt: skip
                events.append(signed("update", body, self._signer(client)))
            return events

        self._sent = self._beside.submit(commit)

    def revealed(
        self, round: int, clients: Sequence[int], visible: Visible, found: Aggregate
    ) -> None:
        """Let the server say whose consent it uses, what it was shown and what it made of it."""
        owners = "\n".join(f"client/{client}" for client in clients).encode()
        used = {"round": round, "owners": hashlib.sha256(owners).digest(), "count": len(clients)}
        self._seen = [signed("consent_used", used, self.server)]
        if text := visible.record.get("transcript"):
            body = {"round": round, "digest": bytes.fromhex(str(text)), "rows": visible.count}
            self._seen.append(signed("transcript", body, self.server))
        body = {"round": round, "digest": tensors_digest({"update": found.update})}
        self._seen.append(signed("aggregate", body, self.server))

    def ended(
        self, round: int, record: bytes, *, cid: str, state: Mapping[str, Tensor],
        snapshot: str | None,
    ) -> Checkpoint:  # fmt: skip
        """Write a round down: what was sent, seen and made of it, the next model, its record.

        Args:
            round: From 1.
            record: The line of the round's record.
            cid: Content address of the model.
            state: The state's tensors; only ``params`` is named in the log.
            snapshot: Content address under which the whole state is kept, if it is.
        """
        events = [one for client in self.clients for one in self._registration(client)]
        events += [] if self._sent is None else self._sent.result()
        model = {
            "round": round, "cid": cid, "digest": tensors_digest({"params": state["params"]}),
            "snapshot": snapshot,
        }  # fmt: skip
        noted = {"round": round, "record": hashlib.sha256(record).digest()}
        events += [
            *self._seen,
            signed("model", model, self.server),
            signed("evaluation", noted, self.server),
        ]
        self._sent, self._seen, self.clients = None, [], ()
        return self._written(events)

    def finished(self, rounds: int, summary: bytes) -> Checkpoint:
        """Write the end of a run down."""
        digest = hashlib.sha256(summary).digest()
        body = {"run": self.run, "rounds": rounds, "summary": digest}
        if self._end is not None and self._end != body:
            raise ValueError(f"ledger: {self.path} ends the run with another summary")
        return self._written([] if self._end is not None else [signed("finished", body, self.lab)])

    def anchored(self, receipt: Body) -> None:
        """Take down where the log is anchored, so that a later session finds it."""
        self._log.append([signed("anchored", receipt, self.lab)])
        self.anchor = receipt

    @property
    def identity(self) -> bytes:
        """32 bytes that name this log and no other: the hash of its first leaf."""
        return self._log.tree.leaf(0)

    def settle(self) -> None:
        """Wait until the disk has everything."""
        self._log.settle()

    def close(self, *, whole: bool = False) -> None:
        """Let go of the file; ``whole`` leaves nothing beside it."""
        self._beside.shutdown()
        if self._opened is not None:
            self._opened.close(whole=whole)

    @property
    def _log(self) -> Log:
        assert self._opened is not None, "began comes first"
        return self._opened

    def _written(self, events: Sequence[bytes]) -> Checkpoint:
        size = self._log.append(events)
        at = Checkpoint(self.origin, size, self._log.tree.root())
        self._log.note(size, checkpoint(at, self.lab))
        return at

    def _signer(self, client: int) -> Signer:
        if client not in self._signers:
            self._signers[client] = self.keys.signer("client", self.run, client)
        return self._signers[client]

    def _registration(self, client: int) -> list[bytes]:
        """Let a client that never took part register its data and grant their use."""
        owner, (license, rounds) = f"client/{client}", self._terms
        if owner in self._registered:
            return []
        assert self._holdings is not None
        who, (root, size) = self._signer(client), self._holdings(client)
        self._registered.add(owner)
        data = {"owner": owner, "root": root, "size": size, "license": license}
        may = {"owner": owner, "run": self.run, "purpose": PURPOSE, "rounds": rounds}
        return [signed("dataset", data, who), signed("consent_granted", may, who)]
