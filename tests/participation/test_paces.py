"""A pace takes whom it should, when it should."""

import heapq
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Key, Profiles
from dai_lab.participation import buffered, deadline, everyone

KEY = Key(0)
TIMES = st.lists(st.integers(0, 9), max_size=12).map(
    lambda times: torch.tensor(times, dtype=torch.float64)
)


def fresh(finish):
    return torch.zeros(len(finish), dtype=torch.long)


def same(one, other):
    return (
        one.taken.equal(other.taken)
        and bool((one.factors == other.factors).all())
        and one.until == other.until
    )


@given(finish=TIMES)
def test_without_limits_a_deadline_is_everyone(finish):
    plain = everyone(finish, fresh(finish), key=KEY)
    assert same(deadline(finish, fresh(finish), key=KEY), plain)
    assert same(deadline(finish, fresh(finish), key=KEY, seconds=math.inf), plain)


@given(finish=TIMES, more=st.integers(0, 3))
def test_a_buffer_as_large_as_the_cohort_is_everyone(finish, more):
    size = max(1, len(finish)) + more
    arrived = buffered(finish, fresh(finish), key=KEY, size=size)
    assert same(arrived, everyone(finish, fresh(finish), key=KEY))


@given(finish=TIMES, seconds=st.integers(1, 9), share=st.floats(0.01, 1))
def test_a_deadline_takes_all_who_answered_by_the_step_and_no_more_than_it_must(
    finish, seconds, share
):
    arrived = deadline(finish, fresh(finish), key=KEY, seconds=float(seconds), share=share)
    assert arrived.taken.equal(finish <= arrived.until) and not arrived.flying
    assert 0 <= arrived.until <= seconds
    before = int((finish < arrived.until).sum())
    if len(finish):
        assert before < math.ceil(share * len(finish) - 1e-9) or arrived.until == 0
    if arrived.until < seconds and len(finish):
        assert int(arrived.taken.sum()) >= share * len(finish) - 1e-9


@given(finish=TIMES, size=st.integers(1, 12), exponent=st.floats(0, 2), data=st.data())
def test_a_buffer_takes_the_earliest_and_the_stalest_of_those_that_tie(
    finish, size, exponent, data
):
    ages = st.lists(st.integers(0, 3), min_size=len(finish), max_size=len(finish))
    staleness = torch.tensor(data.draw(ages), dtype=torch.long)
    arrived = buffered(finish, staleness, key=KEY, size=size, exponent=exponent)
    triples = zip(finish.tolist(), (-staleness).tolist(), range(len(finish)), strict=True)
    queue = sorted(triples)
    first = [at for _, _, at in queue[:size]]
    assert arrived.taken.nonzero().flatten().tolist() == sorted(first)
    assert arrived.until == max((float(finish[at]) for at in first), default=0.0)
    assert arrived.flying
    for factor, age in zip(arrived.factors.tolist(), staleness.tolist(), strict=True):
        assert factor == pytest.approx((1 + age) ** -exponent)


def test_over_selection_stops_at_the_tenth_of_thirteen():
    finish = torch.tensor([5.0, 1, 9, 3, 7, 2, 8, 4, 99, 6, 60, 10, 50], dtype=torch.float64)
    arrived = deadline(finish, fresh(finish), key=KEY, share=1 / 1.3)
    assert arrived.until == 10.0 and int(arrived.taken.sum()) == 10
    hurried = deadline(finish, fresh(finish), key=KEY, seconds=2.5, share=1 / 1.3)
    assert hurried.until == 2.5 and hurried.taken.nonzero().flatten().tolist() == [1, 5]


def test_nobody_in_time_is_nobody_taken_when_time_is_up():
    arrived = deadline(torch.tensor([3.0, 4.0]), torch.tensor([0, 0]), key=KEY, seconds=2.0)
    assert not arrived.taken.any() and arrived.until == 2.0


def test_who_arrived_before_the_round_began_is_taken_at_once():
    finish = torch.tensor([-5.0, 1.0, -7.0], dtype=torch.float64)
    arrived = buffered(finish, torch.tensor([1, 0, 2]), key=KEY, size=2)
    assert arrived.taken.tolist() == [True, False, True] and arrived.until == 0.0
    later = buffered(finish, torch.tensor([1, 0, 2]), key=KEY, size=3)
    assert later.until == 1.0


@pytest.mark.parametrize(
    ("pace", "named"),
    [
        (partial(deadline, seconds=0.0), r"pace\.seconds must be above 0 or null, got 0\.0"),
        (partial(deadline, seconds=math.nan), r"pace\.seconds must be above 0 or null, got nan"),
        (partial(deadline, share=0.0), r"pace\.share must be above 0 and at most 1, got 0\.0"),
        (partial(deadline, share=1.1), r"pace\.share must be above 0 and at most 1, got 1\.1"),
        (partial(buffered, size=0), r"pace\.size must be at least 1, got 0"),
        (partial(buffered, exponent=-1.0), r"pace\.exponent must be 0 or more, got -1\.0"),
    ],
)
def test_a_knob_out_of_range_is_named(pace, named):
    with pytest.raises(ValueError, match=named):
        pace(torch.tensor([1.0]), torch.tensor([0]), key=KEY)


def unlike(record, *names):
    return {name: value for name, value in record.items() if name not in names}


@pytest.mark.parametrize("local", ["sgd", "distributed_sgd"])
@pytest.mark.parametrize("devices", ["none", "alike", "phones"])
def test_a_run_whose_buffer_holds_the_cohort_is_synchronous(federation, played, devices, local):
    knobs = (f"devices={devices}", f"local={local}", "cohort.fraction=0.8")
    plain = played(federation(*knobs))
    ahead = played(federation(*knobs, "pace=buffered", "pace.size=4"))
    for one, other in zip(plain, ahead, strict=True):
        assert other.state.params.equal(one.state.params)
        assert unlike(other.record, "staleness") == one.record
        assert other.state.memory.keys() == one.state.memory.keys()
        assert all(
            other.state.memory[name].equal(value) for name, value in one.state.memory.items()
        )
    assert {one.record.get("staleness") for one in ahead if one.record["arrived"]} == {0.0}


@pytest.mark.parametrize("local", ["sgd", "distributed_sgd"])
def test_a_run_without_a_real_deadline_is_synchronous(federation, played, local):
    knobs = ("devices=phones", f"local={local}")
    plain = played(federation(*knobs))
    ahead = played(federation(*knobs, "pace=deadline", "pace.seconds=1e9"))
    assert [one.record for one in ahead] == [one.record for one in plain]
    assert ahead[-1].state.params.equal(plain[-1].state.params)


def test_a_small_buffer_serves_in_turn_clients_that_take_no_time(federation, played):
    """Five clients, two taken at a step; nobody overtakes who has waited longer."""
    seen, first = [], []
    us = federation("pace=buffered", "pace.size=2")
    ends = played(replace(us, watch={"spy": lambda trace: seen.append(trace) or {}}), rounds=4)
    assert [trace.cohort for trace in seen] == [(0, 1), (2, 3), (0, 4), (1, 2)]
    # Of the third step, client 4 began before the first step and client 0 after it.
    assert [one.record["staleness"] for one in ends] == [0.0, 1.0, 1.5, 1.5]
    assert [one.record["cohort"] for one in ends] == [5, 2, 2, 2]
    plain = replace(federation(), watch={"spy": lambda trace: first.append(trace) or {}})
    played(plain, rounds=1)
    weights = first[0].weights[2:4]
    late = (first[0].sent[2:4] * weights.unsqueeze(1)).sum(0) / weights.sum() * 2**-0.5
    torch.testing.assert_close(ends[1].state.params - ends[0].state.params, late)


def queue_of_events(durations, size, rounds):
    """Play FedBuff's clock on a heap: who arrives in each step, when, how stale on average."""
    flying = [(duration, client, 0) for client, duration in enumerate(durations)]
    heapq.heapify(flying)
    for step in range(rounds):
        arrived = [heapq.heappop(flying) for _ in range(size)]
        now = arrived[-1][0]
        yield (
            tuple(sorted(client for _, client, _ in arrived)),
            now,
            sum(step - born for _, _, born in arrived) / size,
        )
        for _, client, _ in arrived:
            heapq.heappush(flying, (now + durations[client], client, step + 1))


@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 2), (2, 2), (3, 3), (4, 4)])
def test_the_clock_of_a_buffer_is_that_of_a_queue_of_events(federation, played, seed, size):
    us = federation("local.epochs=1")
    durations = torch.rand(5, generator=Key(seed).stream(), dtype=torch.float64) * 100 + 1
    speed = us.work * us.task.shards.sizes / durations
    free = torch.full((5,), math.inf, dtype=torch.float64)
    seen = []
    us = replace(
        us,
        profiles=Profiles(speed, free, free, free, torch.zeros(5)),
        pace=partial(buffered, size=size),
        watch={"spy": lambda trace: seen.append(trace.cohort) or {}},
    )
    records = [one.record for one in played(us, rounds=7)]
    expected = list(queue_of_events(durations.tolist(), size, 7))
    assert seen == [cohort for cohort, _, _ in expected]
    for record, (_, now, staleness) in zip(records, expected, strict=True):
        assert record["simulated_seconds"] == pytest.approx(now, rel=1e-12)
        assert record["staleness"] == pytest.approx(staleness)
