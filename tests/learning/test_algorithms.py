"""What the algorithms' clients send and keep, what is left alone, and knobs that are refused."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch

from dai_lab.config import build, conf_dir, load
from dai_lab.core import Compute, Examples, Key, Sensitive, Shards, State, Task
from dai_lab.experiment import simulate
from dai_lab.federation.stages import learn
from dai_lab.learning import (
    adagrad,
    adam,
    best_cluster,
    body,
    ditto,
    fedavg,
    feddyn,
    feddyn_server,
    fednova,
    fednova_server,
    fedper,
    fedrep,
    fine_tuned,
    ifca,
    ifca_server,
    own_head,
    pfedme,
    remembered,
    scaffold,
    scaffold_server,
)
from dai_lab.models import create, mlp, small_cnn

KEY = Key(3)
SIZES = (7, 0, 33, 1, 12)
METHODS = ["flat", "vmap", "chain", "compiled"]
LOCALS = sorted(one.stem for one in Path(conf_dir()).glob("local/*.yaml"))
CUT = 6 * 8 + 8
SMALL = partial(mlp, hidden=[8])


@cache
def task(sizes=SIZES, make=SMALL, shape=(6,)):
    stream, count = KEY.stream(), sum(sizes)
    inputs = torch.randn(count, *shape, generator=stream)
    targets = torch.randint(3, (count,), generator=stream)
    dealt = torch.randperm(count, generator=stream).split(sizes)
    model = create(make, shape=shape, classes=3, key=KEY / "model")
    shards = Shards.of(list(dealt))
    return Task(model, Examples(inputs, targets), shards, Sensitive(("class",), (3,)))


@cache
def part(name):
    """A local training as its YAML has it, on batches small enough for several steps."""
    return partial(build(load(f"local={name}").local), batch_size=5)


def ask(what, train, state=None, cohort=None, *, method="auto", number=1, **knobs):
    state = State(what.model.initial) if state is None else state
    cohort = range(len(what.shards)) if cohort is None else cohort
    return train(
        what, state, state.params, cohort, key=KEY / number, round=number,
        compute=Compute(method=method), **knobs,
    )  # fmt: skip


def second(what, train):
    """A state in which everyone remembers a first round."""
    state = State(what.model.initial)
    found = ask(what, train, state)
    return learn(state, range(len(what.shards)), found).remember(
        {"server/control": 0.1 * torch.ones(what.model.params)}
    )


def close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours.rows, theirs.rows, **tolerance)
    torch.testing.assert_close(ours.losses, theirs.losses, **tolerance)
    assert ours.looks.equal(theirs.looks)
    assert ours.weights.equal(theirs.weights)
    assert ours.learned.keys() == theirs.learned.keys()
    for name in ours.learned:
        torch.testing.assert_close(ours.learned[name], theirs.learned[name], **tolerance)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("name", LOCALS)
def test_every_method_computes_what_autograd_computes(name, method):
    what, train = task(), part(name)
    state = second(what, train)
    ours, theirs = (ask(what, train, state, method=way, number=2) for way in (method, "flat"))
    # Their first steps are signs of gradients, some of them tiny.
    signs = name in ("adam", "adagrad")
    loose = {"rtol": 1e-2, "atol": 1e-4} if signs else {"rtol": 1e-3, "atol": 1e-5}
    close(ours, theirs, **loose)


@pytest.mark.parametrize("name", LOCALS)
def test_a_convolutional_chain_computes_what_autograd_computes(name):
    what = task((7, 0, 12), small_cnn, (1, 8, 8))
    train = part(name)
    state = second(what, train)
    ours, theirs = (ask(what, train, state, method=way, number=2) for way in ("chain", "flat"))
    loose = {"rtol": 2e-3, "atol": 2e-4 if name in ("adam", "adagrad") else 3e-5}
    close(ours, theirs, **loose)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOCALS)
def test_a_client_computes_alone_what_it_computes_in_company(name, method):
    what, train = task(), part(name)
    state = second(what, train)
    together = ask(what, train, state, method=method, number=2)
    for client in (0, 1, 3):
        alone = ask(what, train, state, [client], method=method, number=2)
        torch.testing.assert_close(alone.rows[0], together.rows[client], rtol=1e-4, atol=1e-6)
        for kind, rows in alone.learned.items():
            torch.testing.assert_close(
                rows[0], together.learned[kind][client], rtol=1e-4, atol=1e-6
            )
        assert alone.looks[0] == together.looks[client]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOCALS)
def test_who_holds_nothing_learns_nothing(name, method):
    what, train = task(), part(name)
    state = second(what, train)
    found = ask(what, train, state, [1], method=method, number=2)
    moved = found.rows.clone()
    if name == "ifca":
        moved[0, what.model.params] -= 1  # the mark of the first cluster, of weight 0
    if name == "distributed_sgd":  # whoever holds nothing still has its momentum, here none
        assert not state.recall("clients/momentum", [1], what.model.initial).any()
    assert not moved.any()
    assert not found.looks.any() and not found.losses.any() and not found.weights.any()
    for kind, rows in found.learned.items():
        assert rows.equal(state.recall(kind, [1], what.model.initial[-rows.shape[1] :]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOCALS)
def test_nobody_to_train_is_nothing_to_send(name, method):
    what = task()
    found = ask(what, part(name), cohort=[], method=method)
    assert len(found.rows) == len(found.weights) == len(found.looks) == 0
    assert all(not len(rows) for rows in found.learned.values())


@pytest.mark.parametrize("name", LOCALS)
def test_training_changes_nothing_but_its_answer(name):
    what, train = task(), part(name)
    state = second(what, train)
    before = {kind: each.clone() for kind, each in state.memory.items()}
    start, inputs = state.params.clone(), what.data.inputs.clone()
    for method in METHODS:
        ask(what, train, state, method=method, number=2)
    assert state.params.equal(start) and what.data.inputs.equal(inputs)
    assert what.model.initial.equal(start)
    assert state.memory.keys() == before.keys()
    assert all(each.equal(before[kind]) for kind, each in state.memory.items())


def test_a_schedule_that_has_ended_moves_no_control():
    what = task()
    state = second(what, scaffold)
    found = ask(what, scaffold, state, schedule=lambda round: 0.0)
    assert not found.rows.any()
    kept = state.recall("clients/control", range(len(SIZES)), what.model.initial)
    assert found.learned["clients/control"].equal(kept)


@pytest.mark.parametrize("find", [best_cluster, fine_tuned, own_head, remembered])
def test_who_has_learned_nothing_yet_is_given_the_common_model(find):
    what = task()
    state = State(what.model.initial + 1)
    ready = partial(find, what, state, key=KEY, compute=Compute())
    off = {"epochs": 0} if find is fine_tuned else {}
    assert ready([0, 3], **off).equal(state.params.expand(2, -1))
    assert ready([], **off).shape == (0, what.model.params)


PARAMS = 6 * 8 + 8 + 8 * 3 + 3
WIDTHS = {
    "scaffold": 2 * PARAMS,
    "fednova": PARAMS + 1,
    "fedper": CUT,
    "fedrep": CUT,
    "ifca": 3 * (PARAMS + 1),
    # Four counts for each of three groups and classes; a factor; a loss in a place of its own.
    **{name: PARAMS + 36 for name in ("fedfb", "fedminmax", "reweighing")},
    "fairfed": PARAMS + 1 + 36 + 2,
    "q_ffl": PARAMS + 1,
    "afl": PARAMS + 1 + 2 * len(SIZES),
    "gifair": PARAMS + 2 * 3,
}


@pytest.mark.parametrize("name", LOCALS)
def test_a_row_is_as_wide_as_what_is_sent(name):
    assert ask(task(), part(name)).rows.shape == (len(SIZES), WIDTHS.get(name, PARAMS))


WHOLE, SHARED = 4 * (64 * 6 + 6 + 6 * 10 + 10), 4 * (64 * 6 + 6)


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        ("fedavg", WHOLE, WHOLE),
        ("ditto", WHOLE, WHOLE),
        ("scaffold", 2 * WHOLE, 2 * WHOLE),
        ("fednova", WHOLE + 4, WHOLE),
        ("fedper", SHARED, SHARED),
        ("fedrep", SHARED, SHARED),
        ("ifca", WHOLE + 1, 3 * WHOLE),
    ],
)
def test_bytes_are_those_of_the_messages(name, up, down, tmp_path):
    cfg = load(
        "data=digits", "model=mlp", "model.hidden=[6]", "federation.clients=3", "rounds=1",
        f"+algorithm={name}",
    )  # fmt: skip
    summary = simulate(cfg, tmp_path / "run", progress=False).summary
    assert (summary["bytes_up"], summary["bytes_down"]) == (3 * up, 3 * down)


NAN = float("nan")


@pytest.mark.parametrize(
    ("train", "knob", "value"),
    [
        *((each, "rate", 0.0) for each in (adam, adagrad, ditto, feddyn, fednova, ifca, scaffold)),
        *((each, "epochs", 0) for each in (adam, ditto, fedper, fedrep, ifca, pfedme, scaffold)),
        *((each, "batch_size", -1) for each in (adagrad, feddyn, fednova, fedper, pfedme)),
        *((each, "clip", 0.0) for each in (adam, ditto, feddyn, fedper, fedrep, ifca, scaffold)),
        *((each, "weight_decay", NAN) for each in (adam, adagrad, ditto, fedper, ifca)),
        (adam, "beta1", 1.0),
        (adam, "beta2", -0.1),
        (adam, "epsilon", 0.0),
        (adagrad, "epsilon", NAN),
        (ditto, "leash", -1.0),
        (ditto, "leash", NAN),
        (ditto, "own_epochs", 0),
        (feddyn, "alpha", -0.1),
        (feddyn, "alpha", NAN),
        (fednova, "momentum", 1.0),
        (fednova, "proximal", -1.0),
        (fedper, "head", 0),
        (fedper, "head", 2),
        (fedrep, "head", 2),
        (fedrep, "head_epochs", 0),
        (ifca, "clusters", 0),
        (pfedme, "leash", 0.0),
        (pfedme, "leash", 20.0),
        (pfedme, "leash", NAN),
        (pfedme, "inner_steps", 0),
        (pfedme, "own_rate", 0.0),
        (pfedme, "rate", 0.0),
    ],
)
def test_a_knob_out_of_range_is_named(train, knob, value):
    with pytest.raises(ValueError, match=rf"^local\.{knob} must be .*, got {value}$"):
        ask(task(), train, **{knob: value})


def test_fednova_weighs_steps_of_one_kind():
    with pytest.raises(ValueError, match=r"^local\.momentum and local\.proximal"):
        ask(task(), fednova, momentum=0.5, proximal=0.1)


@pytest.mark.parametrize(
    ("knob", "value"), [("epochs", -1), ("batch_size", -1), ("rate", 0.0), ("rate", NAN)]
)
def test_a_knob_of_fine_tuning_out_of_range_is_named(knob, value):
    with pytest.raises(ValueError, match=rf"^personal\.{knob} must be .*, got {value}$"):
        fine_tuned(task(), State(task().model.initial), [0], key=KEY, compute=Compute(),
                   **{knob: value})  # fmt: skip


@pytest.mark.parametrize("server", [body, fednova_server, ifca_server, scaffold_server])
def test_a_server_refuses_a_rate_that_makes_no_step(server):
    with pytest.raises(ValueError, match=r"^server\.rate must be above 0, got 0\.0$"):
        server(State(torch.ones(4)), torch.ones(4), rate=0.0)


@pytest.mark.parametrize(
    "server", [fedavg, feddyn_server, fednova_server, scaffold_server, ifca_server, body]
)
def test_a_server_refuses_rows_that_are_not_its_own(server):
    with pytest.raises(ValueError, match=r"server=\w+ "):
        server(State(torch.ones(4)), torch.ones(4 if server in OTHERS else 7))


OTHERS = (fednova_server, scaffold_server, ifca_server, body)
