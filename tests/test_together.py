"""A grid in one process ends as its runs would have ended alone."""

import signal
import subprocess
import sys

import pytest

from dai_lab.config import digest, load
from dai_lab.experiment import simulate, simulate_together
from dai_lab.experiment import together as room

SMALL = ("data=digits", "federation.clients=6", "cohort.fraction=0.5", "rounds=3")
FILES = ("records.jsonl", "summary.json", "checkpoint.safetensors", "config.yaml")
GRID = [
    ("model=logistic", "seed=0"),
    ("model.hidden=[5]", "seed=1"),
    ("model.hidden=[5]", "seed=1", "attack=sign_flip", "federation.hostile=2"),
    ("model.hidden=[5]", "+algorithm=scaffold"),
    ("model=logistic", "frame=local_only"),
    ("data=mnist10k", "model=small_cnn", "rounds=1", "federation.clients=40"),
    ("model=logistic", "compute.method=flat", "seed=3"),
]


def content(folder):
    return {file: (folder / file).read_bytes() for file in FILES}


def test_runs_side_by_side_leave_the_bytes_they_leave_alone(tmp_path):
    together = simulate_together(
        [load(*SMALL, *one, f"results={tmp_path / 'together'}") for one in GRID], threads=3
    )
    for one, result in zip(GRID, together, strict=True):
        cfg = load(*SMALL, *one, f"results={tmp_path / 'alone'}")
        alone = simulate(cfg, progress=False)
        assert result.folder.name == alone.folder.name == digest(cfg)
        ours, theirs = content(result.folder), content(alone.folder)
        settings = ours["config.yaml"].replace(b"/together", b"/alone")  # all that differs
        assert {**ours, "config.yaml": settings} == theirs


def test_data_is_loaded_once_for_all_and_never_mixed_up(tmp_path, monkeypatch):
    from dai_lab import data

    loads = []
    original = data.digits

    def digits(**knobs):
        loads.append(knobs)
        return original(**knobs)

    digits.__module__ = original.__module__
    monkeypatch.setattr(data, "digits", digits)
    words = [*SMALL, "model=logistic", f"results={tmp_path}"]
    cfgs = [load(*words, f"seed={one}") for one in range(5)]
    assert all(one.summary["finished"] for one in simulate_together(cfgs, threads=2))
    assert len(loads) == 1


def test_one_bad_run_ends_alone(tmp_path):
    words = [["seed=0"], ["local.rate=-1"], ["seed=2"]]
    cfgs = [load(*SMALL, "model=logistic", *one, f"results={tmp_path}") for one in words]
    good, bad, other = simulate_together(cfgs, threads=2)
    assert "local.rate must be above 0" in str(bad)
    assert good.summary["finished"] and other.summary["finished"]
    again = simulate_together(cfgs, threads=2)
    assert [getattr(one, "skipped", None) for one in again] == [True, None, True]


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ([], True),
        (["compute.threads=2"], False),
        (["tracker=wandb"], False),
        (["tracker=tensorboard"], True),
    ],
)
def test_runs_that_would_disturb_others_go_one_by_one(words, fits):
    assert room._fits_beside_others(load(*SMALL, *words)) is fits


@pytest.mark.parametrize("launcher", ["threads=2", "abreast=2"])
def test_ctrl_c_ends_all_and_the_same_command_goes_on(launcher, tmp_path):
    words = [sys.executable, "-m", "dai_lab.run", "-m", *SMALL, "model=logistic", "seed=0,1,2,3"]
    words += ["rounds=400", f"results={tmp_path}", "name=g", f"hydra.launcher.{launcher}"]
    process = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell's job in the background ignores Ctrl-C, and so would all it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    started = False
    while not started:  # until the first record is on disk; a dead process ends it
        started = any(tmp_path.glob("g/*/records.jsonl"))
        assert started or process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(list(tmp_path.glob("g/*/summary.json"))) < 4
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0 and "0 failed" in done.stdout
    assert len(list(tmp_path.glob("g/*/summary.json"))) == 4
