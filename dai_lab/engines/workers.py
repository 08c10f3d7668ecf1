"""All cores of a machine: worker processes, one thread each, that share their memory.

Data, model and local training go over once, before the first round. After that nothing is pickled:
a command names where in shared memory the state and the cohort lie, a reply where the updates do.
Clients are dealt in chunks, longest first, to whoever is free. By ``flat``, ``chain`` and
``compiled`` a client's row does not depend on its company, so the bits are those of ``local`` with
one thread, whatever the number of workers. By ``vmap``, and where ``distributed_sgd`` computes for
many clients at once, they are the same up to rounding (a test holds 1e-6), and the same bits for
the same ``processes``.
"""

from __future__ import annotations

import math
import os
import selectors
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dai_lab.core import (
    Compute,
    Event,
    Key,
    LocalTraining,
    Rows,
    State,
    Task,
    TooFew,
    Training,
    Updates,
    Vector,
)
from dai_lab.engines.crew import Crew, Worker

DEATHS = 3
"""Workers that a chunk may cost before it, and not bad luck, is to blame."""

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux tells a container its share of processor time."""

ELSEWHERE = ("flying/", "federation/", "local/params")
"""Memories that local training does not look at."""


@contextmanager
def workers(
    local: LocalTraining, task: Task, *, compute: Compute, processes: int = 0
) -> Iterator[Training]:
    """Train the cohort in worker processes, one thread each.

    Args:
        local: What clients do; it and the model must come from modules, not from a script.
        task: What they learn, and who holds which examples.
        compute: How gradients are computed, on the CPU; its threads are 1 in every worker.
        processes: Workers, at most one for each core; 0 takes one for each core.

    Raises:
        ValueError: A knob is out of range, or this machine or device cannot do it.
        ChildProcessError: Workers keep dying, as they do where memory is short.
    """
    if processes < 0:
        raise ValueError(f"engine.processes must be 0 or more, got {processes}")
    if sys.platform == "win32":
        raise ValueError("engine=workers needs Linux or macOS: use engine=local")
    if compute.device != "cpu":
        raise ValueError(
            f"engine=workers computes on the CPU, not on {compute.device}: use engine=local"
        )
    hands = min(processes, cores()) or cores()
    with closing(Crew(local, task, replace(compute, threads=1))) as crew:

        def train(
            state: State, start: Vector | Rows, cohort: Sequence[int], *, key: Key, round: int
        ) -> Updates:
            sizes = task.shards.sizes[list(cohort)].tolist()
            chunks = deal(sizes, hands)
            clients = torch.tensor(list(cohort), dtype=torch.long)
            order = torch.tensor(list(chain.from_iterable(chunks)), dtype=torch.long)
            orders = {"start": start, "cohort": clients, "order": order}
            if start is not state.params:
                orders["params"] = state.params
            orders |= {f"memory/{name}": one for name, one in known(state, clients).items()}
            command = {
                "orders": crew.orders.write(orders),
                "key": [key.seed, *key.path],
                "round": round,
            }
            try:
                return carried_out(crew, command, chunks, hands)
            except BaseException:
                crew.dismiss()  # whoever is still at work would answer the wrong question
                raise

        yield train


def cores() -> int:
    """Count the cores this process may use, a container's share included."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if QUOTA.exists():
        allowed, period = QUOTA.read_text().split()
        if allowed != "max":
            return max(1, min(mine or 1, math.ceil(int(allowed) / int(period))))
    return mine or 1


def deal(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Cut a cohort into chunks, longest clients first, of less and less work.

    Large chunks first cost little, small ones at the end let all hands finish together.

    Args:
        sizes: Examples each client of the cohort holds.
        hands: Workers that will take chunks.
    """
    order = sorted(range(len(sizes)), key=lambda at: -sizes[at])
    left = sum(sizes) + len(sizes)  # who holds nothing costs a little, too
    least = left / (5 * hands)
    chunks: list[list[int]] = [[]]
    held = 0
    for at in order:
        work = sizes[at] + 1
        if chunks[-1] and held + work / 2 > max(left / (1.5 * hands), least):
            left -= held
            held = 0
            chunks.append([])
        chunks[-1].append(at)
        held += work
    return [sorted(chunk) for chunk in chunks]


def known(state: State, clients: Tensor) -> Mapping[str, Tensor]:
    """Give the memories that these clients, or all, may look at."""
    memory = {name: one for name, one in state.memory.items() if not name.startswith(ELSEWHERE)}
    for name in [one for one in memory if f"{one}/of" in memory]:
        asked = torch.isin(memory[f"{name}/of"], clients)
        if bool(asked.any()):
            memory |= {each: memory[each][asked] for each in (name, f"{name}/of")}
        else:
            del memory[name], memory[f"{name}/of"]
    return memory


def carried_out(
    crew: Crew, command: Mapping[str, Any], chunks: Sequence[Sequence[int]], hands: int
) -> Updates:
    """Have every chunk trained, by whoever is free, and put the updates together."""
    ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0).tolist()
    waiting = deque(range(len(chunks)))
    deaths = [0] * len(chunks)
    busy: dict[Worker, int] = {}
    whole: dict[str, Any] = {}
    with selectors.DefaultSelector() as ears:
        while waiting or busy:
            while waiting and len(busy) < hands:
                free = next((one for one in crew.workers if one not in busy), None) or crew.hire()
                at = waiting.popleft()
                busy[free] = at
                ears.register(free.line, selectors.EVENT_READ, free)
                # Whoever was killed in the meantime is heard of like one who is killed at work.
                free.tell({**command, "first": ends[at] - len(chunks[at]), "end": ends[at]})
            for event, _ in ears.select():
                worker: Worker = event.data
                ears.unregister(worker.line)
                at = busy.pop(worker)
                reply = worker.hear()
                if reply is not None:
                    add(whole, answered(worker, reply), chunks[at], ends[-1])
                    continue
                crew.lose(worker)
                waiting.appendleft(at)
                deaths[at] += 1
                if deaths[at] == DEATHS:
                    raise ChildProcessError(
                        f"engine.processes: {DEATHS} workers were killed at the same clients "
                        f"(out of memory?); {hands} work side by side, try fewer"
                    )
    fields = {name: one for name, one in whole.items() if "/" not in name}
    for kind in ("learned", "memory"):
        fields[kind] = {
            name.partition("/")[2]: one
            for name, one in whole.items()
            if name.startswith(f"{kind}/")
        }
    return Updates(**fields)


def answered(worker: Worker, reply: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a worker found.

    Raises:
        ValueError: The user's mistake, as the worker met it.
        RuntimeError: Any other error.
    """
    if "error" in reply:
        kinds: dict[str | None, type[ValueError]] = {"TooFew": TooFew, "ValueError": ValueError}
        if kind := kinds.get(reply["error"]):
            raise kind(reply["message"])
        raise RuntimeError(f"engine=workers: a worker failed\n{reply['traceback']}")
    found = worker.answers.read(reply["places"])
    events = [
        tuple(Event(**{**one, "numbers": tuple(one["numbers"])}) for one in of)
        for of in reply["events"]
    ]
    return {**found, "up": reply["up"], "down": reply["down"], "events": events}


def add(whole: dict[str, Any], found: Mapping[str, Any], chunk: Sequence[int], cohort: int) -> None:
    """Put a chunk's updates in their places, before its worker writes others over them."""
    span = range(chunk[0], chunk[-1] + 1) if chunk else range(0)
    # A slice is copied several times as fast as a list of places.
    where = slice(span.start, span.stop) if len(span) == len(chunk) else list(chunk)
    for name, one in found.items():
        if name == "events":
            placed = whole.setdefault(name, [()] * cohort if one else [])
            for at, of in zip(chunk, one, strict=False):
                placed[at] = of
        elif not isinstance(one, Tensor):
            whole[name] = one
        elif name.startswith("memory/"):
            whole[name] = one.clone()
        else:
            if name not in whole:
                whole[name] = one.new_empty((cohort, *one.shape[1:]))
            whole[name][where] = one
