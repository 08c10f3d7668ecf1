"""A round has its order, its record, and nobody in it who should not be."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from dai_lab.config import build, conf_dir, load
from dai_lab.core import Compute, Examples, Key, Shards
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import choice, found, play

KEY = Key(0)
JUDGED = {"test_loss", "test_accuracy", "client_accuracy", "client_accuracy_worst10",
          "client_accuracy_variance"}  # fmt: skip
TOGETHER = {"round", "cohort", "hostile", "rows_changed", "rows_not_finite", "visible_rows",
            "train_loss", "update_norm", "bytes_up", "bytes_down",
            "arrived", "flops", "rows_dropped", "rows_suspected", "hostile_suspected",
            "clients_seen", "clients_dropped", "clients_suspected"}  # fmt: skip


def federation(*overrides, key=KEY, watch=None, **given):
    cfg = load(
        "data=digits", "federation.clients=5", "federation.holdout=0.2", "model.hidden=[6]",
        *overrides,
    )  # fmt: skip
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **{**parts, **given},
        watch=watch or {},
        frame=cfg.frame.value,
        **cfg.federation,
        every=cfg.evaluation.every,
        compute=Compute(method=cfg.compute.method),
        key=key,
    )


def played(us, rounds=2, key=KEY, **resumed):
    return list(play(us, key, rounds=rounds, **resumed))


def test_one_client_with_everything_is_centralized_training():
    alone = played(federation("federation.clients=1"))
    pooled = played(federation("federation.clients=1", "frame=centralized"))
    for one, other in zip(alone, pooled, strict=True):
        assert one.state.params.equal(other.state.params)
        assert one.record["test_accuracy"] == other.record["test_accuracy"]
        assert one.record["train_loss"] == other.record["train_loss"]


def test_centralized_training_looks_at_the_clients_training_examples_and_no_others():
    us, pooled = federation(), federation("frame=centralized")
    assert pooled.task.shards.indices.equal(us.task.shards.indices)
    assert played(pooled)[-1].record["cohort"] == 1


@pytest.mark.parametrize(
    "plain", [[], ["local=distributed_sgd"], ["local=fedprox", "local.proximal=0"]]
)
def test_parts_turned_off_change_nothing(plain):
    before = played(federation(*plain))[-1].state.params
    same = [
        ["attack=gaussian", "federation.hostile=0"],
        ["server=fedavgm", "server.beta=0"],
        ["secagg=grouped", "secagg.groups=5"],
        ["privacy=clip", "privacy.norm=1e9"],
        ["federation.clip=1e9"],
        ["evaluation.every=2"],
    ]
    for off in same:
        after = played(federation(*plain, *off))[-1].state.params
        if "secagg=grouped" in off:  # sums in the order of the groups
            torch.testing.assert_close(after, before)
        else:
            assert after.equal(before), off


def test_fedprox_without_a_pull_is_fedavg():
    plain, prox = federation(), federation("local=fedprox", "local.proximal=0")
    assert played(prox)[-1].state.params.equal(played(plain)[-1].state.params)


@pytest.mark.parametrize(
    "overrides",
    [
        ["attack=gaussian", "federation.hostile=2"],
        ["aggregator=median"],
        ["secagg=grouped", "secagg.groups=2"],
        ["server=fedadam"],
        ["federation.clip=0.01"],
    ],
)
def test_another_part_shifts_nobodys_draws(overrides):
    def sent(*settings):
        seen = []
        spy = {"spy": lambda trace: seen.append(trace) or {"rows": len(trace.sent)}}
        played(federation("cohort.fraction=0.6", *settings, watch=spy))
        return seen

    plain, other = sent(), sent(*overrides)
    assert [trace.cohort for trace in plain] == [trace.cohort for trace in other]
    if "federation.clip=0.01" in overrides:
        assert (other[0].sent.norm(dim=1) <= 0.01 * (1 + 1e-4)).all()
    else:
        honest = torch.tensor([c not in other[0].hostile for c in other[0].cohort])
        assert plain[0].sent[honest].equal(other[0].sent[honest])


def test_a_watcher_adds_to_the_record_and_changes_nothing_else():
    plain = played(federation())
    seen = played(federation(watch={"norms": lambda trace: {"n": len(trace.sent)}}))
    for one, other in zip(plain, seen, strict=True):
        assert other.record == {**one.record, "norms/n": 5}
        assert other.state.params.equal(one.state.params)


def test_every_part_of_a_record_is_there_and_is_json():
    for one in played(federation("attack=sign_flip", "federation.hostile=2")):
        assert one.record.keys() == TOGETHER | JUDGED
        assert json.loads(json.dumps(one.record, allow_nan=False)) == one.record
        assert {"cohort", "train", "protect", "aggregate", "watch", "evaluate"} <= set(one.seconds)


def test_rows_changed_counts_what_the_attack_changed():
    for attack, changed in [("none", 0), ("sign_flip", 2), ("gaussian", 2)]:
        record = played(federation(f"attack={attack}", "federation.hostile=2"), rounds=1)[0].record
        assert (record["hostile"], record["rows_changed"]) == (2, changed)


def test_models_are_judged_every_so_often_and_at_the_end():
    records = [one.record for one in played(federation("evaluation.every=2"), rounds=5)]
    assert [number for number, one in enumerate(records, 1) if "test_loss" in one] == [2, 4, 5]


@pytest.mark.parametrize("weighted", [True, False])
def test_the_server_counts_those_who_took_part_as_the_mean_does(weighted):
    us = federation(
        "+algorithm=scaffold", "partition=dirichlet", "partition.alpha=0.3", "cohort=uniform",
        "cohort.fraction=0.4", f"aggregator.weighted={str(weighted).lower()}",
    )  # fmt: skip
    state = played(us, rounds=4)[-1].state
    sizes = us.task.shards.sizes.float() if weighted else torch.ones(5)
    own = state.recall("clients/control", range(5), torch.zeros(us.task.model.params))
    expected = (sizes / sizes.sum()) @ own
    torch.testing.assert_close(state.memory["server/control"], expected, rtol=1e-3, atol=1e-6)


def test_bytes_add_up():
    us = federation("cohort.fraction=0.6")
    for number, one in enumerate(played(us, rounds=3), 1):
        assert (
            one.record["bytes_up"]
            == one.record["bytes_down"]
            == (number * 3 * 4 * us.task.model.params)
        )


@pytest.mark.parametrize(
    "overrides",
    [
        ["local=distributed_sgd", "cohort.fraction=0.6", "server=fedadam"],
        ["frame=local_only", "cohort.fraction=0.6"],
        ["frame=centralized"],
        ["local=distributed_sgd", "frame=centralized"],
        ["attack=sleeper", "federation.hostile=2"],
    ],
)
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(overrides):
    us = federation(*overrides)
    whole = played(us, rounds=4)
    half = whole[1]
    rest = played(federation(*overrides), rounds=4, state=half.state, done=2)
    assert [one.record for one in rest] == [one.record for one in whole[2:]]
    assert rest[-1].state.params.equal(whole[-1].state.params)
    assert not played(us, rounds=2, state=half.state, done=2)


@pytest.mark.parametrize("frame", ["federated", "local_only", "centralized"])
def test_held_out_examples_are_never_trained_on(frame):
    us = federation(f"frame={frame}")
    inputs = us.task.data.inputs.clone()
    inputs[us.holdout.indices] = 99.0
    changed = replace(us.task, data=Examples(inputs, us.task.data.targets))
    before, after = played(us)[-1], played(replace(us, task=changed))[-1]
    assert after.state.params.equal(before.state.params)
    for name, memory in before.state.memory.items():
        assert after.state.memory[name].equal(memory)
    assert after.record["client_accuracy"] != before.record["client_accuracy"]


def test_clients_left_alone_stay_apart():
    us = federation("frame=local_only")
    inputs = us.task.data.inputs.clone()
    inputs[us.task.shards[3]] = inputs[us.task.shards[3]].flip(0)
    changed = replace(us.task, data=Examples(inputs, us.task.data.targets))
    before = played(us)[-1].state.memory["local/params"]
    after = played(replace(us, task=changed))[-1].state.memory["local/params"]
    assert [row.equal(was) for row, was in zip(after, before, strict=True)] == (
        [True, True, True, False, True]
    )


@pytest.mark.parametrize("local", ["sgd", "distributed_sgd"])
@pytest.mark.parametrize("frame", ["federated", "local_only"])
def test_a_round_nobody_joins_is_survived(frame, local):
    nobody = federation(f"frame={frame}", f"local={local}", "cohort=poisson", "cohort.rate=1e-9")
    ends = played(nobody)
    assert ends[-1].state.params.equal(nobody.task.model.initial)
    assert ends[-1].record["cohort"] == 0
    assert ends[-1].record["test_loss"] > 0


@pytest.mark.parametrize("attack", ["sign_flip", "gaussian", "none"])
def test_a_cohort_of_liars_is_survived(attack):
    us = federation(f"attack={attack}", "federation.hostile=4")
    us = replace(us, cohort=lambda _, *, now, key: us.hostile[:3])
    record = played(us)[-1].record
    assert (record["cohort"], record["hostile"], record["train_loss"]) == (3, 3, None)


@pytest.mark.parametrize("attack", ["alie", "ipm"])
def test_a_round_too_small_for_a_part_is_left_out_and_says_why(attack):
    us = federation(f"attack={attack}", "federation.hostile=2")
    alone = replace(
        us, cohort=lambda _, *, now, key: us.hostile if 2 in key.path else (0, 1, 2, 3, 4)
    )
    first, second = played(alone, rounds=2)
    assert second.state.params.equal(first.state.params)
    assert f"attack={attack} needs" in second.record["skipped"] and "skipped" not in first.record
    with pytest.raises(ValueError, match=f"attack={attack} needs"):  # nobody ever could
        played(replace(us, cohort=lambda _, *, now, key: us.hostile))


def test_who_lies_is_drawn_from_the_key_alone():
    drawn = {federation("federation.hostile=2", key=Key(seed)).hostile for seed in range(8)}
    assert len(drawn) > 1 and all(len(set(each)) == 2 for each in drawn)
    assert (
        federation("federation.hostile=2").hostile
        == federation("federation.hostile=2", "attack=ipm", "partition=classes").hostile
    )


def test_a_cohort_that_holds_nothing_is_survived():
    """As with ``partition.minimum=0`` and a small fraction: no example is no change."""
    us = federation()
    shards = Shards.of([us.task.shards[0][:0], *(us.task.shards[client] for client in range(1, 5))])
    us = replace(us, task=replace(us.task, shards=shards), cohort=lambda _, *, now, key: (0,))
    assert played(us)[-1].state.params.equal(us.task.model.initial)


def test_clients_with_one_example_each_can_be_left_alone():
    us = federation("frame=local_only", "federation.clients=700", "cohort.fraction=0.01")
    assert us.holdout.sizes.max() == 0
    assert "test_accuracy" in played(us, rounds=1)[0].record


def test_the_choice_of_method_is_told():
    assert choice(federation()) == {"method": "compiled", "group": 1}
    assert choice(federation("compute.method=flat"))["method"] == "flat"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("federation.hostile=5", r"federation\.hostile must be in 0\.\.4, got 5"),
        ("evaluation.every=0", r"evaluation\.every must be at least 1, got 0"),
        ("federation.clip=0", r"federation\.clip must be above 0 or null, got 0"),
        ("federation.holdout=1", r"federation\.holdout must be .* below 1, got 1"),
        ("local.rate=0", r"local\.rate must be above 0, got 0"),
        ("local.epochs=0", r"local\.epochs must be 1 or more, got 0"),
    ],
)
def test_a_knob_out_of_range_is_named(override, named):
    with pytest.raises(ValueError, match=named):
        played(federation(override), rounds=1)


MEMORY = """
import sys, torch
from functools import partial
from dai_lab import (aggregators, attacks, compression, data, engines, fairness, learning,
                     models, participation, privacy, secagg)
from dai_lab.core import Compute, Key
from dai_lab.federation import found, play

def examples():
    inputs = torch.randn(400_000, 20, generator=Key(0).stream())
    return data.tensors(inputs, (inputs[:, 0] > 0).long(), test=0.01)

clients = int(sys.argv[1])
us = found(
    data=examples, partition=data.iid, model=partial(models.mlp, hidden=[32]),
    local=learning.sgd, cohort=partial(participation.uniform, fraction=50 / clients),
    devices=participation.untimed, pace=participation.everyone, compression=compression.dense,
    personal=learning.common,
    privacy=privacy.none, attack=attacks.none, poison=attacks.unpoisoned,
    secagg=secagg.plain, aggregator=aggregators.mean,
    server=learning.fedavg, decision=fairness.highest, engine=engines.local, watch={},
    frame="federated", clients=clients, hostile=0, holdout=0.1, clip=None, every=1,
    compute=Compute(), key=Key(0))
one, = play(us, Key(0), rounds=1)
assert one.record["cohort"] == 50
# Unlike getrusage's, this peak does not begin with the parent's.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_grows_with_the_cohort_and_not_with_the_clients():
    def peak(clients):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(clients)], capture_output=True, text=True, check=True
        )
        return int(done.stdout) / 1024

    few, many = peak(100), peak(100_000)
    assert many < 2048 + 400_000 * 20 * 4 / 2**20
    assert many - few < 100


@cache
def wide():
    """A federation whose rows hold more than changes: control variates travel in them."""
    few = ("federation.clients=10", "federation.hostile=2", "federation.root=20")
    return federation("local=scaffold", "server=scaffold", "federation.knows=defense", *few)


@pytest.mark.parametrize(
    "part",
    [
        f"{group}={one.stem}"
        for group in ("aggregator", "attack")
        for one in sorted(Path(conf_dir(), group).glob("*.yaml"))
        if one.stem != "eab_fl"  # only for people
    ],
)
def test_rows_that_hold_more_than_changes_are_taken_or_refused_in_one_line(part):
    group, _ = part.split("=")
    ours = replace(wide(), **{group: build(load(part)[group])})
    try:
        played(ours, rounds=1)
    except ValueError as refused:
        assert str(refused).startswith(f"{part} ")
