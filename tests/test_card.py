"""A model card says what the run's folder says: every number follows from its model and data."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from fairlearn import metrics as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from scipy.stats import beta, norm
from sklearn.metrics import accuracy_score, precision_score

from dai_lab import data, run
from dai_lab.config import digest, load
from dai_lab.core import Shards
from dai_lab.experiment import card, simulate
from dai_lab.experiment.card.numbers import evenness
from dai_lab.experiment.card.words import plain, table, written

PEOPLE = ("data=planted", "data.examples=1500", "data.features=3", "fairness.attribute=group")
SMALL = ("model=logistic", "federation.clients=4", "rounds=2", "compute.method=vmap")
NEAR = {"abs": 6e-4}
"""A number that was written with three decimals."""

RATES = ("accuracy", "selection rate", "true positive rate", "false positive rate", "precision")
GAPS = {
    "of selection rates (demographic parity)": "demographic_parity_difference",
    "lowest selection rate over the highest": "demographic_parity_ratio",
    "of true or of false positive rates, the larger (equalized odds)": "equalized_odds_difference",
    "lowest of these rates over the highest, the smaller": "equalized_odds_ratio",
    "of true positive rates (equal opportunity)": "equal_opportunity_difference",
    "of precisions (predictive parity)": "predictive_parity_difference",
    "of accuracies": "accuracy_difference",
    "lowest error rate over the highest": "error_rate_ratio",
    "accuracy of the group that fares worst": "worst_group_accuracy",
}


def ended(folder, *words):
    return simulate(load(*SMALL, *words), folder, progress=False)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Give a run over made-up people, one of whose groups was biased against."""
    words = ("data=biased", "data@data.of=planted", "data.attribute=group", "data.value=1")
    words = (*words, "data.of.examples=1500", "data.of.features=3", "data.drop=0.6")
    folder = tmp_path_factory.mktemp("federation")
    return ended(folder, *words, "fairness.attribute=group", "federation.holdout=0.3")


@pytest.fixture(scope="module")
def text(federation):
    return card(federation.folder).read_text()


def rows(text, section):
    """Read the tables of a section: the first cell of a line, and the others."""
    body = text.split(f"\n{section}\n")[1].split("\n#")[0]
    lines = [line for line in body.splitlines() if line.startswith("| ")]
    return {line[2:-2].split(" | ")[0]: line[2:-2].split(" | ")[1:] for line in lines}


def number(cell):
    """Read ``0.853 [0.847, 0.858]``."""
    found = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cell)
    return tuple(float(one) for one in found.groups())


def scored(folder):
    """Score the test set by hand: a softmax over one matrix and what is added."""
    made = data.planted(examples=1500, features=3)
    flat = load_file(folder / "checkpoint.safetensors")["params"].double()
    weights, added = flat[:-2].view(2, -1), flat[-2:]
    scores = torch.softmax(made.test.inputs.double() @ weights.T + added, dim=1)
    return scores.numpy(), made.test.targets.numpy(), made.test.attributes["group"].numpy()


def test_rates_of_groups_are_those_of_the_predictions(federation, text):
    scores, truth, group = scored(federation.folder)
    answer = scores.argmax(1)
    found = rows(text, "### By group")
    measures = (
        accuracy_score,
        theirs.selection_rate,
        theirs.true_positive_rate,
        theirs.false_positive_rate,
        precision_score,
    )
    for name, who in (("everybody", group >= 0), ("group 0", group == 0), ("group 1", group == 1)):
        people, *cells = found[name]
        assert int(people.replace(",", "")) == who.sum()
        among = {"true positive rate": truth == 1, "false positive rate": truth == 0}
        among["precision"] = answer == 1
        for rate, measure, cell in zip(RATES, measures, cells, strict=True):
            value, low, high = number(cell)
            assert value == pytest.approx(measure(truth[who], answer[who]), **NEAR)
            base = (who & among.get(rate, who)).sum()
            ends = beta.ppf([0.025, 0.975], value * base + 0.5, (1 - value) * base + 0.5)
            assert (low, high) == pytest.approx(tuple(ends), abs=0.25 * (ends[1] - ends[0]))


def test_gaps_are_those_of_the_predictions_and_two_groups_differ_by_about_a_normal(
    federation, text
):
    scores, truth, group = scored(federation.folder)
    answer = scores.argmax(1)
    told = rows(text, "### Gaps between groups")
    found = {GAPS[name]: number(*told[name]) for name in told.keys() & GAPS.keys()}
    assert found.keys() == {*GAPS.values()}
    for name in ("demographic_parity", "equalized_odds"):
        for kind in ("difference", "ratio"):
            measure = getattr(theirs, f"{name}_{kind}")
            said = measure(truth, answer, sensitive_features=group)
            assert found[f"{name}_{kind}"][0] == pytest.approx(said, **NEAR)
    shares = [answer[group == one].mean() for one in (0, 1)]
    error = sum(p * (1 - p) / (group == one).sum() for one, p in enumerate(shares)) ** 0.5
    apart = abs(shares[0] - shares[1])
    wide = norm.ppf(0.975) * error
    assert found["demographic_parity_difference"][1:] == pytest.approx(
        (max(0, apart - wide), apart + wide), abs=0.25 * wide
    )
    right = [accuracy_score(truth[group == one], answer[group == one]) for one in (0, 1)]
    assert found["worst_group_accuracy"][0] == pytest.approx(min(right), **NEAR)
    # What was put there is found: everybody of group 1 who was hidden is missed.
    assert found["equal_opportunity_difference"][1] > 0.1


def test_accuracy_loss_and_calibration_are_those_of_the_scores(federation, text):
    scores, truth, group = scored(federation.folder)
    found = rows(text, "## Evaluation")
    right = scores.argmax(1) == truth
    losses = -np.log(scores[np.arange(len(truth)), truth])
    error = losses.std(ddof=1) / len(losses) ** 0.5
    assert number(*found["accuracy"])[0] == pytest.approx(right.mean(), **NEAR)
    ends = losses.mean() + 1.96 * error * np.array([0, -1, 1])
    assert number(*found["loss"]) == pytest.approx(tuple(ends), **NEAR)
    most = number(*found["accuracy of always giving the most frequent class"])
    assert most[0] == pytest.approx((truth == 0).mean(), **NEAR)  # 1 is what was hidden
    for one in (0, 1):
        offset, told = rows(text, "### Calibration by group")[f"group {one}"]
        score, hoped = scores[group == one, 1], truth[group == one]
        assert number(offset)[0] == pytest.approx((score - hoped).mean(), **NEAR)
        place = np.ceil(score * 10).clip(1) - 1
        bins = [place == bin for bin in range(10)]
        error = sum(abs((score - hoped)[which].sum()) for which in bins) / len(score)
        assert float(told.split()[0]) == pytest.approx(error, **NEAR)
        assert 0 < float(told.split()[1].strip("()")) < 0.1
    # Scores of a group whose favorable examples were hidden are too low, and no chance of theirs.
    assert number(rows(text, "### Calibration by group")["group 1"][0])[2] < 0


def test_clients_and_counts_are_those_of_the_run(federation, text):
    said = federation.summary
    found = rows(text, "### Clients")
    assert number(*found["mean of clients' accuracies"])[0] == pytest.approx(
        said["client_accuracy"], **NEAR
    )
    worst = number(*found["mean of the worst tenth (at least one client)"])
    assert worst[0] == pytest.approx(said["client_accuracy_worst10"], **NEAR)
    deviation = number(*found["standard deviation over clients, 0 where all fare alike"])
    assert deviation[0] == pytest.approx(said["client_accuracy_variance"] ** 0.5, **NEAR)
    for name, measure in GAPS.items():
        assert number(*found[name])[0] == pytest.approx(said[f"client_{measure}"], **NEAR)
    _, truth, group = scored(federation.folder)
    people = rows(text, "## Data")
    assert int(people["group 1"][2].replace(",", "")) == (group == 1).sum()
    assert int(people["group 1"][3].split()[0]) == ((group == 1) & (truth == 1)).sum()
    named = (people[one][0].split()[0] for one in ("trained on", "held out by clients"))
    trained, held = (int(one.replace(",", "")) for one in named)
    assert sum(int(people[f"group {one}"][0].replace(",", "")) for one in (0, 1)) == trained
    # A share of each client's own is rounded down.
    assert held == pytest.approx(0.3 * (trained + held), abs=4)


def test_the_hub_reads_the_numbers_of_the_page_in_the_front_matter(federation, text):
    _, head, body = text.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "unknown"
    assert told["pipeline_tag"] == "tabular-classification"
    assert {"fairness", "federated-learning"} <= {*told["tags"]}
    (model,) = told["model-index"]
    assert model["name"] == f"run-{federation.summary['digest']}"
    (result,) = model["results"]
    assert result["task"] == {"type": "tabular-classification"}
    assert result["dataset"].keys() == {"type", "name"}
    values = {one["type"]: one["value"] for one in result["metrics"]}
    assert values["accuracy"] == pytest.approx(federation.summary["test_accuracy"], abs=6e-5)
    for name in GAPS.values():
        assert values[name] == pytest.approx(federation.summary[name], abs=6e-5)
    assert body.startswith(f"\n# Model card: run {federation.summary['digest']}\n")


def test_a_card_has_all_sections_and_the_same_bytes_each_time(federation, text, tmp_path):
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert titles == [
        "Model details", "Intended use", "Data", "Metrics", "Evaluation", "Privacy", "Provenance",
        "Caveats",
    ]  # fmt: skip
    again = card(federation.folder, tmp_path / "there" / "card.md")
    assert again.read_text() == text
    about = json.loads((federation.folder / "environment.json").read_text())
    for said in (
        about["commit"],
        federation.summary["digest"],
        "made up, a fair world",
        "4 clients",
    ):
        assert said in text
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


DECISIONS = {
    "thresholds": ("decision=thresholds",),
    "thresholds of liars": ("decision=thresholds", "federation.hostile=2", "poison=group_flip"),
    "thresholds of liars who renew": (
        "decision=thresholds",
        "federation.hostile=2",
        "federation.renew=1",
        "poison=gap",
    ),
    "local thresholds, pooled": ("decision=local_thresholds", "frame=centralized"),
}


@pytest.mark.parametrize("words", DECISIONS.values(), ids=DECISIONS)
def test_answers_are_decided_as_in_the_run(words, tmp_path):
    poison = ("poison.attribute=group",) if any("poison" in word for word in words) else ()
    ran = ended(tmp_path, *PEOPLE, "data.strength=1", *words, *poison)
    text = card(ran.folder).read_text()
    found = rows(text, "### Gaps between groups")
    for name, measure in GAPS.items():
        assert number(*found[name])[0] == pytest.approx(ran.summary[measure], **NEAR)
    said = number(*rows(text, "## Evaluation")["accuracy"])[0]
    assert said == pytest.approx(ran.summary["test_accuracy"], **NEAR)
    assert "must know it of everybody" in text


def test_a_run_that_was_told_of_no_groups_says_how_to_get_them(tmp_path):
    ran = ended(tmp_path, "data=digits", "federation.holdout=0")
    text = card(ran.folder).read_text()
    assert "`fairness.attribute=`" in text
    assert "federation.holdout=0.1" in text
    assert "### Gaps" not in text
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == "image-classification"


def test_a_model_that_answers_with_numbers_has_a_card(tmp_path):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(60, 3)).astype("float32")
    np.savez(tmp_path / "own.npz", inputs=inputs, targets=inputs[:, 0])
    words = ("data=file", f"data.path={tmp_path / 'own.npz'}", "federation.holdout=0.2")
    ran = ended(tmp_path, *words)
    text = card(ran.folder).read_text()
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == "tabular-regression"
    said = number(*rows(text, "## Evaluation")["loss"])[0]
    assert said == pytest.approx(ran.summary["test_loss"], **NEAR)
    assert "gaps are between answers that are classes" in text
    assert "fairness.attribute" not in text


def test_what_is_promised_about_people_is_on_the_card(tmp_path):
    words = ("privacy=central", "privacy.noise=2", "accounting.delta=1e-4")
    ran = ended(tmp_path, *PEOPLE, *words, "decision=local_thresholds")
    text = card(ran.folder).read_text()
    most, delta, audited = rows(text, "## Privacy")["a client"]
    assert float(most) == pytest.approx(ran.summary["privacy/client_epsilon"], **NEAR)
    assert (float(delta), audited) == (1e-4, "not audited")
    assert "counts that the epsilon above does not cover" in text
    assert "differential-privacy" in text.split("---\n")[1]


def test_groups_that_are_too_small_are_named_and_have_no_gaps(tmp_path):
    ran = ended(tmp_path, *PEOPLE, "fairness.minimum=600")
    text = card(ran.folder).read_text()
    assert re.search(r"\*\*Warning.\*\* Fewer than 600 people: group 1 \(\d+\)", text)
    assert rows(text, "### Gaps between groups")["of accuracies"] == ["none"]
    assert "demographic_parity_difference" not in text.split("---\n")[1]


def test_a_model_that_diverged_has_a_card_without_a_nan(tmp_path):
    ran = ended(tmp_path, *PEOPLE, "local.rate=1e3", "local.weight_decay=1e3")
    assert ran.summary["diverged"]
    text = card(ran.folder).read_text()
    assert "Training diverged" in text
    assert rows(text, "## Evaluation")["loss"] == ["none"]
    assert not {"nan", "inf"} & {*re.findall(r"[a-z]+", text.lower())}


@pytest.fixture
def copied(federation, tmp_path):
    return shutil.copytree(federation.folder, tmp_path / "copy")


def test_a_run_that_was_killed_has_no_card_yet(copied, monkeypatch, capsys):
    (copied / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"no run is finished in .*copy"):
        card(copied)
    monkeypatch.setattr(sys, "argv", ["dai-lab", "card", str(copied)])
    with pytest.raises(SystemExit) as end:
        run.main()
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert said.startswith("dai-lab: card: no run is finished in ")
    assert said.count("\n") == 1


def test_the_command_says_where_the_card_is(copied, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dai-lab", "card", str(copied), "--out", f"{copied}.md"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert (end.value.code, capsys.readouterr().out) == (0, f"card: {copied}.md\n")
    assert (copied.parent / "copy.md").read_text().startswith("---\n")


def test_a_card_is_not_written_over_a_file_of_the_run(copied):
    with pytest.raises(ValueError, match="card: out must not be one of the run's own files"):
        card(copied, copied / "summary.json")


def test_another_model_than_the_runs_has_no_card(copied):
    path = copied / "checkpoint.safetensors"
    tensors = load_file(path)
    about = {"dai_lab": json.dumps({"round": 2})}
    save_file({**tensors, "params": -tensors["params"]}, path, metadata=about)
    with pytest.raises(ValueError, match=r"has test_loss \S+, and the run recorded"):
        card(copied)


def test_clients_that_stay_alone_have_no_common_model_to_describe(tmp_path):
    ran = ended(tmp_path, "data=digits", "frame=local_only")
    with pytest.raises(ValueError, match="card: frame=local_only"):
        card(ran.folder)


@pytest.mark.parametrize("target", ["dai_lab.track.jsonl", "dai_lab.chain.embedded"])
def test_settings_of_strangers_reach_no_file_and_no_network(target, copied):
    settings = OmegaConf.load(copied / "config.yaml")
    settings.data = {"_target_": target}
    OmegaConf.save(settings, copied / "config.yaml")
    for name in ("summary.json", "environment.json"):
        held = json.loads((copied / name).read_text())
        (copied / name).write_text(json.dumps({**held, "digest": digest(settings)}))
    with pytest.raises(ValueError, match=f"card: will not call {target}"):
        card(copied)


def test_a_log_is_checked_first_and_what_it_says_is_on_the_card(tmp_path):
    ran = ended(tmp_path, "data=digits", "ledger=local")
    text = card(ran.folder).read_text()
    assert card(ran.folder).read_text() == text  # the first one is no part of the run
    told = rows(text, "## Provenance")
    assert re.fullmatch(r"\d+ events, root [0-9a-f]{16}", told["log"][0])
    assert told["anchor"] == ["2 of 2 rounds, on a chain of the lab's own, replayed"]
    with (ran.folder / "records.jsonl").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"card: .* is in doubt \(seal: records.jsonl was changed"):
        card(ran.folder)


COUNTS = st.lists(
    st.integers(1, 200).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size))),
    min_size=1,
    max_size=12,
)


def answered(counts):
    hits = torch.cat([torch.arange(size) < right for right, size in counts])
    return hits, Shards.of([torch.arange(size) for _, size in counts])


@settings(max_examples=40)
@given(COUNTS, st.randoms(use_true_random=False))
def test_evenness_is_within_its_interval_and_knows_no_order_of_clients(counts, random):
    found = evenness(*answered(counts))
    shares = np.array([right / size for right, size in counts])
    assert found["mean"][0] == pytest.approx(shares.mean())
    assert found["worst10"][0] == pytest.approx(shares.min())  # of twelve or fewer, one
    assert found["deviation"][0] == pytest.approx(shares.std(), abs=1e-9)
    for value, low, high in found.values():
        assert 0 <= low <= value <= high <= 1
    mixed = random.sample(counts, len(counts))
    for name, cell in evenness(*answered(mixed)).items():
        assert cell == pytest.approx(found[name], abs=1e-9)


@pytest.mark.parametrize("shares", [[0.8] * 20, [0.6, 0.9] * 10], ids=["alike", "apart"])
def test_intervals_over_clients_hold_the_truth_as_often_as_they_say(shares):
    stream, held = np.random.default_rng(0), dict.fromkeys(("mean", "worst10", "deviation"), 0)
    truth = {"mean": np.mean(shares), "worst10": min(shares), "deviation": np.std(shares)}
    for _ in range(100):
        counts = [(int(stream.binomial(50, share)), 50) for share in shares]
        for name, (_, low, high) in evenness(*answered(counts)).items():
            held[name] += low - 1e-9 <= truth[name] <= high + 1e-9
    assert min(held.values()) >= 89, held  # 95 on average; fewer than 89 is no chance


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_names_cannot_break_out_of_their_cell(names):
    (_, _, line) = table(["a"] * len(names), [[plain(name) for name in names]])
    assert "\n" not in line and line.isprintable()
    assert "<" not in line
    assert len(re.findall(r"(?<!\\)\|", line)) == len(names) + 1


def test_a_part_is_written_with_its_knobs_and_without_a_place_on_somebodys_machine():
    inner = {"_target_": "dai_lab.aggregators.mean", "weighted": True}
    part = {"_target_": "dai_lab.x.nnm", "f": 2, "then": inner, "path": "/home/me/t.csv", "z": None}
    assert written(part) == "nnm (f=2, then=mean (weighted=true))"
