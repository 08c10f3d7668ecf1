"""The contracts as they were compiled: what they take, say and are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dai_lab.chain.abi import Codec, Malformed, codec, joined, type_name
from dai_lab.chain.port import Log, Reverted


@dataclass(frozen=True)
class Function:
    """What a contract can be asked or told.

    Args:
        name: ``round_ledger.commit_round``, as errors have it.
        selector: The four bytes calls begin with; none at a constructor.
        inputs: The names of its arguments.
        arguments: How these are written.
        output: How the answer is read; ``fields`` names the parts where it is a structure.
        fields: Empty where it is not.
        asks: It changes nothing.
    """

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    arguments: Codec
    output: Codec
    fields: tuple[str, ...]
    asks: bool

    def encode(self, given: Sequence[Any]) -> bytes:
        """Write a call.

        Raises:
            ValueError: An argument too many or too few, or one that its type does not have.
        """
        try:
            return self.selector + self.arguments.encode(given)
        except Malformed as problem:
            raise Malformed(f"{self.name}({', '.join(self.inputs)}): {problem}") from None

    def decode(self, data: bytes) -> Any:
        """Read an answer: a value, a dictionary, or nothing."""
        found = self.output.decode(data, 0)
        if not found:
            return None
        return dict(zip(self.fields, found[0], strict=True)) if self.fields else found[0]


@dataclass(frozen=True)
class Event:
    """What a contract can say."""

    name: str
    topics: tuple[tuple[str, Codec], ...]
    others: tuple[str, ...]
    data: Codec

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Read one that was said: its topics after the first, and its data."""
        read = {
            name: kind.decode(topic, 0)
            for (name, kind), topic in zip(self.topics, topics, strict=True)
        }
        return read | dict(zip(self.others, self.data.decode(data, 0), strict=True))


@dataclass(frozen=True)
class Artifact:
    """A compiled contract."""

    name: str
    bytecode: bytes
    constructor: Function
    functions: dict[str, Function]
    events: dict[bytes, Event]
    topics: dict[str, bytes]
    abi: tuple[dict[str, Any], ...]

    def function(self, name: str, *, asks: bool) -> Function:
        """Find a function by its name.

        Raises:
            ValueError: There is none, or ``call`` and ``send`` are taken for each other.
        """
        found = self.functions.get(name)
        if found is None:
            raise ValueError(
                f"{self.name} has no function {name!r}: one of {', '.join(self.functions)}"
            )
        if found.asks != asks:
            raise ValueError(
                f"{found.name} changes nothing: call it"
                if found.asks
                else f"{found.name} changes the chain: send it"
            )
        return found

    def topic(self, event: str | None) -> bytes | None:
        """Find what an event begins with.

        Raises:
            ValueError: There is no such event.
        """
        if event is not None and event not in self.topics:
            raise ValueError(f"{self.name} has no event {event!r}: one of {', '.join(self.topics)}")
        return self.topics[event] if event else None

    def read(self, address: str, topics: Sequence[bytes], data: bytes, block: int) -> Log:
        """Read something the contract said.

        Raises:
            ValueError: It never says such a thing, so another contract is at this address.
        """
        event = self.events.get(topics[0]) if topics else None
        if event is None:
            raise ValueError(f"what is at {address} said what no {self.name} says")
        return Log(address, event.name, event.decode(topics[1:], data), block)


def function_of(contract: str, entry: dict[str, Any], selectors: dict[str, str]) -> Function:
    """Read a function, or the constructor, from an interface."""
    name = entry.get("name", "deploy")
    outputs = entry.get("outputs", [])
    parts = outputs[0].get("components", []) if len(outputs) == 1 else []
    return Function(
        f"{contract}.{name}",
        bytes.fromhex(selectors[name][2:].rjust(8, "0")) if name in selectors else b"",
        tuple(one["name"] for one in entry.get("inputs", [])),
        joined([codec(type_name(one)) for one in entry.get("inputs", [])]),
        joined([codec(type_name(one)) for one in outputs]),
        tuple(one["name"] for one in parts if outputs[0]["type"] == "tuple"),
        entry.get("stateMutability") in {"view", "pure"},
    )


def event_of(entry: dict[str, Any]) -> Event:
    """Read an event from an interface."""
    inputs = entry["inputs"]
    others = [one for one in inputs if not one["indexed"]]
    return Event(
        entry["name"],
        tuple((one["name"], codec(type_name(one))) for one in inputs if one["indexed"]),
        tuple(one["name"] for one in others),
        joined([codec(type_name(one)) for one in others]),
    )


@cache
def artifact(name: str) -> Artifact:
    """Read a compiled contract by its name.

    Raises:
        ValueError: There is no such contract.
    """
    folder = Path(__file__).parent / "artifacts"
    names = sorted(one.stem for one in folder.glob("*.json"))
    if name not in names:
        raise ValueError(f"there is no contract {name!r}: one of {', '.join(names)}")
    made = json.loads((folder / f"{name}.json").read_text())
    entries = {
        kind: [one for one in made["abi"] if one["type"] == kind]
        for kind in ("constructor", "function", "event")
    }
    selectors, topics = made["selectors"], made["topics"]
    (constructor,) = entries["constructor"] or [{}]
    return Artifact(
        name,
        bytes.fromhex(made["bytecode"][2:]),
        function_of(name, constructor, {}),
        {one["name"]: function_of(name, one, selectors) for one in entries["function"]},
        {bytes.fromhex(topics[one["name"]][2:]): event_of(one) for one in entries["event"]},
        {one: bytes.fromhex(topic[2:]) for one, topic in topics.items()},
        tuple(made["abi"]),
    )


ERROR = bytes.fromhex("08c379a0")


def reverted(name: str, output: bytes) -> Reverted:
    """Turn what a contract gave back as it refused into an error with its reason.

    Args:
        name: Of the function, for where a contract gives none: a number that overflows, or
            arguments longer than it takes.
        output: What it gave back.
    """
    try:
        if output[:4] == ERROR:
            return Reverted(codec("(string)").decode(output[4:], 0)[0])
    except Malformed:
        pass
    return Reverted(f"{name}: no reason given")
