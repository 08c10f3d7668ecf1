"""Records also go where the user asks, and nothing goes anywhere else."""

import json
import re
import subprocess
import sys
import time

import pytest

from dai_lab.bridges.weights_and_biases import curve, tags
from dai_lab.config import digest, load
from dai_lab.experiment import files, simulate

TINY = (
    "data=digits",
    "model=logistic",
    "federation.clients=4",
    "federation.holdout=0",
    "rounds=2",
    "compute.method=vmap",
)


@pytest.mark.parametrize("tracker", ["jsonl", "tensorboard", "wandb"])
def test_who_watches_does_not_change_what_is_recorded(tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    simulate(load(*TINY), tmp_path / "plain", progress=False)
    simulate(load(*TINY, f"tracker={tracker}"), tmp_path / "watched", progress=False)
    for name in ("records.jsonl", "checkpoint.safetensors", "summary.json"):
        plain, watched = tmp_path / "plain" / name, tmp_path / "watched" / name
        assert plain.read_bytes() == watched.read_bytes()


def test_an_offline_wandb_run_keeps_its_files_in_the_run_s_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    cfg = load(*TINY, "tracker=wandb")
    simulate(cfg, tmp_path / "run", progress=False)
    (logged,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    said = (digest(cfg, without=("seed",)), "attack=none", "test_accuracy", "curve")
    until = time.monotonic() + 60
    # W&B's own process writes the file, and on a busy machine ends after we do.
    while not all(one.encode() in logged.read_bytes() for one in said):
        assert time.monotonic() < until, logged.read_bytes()
        time.sleep(0.1)
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/images/*.png"))
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"f" * 40 not in file.read_bytes()


def test_tensorboard_reads_back_what_was_recorded(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    simulate(load(*TINY, "tracker=tensorboard"), tmp_path, progress=False)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    records = [json.loads(one) for one in (tmp_path / "records.jsonl").read_text().splitlines()]
    shown = [(one.step, one.value) for one in events.Scalars("test_accuracy")]
    assert shown == [(one["round"], pytest.approx(one["test_accuracy"])) for one in records]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_of_a_run_that_was_killed_misses_no_round_and_shows_none_twice(
    tracker, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = load(*TINY, "rounds=4", f"tracker={tracker}")
    real = files.save

    def save(path, state, done):
        real(path, state, done)
        if done == 2:  # the tracker has not been told
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "save", save)
        # A checkpoint every round, however long the last one took.
        patch.setattr(sys.modules["dai_lab.experiment.simulate"], "PATIENCE", 0)
        with pytest.raises(KeyboardInterrupt):
            simulate(cfg, tmp_path, progress=False)
    simulate(cfg, tmp_path, progress=False)
    if tracker == "wandb":
        logged = max(
            tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda one: one.parent.name
        )
        until = time.monotonic() + 60
        # W&B's own process writes the file, and on a busy machine ends after we do.
        while b"curve" not in logged.read_bytes() and time.monotonic() < until:
            time.sleep(0.1)
        seen = steps(logged)
    else:
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        seen = [one.step for one in events.Scalars("test_accuracy")]
    assert seen == [1, 2, 3, 4]


def steps(logged):
    """Read the rounds back from an offline W&B run: a key, then field 16 of its record."""
    return sorted(
        {int(one) for one in re.findall(rb"\bround\x82\x01\x01(\d)", logged.read_bytes())}
    )  # the summary repeats them


def test_tags_name_the_parts():
    config = {
        "attack": {"_target_": "dai_lab.attacks.alie"},
        "tracker": {"_target_": "dai_lab.bridges.wandb"},
        "rounds": 3,
    }
    assert tags(config) == ["attack=alie"]


def test_the_curve_skips_rounds_without_a_measurement():
    records = [{"round": 1, "test_accuracy": None}, {"round": 2, "test_accuracy": 0.5}]
    (line,) = curve(records).axes[0].lines
    assert line.get_xydata().tolist() == [[2.0, 0.5]]


def test_the_environment_decides_where_wandb_sends_and_an_argument_overrides_it(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert load("tracker=wandb").tracker.mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert load("tracker=wandb").tracker.mode == "online"
    assert load("tracker=wandb", "tracker.mode=disabled").tracker.mode == "disabled"


def test_a_tracker_that_is_not_installed_is_named_in_one_line(tmp_path):
    probe = (
        "import sys; sys.modules['wandb'] = None\n"
        "from dai_lab.config import load; from dai_lab.experiment import simulate\n"
        f"try: simulate(load(*{TINY!r}, 'tracker=wandb'), sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert "tracker: wandb is not installed" in done.stdout, done.stderr
