"""Worker processes compute what one process does, to the bit where a row is its client's own."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from dai_lab.config import build, conf_dir, load
from dai_lab.core import Compute, Key, State, TooFew
from dai_lab.engines import crew, workers
from dai_lab.engines.workers import cores, known
from dai_lab.experiment import simulate
from dai_lab.federation.stages import learn
from dai_lab.learning import sgd
from dai_lab.models import mlp, small_cnn

SMALL = partial(mlp, hidden=[8])
KEY = Key(3)
LOCALS = sorted(one.stem for one in Path(conf_dir(), "local").glob("*.yaml"))


def parts():
    """Build every local training there is, with its own defaults and three steps a client."""
    found = {}
    for name in LOCALS:
        cfg = load(f"local={name}", "local.batch_size=8")
        found[name] = build(cfg.local, at="local")
    return found


@pytest.mark.parametrize("method", ["compiled", "chain", "flat"])
def test_every_local_training_gives_the_bits_of_one_process(method, task, users_own, both, same):
    with both(partial(users_own.in_turn, parts=parts()), task(SMALL), method=method) as ask:
        for name in LOCALS:
            state = State(ask.what.model.initial)
            for number in (1, 2, 3):
                cohort = [c for c in range(10) if (c + number) % 3]
                key = KEY / number / name
                one, other = ask(state, cohort=cohort, key=key, round=number)
                if name == "distributed_sgd" and method != "flat":
                    # One matrix product for all clients of a chunk: rows depend on company.
                    torch.testing.assert_close(other.rows, one.rows, rtol=0, atol=1e-6)
                else:
                    same(one, other)
                state = learn(state, cohort, one)


def test_a_convolutional_network_gives_the_bits_of_one_process(task, both, same):
    what = task(small_cnn, shape=(1, 12, 12))
    with both(partial(sgd, batch_size=8, momentum=0.5), what) as ask:
        same(*ask())


def test_a_network_of_the_users_gives_the_bits_of_one_process(task, users_own, both, same):
    with both(partial(sgd, batch_size=8), task(users_own.Gated)) as ask:
        same(*ask())


def test_stacked_clients_are_the_same_up_to_rounding(task, both):
    with both(partial(sgd, batch_size=8), task(SMALL), method="vmap") as ask:
        one, other = ask()
    torch.testing.assert_close(other.rows, one.rows, rtol=0, atol=1e-6)


def test_everything_local_training_may_return_comes_back(task, users_own, both, same):
    with both(users_own.rich, task(SMALL)) as ask:
        state = State(ask.what.model.initial).remember({"server/common": torch.eye(2).double()})
        for number, cohort in enumerate([(1, 3, 4), (0, 3, 9), (), (2,), range(10)], 1):
            own = torch.randn(len(cohort), ask.what.model.params, generator=KEY.stream())
            one, other = ask(state, own, cohort, round=number)
            same(one, other)
            state = learn(state, tuple(cohort), one)


def test_a_worker_sees_only_the_memories_of_the_cohort_and_of_nobody(task):
    what = task(SMALL)
    state = State(what.model.initial)
    state = state.remember(state.keep("clients/momentum", (0, 2, 5), torch.ones(3, 4)))
    state = state.remember(state.keep("clients/strange", (7,), torch.ones(1, 4)))
    names = ("flying/rows", "federation/flops", "local/params", "server/momentum")
    state = state.remember({name: torch.ones(1) for name in names})
    found = known(state, torch.tensor([2, 3]))
    assert sorted(found) == ["clients/momentum", "clients/momentum/of", "server/momentum"]
    assert found["clients/momentum/of"].tolist() == [2]


def test_poisson_cohorts_and_nobody_at_all_are_played(task, both, same):
    with both(partial(sgd, batch_size=8), task(SMALL)) as ask:
        for cohort in [(), (1,), (3, 9), (), tuple(range(10)), (1, 3)]:
            same(*ask(cohort=cohort))


@pytest.mark.parametrize(
    "choices",
    [
        ("local=distributed_sgd", "compute.method=flat"),
        ("cohort=poisson", "cohort.rate=0.3", "frame=local_only"),
        ("frame=centralized",),
    ],
    ids=" ".join,
)
def test_a_run_leaves_the_same_files_by_workers_and_by_one_process(choices, tmp_path):
    overrides = ("data=digits", "model.hidden=[6]", "federation.clients=8", "rounds=3", *choices)
    for engine in ("local", "workers"):
        simulate(load(*overrides, f"engine={engine}"), tmp_path / engine, progress=False)
    for file in ("records.jsonl", "checkpoint.safetensors"):
        assert (tmp_path / "local" / file).read_bytes() == (
            tmp_path / "workers" / file
        ).read_bytes()


def test_what_is_small_is_told_and_nothing_is_pickled_after_the_start(
    task, users_own, both, same, monkeypatch
):
    told = []
    tell = crew.Worker.tell
    monkeypatch.setattr(
        crew.Worker, "tell", lambda self, command: told.append(str(command)) or tell(self, command)
    )
    users_own.Counted.pickled = 0
    with both(users_own.Counted(), task(SMALL)) as ask:
        for number in (1, 2, 3):
            same(*ask(round=number))
    assert users_own.Counted.pickled == 1
    assert len(told) >= 6
    assert max(map(len, told)) < 1000


def test_a_worker_has_one_thread_and_no_ear_for_ctrl_c(task, users_own, capfd):
    what = task(SMALL)
    with workers(users_own.telling, what, compute=Compute(threads=2), processes=2) as train:
        found = train(State(what.model.initial), what.model.initial, range(10), key=KEY, round=1)
    threads, torchs, computes, deaf, heavy = found.learned["clients/about"][:, 2:].T.tolist()
    assert set(threads) == {1}  # of the process that is copied
    assert set(torchs) == set(computes) == {1}
    assert all(deaf)
    assert not any(heavy)
    out, err = capfd.readouterr()
    assert "a word of the user's" in err
    assert not out


def test_nothing_starts_before_the_first_round(task, monkeypatch):
    monkeypatch.setattr(crew.subprocess, "Popen", None)
    with workers(sgd, task(SMALL), compute=Compute()):
        pass


def test_an_error_in_a_worker_reaches_the_user_and_work_goes_on(task, users_own):
    what, light = task(SMALL), Compute(method="flat")
    kinds = {
        "value": (ValueError, r"^local\.knob must be value$"),
        "few": (TooFew, r"^local\.knob must be few$"),
        "key": (RuntimeError, r"a worker failed\n(?s:.)*users_own(?s:.)*KeyError"),
        "exit": (RuntimeError, r"a worker failed\n(?s:.)*SystemExit"),
    }
    given = (State(what.model.initial), what.model.initial, range(10))
    plain = sgd(what, *given, key=KEY, round=1, compute=light)
    with workers(users_own.refusing, what, compute=light, processes=2) as train:
        for word, (kind, match) in kinds.items():
            with pytest.raises(kind, match=match) as caught:
                train(*given, key=KEY / word, round=1)
            assert type(caught.value) is kind
            assert train(*given, key=KEY, round=1).rows.equal(plain.rows)


@pytest.mark.parametrize(
    ("knobs", "compute", "match"),
    [
        ({"processes": -1}, Compute(), r"engine\.processes must be 0 or more, got -1"),
        ({}, Compute(device="cuda:1"), "on the CPU, not on cuda:1: use engine=local"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, compute, match, task):
    with (
        pytest.raises(ValueError, match=match),
        workers(sgd, task(SMALL), compute=compute, **knobs),
    ):
        pass


def test_windows_is_told_what_to_use_instead(task, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with (
        pytest.raises(ValueError, match="engine=workers needs Linux or macOS"),
        workers(sgd, task(SMALL), compute=Compute()),
    ):
        pass


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_container_gets_as_many_workers_as_its_share(quota, expected, tmp_path, monkeypatch):
    place = tmp_path / "cpu.max"
    place.write_text(quota)
    monkeypatch.setattr(sys.modules["dai_lab.engines.workers"], "QUOTA", place)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cores() == expected
