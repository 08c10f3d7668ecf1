"""What every chain can do, and what it gives back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

ADDRESS = re.compile("0x[0-9a-f]{40}")


@dataclass(frozen=True)
class Contract:
    """A contract that is on a chain: which of ours it is, and where.

    Args:
        name: Its file in ``contracts/``, without the ending.
        address: 20 bytes in lower-case hexadecimal, after ``0x``.
    """

    name: str
    address: str

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        if not ADDRESS.fullmatch(self.address):
            raise ValueError(
                f"an address is 0x and 40 hexadecimal digits in lower case, got {self.address!r}"
            )


@dataclass(frozen=True)
class Log:
    """An event a contract said, for good.

    Args:
        address: Of the contract.
        event: Its name.
        fields: What it says, by name.
        block: In which block.
    """

    address: str
    event: str
    fields: Mapping[str, Any]
    block: int


@dataclass(frozen=True)
class Receipt:
    """A transaction that was carried out.

    Args:
        transaction: Its hash; on an embedded chain, of its line in the file.
        block: Its number.
        time: Of the block, in seconds since 1970.
        gas: What it used; an embedded chain does not say, as its figures are 17 to 52 % low.
        said: Reads what the contract that was called said.
    """

    transaction: str
    block: int
    time: int
    gas: int | None
    said: Callable[[], tuple[Log, ...]] = field(repr=False, compare=False)

    @property
    def logs(self) -> tuple[Log, ...]:
        """Give what the contract that was called said; of others, ask the chain's ``logs``.

        Most never look, and reading is a good part of a transaction's cost: it is done here.
        """
        return self.said()


class Reverted(ValueError):  # noqa: N818
    """A contract refused, and nothing happened.

    Args:
        reason: In its words, the same on every chain: ``round_ledger: out of order``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def nowhere(contract: Contract) -> ValueError:
    """Say that nothing is where a contract should be: on another chain, perhaps."""
    return ValueError(f"there is no {contract.name} at {contract.address}: no contract is there")


def none() -> None:
    """Anchor nowhere: whoever has a log's keys can then rewrite all of it unseen."""


@runtime_checkable
class Chain(Protocol):
    """A chain that runs the lab's contracts."""

    @property
    def chain_id(self) -> int:
        """The number that what is signed for this chain holds, so that no other takes it."""

    def account(self, name: str) -> str:
        """Give the address of the account of this name, which can send."""

    def sign(self, account: str, digest: bytes) -> bytes:
        """Sign 32 bytes as an account of this chain: ``r``, ``s`` (its lower half) and ``v``."""

    def deploy(self, contract: str, *arguments: Any, sender: str) -> Contract:
        """Put one of the lab's contracts on the chain."""

    def send(self, contract: Contract, function: str, *arguments: Any, sender: str) -> Receipt:
        """Have a contract do something, or raise ``Reverted``."""

    def call(self, contract: Contract, function: str, *arguments: Any) -> Any:
        """Ask a contract; a structure comes as a dictionary."""

    def logs(self, contract: Contract, event: str | None = None, *, start: int = 0) -> list[Log]:
        """List what a contract said, from a block on."""

    def now(self) -> int:
        """Give the time of the chain's last block, in seconds since 1970."""

    def advance(self, seconds: int) -> None:
        """Let time pass, where the chain lets one: embedded, or a node for tests."""

    def settle(self) -> None:
        """Wait until what was sent survives a power cut here, or is in a block there."""

    def close(self) -> None:
        """Let go of files and connections."""
