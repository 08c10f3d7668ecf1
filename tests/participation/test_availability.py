"""Who is there follows the hour, or a file, and nothing else."""

import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.participation import available, trace

DAY = 86400.0


def registered(clients):
    return torch.full((clients,), 7)


@given(
    clients=st.integers(1, 200),
    seed=st.integers(0, 99),
    now=st.floats(0, 1e7),
    fraction=st.floats(0.01, 1),
)
def test_available_clients_are_distinct_ascending_and_no_more_than_asked_for(
    clients, seed, now, fraction
):
    drawn = available(registered(clients), now=now, key=Key(seed), fraction=fraction)
    assert list(drawn) == sorted(set(drawn))
    assert all(type(client) is int and 0 <= client < clients for client in drawn)
    assert len(drawn) <= max(1, round(fraction * clients))
    everyone = available(registered(clients), now=now, key=Key(seed))
    assert set(drawn) <= set(everyone)
    assert len(drawn) == min(len(everyone), max(1, round(fraction * clients)))


@given(now=st.integers(0, 10**6), days=st.integers(1, 9), seed=st.integers(0, 9))
def test_another_day_at_the_same_hour_is_the_same(now, days, seed):
    draw = available(registered(50), now=float(now), key=Key(seed), day_seconds=4096.0)
    later = float(now + days * 4096)
    assert available(registered(50), now=later, key=Key(seed), day_seconds=4096.0) == draw


@pytest.mark.parametrize("hour", [0, 6, 9, 12, 18, 21])
def test_availability_follows_the_hour(hour):
    clients = 40_000
    there = len(available(registered(clients), now=hour * 3600.0, key=Key(hour), zones=0.0))
    chance = 0.1 + 0.3 * (1 + math.cos(2 * math.pi * hour / 24)) / 2
    assert abs(there - clients * chance) < 4 * (clients * chance * (1 - chance)) ** 0.5


def test_four_times_as_many_are_there_at_night_and_the_earth_as_a_whole_never_sleeps():
    def there(hour, **knobs):
        return len(available(registered(40_000), now=hour * 3600.0, key=Key(0), **knobs))

    # The middle of three hours of time zones has its midnight one and a half hours later.
    assert there(1.5) / there(13.5) == pytest.approx(4, rel=0.1)
    assert there(0, zones=1.0) == pytest.approx(there(12, zones=1.0), rel=0.05)


def test_time_zones_belong_to_the_trace_and_stay():
    """Where the swing is all or nothing at the edges, who is there shows who lives where."""

    def often(at, trace):
        counts = torch.zeros(20)
        for number in range(300):
            knobs = {"low": 0.0, "high": 1.0, "zones": 1.0, "trace": trace}
            counts[list(available(registered(20), now=at * DAY, key=Key(5) / number, **knobs))] += 1
        return counts

    here, again, there = often(0.0, 0), often(7.0, 0), often(0.0, 1)
    assert here.equal(again)
    assert (here - there).abs().max() > 100
    # Half a day later, who was always there is never there.
    assert (here + often(0.5, 0) - 300).abs().max() < 4 * (300 / 2) ** 0.5


def test_nobody_is_there_where_the_chance_is_nothing_and_everybody_where_it_is_one():
    assert available(registered(9), key=Key(0), low=0.0, high=0.0) == ()
    assert available(registered(9), key=Key(0), low=1.0, high=1.0) == tuple(range(9))


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"fraction": 0.0}, r"cohort\.fraction must be above 0 and at most 1, got 0\.0"),
        ({"low": 0.5}, r"cohort\.low and high must be 0 <= low <= high <= 1, got 0\.5 and 0\.4"),
        ({"high": 1.5}, r"cohort\.low and high must be .*, got 0\.1 and 1\.5"),
        ({"low": -0.1}, r"cohort\.low and high must be .*, got -0\.1 and 0\.4"),
        ({"zones": 1.1}, r"cohort\.zones must be in 0\.\.1, got 1\.1"),
        ({"day_seconds": 0.0}, r"cohort\.day_seconds must be above 0, got 0\.0"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, named):
    with pytest.raises(ValueError, match=named):
        available(registered(5), key=Key(0), **knobs)


STAYS = ("client,start,end", "0,0,10", "2,5,8", "2,7,20", "1,19.5,20")


@pytest.mark.parametrize(
    ("now", "there"),
    [
        (0.0, (0,)),
        (4.9, (0,)),
        (5.0, (0, 2)),
        (7.5, (0, 2)),
        (10.0, (2,)),
        (19.5, (1, 2)),
        (20.0, (0,)),
        (65.0, (0, 2)),
    ],
)
def test_a_trace_says_who_is_there_from_start_until_before_end_and_begins_again(csv, now, there):
    assert trace(registered(4), now=now, key=Key(0), path=csv(*STAYS)) == there


def test_a_longer_period_leaves_a_gap_after_the_last_stay(csv):
    path = csv(*STAYS)
    at = {
        now: trace(registered(4), now=now, key=Key(0), path=path, period=30.0)
        for now in (20.0, 29.9, 30.0, 35.0)
    }
    assert at == {20.0: (), 29.9: (), 30.0: (0,), 35.0: (0, 2)}
    once = trace(registered(4), now=1e9, key=Key(0), path=path, period=math.inf)
    assert once == ()


def test_a_trace_draws_a_fraction_of_all_from_those_who_are_there(csv):
    path = csv("client,start,end", *(f"{client},0,10" for client in range(0, 40, 2)))
    counts = torch.zeros(40)
    for number in range(500):
        drawn = trace(registered(40), key=Key(0) / number, path=path, fraction=0.1)
        assert len(drawn) == 4 and list(drawn) == sorted(set(drawn))
        counts[list(drawn)] += 1
    assert counts[1::2].sum() == 0
    assert ((counts[::2] - 100).abs() < 4 * (500 * 0.2 * 0.8) ** 0.5).all()
    assert len(trace(registered(40), key=Key(0), path=path, fraction=0.9)) == 20


def test_a_trace_that_was_edited_is_read_again(csv):
    path = csv("client,start,end", "0,0,10")
    assert trace(registered(2), key=Key(0), path=path) == (0,)
    csv("client,start,end", "1,0,10")
    os.utime(path, ns=(1, 1))
    assert trace(registered(2), key=Key(0), path=path) == (1,)


def test_columns_may_come_in_any_order_with_spaces_and_others_beside_them(csv):
    path = csv("model, end, client, start", "pixel, 10, 1, 0", "", "nokia, 20, 0, 10")
    assert trace(registered(2), key=Key(0), path=path) == (1,)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["client,start"], r"must have the columns client, start, end, and has no end"),
        ([], r"must have the columns client, start, end, and has no client"),
        (["client,start,end"], r"names no client"),
        (["client,start,end", "0,0,1", "3,0,1"], r"line 3: client must be .* 0\.\.2, got 3"),
        (["client,start,end", "-1,0,1"], r"line 2: client must be .* 0\.\.2, got -1"),
        (["client,start,end", "0.5,0,1"], r"line 2: client must be .* 0\.\.2, got 0\.5"),
        (["client,start,end", "0,zero,1"], r"line 2: start must be a number, got 'zero'"),
        (["client,start,end", "0,nan,1"], r"line 2: start must be a number, got 'nan'"),
        (["client,start,end", "0,1"], r"line 2: end must be a number, got None"),
        (["client,start,end", "0,-1,1"], r"line 2: start must be 0 or more .*, got -1 and 1"),
        (["client,start,end", "0,0,1", "1,5,5"], r"line 3: start .* below end, got 5 and 5"),
    ],
)
def test_what_is_wrong_with_a_trace_is_named_by_line(csv, lines, named):
    with pytest.raises(ValueError, match=rf"^cohort\.path=.*own\.csv,? ?{named}") as refused:
        trace(registered(3), key=Key(0), path=csv(*lines))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^cohort\.path: there is no file nowhere\.csv$"):
        trace(registered(3), key=Key(0), path="nowhere.csv")
    (tmp_path / "own.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"^cohort\.path=.*own\.csv cannot be read as CSV$"):
        trace(registered(3), key=Key(0), path=str(tmp_path / "own.csv"))


@pytest.mark.parametrize("period", [19.0, 0.0, math.nan])
def test_a_period_shorter_than_the_trace_is_refused(csv, period):
    with pytest.raises(ValueError, match=r"cohort\.period must be at least .* 20, got"):
        trace(registered(4), key=Key(0), path=csv(*STAYS), period=period)
