"""A grid is planned, run in order, and never run twice."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from dai_lab.config import digest, load
from dai_lab.experiment import plans, study

GRID = {
    "study": "tiny",
    "seeds": [0, 1],
    "common": ["data=digits", "model=logistic", "federation.clients=6", "rounds=1"],
    "worlds": {"iid": ["partition=iid"], "skewed": ["partition=dirichlet"]},
    "attacks": {"none": [], "ipm": ["attack=ipm", "federation.hostile=1"]},
    "aggregators": {"mean": [], "median": ["aggregator=median"]},
    "parts": {
        "first": {"worlds": ["skewed"], "attacks": ["ipm"]},
        "rest": {"aggregators": ["mean"], "seeds": [0]},
    },
}


@pytest.fixture
def grid(tmp_path):
    def write(**changes):
        OmegaConf.save(OmegaConf.create({**GRID, **changes}), tmp_path / "grid.yaml")
        return tmp_path

    return write


def test_parts_come_in_their_order_and_a_cell_comes_once():
    found = plans.cells(GRID)
    names = [(one.part, one.world, one.attack, one.aggregator, one.seed) for one in found]
    assert names == [
        ("first", "skewed", "ipm", "mean", 0),
        ("first", "skewed", "ipm", "median", 0),
        ("first", "skewed", "ipm", "mean", 1),
        ("first", "skewed", "ipm", "median", 1),
        ("rest", "iid", "none", "mean", 0),
        ("rest", "iid", "ipm", "mean", 0),
        ("rest", "skewed", "none", "mean", 0),
    ]
    assert load(*found[1].words).name == "tiny,skewed,ipm,median"


def test_without_parts_every_combination_is_run():
    whole = plans.cells({key: value for key, value in GRID.items() if key != "parts"})
    assert len(whole) == len({one.words for one in whole}) == 2 * 2 * 2 * 2


def test_what_is_done_is_not_done_again(grid, tmp_path, capsys):
    folder, results = grid(), str(tmp_path / "results")
    some = study(folder, results=results, parts=["first"], share=0.5)
    assert len(some) == 2 and not any(one.skipped for one in some)
    assert study(folder, results=results, show=True) == []
    assert "first: 4 runs, 2 done" in capsys.readouterr().out
    assert len(study(folder, results=results, seeds=[1])) == 2
    rest = study(folder, results=results)
    assert len(rest) == 3 and study(folder, results=results) == []
    assert {one.summary["name"] for one in rest} == {
        "tiny,iid,none,mean", "tiny,iid,ipm,mean", "tiny,skewed,none,mean",
    }  # fmt: skip
    typed = {digest(load(*one.words, f"results={results}")) for one in plans.cells(GRID)}
    assert {one.name for one in (tmp_path / "results").glob("*/*")} == typed


def test_a_cell_that_cannot_run_is_named_and_stops_no_other(grid, tmp_path, capsys):
    folder = grid(aggregators={"mean": [], "median": ["aggregator=krum", "aggregator.f=9"]})
    ends = study(folder, results=str(tmp_path / "results"), parts=["first"], seeds=[0])
    assert [isinstance(end, Exception) for end in ends] == [False, True]
    assert "failed: data=digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "knobs", "complaint"),
    [
        ({}, {"parts": ["second"]}, "there is no part second: choose from first, rest"),
        ({}, {"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ({"parts": {"a": {"worlds": ["moon"]}}}, {}, "part a has moon, which is none of worlds"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(grid, changes, knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        study(grid(**changes), show=True, **knobs)


def test_the_command_line_plans_and_runs(grid, tmp_path):
    def lab(*words):
        return subprocess.run(
            [sys.executable, "-m", "dai_lab.run", "study", str(grid()), *words],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    plan = lab("plan", "part=first", "results=there")
    assert plan.returncode == 0 and plan.stdout == "first: 4 runs, 0 done\n"
    assert not (tmp_path / "there").exists()
    done = lab("part=first", "seed=1", "results=there", "abreast=2")
    assert done.returncode == 0 and "2 of 2" in done.stdout
    assert len(list((tmp_path / "there").glob("*/*/summary.json"))) == 2


def test_a_folder_without_a_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*grid\.yaml"):
        study(tmp_path)
