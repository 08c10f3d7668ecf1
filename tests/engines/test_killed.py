"""Whoever is killed, rounds end with the same bits, and nobody is left behind."""

import gc
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from dai_lab.config import load
from dai_lab.core import Compute, Key, State
from dai_lab.engines import crew, workers
from dai_lab.learning import sgd
from dai_lab.models import mlp

SMALL = partial(mlp, hidden=[8])
KEY = Key(3)
HERE = Path(__file__).parent
LIGHT = Compute(method="flat")
"""Needs no compiled code, which every new worker would have to load."""
LONG = 120
"""Seconds after which a process that should have ended counts as left behind."""


@pytest.fixture
def started(monkeypatch):
    """Keep the processes that engines start."""
    found = []

    class Kept(subprocess.Popen):
        def __init__(self, *words, **named):
            super().__init__(*words, **named)
            found.append(self)

    monkeypatch.setattr(crew.subprocess, "Popen", Kept)
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_workers_killed_in_the_middle_of_rounds_change_no_bit(
    processes, task, users_own, both, same, tmp_path
):
    part = partial(users_own.deadly, folder=tmp_path, odds=0.2)
    what = task(SMALL)
    given = (State(what.model.initial), what.model.initial, range(10))
    with workers(part, what, compute=LIGHT, processes=processes) as train:
        for number in range(1, 6):
            key = KEY / number
            plain = sgd(what, *given, key=key, round=number, compute=LIGHT)
            same(plain, train(*given, key=key, round=number))
    assert len(list(tmp_path.iterdir())) >= 5


def test_workers_killed_between_rounds_are_replaced(task, users_own, started):
    what = task(SMALL)
    given = (State(what.model.initial), what.model.initial, range(10))
    plain = sgd(what, *given, key=KEY, round=1, compute=LIGHT)
    with workers(users_own.telling, what, compute=LIGHT, processes=2) as train:
        gone = set()
        for victims in ("one", "all", "first", "everybody"):
            found = train(*given, key=KEY, round=1)
            assert found.rows.equal(plain.rows)
            alive, first, *_ = found.learned["clients/about"].T
            alive = set(alive.tolist())
            assert not alive & gone
            dead = {"one": [min(alive)], "all": alive, "first": [], "everybody": alive}[victims]
            if victims in ("first", "everybody"):
                dead = [*dead, int(first[0])]
            for each in dead:
                os.kill(each, signal.SIGKILL)
            gone |= set(dead)
        assert train(*given, key=KEY, round=1).rows.equal(plain.rows)
    assert len(started) == 2
    assert all(each.returncode is not None for each in started)


def test_clients_that_always_kill_end_the_run_in_one_line(task, users_own):
    what = task(SMALL)
    given = (State(what.model.initial), what.model.initial, range(10))
    part = partial(users_own.lethal, client=3)
    with (
        workers(part, what, compute=LIGHT, processes=2) as train,
        pytest.raises(ChildProcessError, match=r"^engine\.processes: 3 workers .* memory") as bad,
    ):
        train(*given, key=KEY, round=1)
    assert "\n" not in str(bad.value)


def test_workers_that_cannot_start_end_the_run_in_one_line(task, monkeypatch, users_own):
    what = task(SMALL)
    monkeypatch.setattr(crew.sys, "executable", "/bin/false")
    with (
        workers(sgd, what, compute=LIGHT) as train,
        pytest.raises(ChildProcessError, match=r"^engine\.processes: workers die as they start"),
    ):
        train(State(what.model.initial), what.model.initial, (1,), key=KEY, round=1)


def test_ctrl_c_while_workers_start_ends_them(task, monkeypatch, started):
    def interrupted(*words):
        raise KeyboardInterrupt

    what = task(SMALL)
    monkeypatch.setattr(crew.json, "dumps", interrupted)
    with (
        pytest.raises(KeyboardInterrupt),
        workers(sgd, what, compute=LIGHT) as train,
    ):
        train(State(what.model.initial), what.model.initial, (1,), key=KEY, round=1)
    assert [each.returncode for each in started] == [-signal.SIGKILL]


def test_a_module_that_workers_do_not_find_is_named(task, monkeypatch, users_own):
    what = task(users_own.Gated)
    monkeypatch.setattr(crew.sys, "path", [one for one in sys.path if one != str(HERE)])
    with (
        workers(sgd, what, compute=LIGHT) as train,
        pytest.raises(ValueError, match=r"a worker cannot start \(.*No module named 'users_own'\)"),
    ):
        train(State(what.model.initial), what.model.initial, (1,), key=KEY, round=1)


def test_without_fork_and_nameless_memory_rounds_end_with_the_same_bits(
    task, users_own, same, started, tmp_path, monkeypatch
):
    monkeypatch.setattr(crew, "FORKS", False)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    what = task(SMALL)
    given = (State(what.model.initial), what.model.initial, range(10))
    part = partial(users_own.deadly, folder=tmp_path, odds=0.1)
    with workers(part, what, compute=LIGHT, processes=2) as train:
        for number in (1, 2):
            plain = sgd(what, *given, key=KEY / number, round=number, compute=LIGHT)
            same(plain, train(*given, key=KEY / number, round=number))
    died = len(list(tmp_path.iterdir()))
    assert died >= 1
    assert len(started) > 2
    assert sum(each.returncode == -signal.SIGKILL for each in started) == died
    assert all(each.returncode is not None for each in started)


def test_a_run_that_nobody_plays_to_its_end_lets_its_workers_go(started):
    from dai_lab.config import build
    from dai_lab.experiment.simulate import BUILT
    from dai_lab.federation import found, play

    cfg = load("data=digits", "model.hidden=[6]", "federation.clients=4", "engine=workers")
    us = found(
        **{group: build(cfg[group]) for group in BUILT},
        watch={},
        frame="federated",
        **cfg.federation,
        every=1,
        compute=Compute(),
        key=KEY,
    )
    played = play(us, KEY, rounds=9)
    next(played)
    assert [each.returncode is None for each in started] == [True]
    del played
    gc.collect()
    assert [each.returncode is None for each in started] == [False]


ENDLESS = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, users_own
from dai_lab.core import *
from dai_lab.engines import workers
from dai_lab.models import create, mlp

model = create(mlp, shape=(2,), classes=2, key=Key(0))
data = Examples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
task = Task(model, data, Shards.of(list(torch.arange(4).split(1))))
with workers(users_own.endless, task, compute=Compute(), processes=2) as train:
    train(State(model.initial), model.initial, range(4), key=Key(0), round=1)
"""


@pytest.mark.parametrize("how", ["ctrl-c", "ctrl-c to the lab alone", "killed", "and the first"])
def test_nobody_is_left_when_the_lab_ends_in_the_middle_of_a_round(how):
    lab = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(HERE)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Two at work where there are two cores; one was dealt something in any case.
        said = [lab.stderr.readline() for _ in range(min(2, os.cpu_count()))]
        assert all(line.startswith("at work") for line in said), [*said, lab.stderr.read()]
        first = int(said[0].split()[3])
        if how == "ctrl-c":
            os.killpg(lab.pid, signal.SIGINT)
        elif how == "ctrl-c to the lab alone":
            os.kill(lab.pid, signal.SIGINT)
        else:
            if how == "and the first":
                os.kill(first, signal.SIGKILL)
            os.kill(lab.pid, signal.SIGKILL)
        # Whoever lives holds the other end of this pipe.
        _, rest = lab.communicate(timeout=LONG)
    finally:
        if lab.poll() is None:
            lab.kill()
    assert lab.returncode == (-signal.SIGINT if "ctrl-c" in how else -signal.SIGKILL)
    assert rest.count("Traceback") == ("ctrl-c" in how), rest
