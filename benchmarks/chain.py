"""What the contracts cost on a real node, and how fast either chain is.

    python benchmarks/chain.py --anvil PATH       writes its tables into docs/chain.md
    python benchmarks/chain.py --anvil PATH --turns 9

Gas comes from the node alone, as an EVM inside the process understates it. Speed is a ratio of
turns that are taken one after the other in one run, with the least and the most of it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from dai_lab.chain import (
    Chain,
    Contract,
    authorization,
    embedded,
    payout_proofs,
    payout_root,
    rpc,
    voucher,
)
from dai_lab.chain.artifacts import artifact

DOCS = Path(__file__).parents[1] / "docs" / "chain.md"
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""Of the first account that anvil makes money for; everybody knows it."""
LATE, CID, SOME = 1 << 40, b"c" * 36, b"s" * 32
SPECIFIED = {
    "commit_round, the second": "167,510",
    "transfer to a holder": "33,861",
    "transfer to somebody new": "50,961",
    "stake": "50,526",
    "slash": "31,372",
    "claim, of eight": "71,350",
    "pay_batch to 128 holders": "1,365,055",
    "a whole job": "429,108",
}


@contextmanager
def node(binary: str) -> Iterator[str]:
    """Run a node for as long as it is needed."""
    words = [binary, "--host", "127.0.0.1", "--port", "0"]
    with tempfile.NamedTemporaryFile("w+") as said:
        # Into a file: a pipe that nobody reads stops the node once it is full.
        running = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 60
            # It tells nobody but this file when it is there: one has to look.
            while "Listening on " not in (text := Path(said.name).read_text()):
                if running.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the node does not start: {text[-500:]}")
                time.sleep(0.05)
            yield "http://" + text.split("Listening on ")[1].split()[0]
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()


def gas(chain: Chain) -> dict[str, int]:
    """Do everything once, and see what it costs."""
    main = chain.account("main")
    ann, bob, judge = (chain.account(one) for one in ("ann", "bob", "judge"))
    found: dict[str, int] = {}

    def does(name: str, contract: Contract, function: str, *arguments: object, by: str = main):
        receipt = chain.send(contract, function, *arguments, sender=by)
        found[name] = found.get(name, 0) + (receipt.gas or 0)
        return receipt.logs[-1].fields if receipt.logs else {}

    coin = chain.deploy("token", "Lab coin", "LAB", 10**12, sender=main)
    does("transfer to somebody new", coin, "transfer", ann, 10**6)
    does("transfer to a holder", coin, "transfer", ann, 10**6)
    chain.send(coin, "transfer", bob, 10**6, sender=main)
    content = authorization(chain, coin, payer=ann, payee=bob, amount=5, nonce=SOME)
    r_s_v = chain.sign(ann, content)
    signed = (ann, bob, 5, 0, (1 << 256) - 1, SOME, r_s_v[64], r_s_v[:32], r_s_v[32:64])
    does("transferWithAuthorization", coin, "transferWithAuthorization", *signed)

    ledger = chain.deploy("round_ledger", sender=main)
    does("open_run", ledger, "open_run", SOME)
    for name, number in (("the first", 1), ("the second", 2)):
        words = (SOME, number, bytes([number]) * 32, 100 * number, CID, SOME)
        does(f"commit_round, {name}", ledger, "commit_round", *words)

    pots = {
        "stake": chain.deploy("stake", coin.address, judge, bob, 60, sender=main),
        **{
            kind: chain.deploy(kind, coin.address, sender=main)
            for kind in ("rewards", "jobs", "channel", "data_registry")
        },
        "governor": chain.deploy("governor", coin.address, 60, 1, 600, 1, 1, 1, sender=main),
    }
    for pot in pots.values():
        for one in (main, ann):
            chain.send(coin, "approve", pot.address, 1 << 200, sender=one)
    chain.send(pots["stake"], "stake", 10, sender=main)
    does("stake", pots["stake"], "stake", 1000, by=ann)
    does("slash", pots["stake"], "slash", ann, 100, SOME, by=judge)
    does("unstake", pots["stake"], "unstake", 100, by=ann)

    owed = [(ann, 10 + one) for one in range(8)]
    payout = does("fund", pots["rewards"], "fund", payout_root(owed), 8, 200, LATE)["payout"]
    chain.send(pots["rewards"], "claim", payout, 0, *owed[0], payout_proofs(owed)[0], sender=main)
    words = (payout, 1, *owed[1], payout_proofs(owed)[1])
    does("claim, of eight", pots["rewards"], "claim", *words)
    many = [f"0x{one + 1:040x}" for one in range(256, 384)]
    for name, batch in (("to 128 new", SOME), ("to 128 holders", bytes(32))):
        does(f"pay_batch {name}", pots["rewards"], "pay_batch", batch, many, [1] * 128)

    job = does("a whole job", pots["jobs"], "createJob", bob, judge, LATE, "label digits", by=ann)
    number = job["job"]
    for function, more, by in (
        *(("setBudget", (100,), ann), ("fund", (100,), ann)),
        *(("submit", (SOME,), bob), ("complete", (SOME,), judge)),
    ):
        does("a whole job", pots["jobs"], function, number, *more, by=by)

    channel = does("open a channel", pots["channel"], "open", bob, 100, LATE, by=ann)["channel"]
    r_s_v = chain.sign(ann, voucher(chain, pots["channel"], channel=channel, amount=60))
    words = (channel, 60, r_s_v[64], r_s_v[:32], r_s_v[32:64])
    does("claim of a channel", pots["channel"], "claim", *words, by=bob)

    registry = pots["data_registry"]
    data = does("register data", registry, "register", SOME, 1, "CC0", by=bob)["dataset"]
    does("grant consent", registry, "grant", data, ann, "training", LATE, 5, by=bob)
    does("use data, with a fee", registry, "use", data, "training", SOME, 5, by=ann)
    does("revoke consent", registry, "revoke", data, ann, "training", by=bob)

    house = pots["governor"]
    does("lock", house, "lock", 100, by=ann)
    does("propose", house, "propose", "aggregator.f", "4", False, by=ann)
    does("vote", house, "vote", 1, True, by=ann)
    chain.advance(100)
    does("execute", house, "execute", 1)

    book = chain.deploy("identity", sender=main)
    does("register an agent", book, "register", "https://example.org/agent.json", by=ann)
    words = (1, 90, "speed", "", SOME)
    does("give feedback", book, "giveFeedback", *words, by=bob)
    return found


def commits(chain: Chain, run: bytes, *, count: int) -> Callable[[], float]:
    """Prepare turns of committing rounds; each gives its transactions a second."""
    main = chain.account("main")
    ledger = chain.deploy("round_ledger", sender=main)
    chain.send(ledger, "open_run", run, sender=main)

    def turn() -> float:
        first = chain.call(ledger, "head", run) + 1
        begun = time.perf_counter()
        for number in range(first, first + count):
            words = (run, number, SOME, number, CID, SOME)
            _ = chain.send(ledger, "commit_round", *words, sender=main)
        return count / (time.perf_counter() - begun)

    return turn


def bare(*, count: int) -> Callable[[], float]:
    """Prepare turns of the same transactions, written beforehand, on the EVM itself."""
    chain = embedded()
    main = chain.account("main")
    ledger = chain.deploy("round_ledger", sender=main)
    chain.send(ledger, "open_run", SOME, sender=main)
    write = artifact("round_ledger").function("commit_round", asks=False).encode
    numbers = iter(range(1, 1 << 60))

    def turn() -> float:
        many = [write((SOME, n, SOME, n, CID, SOME)) for n in islice(numbers, count)]
        begun = time.perf_counter()
        for one in many:
            chain._evm.message_call(main, ledger.address, one, gas=30_000_000)
        return count / (time.perf_counter() - begun)

    return turn


def between(one: list[float], other: list[float]) -> str:
    """Write a ratio of turns, with the least and the most of it."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return f"{statistics.median(ratios):.3g} [{min(ratios):.3g}, {max(ratios):.3g}]"


def written(text: str, name: str, table: str) -> str:
    """Put a table between its marks."""
    marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    assert re.search(marks, text, re.DOTALL), f"{DOCS} lacks the mark {name}"
    return re.sub(marks, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--anvil", default=os.environ.get("DAI_LAB_ANVIL", "anvil"))
    words.add_argument("--turns", type=int, default=7)
    told = words.parse_args()
    os.environ["DAI_LAB_CHAIN_KEY"] = KEY
    with node(told.anvil) as url, tempfile.TemporaryDirectory() as folder:
        there, here = rpc(url), embedded(Path(folder) / "chain.jsonl")
        spent = gas(there)
        turns = {
            "embedded": commits(here, SOME, count=2000),
            "node": commits(there, SOME, count=30),
            "EVM": bare(count=2000),
        }
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(told.turns):
            for name, turn in turns.items():
                rates[name].append(turn())
    rows = [f"| {name} | {much:,} | {SPECIFIED.get(name, '')} |" for name, much in spent.items()]
    table = "\n".join(["| what | gas | prototype |", "|---|---:|---:|", *rows])
    ratio = partial(between, rates["embedded"])
    speed = "\n".join(
        [
            f"| transactions a second, in {told.turns} turns | median [least, most] |",
            "|---|---|",
            f"| embedded with its file : node, one after the other | {ratio(rates['node'])} |",
            f"| embedded with its file : the EVM alone, on calls ready | {ratio(rates['EVM'])} |",
        ]
    )
    text = written(written(DOCS.read_text(), "gas", table), "speed", speed)
    DOCS.write_text(text)
    print(table, speed, sep="\n\n")


if __name__ == "__main__":
    main()
