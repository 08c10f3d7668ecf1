"""Results folders as a sweep leaves them, drawn from a key."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from dai_lab.core import Key

ENVIRONMENT = {
    "commit": "0123abc",
    "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.15.0"},
    "cpu": "a processor",
    "threads": 1,
}


def config(attack="none", seed=0, rounds=8, **more):
    nodes = {
        "none": {"_target_": "dai_lab.attacks.none"},
        "alie": {"_target_": "dai_lab.attacks.alie", "z": 1.5},
        "ipm": {"_target_": "dai_lab.attacks.ipm", "scale": 2.0},
    }
    return {
        "attack": nodes[attack],
        "aggregator": {"_target_": "dai_lab.aggregators.mean"},
        "federation": {"clients": 20, "hostile": 4},
        "evaluation": {"every": 1, "target": 0.5},
        "tracker": {"_target_": "dai_lab.track.jsonl"},
        "compute": {"threads": 1},
        "rounds": rounds,
        "seed": seed,
        "name": "study",
        **more,
    }


def records(settings, final=0.9):
    stream = Key(settings["seed"], (json.dumps(settings["attack"]),)).stream()
    noise = torch.rand(settings["rounds"], generator=stream).tolist()
    found, waited = [], 0.0
    for number, shake in enumerate(noise, start=1):
        waited += 60 * (1 + shake)
        accuracy = final * (1 - 0.6**number) + 0.04 * shake
        found.append(
            {
                "round": number,
                "test_accuracy": accuracy,
                "test_loss": 2.3 * 0.7**number + 0.1 * shake,
                "client_accuracy": accuracy - 0.02,
                "client_accuracy_worst10": accuracy - 0.2,
                "client_accuracy_variance": 0.01 * shake,
                "bytes_up": 500_000 * number,
                "bytes_down": 1_000_000 * number,
                "flops": 3e9 * number,
                "simulated_seconds": waited,
            }
        )
    return found


def write(root, settings, *, final=0.9, rows=None, finished=True, name=None):
    label = settings["attack"]["_target_"].rpartition(".")[2]
    place = Path(root) / (name or f"{label}-{settings['seed']}")
    place.mkdir(parents=True)
    rows = records(settings, final) if rows is None else rows
    OmegaConf.save(OmegaConf.create(settings), place / "config.yaml")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "records.jsonl").write_text(text)
    spent = [{"round": row["round"], "train": 0.5, "evaluate": 0.25} for row in rows]
    (place / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spent))
    (place / "environment.json").write_text(json.dumps(ENVIRONMENT))
    if finished:
        (place / "summary.json").write_text(json.dumps({**rows[-1], "finished": True}))
    return place


def sweep(root, seeds=(0, 1, 2)):
    for attack, final in (("none", 0.9), ("alie", 0.5), ("ipm", 0.3)):
        for seed in seeds:
            write(root, config(attack, seed), final=final)
    return Path(root)


def named(root, ends, *, seeds=(0, 1, 2), personal=()):
    """Write runs of several methods in several worlds: where each ends, or at each seed."""
    for (world, algorithm), final in ends.items():
        for at, seed in enumerate(seeds):
            settings = config("none", seed, name=f"demo,{world},{algorithm}")
            settings["partition"] = {"_target_": f"dai_lab.data.{world}"}
            settings["local"] = {"_target_": f"dai_lab.learning.{algorithm}"}
            end = final[at] if isinstance(final, (list, tuple)) else final
            rows = [
                {**row, "test_accuracy": end * row["round"] / 8, "client_accuracy": end - 0.1}
                for row in records(settings)
            ]
            if algorithm in personal:
                rows = [{**row, "personal_accuracy": end + 0.05} for row in rows]
            write(root, settings, rows=rows, name=f"demo,{world},{algorithm}/{seed}")
    return Path(root)


@pytest.fixture(scope="session")
def studies():
    return SimpleNamespace(config=config, records=records, write=write, sweep=sweep, named=named)
