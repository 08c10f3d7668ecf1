"""A run's provenance: its log, the models it names, and the chain the log is anchored on."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.config import build
from dai_lab.experiment import files

if TYPE_CHECKING:
    from dai_lab.chain import Chain, Contract
    from dai_lab.core import State
    from dai_lab.federation import Federation
    from dai_lab.ledger import Scribe

CHAIN, STORE, OPENING, ROWS = "chain.jsonl", "store", "opening", "rows"
"""Where in a run's folder lie: an embedded chain, kept states, what opens clients' commitments,
and kept rows. Who deletes the opening keeps others from testing guesses about rows."""

SEALED = (
    "config.yaml", "environment.json", "records.jsonl", "checkpoint.safetensors", "ledger.sqlite",
    CHAIN, OPENING, "summary.json",
)  # fmt: skip
"""Files of a run that its seal lists, and with them all that its store holds."""


@contextlib.contextmanager
def provenance(settings: Mapping[str, Any], place: Path, name: str) -> Iterator[Provenance | None]:
    """Open what a run's steps are taken down in; nothing where ``ledger=none``.

    Args:
        settings: Of the run.
        place: Its folder.
        name: Its digest.
    """
    with build(settings["ledger"], at="ledger")(place, name) as scribe:
        if scribe is None:
            yield None
            return
        kept = Provenance(place, scribe, opener(settings["chain"], place))
        try:
            yield kept
        finally:
            kept.close()


def opener(node: Mapping[str, Any], place: Path) -> Callable[[], Chain | None]:
    """Return what opens the chain; one that lives in a file has it in the run's folder."""
    opens = build(node, at="chain")
    if "path" in inspect.signature(opens).parameters and node.get("path") is None:
        return partial(opens, path=place / CHAIN)
    return opens


@dataclass
class Provenance:
    """What a run calls at its beginning, after each round, and at its end."""

    place: Path
    scribe: Scribe
    opens: Callable[[], Chain | None]
    chain: Chain | None = None
    anchor: Anchor | None = None

    def began(
        self, us: Federation, *, config: bytes, environment: Mapping[str, Any], done: int,
        rounds: int,
    ) -> None:  # fmt: skip
        """Take down what will be computed, on what, and go on with a log there is."""
        self.scribe.began(
            config=config, environment=files.text(environment), commit=environment.get("commit"),
            done=done, rounds=rounds, holdings=partial(holdings, us),
            license=us.card.license if us.card else "",
        )  # fmt: skip
        files.write(self.place / OPENING, f"{self.scribe.opening.hex()}\n".encode())
        self.chain = self.opens()
        if self.chain is not None:
            self.anchor = Anchor.on(self.chain, self.scribe.identity, self.scribe.anchor, done)

    def ended(self, round: int, line: bytes, state: State, *, last: bool) -> None:
        """Take a round down, keep its state where a replay may start, anchor the log."""
        from safetensors.torch import save

        from dai_lab.storage import Disk, cid_of

        scribe, store = self.scribe, Disk(self.place / STORE)
        model = save({"params": state.params.detach().cpu().contiguous()})
        small = state.nbytes <= scribe.largest * 2**20
        snapshot = None
        if small and (last or round % scribe.every == 0):
            snapshot = store.put(files.packed(state, round))
        if scribe.rows is not None:
            sent = {
                str(at): one.clone()
                for at, one in zip(scribe.clients, scribe.rows.cpu(), strict=True)
            }
            (self.place / ROWS).mkdir(exist_ok=True)
            files.write(self.place / ROWS / f"{round}.safetensors", save(sent))
        cid = cid_of(model)
        tensors = {"params": state.params, **state.memory}
        at = scribe.ended(round, line, cid=cid, state=tensors, snapshot=snapshot)
        if self.anchor is not None:
            receipt = self.anchor.commit(round, at.root, at.size, cid)
            if receipt:
                scribe.anchored(receipt)

    def settle(self) -> None:
        """Wait until the disk has everything, as before a checkpoint that relies on it."""
        self.scribe.settle()
        if self.chain is not None:
            self.chain.settle()

    def finished(self, rounds: int, summary: bytes) -> None:
        """Take the end down, close the log, and seal all files of the run."""
        from dai_lab.ledger import digests, seal
        from dai_lab.storage import Disk

        self.scribe.finished(rounds, summary)
        self.settle()
        self.close(whole=True)
        rows = [f"{ROWS}/{one}.safetensors" for one in range(1, rounds + 1)]
        kept = [f"{STORE}/{one}" for one in Disk(self.place / STORE).blocks()] + rows
        listed = digests(self.place, [*SEALED, *kept])
        listed |= {"summary.json": hashlib.sha256(summary).digest()}
        note = seal(self.scribe.run, listed, self.scribe.lab)
        files.write(self.place / "seal", note.encode())

    def close(self, *, whole: bool = False) -> None:
        """Let go of files and connections."""
        self.scribe.close(whole=whole)
        if self.chain is not None:
            self.chain.close()
            self.chain = None


@dataclass
class Anchor:
    """A run's place in a round ledger: one transaction a round, however many clients."""

    chain: Chain
    contract: Contract
    run: bytes
    sender: str
    head: int = field(default=0)

    @classmethod
    def on(cls, chain: Chain, run: bytes, known: Mapping[str, Any] | None, done: int) -> Anchor:
        """Find the run on the chain, where it was anchored last if it has one, or open it there."""
        from dai_lab.chain import Contract

        sender = chain.account("lab")
        if known and known["chain"] == chain.chain_id:
            contract = Contract("round_ledger", known["contract"])
            return cls(chain, contract, run, sender, chain.call(contract, "head", run))
        if done:
            raise ValueError(
                f"chain: the first {done} rounds are not on this chain: go on with the one the "
                "run began with (chain=none if there was none)"
            )
        contract = chain.deploy("round_ledger", sender=sender)
        chain.send(contract, "open_run", run, sender=sender)
        return cls(chain, contract, run, sender)

    def commit(self, round: int, root: bytes, size: int, cid: str) -> dict[str, Any] | None:
        """Commit to the log as it is after a round; return the receipt.

        A round played again after a crash is committed to already: the log grew since, and the
        next round says so.
        """
        from dai_lab.storage import as_bytes

        if round <= self.head:
            return None
        receipt = self.chain.send(
            self.contract, "commit_round", self.run, round, root, size, as_bytes(cid), bytes(32),
            sender=self.sender,
        )  # fmt: skip
        self.head = round
        return {
            "round": round, "size": size, "chain": self.chain.chain_id,
            "contract": self.contract.address, "run": self.run,
            "transaction": receipt.transaction, "block": receipt.block,
        }  # fmt: skip


def holdings(us: Federation, client: int) -> tuple[bytes, int]:
    """Return the root over what a client holds, and how many examples it is."""
    from dai_lab.ledger import examples_root

    task = us.clean or us.task
    held = task.shards[client] if client < len(task.shards) else task.shards.indices[:0]
    return examples_root(task.data.some(held.to(task.data.targets.device))), len(held)
