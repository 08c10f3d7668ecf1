"""Curves over what was spent, and summaries that remember them."""

from io import BytesIO
from math import isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.metrics import estimate
from dai_lab.report import Group, Run, recalled, tried
from dai_lab.report.trials import over, records, spread_out


def spender(key, rounds):
    """Draw a run that spends a different amount each round."""
    steps, scores = torch.rand(2, rounds, generator=key.stream(), dtype=torch.double)
    pairs = zip(steps.cumsum(0).tolist(), scores.tolist(), strict=True)
    return [
        {"round": number, "simulated_seconds": cost, "test_accuracy": score}
        for number, (cost, score) in enumerate(pairs, start=1)
    ]


def last_before(rows, amount):
    """Look up the value at an amount the slow way."""
    return [row["test_accuracy"] for row in rows if row["simulated_seconds"] <= amount][-1]


@settings(max_examples=20)
@given(seed=st.integers(0, 999), runs=st.integers(1, 5), rounds=st.integers(2, 40))
def test_between_what_was_judged_each_seed_counts_with_its_last_value(seed, runs, rounds):
    seeds = [spender(Key(seed) / at, rounds) for at in range(runs)]
    found = over(seeds, "test_accuracy", "simulated_seconds")
    first = max(rows[0]["simulated_seconds"] for rows in seeds)
    last = min(rows[-1]["simulated_seconds"] for rows in seeds)
    if found is None:
        assert first > last
        return
    amounts, points, same = found
    assert (amounts[0], amounts[-1]) == (first, last)
    assert same == (runs == 1) and len(amounts) <= 100
    for amount, point in zip(amounts, points, strict=True):
        wanted = estimate([last_before(rows, amount) for rows in seeds])
        assert point.value == pytest.approx(wanted.value)
        if runs > 1:
            assert (point.low, point.high) == pytest.approx((wanted.low, wanted.high))


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_seeds_that_spend_alike_give_the_estimate_of_every_round(seed):
    seeds = [spender(Key(seed) / at, 6) for at in range(3)]
    amounts, points, same = over(seeds, "test_accuracy", "round")
    assert same and amounts.tolist() == [1, 2, 3, 4, 5, 6]
    for place, point in enumerate(points):
        assert point.value == pytest.approx(
            estimate([rows[place]["test_accuracy"] for rows in seeds]).value
        )


def test_a_run_that_broke_down_is_missing_from_there_on_and_cuts_nobody_short():
    whole = [{"round": at, "flops": 10.0 * at, "test_accuracy": 0.5} for at in range(1, 9)]
    broken = [*whole[:3], {"round": 4, "flops": 40.0, "test_accuracy": None}]
    amounts, points, _ = over([whole, broken], "test_accuracy", "flops")
    assert amounts[-1] == 80
    assert [point.missing for point in points] == [0, 0, 0, 1, 1, 1, 1, 1]


def test_what_is_not_known_or_not_spent_has_no_curve():
    rows = [{"round": 1, "bytes_up": 0, "bytes_down": 0, "test_accuracy": 0.5}]
    assert over([rows], "test_accuracy", "bytes") is None
    assert over([rows], "test_accuracy", "flops") is None
    assert over([rows], "personal_accuracy", "round") is None


def group(world, algorithm, seeds, rounds, *, every=1):
    runs = []
    for seed in range(seeds):
        rows = spender(Key(seed) / world / algorithm, rounds)
        for row in rows:
            row |= {"bytes_up": 1000 * row["round"], "bytes_down": 900 * row["round"]}
            row |= {"flops": row["simulated_seconds"] * 1e9}
            row |= {name: row["test_accuracy"] ** 2 for name in AVERAGED}
            row["test_accuracy"] = round(row["test_accuracy"], 4)
            if row["round"] % every:
                for name in ("test_accuracy", *AVERAGED):
                    del row[name]
        folder = Path(f"{seed:010x}")
        runs.append(Run(folder, {"seed": seed}, tuple(rows), (), {}, {"commit": "0" * 40}, None))
    return Group(f"{world}, {algorithm}", tuple(runs), {}, world, algorithm)


AVERAGED = ("client_accuracy", "personal_accuracy")


def test_a_summary_remembers_every_judged_round():
    groups = [group("iid", "fedavg", 2, 10, every=2), group("skewed", "fedavg", 2, 10)]
    kept = BytesIO()
    spread_out(groups).to_parquet(kept, index=False)
    for before, after in zip(tried(groups), recalled(pd.read_parquet(kept)), strict=True):
        assert (before.world, before.algorithm) == (after.world, after.algorithm)
        for seed, rows in before.seeds.items():
            judged = [row for row in rows if "test_accuracy" in row]
            assert len(judged) == len(after.seeds[seed])
            for old, new in zip(judged, after.seeds[seed], strict=True):
                assert new["test_accuracy"] == old["test_accuracy"]
                assert new == pytest.approx(old, rel=1e-6, abs=5e-6)


def test_a_number_that_was_lost_stays_lost():
    assert records({"test_accuracy": np.array([0.5, nan]), "personal_accuracy": nan}) == [
        {"round": 1, "test_accuracy": 0.5},
        {"round": 2, "test_accuracy": None},
    ]
    assert isnan(spread_out([group("iid", "fedavg", 1, 3, every=2)])["test_accuracy"][0][-1])


def test_four_hundred_runs_stay_below_a_megabyte():
    groups = [
        group(world, f"algorithm{at}", 5, 50) for world in ("a", "b", "c", "d") for at in range(20)
    ]
    kept = BytesIO()
    spread_out(groups).to_parquet(kept, index=False, compression="zstd")
    assert kept.tell() < 1_000_000


def test_only_runs_with_three_words_for_a_name_can_be_ranked():
    summary = pd.DataFrame([{"group": "attack=alie", "seed": 0, "test_accuracy": [0.5]}])
    with pytest.raises(ValueError, match=r"name must be <study>,<world>,<algorithm>.*attack=alie"):
        recalled(summary)
