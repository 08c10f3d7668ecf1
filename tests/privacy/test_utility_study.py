"""Opacus's three published points, run again on fewer digits, keep their order."""

from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import privacy_utility

    return privacy_utility


def test_the_table_of_opacus_points_follows_from_what_was_measured(study):
    frame = study.measured("opacus")
    found = [*zip(frame["data"], frame["trust"], frame["target"], frame["seed"], strict=True)]
    assert len(found) == len({*found})
    assert {*found} == {*study.cells(["opacus"], range(5))}
    text = (study.PLACE / "README.md").read_text()
    assert study.table(frame, "opacus") in text


def test_less_noise_and_more_steps_cost_more_epsilon_and_every_seed_is_more_accurate(study):
    runs = study.measured("opacus").groupby("target")
    assert [*runs.groups] == sorted(study.OPACUS)
    epsilons = [some["epsilon"].max() for _, some in runs]
    assert sorted(epsilons) == epsilons and len({*epsilons}) == 3
    spans = [(some["accuracy"].min(), some["accuracy"].max()) for _, some in runs]
    # The least accurate seed of a point is above the most accurate one of the point before.
    assert all(before[1] < after[0] for before, after in pairwise(spans))


def test_the_published_epsilons_are_upper_bounds_of_what_we_price_them_at(study):
    from dai_lab.core import Event
    from dai_lab.privacy import epsilon

    for published, (noise, _, _, epochs, _) in study.OPACUS.items():
        bill = {Event("gaussian", (noise,), 0.004, "record"): 250 * epochs}
        assert 0.6 * published < epsilon(bill, delta=1e-5) < published
