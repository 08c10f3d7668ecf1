"""A chain inside the process: the contracts' own bytecode in a real EVM, and a file to replay.

It authenticates nobody: the secret of an account is a hash of its name, so whoever knows the name
can sign. It proves that what the contracts allow was done, in this order, and nothing else.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from functools import partial
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.chain.artifacts import artifact, reverted
from dai_lab.chain.journal import Journal
from dai_lab.chain.keys import Account, secret_from
from dai_lab.chain.port import Contract, Log, Receipt, Reverted, nowhere

if TYPE_CHECKING:
    import pyrevm

CHAIN_ID = 0xDA11AB
START = 1_767_225_600
"""2026-01-01T00:00:00Z"""
GAS = 30_000_000
"""A block's worth, as on a real chain: what loops without end stops."""
OUTPUT = re.compile(r"output: 0x([0-9a-f]*)")


def embedded(path: str | Path | None = None, *, start: int = START) -> Embedded:
    """Open a chain that lives in this process.

    Args:
        path: The file that its transactions are kept in, and that is replayed when it is opened
            again; without one, all is in memory.
        start: When a new chain begins, in seconds since 1970. From then on a block takes a second.

    Raises:
        ValueError: The file was changed, is of something else, or is in use.
    """
    return Embedded(Path(path) if path is not None else None, start)


class Embedded:
    """A ``Chain`` in memory, and a file that it can be replayed from."""

    chain_id = CHAIN_ID

    def __init__(self, path: Path | None, start: int) -> None:
        """Replay what the file holds."""
        import pyrevm

        if not 0 < start < 1 << 63:
            raise ValueError(f"chain.start={start}: give a time after 1970, in seconds")
        self._new_block = partial(pyrevm.BlockEnv, gas_limit=GAS)
        config = pyrevm.CfgEnv(chain_id=CHAIN_ID)
        self._evm = pyrevm.EVM(env=pyrevm.Env(cfg=config), spec_id="CANCUN")
        self._accounts: dict[str, Account] = {}
        self._names: dict[str, str] = {}
        # Most is never asked for: what was said is sorted by who said it when somebody asks.
        self._fresh: list[tuple[int, pyrevm.ExecutionResult | None]] = []
        self._said: dict[str, list[tuple[int, pyrevm.Log]]] = {}
        self._contracts: set[str] = set()
        self._block, self._time = 0, start
        self._journal = Journal(path)
        try:
            self._replay()
        except BaseException:
            self._journal.close()
            raise

    def __repr__(self) -> str:
        return f"Embedded({self._journal.path}, {self._block} blocks)"

    def account(self, name: str) -> str:
        """Give the address of the account of this name; its secret is a hash of the name."""
        if name not in self._names:
            seed = sha256(b"dai_lab embedded account " + name.encode()).digest()
            made = Account(secret_from(seed))
            self._accounts[made.address] = made
            self._names[name] = made.address
        return self._names[name]

    def sign(self, account: str, digest: bytes) -> bytes:
        """Sign 32 bytes as an account of this chain."""
        return self._accounts[self._own(account)].sign(digest)

    def deploy(self, contract: str, *arguments: Any, sender: str) -> Contract:
        """Put one of the lab's contracts on the chain."""
        made = artifact(contract)
        data = made.bytecode + made.constructor.encode(arguments)
        address = self._carry(self._own(sender), None, data, made.constructor.name)
        return Contract(contract, address)

    def send(self, contract: Contract, function: str, *arguments: Any, sender: str) -> Receipt:
        """Have a contract do something, or raise ``Reverted`` with nothing done."""
        made = artifact(contract.name)
        told = made.function(function, asks=False)
        data = told.encode(arguments)
        self._there(contract)
        self._carry(self._own(sender), contract.address, data, told.name)
        block, line = self._block, self._journal.head.hex()
        logs = partial(self._logs, contract, block)
        return Receipt(line, block, self._time, None, logs)

    def call(self, contract: Contract, function: str, *arguments: Any) -> Any:
        """Ask a contract, as of the last block."""
        asked = artifact(contract.name).function(function, asks=True)
        data = asked.encode(arguments)
        self._there(contract)
        try:
            found = self._evm.message_call(
                f"0x{0:040x}", contract.address, data, gas=GAS, is_static=True
            )
        except RuntimeError as problem:
            raise refusal(asked.name, problem) from None
        return asked.decode(bytes(found))

    def logs(self, contract: Contract, event: str | None = None, *, start: int = 0) -> list[Log]:
        """List what a contract said, from a block on."""
        made = artifact(contract.name)
        made.topic(event)
        for block, done in self._fresh:
            for one in done.logs if done else ():
                self._said.setdefault(one.address.lower(), []).append((block, one))
        self._fresh.clear()
        said = self._said.get(contract.address, [])
        first = bisect_left(said, start, key=itemgetter(0))
        read = [made.read(contract.address, *one.data, block) for block, one in said[first:]]
        return [one for one in read if event in (None, one.event)]

    def now(self) -> int:
        """Give the time of the last block, in seconds since 1970."""
        return self._time

    def advance(self, seconds: int) -> None:
        """Let time pass, with an empty block at its end."""
        if seconds < 1:
            raise ValueError(f"advance({seconds}): time passes forward, by whole seconds")
        self._pass(seconds)
        self._journal.append(f'{{"advance":{seconds}')

    def settle(self) -> None:
        """Wait until what was sent would survive a power cut."""
        self._journal.settle()

    def close(self) -> None:
        """Let go of the file; what is open in one process is open in no other."""
        self._journal.close()

    def _own(self, account: str) -> str:
        if account not in self._accounts:
            raise ValueError(f"{account!r} is no account of this chain: take one from account()")
        return account

    def _there(self, contract: Contract) -> None:
        # An EVM carries out whatever it is asked to where there is nothing.
        if contract.address not in self._contracts:
            raise nowhere(contract)

    def _pass(self, seconds: int) -> None:
        self._block, self._time = self._block + 1, self._time + seconds
        self._evm.set_block_env(self._new_block(number=self._block, timestamp=self._time))

    def _logs(self, contract: Contract, block: int) -> tuple[Log, ...]:
        return tuple(one for one in self.logs(contract, start=block) if one.block == block)

    def _carry(self, sender: str, to: str | None, data: bytes, name: str) -> str:
        """Carry a transaction out and write it down."""
        address = self._execute(sender, to, data, name)
        target = f'"{to}"' if to else "null"
        self._journal.append(f'{{"from":"{sender}","to":{target},"data":"{data.hex()}"')
        return address

    def _execute(self, sender: str, to: str | None, data: bytes, name: str) -> str:
        evm, block, time = self._evm, self._block, self._time
        self._pass(1)
        try:
            if to is None:
                to = self._create(sender, data)
            else:
                evm.message_call(sender, to, data, gas=GAS)
        except RuntimeError as problem:
            # A refused transaction leaves no block, as nodes refuse it before it is sent.
            self._block, self._time = block, time
            evm.set_block_env(self._new_block(number=block, timestamp=time))
            raise refusal(name, problem) from None
        self._fresh.append((self._block, evm.result))
        return to

    def _create(self, sender: str, data: bytes) -> str:
        # A constructor that refuses would still use up a nonce, and with it an address.
        before = self._evm.snapshot()
        try:
            address = self._evm.deploy(sender, data, gas=GAS)
        except RuntimeError:
            self._evm.revert(before)
            raise
        self._evm.commit()
        self._contracts.add(address.lower())
        return address.lower()

    def _replay(self) -> None:
        fresh = True
        for number, line in self._journal.lines():
            if fresh and line.get("chain") != CHAIN_ID:
                raise self._journal.broken(number, "is not the first of an embedded chain")
            if fresh:
                self._time, fresh = line["start"], False
            elif "advance" in line:
                self._pass(line["advance"])
            else:
                try:
                    self._execute(line["from"], line["to"], bytes.fromhex(line["data"]), "")
                except Reverted:
                    raise self._journal.broken(number, "is refused by the contracts") from None
        if fresh:
            self._journal.append(json.dumps({"chain": CHAIN_ID, "start": self._time})[:-1])


def refusal(name: str, problem: RuntimeError) -> Reverted:
    """Read the reason out of what the EVM raises."""
    found = OUTPUT.search(str(problem))
    return reverted(name, bytes.fromhex(found[1]) if found else b"")
