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
