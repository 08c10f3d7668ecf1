"""Tables: every cell an estimate that can be recomputed from the records."""

import csv

import pytest
from scipy import stats

from dai_lab.metrics import Estimate, estimate
from dai_lab.report import report, runs, table, terminal


def test_every_cell_is_the_estimate_of_what_the_runs_recorded(studies, tmp_path):
    found = table(studies.sweep(tmp_path, seeds=range(5)))
    ends, peaks = [], []
    for seed in range(5):
        rows = studies.records(studies.config("alie", seed), final=0.5)
        ends.append(rows[-1]["test_accuracy"])
        peaks.append(max(row["test_accuracy"] for row in rows))
    row = found.loc["attack=alie"]
    assert row["final accuracy"] == estimate(ends)
    assert row["final accuracy"].value == pytest.approx(stats.trim_mean(ends, 0.25))
    assert row["peak accuracy"] == estimate(peaks)
    assert row["MB up"].value == pytest.approx(4.0)
    assert row["seconds"].value == pytest.approx(6.0)
    assert all(isinstance(cell, Estimate) for cell in found.to_numpy().flatten())


def test_a_target_counts_rounds_and_seconds_and_owns_up_to_never(studies, tmp_path):
    found = table(studies.sweep(tmp_path))
    firsts = [
        next(row["round"] for row in rows if row["test_accuracy"] >= 0.5)
        for rows in (studies.records(studies.config("none", seed)) for seed in range(3))
    ]
    assert found.loc["attack=none", "rounds to target"] == estimate(firsts)
    spent = [0.75 * first for first in firsts]
    assert found.loc["attack=none", "seconds to target"] == estimate(spent)
    never = found.loc["attack=ipm", "rounds to target"]
    assert (never.n, never.missing) == (0, 3)
    assert "none (3 of 3 never)" in terminal(tmp_path)


def test_without_a_target_there_is_no_such_column(studies, tmp_path):
    studies.write(tmp_path, studies.config(evaluation={"every": 1, "target": None}))
    assert "rounds to target" not in table(tmp_path).columns


def test_a_study_of_mixed_metrics_leaves_dashes_not_zeros(studies, tmp_path):
    studies.write(tmp_path, studies.config("none"))
    rows = [{"round": number, "test_loss": 1 / number} for number in range(1, 9)]
    studies.write(tmp_path, studies.config("alie", evaluation={"target": None}), rows=rows)
    page = report(tmp_path).parent
    line = next(x for x in (page / "table.md").read_text().splitlines() if "attack=alie" in x)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "-" and cells[4] == "0.125 [one seed]"


def test_rounds_that_were_not_evaluated_do_not_hide_the_last_evaluation(studies, tmp_path):
    rows = studies.records(studies.config())
    for row in rows[:-1:2]:
        del row["test_accuracy"]
    studies.write(tmp_path, studies.config(), rows=rows)
    assert table(tmp_path)["final accuracy"].iloc[0].value == rows[-1]["test_accuracy"]


def test_files_for_papers_and_spreadsheets_hold_the_same_numbers(studies, tmp_path):
    out = report(studies.sweep(tmp_path)).parent
    shown = format(table(tmp_path).loc["attack=alie", "final accuracy"])
    assert shown in (out / "table.md").read_text()
    tex = (out / "table.tex").read_text()
    assert shown in tex and r"10 \% of clients" in tex
    rows = list(csv.DictReader((out / "table.csv").open()))
    alie = next(row for row in rows if row["group"] == "attack=alie")
    low, value = float(alie["final accuracy low"]), float(alie["final accuracy"])
    assert f"{value:.3f} [{low:.3f}, " in shown and alie["final accuracy n"] == "3"
    singles = list(csv.DictReader((out / "runs.csv").open()))
    assert len(singles) == len(runs(tmp_path)) == 9
    assert {row["seed"] for row in singles} == {"0", "1", "2"}


def test_every_line_of_a_table_has_as_many_cells(studies, tmp_path):
    settings = studies.config("alie")
    for place, text in enumerate(("a|b", "50% & more_", "x\ny")):
        settings["federation"] = {"clients": text}
        studies.write(tmp_path, settings, name=f"odd-{place}")
    out = report(tmp_path).parent
    lines = (out / "table.md").read_text().replace(r"\|", "").splitlines()
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    body = (out / "table.tex").read_text().replace(r"\&", "").split(r"\midrule")[1]
    ends = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(ends) == 3 and len({line.count("&") for line in ends}) == 1


def test_the_terminal_table_lines_up(studies, tmp_path):
    lines = terminal(studies.sweep(tmp_path)).splitlines()
    column = lines[0].index("final accuracy")
    assert len(lines) == 4
    assert all(line[column].isdigit() and line[column - 1] == " " for line in lines[1:])


def test_a_target_has_a_price_in_bytes_arithmetic_and_simulated_time(studies, tmp_path):
    found = table(studies.sweep(tmp_path)).loc["attack=none"]
    reached = [
        next(row for row in rows if row["test_accuracy"] >= 0.5)
        for rows in (studies.records(studies.config("none", seed)) for seed in range(3))
    ]
    both = [(row["bytes_up"] + row["bytes_down"]) / 1e6 for row in reached]
    assert found["MB to target"] == estimate(both)
    assert found["training GFLOP to target"] == estimate([row["flops"] / 1e9 for row in reached])
    waited = [row["simulated_seconds"] / 60 for row in reached]
    assert found["simulated minutes to target"] == estimate(waited)
    assert found["training GFLOP"].value == pytest.approx(24)


def test_what_no_run_simulates_has_no_column_and_who_sent_nothing_has_a_dash(studies, tmp_path):
    rows = studies.records(studies.config("none"))
    spare = [
        {name: one for name, one in row.items() if "flops" != name != "simulated_seconds"}
        for row in rows
    ]
    studies.write(tmp_path, studies.config("none"), rows=spare)
    assert not [name for name in table(tmp_path).columns if "GFLOP" in name or "simul" in name]
    studies.write(tmp_path, studies.config("alie"))
    out = (report(tmp_path).parent / "table.md").read_text().splitlines()
    at = [cell.strip() for cell in out[0].split("|")].index("training GFLOP")
    cells = {line.split("|")[1].strip(): line.split("|")[at].strip() for line in out[2:]}
    assert cells == {"attack=alie": "24.00 [one seed]", "attack=none": "-"}


def test_the_target_may_be_for_models_of_ones_own(studies, tmp_path):
    for attack, ahead in (("none", 0.0), ("alie", 0.3)):
        aim = {"every": 1, "target": 0.6, "metric": "personal_accuracy"}
        settings = studies.config(attack, evaluation=aim)
        rows = [
            {**row, "personal_accuracy": row["round"] / 10 + ahead}
            for row in studies.records(settings)
        ]
        studies.write(tmp_path, settings, rows=rows)
    settings = studies.config("ipm", evaluation=aim)
    studies.write(tmp_path, settings)
    found = table(tmp_path)["rounds to target"]
    assert (found["attack=none"].value, found["attack=alie"].value) == (6, 3)
    line = next(x for x in terminal(tmp_path).splitlines() if x.startswith("attack=ipm"))
    assert line.endswith("-") and "never" not in line


def test_the_smallest_number_chooses_the_unit_so_that_none_is_zero(studies, tmp_path):
    for attack, worth in (("none", 1e6), ("alie", 1e13)):
        rows = [{"round": 1, "test_accuracy": 0.7, "bytes_up": 1, "flops": worth}]
        studies.write(tmp_path, studies.config(attack), rows=rows)
    found = table(tmp_path)["training MFLOP"]
    assert [one.value for one in found] == [1e7, 1]
