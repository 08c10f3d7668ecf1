"""Whole runs on simulated devices: what takes how long, who is left out, and how runs go on."""

import math
from dataclasses import replace

import pytest
import torch

from dai_lab.core import Profiles
from dai_lab.experiment import files

HEADER = "client,gflops,down_mbps,up_mbps,memory_mb,failing"
REMEMBERING = [
    ("local=distributed_sgd",),
    ("local=scaffold", "server=scaffold"),
]


def memories(state):
    return {
        name: one for name, one in state.memory.items() if not name.startswith("federation/bytes")
    }


def assert_same_state(one, other, rounding=0.0):
    mine, theirs = (
        {"params": one.params, **memories(one)},
        {"params": other.params, **memories(other)},
    )
    for name in ("federation/flops", "federation/seconds"):
        mine.pop(name), theirs.pop(name)
    torch.testing.assert_close(mine, theirs, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("local", [("local=sgd",), *REMEMBERING])
def test_devices_that_are_alike_change_nothing_but_the_time(federation, played, local):
    plain = played(federation(*local))
    timed = played(federation(*local, "devices=alike"))
    for one, other in zip(plain, timed, strict=True):
        seconds = other.record["simulated_seconds"]
        assert other.record == {
            **one.record,
            "unfit": 0,
            "dropped": 0,
            "simulated_seconds": seconds,
        }
        assert seconds > 0
        assert_same_state(one.state, other.state)


def test_seconds_are_download_and_computing_and_upload(federation, played, csv):
    """By hand: 64 inputs, 10 classes, so 650 parameters of 4 bytes, and 20800 bits each way."""
    path = csv(HEADER, "0,0.5,1,0.1,100,0", "1,0.001,8,4,100,0")
    knobs = ("federation.clients=2", "local.epochs=3", "devices=table", f"devices.path={path}")
    us = federation(*knobs)
    assert us.task.model.params == 650
    assert us.work == 2 * 64 * 10 * 2  # multiply and add; forward, and back to the weights
    one, other = us.task.shards.sizes.tolist()
    first = 20_800 / 1e6 + 3 * one * 2560 / 0.5e9 + 20_800 / 0.1e6
    second = 20_800 / 8e6 + 3 * other * 2560 / 0.001e9 + 20_800 / 4e6
    alone = replace(us, cohort=lambda _, *, now, key: (0,))
    assert played(alone, rounds=1)[0].record["simulated_seconds"] == pytest.approx(first, rel=1e-12)
    both = [one.record["simulated_seconds"] for one in played(us, rounds=2)]
    assert second > first
    assert both == pytest.approx([second, 2 * second], rel=1e-12)


@pytest.mark.parametrize("local", [("local=sgd",), *REMEMBERING])
def test_a_client_that_drops_out_changes_neither_the_model_nor_what_it_remembers(
    federation, played, csv, local
):
    lines = [f"{client},1,8,8,100,{int(client == 3)}" for client in range(5)]
    failing = federation(*local, "devices=table", f"devices.path={csv(HEADER, *lines)}")
    without = replace(
        federation(*local, "devices=alike"), cohort=lambda _, *, now, key: (0, 1, 2, 4)
    )
    lost, never = played(failing), played(without)
    assert {one.record["dropped"] for one in lost} == {1}
    assert_same_state(never[-1].state, lost[-1].state)
    # It was given the model all the same, and counts for the cohort.
    assert lost[-1].record["cohort"] == 5
    assert lost[-1].record["bytes_down"] == never[-1].record["bytes_down"] * 5 // 4
    assert lost[-1].record["bytes_up"] == never[-1].record["bytes_up"]


@pytest.mark.parametrize("local", [("local=sgd",), *REMEMBERING])
def test_a_client_sent_home_changes_neither_the_model_nor_what_it_remembers(
    federation, played, csv, local
):
    lines = [f"{client},{1e-9 if client == 3 else 1},8,8,100,0" for client in range(5)]
    slow = ("devices=table", f"devices.path={csv(HEADER, *lines)}")
    late = played(federation(*local, *slow, "pace=deadline", "pace.seconds=1000"))
    fast = replace(federation(*local, *slow), cohort=lambda _, *, now, key: (0, 1, 2, 4))
    never = played(fast)
    assert {one.record["dropped"] for one in late} == {1}
    assert {one.record["arrived"] for one in late} == {4}
    assert [one.record["simulated_seconds"] for one in late] == [1000.0, 2000.0, 3000.0]
    # At one point all gradients are one product, and its order of adding up may vary with its size.
    product = local == ("local=distributed_sgd",)
    assert_same_state(never[-1].state, late[-1].state, rounding=1e-6 if product else 0.0)


@pytest.mark.parametrize("local", ["sgd", "distributed_sgd"])
def test_a_round_nobody_ends_in_time_takes_its_time_and_leaves_the_model(federation, played, local):
    us = federation(f"local={local}", "devices=alike", "pace=deadline", "pace.seconds=1e-6")
    ends = played(us)
    assert ends[-1].state.params.equal(us.task.model.initial)
    assert [one.record["simulated_seconds"] for one in ends] == pytest.approx([1e-6, 2e-6, 3e-6])
    assert {(one.record["arrived"], one.record["dropped"]) for one in ends} == {(0, 5)}


def test_devices_too_small_for_the_model_stay_out(federation, played, csv):
    need = 12 * 650 / 1e6
    lines = [f"{client},1,8,8,{need * (0.99 if client == 2 else 1)},0" for client in range(5)]
    seen = []
    us = federation("devices=table", f"devices.path={csv(HEADER, *lines)}")
    us = replace(us, watch={"spy": lambda trace: seen.append(trace.cohort) or {}})
    records = [one.record for one in played(us)]
    assert {(one["unfit"], one["dropped"], one["arrived"]) for one in records} == {(1, 0, 4)}
    assert set(seen) == {(0, 1, 3, 4)}


RESUMED = [
    ("pace=buffered", "pace.size=2"),
    ("pace=buffered", "pace.size=2", "cohort.fraction=0.6", "local=distributed_sgd"),
    ("pace=buffered", "pace.size=2", "local=scaffold", "server=scaffold"),
    ("pace=buffered", "pace.size=1", "cohort=poisson", "cohort.rate=0.5", "server=fedadam"),
    ("pace=buffered", "pace.size=1", "cohort=available", "cohort.high=0.8"),
    ("pace=deadline", "pace.share=0.6", "cohort=by_size", "cohort.fraction=0.8"),
]


@pytest.mark.parametrize("overrides", RESUMED)
def test_a_run_that_goes_on_in_the_middle_of_a_flight_ends_as_one_that_never_stopped(
    federation, played, tmp_path, overrides
):
    knobs = ("devices=phones", "devices.failing=0.2", *overrides)
    whole = played(federation(*knobs), rounds=8)
    flying = [len(one.state.memory.get("flying/clients", ())) for one in whole]
    assert any(flying[:-1]) == ("pace=buffered" in overrides)
    for done in range(1, 8):
        files.save(tmp_path / "checkpoint", whole[done - 1].state, done)
        state, at = files.restore(tmp_path / "checkpoint")
        rest = played(federation(*knobs), rounds=8, state=state, done=at)
        assert [one.record for one in rest] == [one.record for one in whole[done:]]
        end = whole[-1].state
        assert rest[-1].state.params.equal(end.params)
        assert rest[-1].state.memory.keys() == end.memory.keys()
        assert all(rest[-1].state.memory[name].equal(one) for name, one in end.memory.items())


def test_messages_that_have_all_landed_leave_no_trace_in_the_checkpoint(federation, played):
    us = federation("pace=buffered", "pace.size=5", "devices=phones", "devices.failing=0")
    assert not [name for name in played(us)[-1].state.memory if name.startswith("flying/")]


def test_nobody_is_asked_again_before_its_message_has_landed(federation, played):
    asked, us = [], federation("pace=buffered", "pace.size=2", "devices=phones")

    def spy(task, state, start, cohort, **rest):
        asked.append((set(state.memory.get("flying/clients", torch.arange(0)).tolist()), cohort))
        return us.local(task, state, start, cohort, **rest)

    ends = played(replace(us, local=spy), rounds=8)
    assert any(away for away, _ in asked)
    assert all(not away & set(cohort) for away, cohort in asked)
    assert all(len(away) + len(cohort) <= 5 for away, cohort in asked)
    assert ends[-1].record["round"] == 8


def test_time_goes_on_while_nobody_is_there(federation, played, csv):
    """Client 0 is there for the first second of each ten minutes, and for longer at work."""
    path = csv("client,start,end", "0,0,1")
    knobs = ("cohort=trace", f"cohort.path={path}", "cohort.period=600")
    fast = ("devices=alike", "devices.gflops=inf", "devices.up_mbps=inf")
    us = federation(*knobs, *fast, "devices.down_mbps=0.0104")  # two seconds for 20800 bits
    ends = played(us, rounds=13)
    joined = [one.record["round"] for one in ends if one.record["arrived"]]
    seconds = [one.record["simulated_seconds"] for one in ends]
    assert joined == [1] and seconds[:3] == pytest.approx([2, 62, 122])
    assert played(federation(*knobs), rounds=3)[-1].record["arrived"] == 1  # it is always 0


def test_a_run_that_sends_nothing_takes_no_time(federation, played):
    free = torch.full((5,), math.inf, dtype=torch.float64)
    us = federation("devices=alike")
    us = replace(us, profiles=Profiles(free, free, free, free, torch.zeros(5)))
    assert played(us)[-1].record["simulated_seconds"] == 0.0
