"""Rankings: who leads where, what it costs, and a README that holds the answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dai_lab.core import Key
from dai_lab.metrics import estimate
from dai_lab.report import (
    costs,
    grouped,
    publish,
    ranking,
    recomputed,
    runs,
    standing,
    summarize,
    tried,
)
from dai_lab.report.ranking import leaders

ENDS = {
    ("iid", "fedavg"): (0.90, 0.92, 0.91),
    ("iid", "scaffold"): (0.905, 0.91, 0.90),
    ("iid", "fedper"): (0.70, 0.71, 0.72),
    ("skewed", "fedavg"): (0.60, 0.62, 0.61),
    ("skewed", "scaffold"): (0.80, 0.81, 0.79),
    ("skewed", "fedper"): (0.50, 0.52, 0.51),
}


@pytest.fixture(scope="module")
def results(studies, tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    return studies.named(place, ENDS, personal=("fedper",))


@pytest.fixture(scope="module")
def trials(results):
    return tried(grouped(runs(results))[0])


def cells(text):
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_a_ranking_holds_every_final_accuracy_and_the_mean_of_the_places(trials):
    found = cells(ranking(trials))
    assert list(found) == ["", "---", "fedavg", "scaffold", "fedper"]
    for at, world in enumerate(("iid", "skewed")):
        for name in ("fedavg", "scaffold", "fedper"):
            assert found[name][at].replace("*", "") == str(estimate(ENDS[world, name]))
    assert [found[name][2].split()[0] for name in ("fedavg", "scaffold")] == ["1.5", "1.5"]
    assert found["fedper"][2] == "3.0 [3.0, 3.0]"


def test_bold_is_what_the_seeds_do_not_tell_from_the_best(trials):
    found = standing(trials)
    assert found.leading == {("iid", "fedavg"), ("iid", "scaffold"), ("skewed", "scaffold")}
    text = ranking(trials)
    assert text.count("**") == 6 and "3 seeds tell little" in text


def test_models_of_ones_own_rank_against_the_common_one_on_the_same_examples(trials):
    found = standing(trials, "best")
    # Held out: the common model 0.1 below the test set, a client's own 0.05 above it.
    assert found.cells["skewed", "fedper"].value == pytest.approx(0.56)
    assert found.cells["skewed", "fedavg"].value == pytest.approx(0.51)
    only = standing(trials, "personal_accuracy")
    assert only.algorithms == ("fedper",) and not only.leading


@settings(max_examples=30)
@given(seed=st.integers(0, 999), seeds=st.integers(2, 9), methods=st.integers(2, 6))
def test_the_best_leads_or_nobody_does_and_order_does_not_matter(seed, seeds, methods):
    stream = np.random.default_rng(Key(seed).number())
    ends = {str(at): stream.random(seeds) + 0.2 * at for at in range(methods)}
    found = leaders(ends)
    best = max(ends, key=lambda name: stats.trim_mean(ends[name], 0.25))
    assert len(found) < methods
    assert not found or best in found
    assert leaders(dict(reversed(ends.items()))) == found


@settings(max_examples=30)
@given(seed=st.integers(0, 999), seeds=st.integers(2, 9))
def test_who_wins_some_seed_against_the_best_of_few_is_not_told_from_it(seed, seeds):
    stream = np.random.default_rng(Key(seed).number())
    ends = {"a": stream.random(seeds), "b": stream.random(seeds), "far": np.full(seeds, -1.0)}
    found = leaders(ends)
    ahead = ends["a"] > ends["b"]
    assert "far" not in found and found
    if seeds < 6 and ahead.any() and not ahead.all():
        assert found == {"a", "b"}


def test_one_seed_against_the_verdict_counts_while_seeds_are_few():
    behind = np.array([-0.01, 0.3, 0.3, 0.3, 0.3])
    ends = {"best": behind, "rival": 0 * behind, "far": behind - 9}
    assert leaders(ends) == {"best", "rival"}
    more = {name: np.concatenate([one, one[1:], one[1:]]) for name, one in ends.items()}
    assert leaders(more) == {"best"}


def test_nobody_leads_with_one_seed_or_where_none_is_told_apart_or_after_breaking_down():
    assert leaders({"a": np.array([0.9]), "b": np.array([0.1])}) == set()
    assert leaders({"a": np.array([0.9, 0.1]), "b": np.array([0.1, 0.9])}) == set()
    broken = {"a": np.array([0.9, np.nan]), "b": np.array([0.1, 0.1]), "c": np.zeros(2)}
    assert leaders(broken) == {"b"}


def test_a_method_that_was_not_tried_everywhere_has_no_rank(studies, tmp_path):
    ends = {**ENDS, ("iid", "extra"): 0.95}
    found = ranking(tried(grouped(runs(studies.named(tmp_path, ends)))[0]))
    assert cells(found)["extra"][1:] == ["-", "-"]
    assert list(cells(found))[-1] == "extra"


def test_runs_that_cannot_be_paired_are_refused(studies, tmp_path):
    studies.named(tmp_path, {("iid", "fedavg"): 0.9})
    studies.named(tmp_path, {("iid", "scaffold"): 0.9}, seeds=(0, 2))
    with pytest.raises(ValueError, match="scaffold in iid lacks seed 1"):
        ranking(tried(grouped(runs(tmp_path))[0]))


def test_the_cost_of_a_target_is_that_of_the_first_round_at_or_above_it(trials):
    # Accuracy grows by an eighth of its end each round, at 1.5 MB.
    aims = {"iid": 0.8, "skewed": 0.6}
    found = cells(costs(trials, {"": 0.6, "iid": 0.8}))
    for at, (world, aim) in enumerate(aims.items()):
        for name in ("fedavg", "scaffold"):
            hits = [
                next(number for number in range(1, 9) if end * number / 8 >= aim)
                for end in ENDS[world, name]
            ]
            assert found[name][at] == f"{estimate([1.5 * number for number in hits]):.3g}"
    assert found["fedper"] == ["never", "never"]
    head = costs(trials, {"": 0.6}, resource="flops").splitlines()[0]
    assert head == "|  | GFLOP to 60% in iid | GFLOP to 60% in skewed |"
    with pytest.raises(ValueError, match="target names no accuracy for skewed"):
        costs(trials, {"iid": 0.8})


README = """# A study
<!-- ours: 0.6 -->
<!-- end -->
<!-- ranking: metric=test_accuracy by=world -->
<!-- end -->
<!-- ranking: metric=best -->
<!-- end -->
<!-- cost: target=iid:0.8,0.6 of=simulated_seconds -->
<!-- end -->
The end.
"""


def test_a_study_publishes_rankings_that_its_summary_gives_again(results, tmp_path):
    (tmp_path / "README.md").write_text(README)
    text = publish(results, tmp_path).read_text()
    assert text.startswith("# A study\n") and text.endswith("\nThe end.\n")
    assert text.count("| scaffold |") == 3 and "| iid, scaffold | 3 | 8 |" in text
    shown, computed = recomputed(tmp_path)
    assert shown == computed and shown.count("<!-- end -->") == 4
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    kinds = ("curves", "curves-best", "ranking", "ranking-best")
    assert drawn == {f"{kind}{ground}.svg" for kind in kinds for ground in ("", "-dark")}
    (tmp_path / "README.md").write_text(text.replace("| scaffold |", "| ours |"))
    shown, computed = recomputed(tmp_path)
    assert shown != computed


def test_a_study_counts_its_own_runs_only(studies, tmp_path):
    place = studies.named(tmp_path / "results", ENDS)
    studies.sweep(place / "another")
    study = tmp_path / "demo"
    study.mkdir()
    (study / "README.md").write_text("<!-- ranking: -->\n<!-- end -->\n")
    found = cells(publish(place, study).read_text())
    assert set(found) == {"", "---", "fedavg", "scaffold", "fedper"}
    assert len(summarize(place, "demo")) == 18
    assert len(summarize(place)) == len(summarize(place, "unheard")) == 27


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("ranking: metric=speed", "metric must be one of test_accuracy, .*got speed"),
        ("ranking: by=seed", "ranking: by must be world, got seed"),
        ("ranking: best", "ranking: there is no best: it takes metric, by"),
        ("cost: of=bytes", "cost: target must be 0.8 or"),
        ("cost: target=0.8 of=money", "cost: of must be one of round, bytes"),
    ],
)
def test_a_table_that_cannot_be_is_one_line_and_changes_nothing(
    results, tmp_path, block, complaint
):
    text = f"<!-- {block} -->\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        publish(results, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == text


def test_runs_without_such_names_have_no_ranking(studies, tmp_path):
    studies.sweep(tmp_path / "results", seeds=(0, 1))
    (tmp_path / "README.md").write_text("<!-- ranking: metric=best -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="name must be <study>,<world>,<algorithm>"):
        publish(tmp_path / "results", tmp_path)
