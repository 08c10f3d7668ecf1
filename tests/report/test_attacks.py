"""Aggregators against attacks: worst cases, pairs, poisons, heat maps, and a README with them."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.metrics import estimate, worst
from dai_lab.report import grouped, publish, recomputed, runs, summarize, tried
from dai_lab.report.attacks import paired, poisoned, runtime, survival, worst_case
from dai_lab.report.heat import draw_heat
from dai_lab.report.trials import Trial, recalled

# Peaks in the middle and ends at: (peak, end) for each of three seeds.
PLAYED = {
    ("alie", "mean"): [(0.9, 0.30), (0.8, 0.20), (0.85, 0.25)],
    ("ipm", "mean"): [(0.5, 0.50), (0.5, 0.45), (0.5, 0.55)],
    ("alie", "krum"): [(0.7, 0.70), (0.7, 0.65), (0.7, 0.60)],
    ("ipm", "krum"): [(0.9, 0.90), (0.9, 0.85), (0.9, 0.80)],
}


def rows(peak, end, **more):
    curve = [0.1, peak, end]
    return [
        {"round": at, "test_accuracy": one, "bytes_up": at, **more} for at, one in enumerate(curve)
    ]


def trials(world="skewed", **more):
    return [
        Trial(
            rule,
            world,
            {seed: rows(*pair, **more) for seed, pair in enumerate(pairs)},
            attack,
            {seed: 2.0 + seed for seed in range(3)},
        )
        for (attack, rule), pairs in PLAYED.items()
    ]


def cells(text):
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_worst_case_names_the_attack_and_the_end_is_not_the_peak():
    final, peak = cells(worst_case(trials())), cells(worst_case(trials(), "peak"))
    assert final["mean"][0].startswith("0.250 [0.2") and final["mean"][0].endswith(" alie")
    assert peak["mean"][0].startswith("0.500") and peak["mean"][0].endswith(" ipm")
    assert final["krum"][0].startswith("0.650") and final["krum"][0].endswith(" alie")
    assert [final[name][1].split()[0] for name in ("krum", "mean")] == ["1.0", "2.0"]


@settings(max_examples=30)
@given(draw=st.integers(0, 999), attacks=st.integers(1, 5), seeds=st.integers(1, 5))
def test_the_worst_is_no_better_than_any_attack_and_a_peak_no_worse_than_the_end(
    draw, attacks, seeds
):
    stream = np.random.default_rng(Key(draw).number())
    tasks = [stream.random((seeds, 6)) for _ in range(attacks)]
    place, end = worst(tasks)
    each = [estimate(task[:, -1]).value for task in tasks]
    assert end.value == pytest.approx(min(each)) and each[place] == min(each)
    assert worst(tasks, peak=True)[1].value >= end.value - 1e-12
    assert worst(tasks[::-1])[1].value == pytest.approx(end.value)
    if seeds > 1:
        assert end.low <= end.value <= end.high


def test_the_peak_is_one_of_the_mean_over_seeds_not_a_mean_of_lucky_peaks():
    crossed = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert worst([crossed], peak=True)[1].value == pytest.approx(0.5)


def test_what_survives_its_own_attack_is_told_by_what_there_was_without_one():
    named = {"alie": "alie", "ipm": "adaptive"}
    free = [
        Trial(rule, "skewed", {seed: rows(1.0, 0.9) for seed in range(3)}, "none")
        for rule in ("mean", "krum")
    ]
    met = [
        Trial(one.algorithm, one.world, one.seeds, named[one.attack], one.seconds)
        for one in trials()
    ]
    found = cells(survival([*free, *met]))
    assert [*found][2:] == ["krum", "mean"]  # who keeps most comes first
    assert found["krum"][2].startswith("0.650") and found["krum"][2].endswith(" alie")
    assert found["krum"][3].startswith("0.850")
    assert found["mean"][4].startswith(f"{0.5 / 0.9:.3f}")
    with pytest.raises(ValueError, match="no aggregator met both adaptive and none"):
        survival(trials())


def test_a_run_that_broke_down_counts_as_nothing():
    assert worst([np.array([[0.9, np.nan], [0.9, 0.8]])])[1].value == pytest.approx(0.4)


def test_runs_that_broke_down_before_they_were_judged_count_as_nothing_too():
    lost = {seed: [{"round": 3, "bytes_up": 1}] for seed in range(3)}
    seconds = dict.fromkeys(range(3), 1.0)
    found = worst_case([*trials(), Trial("mean", "skewed", lost, "opt_ipm", seconds)])
    assert cells(found)["mean"][0] == "0.000 [0.000, 0.000] opt_ipm"
    drawn = draw_heat([*trials(), Trial("mean", "skewed", lost, "opt_ipm", seconds)])
    assert [one.get_text() for one in drawn.axes[0].texts].count(".00") == 2  # and the worst


def test_tasks_with_other_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        worst([np.zeros((2, 1)), np.zeros((3, 1))])
    odd = trials()
    odd[0] = Trial("mean", "skewed", {0: rows(0.9, 0.3)}, "alie")
    with pytest.raises(ValueError, match="with other seeds"):
        worst_case(odd)


def test_an_attack_that_a_rule_never_met_is_told_and_leaves_it_without_a_rank():
    found = cells(
        worst_case([one for one in trials() if one.attack == "alie" or one.algorithm == "mean"])
    )
    assert "alie, of 1 attacks" in found["krum"][0] and found["krum"][1] == "-"


def test_pairs_share_attack_and_seed_and_bold_leaves_out_nothing():
    found = cells(paired(trials(), "mean"))
    # 0.4, 0.45, 0.35 under one attack, 0.4, 0.4, 0.25 under the other: four in the middle.
    assert re.match(r"\*\*\+0\.38[78]\*\* \[", found["krum"][0])
    backwards = cells(paired(trials(), "krum"))
    assert re.match(r"\*\*-0\.38[78]\*\* \[", backwards["mean"][0])
    with pytest.raises(ValueError, match="against must be one of mean, krum"):
        paired(trials(), "median")


def test_a_poison_shows_its_success_beside_the_clean_accuracy():
    text = poisoned(trials(attack_success=0.75))
    assert text.count("0.750 [0.750, 0.750]") == 4 and "0.250 [0.200, 0.300]" in text
    with pytest.raises(ValueError, match="choose a poison"):
        poisoned(trials())


def test_seconds_are_estimated_over_worlds_and_seeds():
    assert cells(runtime(trials()))["krum"] == ["3.0 [2.0, 4.0]"] * 2


@pytest.mark.parametrize("dark", [False, True])
def test_a_heat_map_holds_every_cell_its_worst_column_and_readable_ink(dark):
    figure = draw_heat([*trials(), *trials("iid")], dark=dark)
    assert len(figure.axes) == 2
    axes = figure.axes[0]
    texts = {one.get_position(): one for one in axes.texts}
    assert texts[0, 0].get_text() == ".25" and texts[2, 0].get_text() == ".25"
    image = axes.images[0]
    for (column, row), text in texts.items():
        red, green, blue, _ = image.cmap(image.norm(image.get_array()[row, column]))
        ground = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        ink = 0.0 if text.get_color() == "#000000" else 1.0
        light, deep = max(ground, ink), min(ground, ink)
        assert (light + 0.05) / (deep + 0.05) > 4.5
    with pytest.raises(ValueError, match="final or peak"):
        draw_heat(trials(), of="mean")


def test_the_worst_of_a_success_is_the_highest():
    shown = [
        Trial(
            "mean", "iid", {0: [{"round": 1, "test_accuracy": 0.9, "attack_success": success}]}, one
        )
        for one, success in (("badnets", 0.25), ("dba", 0.75))
    ]
    figure = draw_heat([*shown, *trials("iid")], metric="attack_success")
    texts = {one.get_position(): one.get_text() for one in figure.axes[0].texts}
    assert [texts[column, 0] for column in range(3)] == [".25", ".75", ".75"]
    with pytest.raises(ValueError, match="no finished run has attack_success"):
        draw_heat(trials(), metric="attack_success")


README = (
    "<!-- worst: of=peak -->\n<!-- end -->\n<!-- paired: against=krum -->\n<!-- end -->\n"
    "<!-- runtime: -->\n<!-- end -->\n"
)


def test_a_study_of_attacks_is_published_and_recomputed_from_its_summary(studies, tmp_path):
    for (attack, rule), pairs in PLAYED.items():
        for seed, pair in enumerate(pairs):
            name = f"byz,skewed,{attack},{rule}"
            chosen = studies.config("none", seed, name=name, rounds=3)
            chosen["local"] = {"_target_": f"dai_lab.{attack}.{rule}"}
            studies.write(tmp_path / "results", chosen, rows=rows(*pair)[1:], name=f"{name}/{seed}")
    study = tmp_path / "byz"
    study.mkdir()
    (study / "README.md").write_text(README)
    text = publish(tmp_path / "results", study).read_text()
    assert "0.500" in text and "alie" in text
    shown, computed = recomputed(study)
    assert shown == computed
    kept = {one.name for one in study.iterdir()}
    assert {"heat-final.svg", "heat-final-dark.svg", "heat-peak.svg", "heat-peak-dark.svg"} <= kept
    fresh = tried(grouped(runs(tmp_path / "results"))[0])
    assert worst_case(recalled(summarize(tmp_path / "results"))) == worst_case(fresh)
    (study / "README.md").write_text(text.replace("0.500", "0.600", 1))
    shown, computed = recomputed(study)
    assert shown != computed


def test_a_study_grows_part_by_part(studies, tmp_path, capsys, monkeypatch):
    from pandas import read_parquet

    monkeypatch.setattr("dai_lab.report.study._figures", lambda *_: {})  # they take long
    study = tmp_path / "byz"
    study.mkdir()
    (study / "README.md").write_text(README)

    def published(place, seeds, *, end=0.0, worlds=("clients9",), rounds=3):
        for (attack, rule), pairs in PLAYED.items():
            for seed in seeds:
                for world in worlds:
                    name = f"byz,{world},{attack},{rule}"
                    chosen = studies.config("none", seed, name=name, rounds=rounds)
                    chosen["local"] = {"_target_": f"dai_lab.{attack}.{rule}"}
                    peak, last = pairs[seed]
                    found = rows(peak, end or last)[1:]
                    place_of = f"{name}/{world}-{attack}-{rule}-{seed}-{rounds}"
                    studies.write(tmp_path / place, chosen, rows=found, name=place_of)
        return publish(tmp_path / place, study).read_text()

    both = ("clients9", "clients10")
    whole = published("all", [0, 1, 2], worlds=both)
    (study / "summary.parquet").unlink()
    published("first", [0], worlds=both[1:])
    assert capsys.readouterr().out == ""
    published("second", [1, 2], worlds=both[1:])
    assert capsys.readouterr().out.startswith("4 of 4 runs published before")
    assert published("third", [0, 1, 2]) == whole
    shown, computed = recomputed(study)
    assert shown == computed
    kept = read_parquet(study / "summary.parquet")
    assert len(kept) == 24 and list(dict.fromkeys(kept["world"])) == list(both)
    # What is run once more is there once, and seeds of other settings are not added to it.
    published("again", [1], end=0.01)
    kept = read_parquet(study / "summary.parquet")
    ends = zip(kept["world"], kept["seed"], kept["test_accuracy"], strict=True)
    assert {(world, seed) for world, seed, curve in ends if curve[-1] == 0.01} == {("clients9", 1)}
    published("longer", [2], rounds=4)
    kept = read_parquet(study / "summary.parquet")
    seeds = kept.groupby("world")["seed"].unique()
    assert [*seeds["clients9"]] == [2] and [*seeds["clients10"]] == [0, 1, 2]
