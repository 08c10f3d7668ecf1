"""The command line is light, says what is wrong in one line, and sweeps to the end."""

import os
import re
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "numba", "ray", "wandb", "matplotlib", "pandas", "optuna", "joblib")
TINY = (
    "data=digits",
    "model=logistic",
    "federation.clients=4",
    "federation.holdout=0",
    "rounds=2",
)


def lab(*words, folder, **environment):
    """Type a command in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "dai_lab.run", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.parametrize("words", [["--help"], ["--shell-completion", "query=bash"]])
def test_help_and_completion_import_nothing_heavy(words, tmp_path):
    probe = (
        f"import sys; sys.argv=['dai-lab', *{words!r}]\n"
        "from dai_lab.run import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('\\n', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    line = "dai-lab attack=a"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"},
    )
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:] + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_examples_and_every_part(tmp_path):
    from pathlib import Path

    from dai_lab.config import conf_dir

    said = lab("--help", folder=tmp_path).stdout
    assert "+experiment=quickstart" in said
    for file in Path(conf_dir()).glob("*/*.yaml"):
        assert re.search(rf"^  {file.parent.name} .*\b{file.stem}\b", said, re.MULTILINE)


@pytest.mark.parametrize("words", [["--config-dir", "mine"], ["--config-dir=mine"]])
def test_help_lists_parts_of_a_user(words, tmp_path):
    (tmp_path / "mine" / "attack").mkdir(parents=True)
    (tmp_path / "mine" / "attack" / "shy.yaml").write_text("_target_: shy.attack\n")
    said = lab(*words, "--help", folder=tmp_path).stdout
    assert re.search(r"^  attack .*\bshy\b", said, re.MULTILINE)


def test_tab_completes_parts_and_knobs(tmp_path):
    def completed(line):
        asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
        done = lab("--shell-completion", "query=bash", folder=tmp_path, **asked)
        return done.stdout.split()

    assert "attack=alie" in completed("dai-lab attack=al")
    assert "federation.clients=" in completed("dai-lab federation.cl")
    assert "local.rate=" in completed("dai-lab local.r")


@pytest.mark.parametrize(
    ("words", "complaint", "code"),
    [
        (["attack=alei"], "there is no attack 'alei': choose from", 1),
        (["federation.client=3"], "did you mean federation.clients", 1),
        (["rounds=many"], "rounds must be a whole number", 1),
        (["federation.clip=-1"], "federation.clip must be above 0", 1),
        (["seed=0,1"], "add -m to sweep", 1),
        (["name=../x"], "name must be letters", 1),
        (["--nonsense"], "unrecognized arguments: --nonsense", 2),
        (["--config-dir", "nowhere"], "nowhere' not found", 1),
        (["data._target_=os.system"], "will not build 'os.system'", 1),
        ([*TINY, "partition=natural"], "partition.by", 1),
        ([*TINY, "data=file", "data.path=nowhere.npz"], "nowhere.npz", 1),
        ([*TINY, "server.rate=0"], "server.rate", 1),
        ([*TINY, "local.rate=nan"], "local.rate", 1),
        ([*TINY, "local.batch_size=-1"], "local.batch_size", 1),
        ([*TINY, "local.clip=0"], "local.clip", 1),
        ([*TINY, "data._target_=dai_lab.data.tensors"], "is no part for data", 1),
        (["report", "nowhere"], "nowhere", 1),
        (["report"], "dai-lab report <folder>", 2),
        (["card", "nowhere"], "card: there is no folder nowhere", 1),
        (["study", "nowhere"], "there is no nowhere/grid.yaml", 1),
        (["study", "x", "cells=3"], "there is no cells: it takes results, part, seed, share", 2),
        (["study", "x", "seed=a"], "seed, share and abreast must be numbers", 1),
        (["study"], "write dai-lab study <study>", 2),
        ([*TINY, "federation.knows=everything"], "federation.knows must be one of own, mean", 1),
        ([*TINY, "attack=opt_alie", "federation.hostile=1"], "set federation.knows=defense", 1),
        ([*TINY, "poison.share=2", "poison=badnets", "federation.hostile=1"], "poison.share", 1),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(words, complaint, code, tmp_path):
    done = lab(*words, folder=tmp_path)
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.returncode == code
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]
    assert not list(tmp_path.glob("results/*/*"))


def test_a_run_imports_neither_a_compiler_it_does_not_use_nor_a_library_for_its_digits(tmp_path):
    probe = (
        f"import sys; sys.argv=['dai-lab', *{TINY!r}]\n"
        "from dai_lab.run import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([one for one in ('torch._dynamo', 'sympy', 'sklearn') if one in sys.modules])"
    )
    words = [sys.executable, "-c", probe]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("\n[]\n"), done.stdout[-300:] + done.stderr


def test_who_asks_for_a_traceback_gets_one(tmp_path):
    done = lab("attack=alei", folder=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr


def test_a_single_run_ends_with_one_line_that_names_its_folder(tmp_path):
    first = lab(*TINY, "name=one", folder=tmp_path)
    (folder,) = (tmp_path / "results" / "one").iterdir()
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("\n") == 1
    assert f"results/one/{folder.name}" in first.stdout
    assert "accuracy" in first.stdout
    assert first.stderr == ""  # no progress bar where there is no terminal
    again = lab(*TINY, "name=one", folder=tmp_path)
    assert "was there already" in again.stdout
    assert not [one for one in tmp_path.rglob("*") if one.suffix == ".log" or one.name == ".hydra"]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_ends_with_what_finished_what_was_skipped_and_what_failed(launcher, tmp_path):
    words = ["-m", *TINY, f"hydra/launcher={launcher}", "name=swept"]
    words += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    lab(*TINY, "name=swept", "seed=1", folder=tmp_path)
    done = lab(*words, "seed=0,1", "federation.hostile=0,9", folder=tmp_path)
    assert "1 finished, 1 skipped, 2 failed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("federation.hostile must be below federation.clients (4)") == 2
    assert done.returncode == 1
    assert (tmp_path / "results" / "swept" / "report" / "report.html").exists()
    assert "report.html" in done.stdout
    assert "Traceback" not in done.stderr
    good = lab(*words, "seed=0,1", folder=tmp_path)
    assert "0 finished, 2 skipped, 0 failed" in good.stdout
    assert good.returncode == 0


def test_optuna_searches_a_knob(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    words += ["hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1"]
    done = lab("-m", *TINY, *words, "local.rate=interval(0.01,1)", "name=o", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 finished, 0 skipped, 0 failed" in done.stdout


def test_parts_of_a_user_come_from_a_folder_and_a_package_of_theirs(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "attack").mkdir()
    (tmp_path / "mine" / "attack" / "shy.yaml").write_text("_target_: shy.attack\nby: 2\n")
    (tmp_path / "shy.py").write_text(
        "from dai_lab.core import Lies\n"
        "def attack(own, sight, *, by: float = 1.0):\n    return Lies(own / by)\n"
    )
    words = [*TINY, "--config-dir", "mine", "attack=shy", "federation.hostile=1"]
    refused = lab(*words, folder=tmp_path)
    assert "will not build 'shy.attack'" in refused.stderr
    done = lab(*words, folder=tmp_path, DAI_LAB_TRUST="shy")
    assert done.returncode == 0, done.stderr
