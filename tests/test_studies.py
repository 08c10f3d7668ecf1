"""A study's README says what its summary says."""

from pathlib import Path

import pytest

from dai_lab.report import recomputed

ROOT = Path(__file__).parent.parent / "experiments"
STUDIES = sorted(readme.parent.name for readme in ROOT.glob("*/README.md"))


@pytest.mark.parametrize("study", STUDIES)
def test_the_table_in_the_readme_follows_from_the_summary(study):
    shown, computed = recomputed(ROOT / study)
    assert shown == computed


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_keeps_its_grid_its_published_numbers_and_its_figures(study):
    kept = {path.name for path in (ROOT / study).iterdir()}
    assert {"grid.yaml", "published.csv", "summary.parquet", "curves.svg"} <= kept


def test_federated_averaging_reaches_what_it_must_and_two_class_clients_slow_it_down():
    from pandas import read_parquet

    summary = read_parquet(ROOT / "fedavg" / "summary.parquet")

    def rounds_to(group, target):
        curves = summary[summary["group"] == group]["test_accuracy"]
        hits = [[at for at, one in enumerate(curve, 1) if one >= target] for curve in curves]
        return [found[0] if found else 1000 for found in hits]

    assert len(rounds_to("partition=iid", 0.88)) == 3 and max(rounds_to("partition=iid", 0.88)) < 50
    assert min(rounds_to("partition=classes", 0.8)) > 5 * max(rounds_to("partition=iid", 0.8))
