"""Schedules start at 1, never rise, and are those of torch."""

import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from dai_lab.learning import schedules

SCHEDULES = [schedules.constant, schedules.exponential, schedules.step, schedules.cosine]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(round=st.integers(1, 10_000))
def test_round_one_has_the_full_rate_and_no_later_round_more(schedule, round):
    assert schedule(1) == 1
    assert 0 <= schedule(round + 1) <= schedule(round) <= 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schedules.constant, lambda sgd: lr_scheduler.ConstantLR(sgd, factor=1.0)),
        (
            partial(schedules.exponential, decay=0.9),
            lambda sgd: lr_scheduler.ExponentialLR(sgd, gamma=0.9),
        ),
        (
            partial(schedules.step, every=3, factor=0.2),
            lambda sgd: lr_scheduler.StepLR(sgd, step_size=3, gamma=0.2),
        ),
        (
            partial(schedules.cosine, rounds=20, floor=0.1),
            lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, T_max=20, eta_min=0.1),
        ),
    ],
)
def test_schedules_are_those_of_torch(ours, theirs):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(sgd)
    for number in range(1, 22):
        assert ours(number) == pytest.approx(sgd.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step()


def test_the_cosine_stays_at_its_floor():
    low = partial(schedules.cosine, rounds=5, floor=0.25)
    assert low(6) == low(100) == 0.25 < low(5)


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        (partial(schedules.exponential, decay=0.0), "schedule.decay must be"),
        (partial(schedules.exponential, decay=1.1), "schedule.decay must be"),
        (partial(schedules.step, every=0), "schedule.every must be at least 1, got 0"),
        (partial(schedules.step, factor=0.0), "schedule.factor must be"),
        (partial(schedules.cosine, rounds=0), "schedule.rounds must be at least 1, got 0"),
        (partial(schedules.cosine, floor=-0.1), r"schedule.floor must be in \[0, 1\]"),
    ],
)
def test_a_knob_out_of_range_is_named(schedule, complaint):
    with pytest.raises(ValueError, match=complaint):
        schedule(2)
