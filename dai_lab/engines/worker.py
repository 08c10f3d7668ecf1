"""The other side of ``engine=workers``: processes that train what they are dealt.

The lab starts one first process. It imports torch and the user's modules once, and a copy of it
(``fork``) becomes a worker whenever one is wanted: a replacement is there in milliseconds, and what
was imported is in memory once. A worker is done when its line is cut: whoever holds the other end
has ended it, or is dead.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import torch

from dai_lab.core import Compute, Key, LocalTraining, State, Task, TooFew
from dai_lab.engines.arena import Arena, Places
from dai_lab.engines.parcel import unpack


@dataclass(frozen=True)
class Trade:
    """What a worker knows for life."""

    local: LocalTraining
    task: Task
    compute: Compute
    orders: Arena
    """Where each round's state and cohort lie."""


def main(line: int, parcel: int, orders: int, forks: bool) -> None:
    """Be the first process: learn the trade, then turn into workers.

    Args:
        line: Descriptor of the socket on which workers are wanted, one message each.
        parcel: Of the memory that holds what :func:`dai_lab.engines.parcel.pack` wrote.
        orders: Of the memory where each round's state and cohort will be written.
        forks: Whether copies of this process become workers, or it does itself, once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the lab's to answer
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # what user code prints must not mix with the lab's output
    torch.set_num_threads(1)
    wanted = socket.socket(fileno=line)
    said = ""
    with contextlib.suppress(OSError), wanted.makefile("r") as heard:
        said = heard.readline()
    if not said:
        return
    places: Places = json.loads(said)
    try:
        local, task, compute = unpack(Arena(parcel, private=True), places)
    except BaseException as error:
        reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        with contextlib.suppress(OSError):
            wanted.sendall(json.dumps(reply).encode() + b"\n")
        return
    trade = Trade(local, task, compute, Arena(orders))
    gc.freeze()  # so that collecting garbage does not copy what is shared
    children: set[int] = set()
    for descriptors in requests(wanted):
        while children and (ended := os.waitpid(-1, os.WNOHANG)[0]):
            children.discard(ended)
        if not forks or not (child := os.fork()):
            wanted.close()
            serve(trade, *descriptors)
        children.add(child)
        for each in descriptors:
            os.close(each)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def requests(wanted: socket.socket) -> Iterator[list[int]]:
    """Say that all is learned, and give the descriptors of each worker that is wanted."""
    with contextlib.suppress(OSError):
        wanted.sendall(b"{}\n")
        while (message := socket.recv_fds(wanted, 1, 2))[0]:
            yield message[1]


def serve(trade: Trade, line: int, answers: int) -> NoReturn:
    """Be a worker: train what is dealt until the line is cut.

    Args:
        trade: What to do with it.
        line: Descriptor of the socket for commands and replies.
        answers: Of the memory where updates are written.
    """
    torch.set_num_threads(1)
    dealer, arena = socket.socket(fileno=line), Arena(answers)
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def hear() -> None:
        try:
            with dealer.makefile("r") as heard:
                for each in heard:
                    commands.put(json.loads(each))
        finally:
            os._exit(0)  # even in the middle of training

    threading.Thread(target=hear, daemon=True).start()
    while True:
        command = commands.get()
        try:
            reply = trained(trade, command, arena)
        except BaseException as error:
            kinds = (TooFew, ValueError)
            kind = next((each.__name__ for each in kinds if isinstance(error, each)), None)
            reply = {"error": kind, "message": str(error), "traceback": traceback.format_exc()}
        try:
            dealer.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            os._exit(0)


def trained(trade: Trade, command: dict[str, Any], arena: Arena) -> dict[str, Any]:
    """Train a chunk of the cohort, leave the updates in ``arena``, and say where they lie."""
    orders = trade.orders.read(command["orders"])
    start = orders["start"]
    where = orders["order"][command["first"] : command["end"]]
    memory = {
        name.removeprefix("memory/"): one
        for name, one in orders.items()
        if name.startswith("memory/")
    }
    seed, *path = command["key"]
    found = trade.local(
        trade.task,
        State(orders.get("params", start), memory),
        start if start.dim() == 1 else start[where],
        orders["cohort"][where].tolist(),
        key=Key(seed, tuple(path)),
        round=command["round"],
        compute=trade.compute,
    )
    tensors = {"rows": found.rows, "weights": found.weights, "losses": found.losses}
    tensors |= {"looks": found.looks}
    tensors |= {f"learned/{name}": one for name, one in found.learned.items()}
    if command["first"] == 0:  # what is nobody's own is the same from everyone
        tensors |= {f"memory/{name}": one for name, one in found.memory.items()}
    events = [[asdict(event) for event in of] for of in found.events]
    return {"places": arena.write(tensors), "up": found.up, "down": found.down, "events": events}
