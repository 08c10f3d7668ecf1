"""Devices are stable, in range, and as the knobs or the file say."""

import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.config import digest, load
from dai_lab.core import Key
from dai_lab.participation import alike, phones, table

HEADER = "client,gflops,down_mbps,up_mbps,memory_mb,failing"
CERTAIN = {"gflops_sigma": 0.0, "mbps_sigma": 0.0, "memory_sigma": 0.0, "failing": 0.0}


def columns(profiles):
    return torch.stack(astuple(profiles))


def test_devices_that_are_alike_are_what_the_knobs_say_in_operations_and_bytes():
    knobs = {"gflops": 2.0, "down_mbps": 8.0, "up_mbps": 4.0, "memory_mb": 3.0, "failing": 0.25}
    profiles = alike(3, key=Key(0), **knobs)
    assert columns(profiles).T.tolist() == [[2e9, 1e6, 5e5, 3e6, 0.25]] * 3


@given(clients=st.integers(1, 40), seed=st.integers(0, 999))
def test_phones_without_spread_are_alike(clients, seed):
    drawn = columns(phones(clients, key=Key(seed), **CERTAIN))
    assert drawn.equal(columns(alike(clients, key=Key(seed))))


@given(clients=st.integers(1, 60), more=st.integers(1, 60), seed=st.integers(0, 999))
def test_a_phone_stays_what_it_is_whoever_else_is_registered(clients, more, seed):
    few = columns(phones(clients, key=Key(seed)))
    assert columns(phones(clients + more, key=Key(seed)))[:, :clients].equal(few)
    assert (few[:4] > 0).all() and few.isfinite().all()


def test_phones_have_the_medians_and_the_spread_of_what_was_measured():
    speed, down, up, memory, failing = columns(phones(20_000, key=Key(0)))
    mbps = down * 8 / 1e6
    # The deviation of a median is sigma * sqrt(pi / 2 / n), here of logarithms.
    deviation = (math.pi / 2 / 20_000) ** 0.5
    for values, median, sigma in [(speed, 1e10, 0.7), (mbps, 6, 1.1), (memory, 1e9, 0.5)]:
        assert abs(float((values.median() / median).log())) < 4 * sigma * deviation
        assert float(values.log().std()) == pytest.approx(sigma, rel=0.03)
    assert float((mbps < 3).double().mean()) == pytest.approx(0.26, abs=0.015)
    slow, fast = speed.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    assert fast / slow == pytest.approx(10, rel=0.05)
    torch.testing.assert_close(up, down / 3)
    assert (failing == 0.08).all()
    others = torch.stack([speed, down, memory]).log()
    assert (torch.corrcoef(others) - torch.eye(3)).abs().max() < 4 / 20_000**0.5


def test_another_seed_draws_other_phones():
    assert not columns(phones(5, key=Key(0))).equal(columns(phones(5, key=Key(1))))


def test_a_table_gives_each_client_its_line_in_any_order(csv):
    path = csv(HEADER, "1,2,8,4,3,0.5", "0,1,16,inf,5,0")
    rows = columns(table(2, key=Key(0), path=path)).T.tolist()
    assert rows == [[1e9, 2e6, math.inf, 5e6, 0.0], [2e9, 1e6, 5e5, 3e6, 0.5]]


GOOD = [HEADER, "0,1,1,1,1,0", "1,1,1,1,1,0", "2,1,1,1,1,0"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([one.rpartition(",")[0] for one in GOOD], r" must have .* failing, and has no failing"),
        (GOOD[:2] + GOOD[3:], r": client 1 has no line"),
        (GOOD[:3], r": client 2 has no line"),
        ([*GOOD, "1,2,2,2,2,0"], r": client 1 has two lines, 3 and 5"),
        ([*GOOD[:3], "2,0,1,1,1,0"], r", line 4: gflops must be above 0, got 0"),
        ([*GOOD[:3], "2,1,1,-3,1,0"], r", line 4: up_mbps must be above 0, got -3"),
        ([*GOOD[:3], "2,1,1,1,1,1.5"], r", line 4: failing must be in 0\.\.1, got 1\.5"),
        ([*GOOD[:3], "2,1,x,1,1,0"], r", line 4: down_mbps must be a number, got 'x'"),
        ([*GOOD, "3,1,1,1,1,0"], r", line 5: client must be a whole number in 0\.\.2, got 3"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(csv, lines, named):
    with pytest.raises(ValueError, match=rf"^devices\.path=.*own\.csv{named}") as refused:
        table(3, key=Key(0), path=csv(*lines))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", [alike, phones])
@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"gflops": 0.0}, r"devices\.gflops must be above 0, got 0\.0"),
        ({"up_mbps": math.nan}, r"devices\.up_mbps must be above 0, got nan"),
        ({"memory_mb": -1.0}, r"devices\.memory_mb must be above 0, got -1\.0"),
        ({"failing": 1.5}, r"devices\.failing must be in 0\.\.1, got 1\.5"),
    ],
)
def test_a_knob_out_of_range_is_named(part, knobs, named):
    with pytest.raises(ValueError, match=named):
        part(3, key=Key(0), **knobs)


def test_a_spread_below_zero_is_named():
    with pytest.raises(ValueError, match=r"devices\.mbps_sigma must be 0 or more, got -1\.0"):
        phones(3, key=Key(0), mbps_sigma=-1.0)


@pytest.mark.parametrize("group", ["cohort=trace", "devices=table"])
def test_a_run_is_named_by_what_is_in_a_file_and_not_by_where_it_lies(csv, group):
    def name(*lines, file):
        return digest(load(group, f"{group.partition('=')[0]}.path={csv(*lines, name=file)}"))

    here = name("client", "0", file="one.csv")
    assert name("client", "0", file="other.csv") == here
    assert name("client", "1", file="one.csv") != here
