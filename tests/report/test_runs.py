"""Reading a results folder: whatever lies in it becomes a run or a sentence."""

import json
import random

import pytest

from dai_lab.report import grouped, read, report, runs, terminal


def test_a_finished_run_reads_back_as_it_was_written(studies, tmp_path):
    settings = studies.config("alie", seed=3)
    run = read(studies.write(tmp_path, settings))
    assert run.problem is None and run.notes == ()
    assert run.config == settings
    assert list(run.rounds) == studies.records(settings)
    assert run.records["round"].tolist() == list(range(1, 9))
    assert run.seconds == {number: 0.75 for number in range(1, 9)}
    assert run.environment["versions"]["torch"] == "2.15.0"


def test_runs_are_found_at_any_depth_and_a_report_is_not_a_run(studies, tmp_path):
    studies.sweep(tmp_path / "a")
    studies.sweep(tmp_path / "deeper" / "b")
    report(tmp_path)
    hydra = tmp_path / "a" / "alie-0" / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text("seed: 0\n")
    assert len(runs(tmp_path)) == 18
    assert len(runs(tmp_path / "a" / "alie-0")) == 1


def cut_last_line(place):
    file = place / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-30])


def repeat_a_round(place):
    file = place / "records.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[-1]]) + "\n")


def drop_last_line(place):
    file = place / "records.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


DAMAGE = {
    "half a line": (cut_last_line, "records.jsonl line 8 is broken"),
    "a line twice": (repeat_a_round, "records.jsonl line 9 repeats round 8"),
    "a line short": (drop_last_line, "records.jsonl ends at round 7, summary.json at round 8"),
    "no records": (lambda p: (p / "records.jsonl").unlink(), "records.jsonl is missing"),
    "empty records": (lambda p: (p / "records.jsonl").write_text(""), "records.jsonl is empty"),
    "a bare number": (lambda p: (p / "records.jsonl").write_text("3\n"), "line 1 names no round"),
    "binary": (lambda p: (p / "records.jsonl").write_bytes(b"\xff\x00\n"), "line 1 is broken"),
    "no config": (lambda p: (p / "config.yaml").unlink(), "config.yaml is missing"),
    "bad YAML": (lambda p: (p / "config.yaml").write_text("a: [1"), "config.yaml cannot be read"),
    "blank YAML": (lambda p: (p / "config.yaml").write_text(""), "config.yaml holds no settings"),
    "a YAML list": (lambda p: (p / "config.yaml").write_text("- 1"), "holds no settings"),
    "bad summary": (lambda p: (p / "summary.json").write_text('{"a": '), "summary.json cannot"),
    "a list summary": (lambda p: (p / "summary.json").write_text("[]"), "holds no entries"),
    "killed": (lambda p: (p / "summary.json").unlink(), "unfinished: 8 of 8 rounds"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_named_and_not_counted(studies, tmp_path, damage):
    hurt, complaint = DAMAGE[damage]
    studies.sweep(tmp_path, seeds=(0, 1))
    hurt(tmp_path / "alie-1")
    assert complaint in read(tmp_path / "alie-1").problem
    groups, _ = grouped(runs(tmp_path))
    assert {group.label: len(group.runs) for group in groups} == {
        "attack=alie": 1,
        "attack=ipm": 2,
        "attack=none": 2,
    }
    assert f"not counted: alie-1: {read(tmp_path / 'alie-1').problem}" in terminal(tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_a_file_cut_anywhere_never_raises(studies, tmp_path, seed):
    place = studies.write(tmp_path, studies.config(rounds=3))
    draw = random.Random(seed)
    file = draw.choice(sorted(place.iterdir()))
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    run = read(place)
    assert run.problem or run.notes or run.config != studies.config(rounds=3)


def test_an_unfinished_run_with_half_a_line_says_both(studies, tmp_path):
    place = studies.write(tmp_path, studies.config(rounds=8), finished=False)
    cut_last_line(place)
    problem = read(place).problem
    assert problem == "unfinished: 7 of 8 rounds; records.jsonl line 8 is broken"


def test_an_empty_folder_beside_runs_is_listed(studies, tmp_path):
    studies.write(tmp_path, studies.config())
    (tmp_path / "died-at-birth").mkdir()
    assert "not counted: died-at-birth: the folder is empty" in terminal(tmp_path)


def test_damaged_timings_and_environment_cost_a_note_not_the_run(studies, tmp_path):
    place = studies.write(tmp_path, studies.config())
    (place / "timings.jsonl").write_text('{"round": 1, "tra')
    (place / "environment.json").unlink()
    run = read(place)
    assert run.problem is None and run.seconds == {}
    assert run.notes == (
        "environment: environment.json is missing",
        "seconds left out: timings.jsonl line 1 is broken",
    )


def test_a_diverged_run_counts_as_missing_and_is_noted(studies, tmp_path):
    for seed in (0, 1):
        studies.write(tmp_path, studies.config(seed=seed))
    rows = studies.records(studies.config(seed=2))
    rows[-1]["test_loss"] = float("nan")
    place = studies.write(tmp_path, studies.config(seed=2), rows=rows)
    assert read(place).notes == ("not a finite number at the end: test_loss",)
    assert "(1 of 3 missing)" in terminal(tmp_path)


def test_a_folder_without_runs_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=f"^there is no run in {tmp_path}$"):
        report(tmp_path)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ValueError, match=f"^there is no run in {tmp_path}$"):
        runs(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        runs(tmp_path / "absent")


def test_runs_group_by_everything_but_the_seed_and_the_machine(studies, tmp_path):
    studies.sweep(tmp_path)
    other = studies.config("alie", seed=3, compute={"threads": 8}, name="again", results="x")
    studies.write(tmp_path, other)
    groups, notes = grouped(runs(tmp_path))
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("attack=alie", 4),
        ("attack=ipm", 3),
        ("attack=none", 3),
    ]
    assert notes == []


def test_a_label_names_knobs_only_where_the_same_part_is_turned(studies, tmp_path):
    for place, z in enumerate((0.5, 10.0, 1.5)):
        settings = studies.config("alie")
        settings["attack"]["z"] = z
        studies.write(tmp_path, settings, name=f"run-{place}")
    assert [group.label for group in grouped(runs(tmp_path))[0]] == [
        "attack.z=0.5",
        "attack.z=1.5",
        "attack.z=10.0",
    ]
    studies.write(tmp_path, studies.config("none"))
    labels = [group.label for group in grouped(runs(tmp_path))[0]]
    assert labels[0] == "attack=alie, attack.z=0.5" and labels[-1] == "attack=none"


def test_parts_of_the_same_short_name_are_told_apart(studies, tmp_path):
    for package in ("dai_lab", "mine"):
        part = {"_target_": f"{package}.aggregators.mean"}
        studies.write(tmp_path, studies.config(aggregator=part), name=package)
    assert [group.label for group in grouped(runs(tmp_path))[0]] == [
        "aggregator=dai_lab.aggregators.mean",
        "aggregator=mine.aggregators.mean",
    ]


def test_runs_named_after_worlds_and_algorithms_go_by_these_names(studies, tmp_path):
    ends = {(world, name): 0.5 for world in ("skew10", "skew9") for name in ("fedavg", "ours")}
    studies.named(tmp_path, ends, seeds=(0, 1))
    groups, notes = grouped(runs(tmp_path))
    assert notes == []
    assert [(group.world, group.algorithm, group.label, len(group.runs)) for group in groups] == [
        ("skew9", "fedavg", "skew9, fedavg", 2),
        ("skew9", "ours", "skew9, ours", 2),
        ("skew10", "fedavg", "skew10, fedavg", 2),
        ("skew10", "ours", "skew10, ours", 2),
    ]
    studies.write(tmp_path, studies.config())
    assert {group.world for group in grouped(runs(tmp_path))[0]} == {""}


def test_one_world_needs_no_mention_and_settings_tell_apart_what_shares_a_name(studies, tmp_path):
    for rate in (0.1, 0.5):
        settings = studies.config("none", name="demo,iid,fedavg", local={"rate": rate})
        studies.write(tmp_path, settings, name=f"fedavg-{rate}")
    twin = studies.config("none", name="demo,iid,twin", local={"rate": 0.5})
    studies.write(tmp_path, twin, name="twin")
    assert [group.label for group in grouped(runs(tmp_path))[0]] == [
        "fedavg, local.rate=0.1",
        "fedavg, local.rate=0.5",
        "twin",
    ]


def test_a_copied_run_does_not_narrow_the_interval(studies, tmp_path):
    for seed in (0, 1):
        studies.write(tmp_path, studies.config(seed=seed))
    before = terminal(tmp_path)
    studies.write(tmp_path, studies.config(seed=1), name="x-copy")
    assert terminal(tmp_path) == (
        before + "\nnote: x-copy: same settings and seed as none-1, counted once"
    )


def test_numbers_written_as_null_are_missing_not_zero(studies, tmp_path):
    rows = studies.records(studies.config())
    rows[-1]["test_accuracy"] = None
    place = studies.write(tmp_path, studies.config(), rows=rows)
    assert json.loads((place / "summary.json").read_text())["test_accuracy"] is None
    assert "none (1 of 1 missing)" in terminal(tmp_path)
