"""What a log costs: a round with it over the same round without, and its rates beside a plain one.

python benchmarks/ledger.py [--rounds 12] [--anvil http://127.0.0.1:8545]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("DAI_LAB_KEYS", tempfile.mkdtemp())

from dai_lab.config import load
from dai_lab.core import Compute, Key
from dai_lab.experiment import files
from dai_lab.experiment.machine import keep_memory
from dai_lab.experiment.provenance import provenance
from dai_lab.experiment.simulate import founded
from dai_lab.federation import play

NETWORKS = {
    "MLP, 100 clients": ("model=mlp", "federation.clients=100"),
    "MLP, 20 clients": ("model=mlp", "federation.clients=20"),
    "CNN, 10 clients": ("model=small_cnn", "federation.clients=10"),
}


def rounds(settings, count, *, ledger, folder, stack):
    """Yield wall and processor seconds of each round, log and anchor included."""
    composed = load("data=mnist10k", f"ledger={ledger}", *settings)
    cfg = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    us = founded(cfg, Compute())
    kept = stack.enter_context(provenance(cfg, folder, folder.name))
    if kept is not None:
        us = replace(us, ledger=kept.scribe)
    played = play(us, Key(0), rounds=count)
    for number in range(1, count + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        one = next(played)
        line = files.line(files.finite(one.record)).encode()
        if kept is not None:
            if number == 1:
                kept.began(us, config=b"", environment={}, done=0, rounds=count)
            kept.ended(number, line, one.state, last=False)
        yield time.perf_counter() - wall, time.process_time() - cpu


def overhead(count: int) -> None:
    """Play rounds with and without a log in turn, and print medians of their ratios."""
    for name, settings in NETWORKS.items():
        with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
            plays = {}
            for ledger in ("none", "local"):
                folder = Path(place, ledger)
                folder.mkdir()
                plays[ledger] = rounds(settings, count, ledger=ledger, folder=folder, stack=stack)
            spent = [{one: next(each) for one, each in plays.items()} for _ in range(count)]
        for which, clock in enumerate(("time", "processor time")):
            # The first round compiles, and registers everybody's data.
            pairs = [(one["local"][which], one["none"][which]) for one in spent[1:]]
            ratio = median(a for a, _ in pairs) / median(b for _, b in pairs)
            print(f"{name}: {clock} of a round with a log {ratio:.3f} of that without", flush=True)


def rates(count: int = 20_000) -> None:
    """Compare what the log does in a second with the plainest program that does the same."""
    import libipld
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from dai_lab.ledger import Log, Tree, keyring, leaf_hash, signed, verify_inclusion

    key, who = Ed25519PrivateKey.generate(), keyring().signer("client", "x", 1)
    body = {"round": 1, "client": 1, "commitment": bytes(32), "weight": 80.0}
    with tempfile.TemporaryDirectory() as place:
        base = sqlite3.connect(f"{place}/plain", isolation_level=None)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=NORMAL")
        base.execute("CREATE TABLE event (place INTEGER PRIMARY KEY, raw BLOB)")
        log = Log(f"{place}/log")
        spent = {"plain": 0.0, "ours": 0.0}
        for start in range(0, count, 1000):
            began = time.process_time()
            raws = []
            for _ in range(1000):
                said = libipld.encode_dag_cbor({"kind": "update", "by": who.public, **body})
                raws.append(said + key.sign(said))
            hashes = [hashlib.sha256(b"\0" + one).digest() for one in raws]
            while len(hashes) > 1:  # a tree of its own for each thousand
                pairs = zip(hashes[::2], hashes[1::2], strict=False)
                hashes = [hashlib.sha256(b"\1" + a + b).digest() for a, b in pairs]
            base.execute("BEGIN")
            base.executemany("INSERT INTO event VALUES (?, ?)", list(enumerate(raws, start)))
            base.execute("COMMIT")
            spent["plain"] += time.process_time() - began
            began = time.process_time()
            log.append([signed("update", body, who) for _ in range(1000)])
            spent["ours"] += time.process_time() - began
        log.close()
    print(
        f"events encoded, signed and kept, a second: {spent['plain'] / spent['ours']:.2f} of plain"
    )
    leaves = [leaf_hash(b"%d" % one) for one in range(400_000)]
    began = time.process_time()
    twice = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(leaves, leaves, strict=True)]
    least = time.process_time() - began
    began = time.process_time()
    tree = Tree(leaves)
    took = time.process_time() - began
    print(f"appends a second: {least / took:.2f} of the hashes alone, {len(twice) / took:,.0f}")
    began = time.process_time()
    proofs = [tree.inclusion(one) for one in range(0, 400_000, 20)]
    print(f"proofs a second: {len(proofs) / (time.process_time() - began):,.0f}")
    root, began = tree.root(), time.process_time()
    for one, proof in enumerate(proofs):
        assert verify_inclusion(tree.leaf(20 * one), 20 * one, len(tree), proof, root)
    print(f"checks a second: {len(proofs) / (time.process_time() - began):,.0f}")


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rates()
    overhead(asked.rounds)


if __name__ == "__main__":
    main()
