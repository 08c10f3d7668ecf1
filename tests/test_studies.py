"""A study's README says what its summary says."""

from pathlib import Path

import pytest

from dai_lab.report import recomputed
from dai_lab.report.study import BLOCK

ROOT = Path(__file__).parent.parent / "experiments"
STUDIES = sorted(kept.parent.name for kept in ROOT.glob("*/summary.parquet"))
MEASURED = sorted(kept.parent.name for kept in ROOT.glob("*/*.csv") if kept.stem != "published")
PLANNED = sorted(
    {one.parent.name for one in ROOT.glob("*/README.md")} - set(STUDIES) - set(MEASURED)
)


@pytest.mark.parametrize("study", STUDIES)
def test_the_table_in_the_readme_follows_from_the_summary(study):
    shown, computed = recomputed(ROOT / study)
    assert shown == computed


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_keeps_its_grid_its_published_numbers_and_its_figures(study):
    kept = {path.name for path in (ROOT / study).iterdir()}
    assert {"grid.yaml", "published.csv", "summary.parquet"} <= kept
    assert {"curves.svg", "heat-final.svg"} & kept


def test_the_tables_of_what_secure_sums_cost_follow_from_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import secagg_cost

    frame, text = secagg_cost.costs(), (ROOT / "secagg_cost" / "README.md").read_text()
    assert len(frame) == 3 * sum(map(len, secagg_cost.CELLS.values()))
    assert secagg_cost.filled(text, frame) == text


def test_the_tables_of_accuracy_against_epsilon_follow_from_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import privacy_utility

    frame = privacy_utility.measured()
    text = (ROOT / "privacy_utility" / "README.md").read_text()
    assert len(frame) == len([*privacy_utility.cells([*privacy_utility.HELD, "records"], range(5))])
    assert privacy_utility.filled(text, frame) == text
    kept = frame[frame["trust"] != "none"]
    assert (kept["epsilon"] <= 1.1 * kept["target"]).all()


def test_all_tampering_is_found_and_nobody_is_blamed_wrongly(monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import tamper

    frame, text = tamper.measured(), (ROOT / "tamper" / "README.md").read_text()
    assert {*zip(frame["case"], frame["seed"], strict=True)} == {
        (case, seed) for case in tamper.CASES for seed in range(5)
    }
    assert tamper.filled(text, frame) == text
    assert (frame["found"] == frame["tried"]).all() and not frame["wrongly"].any()
    assert frame["tried"][frame["case"].str.startswith("a byte")].sum() == 10_000


def test_the_table_of_what_a_log_costs_follows_from_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import provenance_cost

    frame, text = provenance_cost.measured(), (ROOT / "provenance_cost" / "README.md").read_text()
    assert len(frame) == 5 * len(provenance_cost.CELLS)
    assert provenance_cost.filled(text, frame) == text


@pytest.mark.parametrize(
    "study", sorted(one.parent.name.partition("_")[2] for one in ROOT.glob("*/fairness.csv"))
)
def test_the_tables_of_fairness_follow_from_what_was_measured(study, monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import fairness

    frame, text = fairness.measured(study), (fairness.place(study) / "README.md").read_text()
    assert fairness.OPTION.search(text)
    assert fairness.filled(study, text, frame) == text
    assert not frame.duplicated([*fairness.AXES, "seed"]).any()
    assert set(frame.groupby(list(fairness.AXES))["seed"].nunique()) == {5}


def test_a_remedy_halves_the_gap_on_adult_for_less_than_two_points_of_accuracy(monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import fairness
    from dai_lab.metrics import estimate

    frame = fairness.measured("methods")
    here = frame[frame["world"] == "adult-0.5"]
    plain, mended = (here[here["method"] == one] for one in ("fedavg", "thresholds"))
    gaps = [estimate(list(one["equalized_odds_difference"])) for one in (plain, mended)]
    assert gaps[1].value < gaps[0].value / 2 and gaps[1].high < gaps[0].low
    assert plain["test_accuracy"].mean() - mended["test_accuracy"].mean() < 0.02


def test_liars_move_a_gap_by_ten_points_and_accuracy_hardly_shows_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent)
    from benchmarks import fairness
    from dai_lab.metrics import estimate

    frame = fairness.measured("robustness")
    here = frame[(frame["world"] == "mixed") & (frame["method"] == "mean")]
    quiet, attacked = (here[here["attack"] == one] for one in ("none", "anchoring"))
    gaps = [estimate(list(one["equal_opportunity_difference"])) for one in (quiet, attacked)]
    assert gaps[1].low - gaps[0].high > 0.1
    assert quiet["test_accuracy"].mean() - attacked["test_accuracy"].mean() < 0.02


@pytest.mark.parametrize("study", PLANNED)
def test_a_study_that_is_only_planned_shows_no_number(study):
    places = BLOCK.findall((ROOT / study / "README.md").read_text())
    assert places and not any(body for _, _, _, body, _ in places)
    assert (ROOT / study / "grid.yaml").exists()


def test_federated_averaging_reaches_what_it_must_and_two_class_clients_slow_it_down():
    from pandas import read_parquet

    summary = read_parquet(ROOT / "fedavg" / "summary.parquet")

    def rounds_to(group, target):
        curves = summary[summary["group"] == group]["test_accuracy"]
        hits = [[at for at, one in enumerate(curve, 1) if one >= target] for curve in curves]
        return [found[0] if found else 1000 for found in hits]

    assert len(rounds_to("partition=iid", 0.88)) == 3 and max(rounds_to("partition=iid", 0.88)) < 50
    assert min(rounds_to("partition=classes", 0.8)) > 5 * max(rounds_to("partition=iid", 0.8))
