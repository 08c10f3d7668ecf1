"""Runs in step end as they would alone, whoever else is with them."""

import json
from threading import Event, Thread

import pytest
import torch
from safetensors.torch import load_file

from dai_lab import learning
from dai_lab.config import load
from dai_lab.core import Compute, Examples, Key, Shards, State, Task, Updates
from dai_lab.engines import abreast as room
from dai_lab.experiment import simulate, simulate_together, together
from dai_lab.experiment.simulate import placed
from dai_lab.models.view import flat

SMALL = ("data=digits", "federation.clients=6", "model.hidden=[5]", "rounds=3")
LIES = ("attack=sign_flip", "federation.hostile=2", "aggregator=median")
POISON = ("poison=label_flip", "federation.hostile=2")
FILES = ("records.jsonl", "summary.json", "checkpoint.safetensors")
STEPS = ("local=distributed_sgd", "local.momentum=0.9", "local.weight_decay=0.01")


@pytest.fixture
def trained(monkeypatch):
    """Count the clients of every call of local training."""
    seen = []
    for name in ("sgd", "distributed_sgd"):
        original = getattr(learning, name)

        def counted(task, state, start, cohort, *, original=original, **knobs):
            seen.append(len(cohort))
            return original(task, state, start, cohort, **knobs)

        # Knobs are checked against the function that is named, and its annotations.
        counted.__wrapped__, counted.__module__ = original, original.__module__
        counted.__qualname__ = counted.__name__ = name
        monkeypatch.setattr(learning, name, counted)
    return seen


def both(tmp_path, words, *, abreast):
    """Play runs in step, and each alone."""
    step = [load(*SMALL, *one, f"results={tmp_path / 'step'}") for one in words]
    ends = simulate_together(step, abreast=abreast, progress=False)
    alone = [load(*SMALL, *one, f"results={tmp_path / 'alone'}") for one in words]
    return ends, [simulate(cfg, progress=False) for cfg in alone]


def test_seeds_attacks_and_data_dealt_otherwise_end_in_the_same_bytes(tmp_path, trained):
    others = [("cohort.fraction=0.5",), ("partition=dirichlet",), LIES]
    words = [("seed=0",), ("seed=1",), *[("seed=2", *one) for one in others]]
    ends, alone = both(tmp_path, words, abreast=8)
    for one, other in zip(ends, alone, strict=True):
        for file in FILES:
            assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()
    assert trained[:3] == [6 + 6 + 3 + 6 + 6] * 3


@pytest.mark.parametrize("steps", [(), STEPS], ids=["sgd", "distributed_sgd"])
def test_stacked_clients_end_where_they_would_alone(tmp_path, steps, trained):
    method = ("compute.method=vmap", "compute.group=64", *steps)
    words = [(*method, "seed=0"), (*method, "seed=1", *LIES), (*method, "seed=2", "local.clip=1.0")]
    ends, alone = both(tmp_path, words, abreast=3)
    assert trained[:3] == [12] * 3  # one clips its gradients, and trains apart
    for one, other in zip(ends, alone, strict=True):
        mine, theirs = (load_file(run.folder / "checkpoint.safetensors") for run in (one, other))
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6)


def test_no_more_than_asked_go_in_step(tmp_path, trained):
    words = [(f"seed={seed}",) for seed in range(5)]
    ends, alone = both(tmp_path, words, abreast=2)
    assert trained[:9] == [12] * 6 + [6] * 3
    assert [one.summary for one in ends] == [one.summary for one in alone]


def test_nobody_waits_for_runs_that_fail_end_early_or_hold_other_examples(tmp_path, trained):
    words = [
        ("seed=0",),
        ("seed=1", "rounds=1"),
        ("seed=2", "attack=sign_flip", "federation.hostile=7"),
        ("seed=3", *POISON, "federation.renew=1"),
        ("seed=4", "cohort=poisson", "cohort.rate=0.05"),
        ("seed=5",),
    ]
    cfgs = [load(*SMALL, *one, f"results={tmp_path}") for one in words]
    first, short, bad, spoiled, rare, last = simulate_together(cfgs, abreast=8, progress=False)
    assert "federation.hostile" in str(bad)
    assert [one.summary["rounds"] for one in (first, short, spoiled, rare, last)] == [3, 1, 3, 3, 3]
    assert max(trained) >= 18
    again = simulate_together(cfgs, abreast=8, progress=False)
    assert [getattr(one, "skipped", None) for one in again] == [True, True, None, True, True, True]


def test_runs_that_skip_rounds_meet_again(tmp_path, trained):
    words = [
        (f"seed={seed}", "cohort=poisson", "cohort.rate=0.3", "rounds=12") for seed in range(4)
    ]
    ends, alone = both(tmp_path, words, abreast=4)
    assert [one.summary for one in ends] == [one.summary for one in alone]
    calls = sum(
        bool(json.loads(line)["cohort"])
        for one in ends
        for line in (one.folder / "records.jsonl").read_text().splitlines()
    )
    assert len(trained) - calls < calls / 2  # the first were in step, as many again were alone


def test_a_run_begun_otherwise_goes_on_as_it_began(tmp_path):
    words = [(f"seed={seed}",) for seed in range(3)]
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        begun = load(*SMALL, "seed=0", "compute.method=flat", f"results={tmp_path / 'step'}")
        placed(begun, progress=False, stop=stop)
    ends, alone = both(tmp_path, words, abreast=3)
    for one, other in zip(ends[1:], alone[1:], strict=True):
        assert one.summary == other.summary
    about = [json.loads((one.folder / "environment.json").read_text())["compute"] for one in ends]
    assert [one["method"] for one in about] == ["flat", "compiled", "compiled"]
    assert [one["in_step"] for one in about] == [True] * 3


def test_the_same_run_twice_is_played_once(tmp_path):
    cfgs = [load(*SMALL, f"seed={seed}", f"results={tmp_path}") for seed in (0, 1, 0)]
    ends = simulate_together(cfgs, abreast=3, progress=False)
    assert [one.skipped for one in ends] == [False, False, True]


def test_what_a_network_does_not_learn_is_its_own():
    def network(fixed):
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        module.register_buffer("scale", torch.tensor(fixed))
        return flat(module, classes=2)

    data = Examples(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    same = room.Ground(data, network(1.0), Compute())
    assert room._same(same, room.Ground(data, network(1.0), Compute()))
    assert not room._same(same, room.Ground(data, network(2.0), Compute()))
    assert not room._same(same, room.Ground(data, network(1.0), Compute(method="flat")))


def test_who_waits_for_a_run_that_never_comes_goes_on_alone():
    def local(task, state, start, cohort, **knobs):
        return Updates(torch.zeros(1, 8), torch.ones(1), torch.zeros(1), torch.ones(1))

    data = Examples(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    model = flat(torch.nn.Linear(3, 2), classes=2)
    task = Task(model, data, Shards.of([torch.arange(4)]))
    club, found = room.Abreast(2), []

    def play():
        with club.engine(0)(local, task, compute=Compute()) as train:
            state = State(model.initial)
            found.append(train(state, model.initial, (0,), key=Key(0), round=1))

    thread = Thread(target=play)
    thread.start()
    while not club._waiting:
        assert thread.is_alive()
    club.end()
    thread.join(60)
    assert len(found) == 1 and found[0].rows.shape == (1, 8)


@pytest.mark.parametrize("where", ["sgd", "_part", "edges"])
def test_an_error_of_one_is_not_the_others(tmp_path, monkeypatch, where):
    def fails(*_):
        raise RuntimeError("out of memory")

    if where == "_part":
        monkeypatch.setattr(room, "_part", fails)
    if where == "edges":
        monkeypatch.setattr(room, "pairwise", fails)
    original = learning.sgd

    def sgd(task, state, start, cohort, **knobs):
        if len(cohort) > 6 and where == "sgd":
            raise RuntimeError("out of memory")
        return original(task, state, start, cohort, **knobs)

    sgd.__wrapped__, sgd.__module__ = original, original.__module__
    monkeypatch.setattr(learning, "sgd", sgd)
    with pytest.warns(UserWarning, match="2 runs train alone.*out of memory.*fewer abreast"):
        ends, alone = both(tmp_path, [("seed=0",), ("seed=1",)], abreast=2)
    assert [one.summary for one in ends] == [one.summary for one in alone]


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ([], [[0, 1, 2]]),
        (["local.rate=0.2"], [[0, 1]]),
        (["ledger=local"], [[0, 1]]),
        (["engine=workers"], [[0, 1]]),
        (["tracker=wandb"], [[0, 1]]),
        (["+algorithm=scaffold"], [[0, 1]]),
        (["attack=ipm", "federation.hostile=1", "aggregator=krum"], [[0, 1, 2]]),
    ],
)
def test_runs_are_in_step_only_where_they_train_alike(words, groups):
    cfgs = [load(*SMALL, "seed=0"), load(*SMALL, "seed=1"), load(*SMALL, *words, "seed=2")]
    assert together._in_step(cfgs, 8) == groups
    assert together._in_step([{}], 8) == []


def test_less_than_one_run_abreast_is_refused():
    with pytest.raises(ValueError, match="abreast must be 1"):
        simulate_together([], abreast=0)
