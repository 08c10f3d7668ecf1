"""What a user might bring in a module of his own; workers import it by name."""

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dai_lab.core import TooFew, Updates
from dai_lab.learning import sgd


class Gated(nn.Module):
    """No chain: half of the features decide how much of the other half passes."""

    def __init__(self, shape, classes):
        super().__init__()
        self.first = nn.Linear(shape[0], 16)
        self.last = nn.Linear(8, classes)

    def forward(self, inputs):
        open, passing = self.first(inputs).chunk(2, dim=-1)
        return self.last(torch.sigmoid(open) * passing)


def in_turn(task, state, start, cohort, *, key, round, compute, parts):
    """Train by the part that the key names."""
    part = parts[key.path[-1]]
    return part(task, state, start, cohort, key=key, round=round, compute=compute)


def rich(task, state, start, cohort, *, key, round, compute):
    """Return everything local training may return, of many widths and types."""
    clients = torch.tensor(cohort, dtype=torch.long)
    seen = state.recall("clients/seen", cohort, torch.zeros(3, dtype=torch.long))
    common = state.memory.get("server/common", torch.zeros(2, 2, dtype=torch.float64))
    began = start if start.dim() == 2 else start.expand(len(cohort), -1)
    return Updates(
        torch.cat([began + round, state.params.expand(len(cohort), -1)], dim=1),
        task.shards.sizes[clients].float(),
        clients.float() / 3,
        torch.ones(len(cohort)),
        {
            "clients/seen": seen + clients.unsqueeze(1),
            "clients/flags": (clients % 2 == 0).unsqueeze(1),
            "clients/half": torch.ones(len(cohort), 2, dtype=torch.bfloat16),
            "clients/nothing": torch.ones(len(cohort), 0),
        },
        {"server/common": common + 1, "server/nothing": torch.ones(0, 3)},
        up=7,
        down=11,
    )


def deadly(task, state, start, cohort, *, key, round, compute, folder, odds):
    """Train, and at random die of it before anybody hears: each client kills once a round."""
    found = sgd(task, state, start, cohort, key=key, round=round, compute=compute)
    for client in cohort:
        if torch.rand((), generator=(key / "death" / client).stream()) < odds:
            try:
                Path(folder, f"{round}-{client}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
    return found


def lethal(task, state, start, cohort, *, key, round, compute, client):
    """Die whenever this client is trained."""
    if client in cohort:
        os.kill(os.getpid(), signal.SIGKILL)
    return sgd(task, state, start, cohort, key=key, round=round, compute=compute)


def refusing(task, state, start, cohort, *, key, round, compute):
    """Raise what the key names, but train where it names nothing."""
    kinds = {"value": ValueError, "few": TooFew, "key": KeyError, "exit": SystemExit}
    if (word := (key.path or ("",))[-1]) in kinds:
        raise kinds[word](f"local.knob must be {word}")
    return sgd(task, state, start, cohort, key=key, round=round, compute=compute)


def telling(task, state, start, cohort, *, key, round, compute):
    """Say in which surroundings clients are trained."""
    print("a word of the user's")
    first = os.getppid()
    about = [
        os.getpid(),
        first,
        len(os.listdir(f"/proc/{first}/task")),
        torch.get_num_threads(),
        compute.threads,
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "hydra" in sys.modules or "pandas" in sys.modules or "matplotlib" in sys.modules,
    ]
    found = sgd(task, state, start, cohort, key=key, round=round, compute=compute)
    return replace(found, learned={"clients/about": torch.tensor([about] * len(cohort))})


def endless(task, state, start, cohort, *, key, round, compute):
    """Say who is at work, and never finish."""
    print("at work", os.getpid(), os.getppid(), file=sys.stderr, flush=True)
    threading.Event().wait()


class Counted:
    """Local SGD that counts how often it is pickled."""

    pickled = 0

    def __reduce__(self):
        Counted.pickled += 1
        return Counted, ()

    def __call__(self, *words, **named):
        return sgd(*words, **named)
