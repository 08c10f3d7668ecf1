"""How many ways of tampering with a run are found, and whether whoever did it is named.

    python benchmarks/tamper.py [--seeds 0 1 2 3 4]

What was tried is added up in ``experiments/tamper/tamper.csv``, a line for each kind and seed: what
is there is not tried again. The table and the figure of the study's README are made from it.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["DAI_LAB_KEYS"] = mkdtemp(prefix="dai-lab-keys-")

from dai_lab import federation
from dai_lab.config import load
from dai_lab.core import Compute
from dai_lab.experiment import audit, check, prove, simulate
from dai_lab.experiment.simulate import founded
from dai_lab.ledger import (
    Checkpoint,
    Log,
    checkpoint,
    digests,
    keyring,
    leaf_hash,
    seal,
    signed,
    verifier,
    verify,
)

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any

PLACE = Path(__file__).parent.parent / "experiments" / "tamper"
COLUMNS = ("case", "seed", "tried", "found", "named", "wrongly")

RUN = (
    "data=digits", "model=logistic", "federation.clients=8", "rounds=5", "ledger=local",
    "ledger.every=2",
)  # fmt: skip

Counts = tuple[int, int, int, int]
"""Tried, found, found by its right name, and innocents that were blamed."""


def ran(place: Path, seed: int, *settings: str) -> Path:
    """Play a run with a log."""
    cfg = load(*RUN, f"seed={seed}", f"results={place}", *settings)
    return simulate(cfg, progress=False).folder


def doubts(folder: Path, **asked: Any) -> dict[str, str]:
    """Return what a check doubts."""
    return {name: why for mark, name, why in check(folder, **asked).lines if mark == "DOUBT"}


def flips(seed: int, work: Path, which: str) -> Counts:
    """Change one byte at a time of a log, a store, a bundle, or any other file of a run."""
    folder, draw = ran(work, seed), Random(seed)
    if which == "bundle":
        path = work / "bundle"
        path.write_bytes(prove(folder, round=3, client=2))
        files, target = [path], path
    else:
        everything = [one for one in folder.rglob("*") if one.is_file()]
        kinds = {"log": "ledger.sqlite", "store": "store"}
        files = [one for one in everything if kinds.get(which, "") in str(one.relative_to(folder))]
        if which == "rest":
            left = ("ledger.sqlite", "store", "lock", "timings.jsonl")
            files = [one for one in everything if not any(word in str(one) for word in left)]
        target = folder
    found = named = 0
    for at in range(TRIES[which]):
        victim = files[at % len(files)]
        whole = victim.read_bytes()
        bad = bytearray(whole)
        bad[draw.randrange(len(bad))] ^= draw.randrange(1, 256)
        victim.write_bytes(bad)
        why = doubts(target)
        found += bool(why)
        # A log whose start cannot be read leaves no key to check the seal's list by.
        name = str(victim.relative_to(folder)) if which != "bundle" else "bundle"
        named += name in str(why) or (name == "seal" and "seal" in why)
        victim.write_bytes(whole)
    assert not doubts(target)
    return TRIES[which], found, named, 0


TRIES = {"log": 800, "store": 400, "bundle": 400, "rest": 400}
"""Bytes that are changed, a seed."""


def edits(seed: int, work: Path, change: Callable[[Any, Random, int], None]) -> Counts:
    """Change events in the file of a log, as somebody without keys can."""
    folder, draw = ran(work, seed), Random(seed)
    whole, tries, found, named = (folder / "ledger.sqlite").read_bytes(), 20, 0, 0
    size = len(Log(folder / "ledger.sqlite", readonly=True))
    for _ in range(tries):
        base = sqlite3.connect(folder / "ledger.sqlite")
        with base:
            change(base, draw, size)
        base.close()
        why = doubts(folder)
        found += bool(why)
        named += "ledger.sqlite was changed" in why.get("seal", "") or "log" in why
        (folder / "ledger.sqlite").write_bytes(whole)
    return tries, found, named, 0


def reordered(base: Any, draw: Random, size: int) -> None:
    """Let two events change places."""
    a, b = draw.sample(range(size), 2)
    for old, new in ((a, -1), (b, a), (-1, b)):
        base.execute("UPDATE event SET place = ? WHERE place = ?", (new, old))


def truncated(base: Any, draw: Random, size: int) -> None:
    """Cut the last events off, and the checkpoints that had them."""
    keep = draw.randrange(1, size)
    base.execute("DELETE FROM event WHERE place >= ?", (keep,))
    base.execute("DELETE FROM checkpoint WHERE size > ?", (keep,))


def left_out(base: Any, draw: Random, size: int) -> None:
    """Take one event out and close the gap."""
    at = draw.randrange(size)
    base.execute("DELETE FROM event WHERE place = ?", (at,))
    for place in range(at + 1, size):
        base.execute("UPDATE event SET place = ? WHERE place = ?", (place - 1, place))


def rewritten(folder: Path, raws: list[bytes], by: Any) -> None:
    """Write another log over a run's and sign all of it, as its owner can."""
    old = Log(folder / "ledger.sqlite", readonly=True)
    sizes, run = [min(size, len(raws)) for size, _ in old.notes()], folder.name
    old.close()
    (folder / "ledger.sqlite").unlink()
    log = Log(folder / "ledger.sqlite")
    log.append(raws)
    for size in sizes:
        log.note(size, checkpoint(Checkpoint(f"dai_lab/{run}", size, log.tree.root(size)), by))
    log.close(whole=True)
    names = [str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()]
    listed = [one for one in names if "lock" not in one and one not in ("seal", "timings.jsonl")]
    (folder / "seal").write_text(seal(run, digests(folder, listed), by))


def forked(seed: int, work: Path) -> Counts:
    """Let the lab, which has the keys, tell another story after it was anchored."""
    folder, draw, lab = ran(work, seed), Random(seed), keyring().signer("lab")
    server, tries, found, named = keyring().signer("server", folder.name), 8, 0, 0
    for at in range(tries):
        other = Path(shutil.copytree(folder, work / f"fork-{at}" / folder.name))
        raws = list(Log(other / "ledger.sqlite", readonly=True).events())
        places = [one for one, raw in enumerate(raws) if verify(raw).kind == "aggregate"]
        place = draw.choice(places)
        body = {"round": verify(raws[place]).body["round"], "digest": draw.randbytes(32)}
        raws[place] = signed("aggregate", body, server)
        rewritten(other, raws, lab)
        why = doubts(other)
        found += bool(why)
        named += "the chain says otherwise" in why.get("anchor", "")
    return tries, found, named, 0


def swapped(seed: int, work: Path) -> Counts:
    """Let somebody else sign all of it with a key of their own."""
    folder, other = ran(work, seed), keyring(work / "other")
    known = verifier("lab", keyring().signer("lab").public)
    raws = list(Log(folder / "ledger.sqlite", readonly=True).events())
    changed = []
    for raw in raws:
        event = verify(raw)
        lab = event.author == keyring().signer("lab").public
        body = dict(event.body)
        if event.kind == "anchored":
            body["run"] = leaf_hash(changed[0])
        changed.append(signed(event.kind, body, other.signer("lab")) if lab else raw)
    rewritten(folder, changed, other.signer("lab"))
    why = doubts(folder, key=known)
    return 1, int(bool(why)), int("not the key you know" in why.get("key", "")), 0


def rolled_back(seed: int, work: Path) -> Counts:
    """Put back the files as they were when the run was half done."""
    import threading

    from dai_lab.experiment.simulate import placed

    stop = threading.Event()
    stop.set()
    cfg = load(*RUN, f"seed={seed}", f"results={work}")
    tries = found = named = 0
    while True:
        try:
            folder = placed(cfg, progress=False, stop=stop).folder
            break
        except KeyboardInterrupt:
            folder = next((work / "run").iterdir())
            shutil.copytree(folder, work / "old" / str(tries))
            tries += 1
    for at in range(tries):
        why = doubts(work / "old" / str(at))
        found += bool(why)
        named += "not finished" in str(why)
    assert not doubts(folder)
    return tries, found, named, 0


def lying_clients(seed: int, work: Path, *settings: str) -> Counts:
    """Let three of eight clients lie, and ask a replay of every round who it was."""
    folder = ran(work, seed, "federation.hostile=3", *settings)
    whole = load(*RUN, f"seed={seed}", "federation.hostile=3", *settings)
    from omegaconf import OmegaConf

    liars = founded(OmegaConf.to_container(whole, enum_to_str=True), Compute()).hostile
    assert not doubts(folder)  # the log is sound: it says what was sent
    named = wrongly = 0
    for number in (1, 3, 5):
        lines = audit(folder, number).lines
        blamed = {name for mark, name, _ in lines if mark == "DOUBT"}
        guilty = {f"client {one}" for one in liars}
        named += len(blamed & guilty)
        wrongly += len(blamed - guilty)
    return 3 * len(liars), named, named, wrongly


def lying_server(seed: int, work: Path, what: str) -> Counts:
    """Let the server add something of its own to what it aggregates, or to the next model."""
    play, draw = federation.play, torch.Generator().manual_seed(seed)
    sizes, named, wrongly = (1e-6, 1e-4, 1e-2), 0, 0
    for size in sizes:

        def cheated(us: Any, *rest: Any, size: float = size, **more: Any) -> Any:
            def aggregator(visible: Any, context: Any) -> Any:
                found = us.aggregator(visible, context)
                more = size * torch.randn(len(found.update), generator=draw)
                return replace(found, update=found.update + more)

            def server(state: Any, update: Any) -> Any:
                after = us.server(state, update)
                more = size * torch.randn(len(after.params), generator=draw)
                return replace(after, params=after.params + more)

            lying = {"aggregator": aggregator} if what == "aggregate" else {"server": server}
            return play(replace(us, **lying), *rest, **more)

        with mock.patch.object(federation, "play", cheated):
            folder = ran(work / f"{size}", seed)
        assert not doubts(folder)
        blamed = {name for mark, name, _ in audit(folder, 1).lines if mark == "DOUBT"}
        named += "server" in blamed
        wrongly += len(blamed - {"server"})
    return len(sizes), named, named, wrongly


CASES: dict[str, Callable[[int, Path], Counts]] = {
    "a byte of the log": lambda seed, work: flips(seed, work, "log"),
    "a byte of a kept model": lambda seed, work: flips(seed, work, "store"),
    "a byte of a bundle": lambda seed, work: flips(seed, work, "bundle"),
    "a byte of any other file": lambda seed, work: flips(seed, work, "rest"),
    "two events change places": lambda seed, work: edits(seed, work, reordered),
    "the end is cut off": lambda seed, work: edits(seed, work, truncated),
    "an event is left out": lambda seed, work: edits(seed, work, left_out),
    "an older state is put back": rolled_back,
    "another key signs all of it": swapped,
    "the lab rewrites what is anchored": forked,
    "clients turn the sign": lambda seed, work: lying_clients(seed, work, "attack=sign_flip"),
    "clients hide among others (ALIE)": lambda seed, work: lying_clients(seed, work, "attack=alie"),
    "clients ride for free": lambda seed, work: lying_clients(seed, work, "attack=free_rider"),
    "clients flip labels": lambda seed, work: lying_clients(seed, work, "poison=label_flip"),
    "the server bends the aggregate": lambda seed, work: lying_server(seed, work, "aggregate"),
    "the server bends the model": lambda seed, work: lying_server(seed, work, "model"),
}
"""What is tried, each with a run of its own."""


def measured() -> DataFrame:
    """Read what was tried."""
    from pandas import DataFrame, read_csv

    path = PLACE / "tamper.csv"
    return read_csv(path) if path.exists() else DataFrame(columns=list(COLUMNS))


def bound(found: int, tried: int) -> str:
    """Write a share with its exact 95 % interval (Clopper and Pearson)."""
    from scipy.stats import binomtest

    low, high = binomtest(found, tried).proportion_ci(0.95, method="exact")
    return f"{100 * found / tried:.4g} % [{100 * low:.4g}, {100 * high:.4g}]"


def table(frame: DataFrame) -> str:
    """Write what was tried, found and named."""
    lines = ["| what is done | tried | found | named | blamed wrongly |", "|" + " --- |" * 5]
    for case in CASES:
        some = frame[frame["case"] == case]
        if len(some):
            tried, found, named, wrongly = (int(some[one].sum()) for one in COLUMNS[2:])
            shares = f"{bound(found, tried)} | {bound(named, tried)}"
            lines.append(f"| {case} | {tried:,} | {shares} | {wrongly} |")
    return "\n".join(lines)


BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, frame: DataFrame) -> str:
    """Put the table into a README, between its comments."""
    return BLOCK.sub(lambda found: f"{found[1]}{table(frame)}\n{found[4]}", text)


def left(seeds: list[int]) -> Iterator[tuple[str, int]]:
    """List what was not tried yet."""
    frame = measured()
    done = {*zip(frame["case"], frame["seed"], strict=True)}
    yield from ((case, seed) for seed in seeds for case in CASES if (case, seed) not in done)


def main() -> None:
    """Try what is left, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    for case, seed in left(asked.seeds):
        with TemporaryDirectory() as work:
            counts = CASES[case](seed, Path(work))
        path = PLACE / "tamper.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([*([COLUMNS] if new else []), (case, seed, *counts)])
        print(case, seed, *counts, flush=True)
    readme = PLACE / "README.md"
    readme.write_text(filled(readme.read_text(), measured()))


if __name__ == "__main__":
    main()
