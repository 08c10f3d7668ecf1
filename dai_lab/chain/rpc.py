"""A chain somewhere else, which a node is asked for over HTTP."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.chain.artifacts import artifact, reverted
from dai_lab.chain.keys import ORDER, secret_from
from dai_lab.chain.node import Node, Refusal, keep_shallow
from dai_lab.chain.port import Contract, Log, Receipt, Reverted, nowhere

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

MAIN = "main"
SPARE = 20
"""For how many transactions like its next an account is given money when it has too little."""


def rpc(url: str, *, keystore: str | Path | None = None, timeout: float = 120.0) -> Rpc:
    """Open a chain that a node gives access to.

    The key is in the environment variable ``DAI_LAB_CHAIN_KEY``, or in a keystore file that the
    variable ``DAI_LAB_CHAIN_PASSWORD`` opens. It is the account ``main``; the accounts of all
    other names follow from it, and get money for gas from it when they need some. It leaves this
    process in signatures alone.

    Args:
        url: Of the node, with http or https. Only its host is ever shown: the rest may be secret.
        keystore: A file in the form of Web3 Secret Storage.
        timeout: How many seconds to wait until a transaction is in a block.

    Raises:
        ValueError: There is no key, it is no key, or there is no node.

    Source: EIP-1559 (fees), EIP-155 (one chain's signatures), RFC 5869 (accounts from the key).
    """
    if not timeout > 0:
        raise ValueError(f"chain.timeout={timeout}: give more than 0 seconds")
    return Rpc(Node(url), main_account(keystore), timeout)


def reader(url: str) -> Rpc:
    """Open a chain that a node gives access to, to ask and not to send; it needs no key.

    Args:
        url: As for ``rpc``.

    Raises:
        ValueError: There is no node.
    """
    return Rpc(Node(url), None, 0.0)


def main_account(keystore: str | Path | None) -> LocalAccount:
    """Read the key from where it may be.

    It is passed on in an account that does not print it: errors, of type checkers too, show the
    arguments of functions.

    Raises:
        ValueError: It is not there, or it is no key; the message holds nothing of it.
    """
    keep_shallow()
    from eth_account import Account

    if keystore is None:
        text = os.environ.get("DAI_LAB_CHAIN_KEY", "").strip().removeprefix("0x")
        if not text:
            raise ValueError("no key: set DAI_LAB_CHAIN_KEY, or chain.keystore to a file")
        try:
            key, where = bytes.fromhex(text), "DAI_LAB_CHAIN_KEY"
        except ValueError:
            raise ValueError("DAI_LAB_CHAIN_KEY is not 64 hexadecimal digits") from None
    else:
        key, where = opened(Path(keystore)), f"chain.keystore={keystore}"
    if len(key) != 32 or not 0 < int.from_bytes(key) < ORDER:
        raise ValueError(f"{where} holds no key of 32 bytes within the curve's order")
    account: LocalAccount = Account.from_key(key)
    return account


def opened(keystore: Path) -> bytes:
    """Open a keystore file with the password in the environment."""
    keep_shallow()
    from eth_account import Account

    password = os.environ.get("DAI_LAB_CHAIN_PASSWORD")
    if password is None:
        raise ValueError(f"chain.keystore={keystore}: set DAI_LAB_CHAIN_PASSWORD to open it")
    try:
        return bytes(Account.decrypt(keystore.read_text(), password))
    except OSError as problem:
        raise ValueError(f"chain.keystore={keystore}: {problem.strerror}") from None
    except NotImplementedError:
        raise ValueError(
            f"chain.keystore={keystore} is of a kind that eth-keyfile does not read: write it "
            "anew, as version 3 or 4"
        ) from None
    except Exception:
        # Anything at all, since the library looks at little before it reads; and without its cause:
        # what it holds may be of the password or the key.
        raise ValueError(
            f"chain.keystore={keystore} is no keystore, or DAI_LAB_CHAIN_PASSWORD is another's"
        ) from None


class Rpc:
    """A ``Chain`` that a node gives access to."""

    def __init__(self, node: Node, main: LocalAccount | None, timeout: float) -> None:
        """Ask which chain it is."""
        self._node, self._main, self._timeout = node, main, timeout
        self._names = {MAIN: main.address.lower()} if main else {}
        self._accounts = {main.address.lower(): main} if main else {}
        self._nonces: dict[str, int] = {}
        self._seen: set[str] = set()
        self.chain_id = int(node.ask("eth_chainId"), 16)

    def __repr__(self) -> str:
        return f"Rpc({self._node.shown}, chain {self.chain_id})"

    def account(self, name: str) -> str:
        """Give the address of an account: ``main`` is the key's own, the others follow from it."""
        if name in self._names:
            return self._names[name]
        if self._main is None:
            raise ValueError("this chain is only asked, without a key: open it with rpc to send")
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        from eth_account import Account

        # 16 bytes more than a secret has, so that none is more likely than another.
        label = b"dai_lab chain account " + name.encode()
        seed = HKDF(SHA256(), length=48, salt=None, info=label).derive(bytes(self._main.key))
        made = Account.from_key(secret_from(seed).to_bytes(32))
        self._names[name] = made.address.lower()
        self._accounts[self._names[name]] = made
        return self._names[name]

    def sign(self, account: str, digest: bytes) -> bytes:
        """Sign 32 bytes as an account of this chain."""
        from eth_account import Account

        if len(digest) != 32:
            raise ValueError(f"a digest is 32 bytes, got {len(digest)}")
        return bytes(Account.unsafe_sign_hash(digest, self._own(account).key).signature)

    def deploy(self, contract: str, *arguments: Any, sender: str) -> Contract:
        """Put one of the lab's contracts on the chain."""
        made = artifact(contract)
        data = made.bytecode + made.constructor.encode(arguments)
        receipt = self._carry(sender, None, data, made.constructor.name)
        return Contract(contract, receipt["contractAddress"].lower())

    def send(self, contract: Contract, function: str, *arguments: Any, sender: str) -> Receipt:
        """Have a contract do something, wait until it is in a block, or raise ``Reverted``."""
        made = artifact(contract.name)
        told = made.function(function, asks=False)
        data = told.encode(arguments)
        if contract.address not in self._seen:
            if self._node.ask("eth_getCode", contract.address, "latest") == "0x":
                raise nowhere(contract)
            self._seen.add(contract.address)
        receipt = self._carry(sender, contract.address, data, told.name)
        block = self._node.ask("eth_getBlockByNumber", receipt["blockNumber"], False)
        said = [one for one in receipt["logs"] if one["address"].lower() == contract.address]
        logs = tuple(self._read(contract, one) for one in said)
        return Receipt(
            receipt["transactionHash"][2:],
            int(receipt["blockNumber"], 16),
            int(block["timestamp"], 16),
            int(receipt["gasUsed"], 16),
            lambda: logs,
        )

    def call(self, contract: Contract, function: str, *arguments: Any) -> Any:
        """Ask a contract, as of the last block."""
        asked = artifact(contract.name).function(function, asks=True)
        data = "0x" + asked.encode(arguments).hex()
        try:
            found = self._node.ask("eth_call", {"to": contract.address, "data": data}, "latest")
        except Refusal as problem:
            raise refused(asked.name, problem) from None
        if found == "0x":
            raise nowhere(contract)
        return asked.decode(bytes.fromhex(found[2:]))

    def logs(self, contract: Contract, event: str | None = None, *, start: int = 0) -> list[Log]:
        """List what a contract said, from a block on; many nodes give a few thousand blocks."""
        topic = artifact(contract.name).topic(event)
        asked: dict[str, Any] = {"address": contract.address, "fromBlock": hex(start)}
        if topic:
            asked["topics"] = ["0x" + topic.hex()]
        return [self._read(contract, one) for one in self._node.ask("eth_getLogs", asked)]

    def now(self) -> int:
        """Give the time of the last block, in seconds since 1970."""
        return int(self._node.ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def advance(self, seconds: int) -> None:
        """Let time pass, on a node made for tests."""
        if seconds < 1:
            raise ValueError(f"advance({seconds}): time passes forward, by whole seconds")
        try:
            self._node.ask("evm_increaseTime", seconds)
            self._node.ask("evm_mine")
        except Refusal as problem:
            raise ValueError(f"{problem}: this node lets no time pass") from None

    def settle(self) -> None:
        """Do nothing: what was sent is in a block when ``send`` returns."""

    def close(self) -> None:
        """Do nothing: no connection is kept that would have to be let go of."""

    def _own(self, account: str) -> LocalAccount:
        if account not in self._accounts:
            raise ValueError(f"{account!r} is no account of this chain: take one from account()")
        return self._accounts[account]

    def _read(self, contract: Contract, said: dict[str, Any]) -> Log:
        topics = [bytes.fromhex(one[2:]) for one in said["topics"]]
        data, block = bytes.fromhex(said["data"][2:]), int(said["blockNumber"], 16)
        return artifact(contract.name).read(contract.address, topics, data, block)

    def _carry(self, sender: str, to: str | None, data: bytes, name: str) -> dict[str, Any]:
        """Have a transaction carried out, and give its receipt."""
        self._own(sender)
        asked = {"from": sender, "data": "0x" + data.hex()} | ({"to": to} if to else {})
        try:
            gas = int(self._node.ask("eth_estimateGas", asked), 16) * 5 // 4
        except Refusal as problem:
            raise refused(name, problem) from None
        base = int(self._node.ask("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)
        tip = int(self._node.ask("eth_maxPriorityFeePerGas"), 16)
        # Twice the base fee covers six full blocks in a row, each of which raises it by an eighth.
        fees = {"maxFeePerGas": 2 * base + tip, "maxPriorityFeePerGas": tip}
        self._provide(sender, gas, fees)
        receipt = self._sent(sender, to, data, 0, gas, fees)
        if int(receipt["status"], 16) != 1:
            # It was good when it was tried, and others came first: ask once more for the reason.
            try:
                self._node.ask("eth_call", asked, receipt["blockNumber"])
            except Refusal as problem:
                raise refused(name, problem) from None
            raise reverted(name, b"")
        return receipt

    def _provide(self, sender: str, gas: int, fees: dict[str, int]) -> None:
        """Give an account that follows from the main one money for gas, if it has too little."""
        main = self._names[MAIN]
        cost = gas * fees["maxFeePerGas"]
        if sender != main and int(self._node.ask("eth_getBalance", sender, "latest"), 16) < cost:
            self._sent(main, sender, b"", SPARE * cost, 21_000, fees)

    def _sent(
        self, sender: str, to: str | None, data: bytes, money: int, gas: int, fees: dict[str, int]
    ) -> dict[str, Any]:
        """Sign a transaction, send it and wait for its receipt."""
        if sender not in self._nonces:
            count = self._node.ask("eth_getTransactionCount", sender, "pending")
            self._nonces[sender] = int(count, 16)
        signed = self._own(sender).sign_transaction(
            {
                "type": 2,
                "chainId": self.chain_id,
                "nonce": self._nonces[sender],
                "to": bytes.fromhex(to[2:]) if to else b"",
                "value": money,
                "data": data,
                "gas": gas,
                **fees,
            }
        )
        # Whatever goes wrong, the node is asked anew how many it has had.
        nonce, named = self._nonces.pop(sender), "0x" + signed.hash.hex()
        try:
            self._node.ask("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())
        except Refusal:
            # It may have arrived when the answer was lost, and is refused for coming again.
            if self._node.ask("eth_getTransactionByHash", named) is None:
                raise
        receipt = self._wait(named)
        self._nonces[sender] = nonce + 1
        return receipt

    def _wait(self, transaction: str) -> dict[str, Any]:
        until, pause = time.monotonic() + self._timeout, 0.002
        while True:
            found: dict[str, Any] | None = self._node.ask("eth_getTransactionReceipt", transaction)
            if found is not None:
                return found
            left = until - time.monotonic()
            if left <= 0:
                raise ValueError(
                    f"chain.timeout={self._timeout}: {transaction} is in no block so far"
                )
            # Plain HTTP tells nobody when a block is there: one has to ask, less and less often.
            time.sleep(min(pause, left))
            pause = min(2 * pause, 1.0)


def refused(name: str, problem: Refusal) -> Reverted | Refusal:
    """Tell a contract that refuses from a node that does."""
    if problem.data is None and "revert" not in str(problem):
        return problem
    return reverted(name, problem.data or b"")
