"""Every YAML builds and survives a round."""

from pathlib import Path

import pytest

from dai_lab.config import conf_dir, load
from dai_lab.experiment import simulate

ROUND = ("rounds=1",)
TINY = ("data=digits", "model=logistic", "federation.clients=4", *ROUND)

PEOPLE = ("data=compas", "fairness.attribute=sex")
# What clients tell beside their updates is for one server each.
TELLING = {
    "local=reweighing": "server=surveyed",
    "local=gifair": "server=surveyed",
    "local=fairfed": "server=shared_out",
    "local=q_ffl": "server=shared_out",
    "local=afl": "server=afl",
    "local=fedfb": "server=fedfb",
    "local=fedminmax": "server=fedminmax",
    "server=surveyed": "local=reweighing",
    "server=shared_out": "local=fairfed",
    "server=afl": "local=afl",
    "server=fedfb": "local=fedfb",
    "server=fedminmax": "local=fedminmax",
    "server=group_dro": "local=fedminmax",
}
# What a choice needs from the other parts before it makes sense.
NEEDS = {
    **{choice: (*PEOPLE, other) for choice, other in TELLING.items()},
    "local=local_reweighing": PEOPLE,
    **{
        f"algorithm={name}": PEOPLE
        for name in (
            "afl",
            "fairfed",
            "fedfb",
            "fedminmax",
            "gifair",
            "group_dro",
            "q_ffl",
            "reweighing",
        )
    },
    "decision=thresholds": PEOPLE,
    "decision=local_thresholds": PEOPLE,
    "partition=natural": ("data=watch_har", "federation.clients=0"),
    "partition=sources": ("data=adult", "federation.clients=0"),
    **{
        f"aggregator={name}": ("federation.clients=10",)
        for name in ("bucketing", "bulyan", "krum", "multi_krum", "trimmed_mean")
    },
    **{
        f"aggregator={name}": ("federation.root=20",)
        for name in ("err", "fltrust", "lfr", "lfr_err", "zeno")
    },
    **{
        f"attack={name}": ("federation.knows=defense",)
        for name in ("adaptive", "agr_tailored", "fang_krum", "opt_alie", "opt_ipm")
    },
    # An algorithm's clients and its server come together.
    **{
        f"{side}={name}": (f"{other}={name}",)
        for name in ("scaffold", "fednova", "feddyn", "ifca")
        for side, other in (("local", "server"), ("server", "local"))
    },
    **{f"local={name}": ("server=body",) for name in ("fedper", "fedrep")},
    "server=body": ("local=fedper",),
    # Noise of clients' own is for sums that nobody sees into.
    **{
        f"privacy={name}": ("secagg=ideal", "privacy.clients=4")
        for name in ("distributed_gaussian", "skellam")
    },
    "chain=rpc": ("chain.url=http://127.0.0.1:8545",),
    # Triggers need room, groups need attributes, and some poisons a model to plan against.
    "poison=dba": ("poison.size=3",),
    "poison=rlr_plus": ("poison.margin=1",),
    **{
        f"poison={name}": ("data=adult",)
        for name in ("anchoring", "gap", "group_flip", "under_sampling")
    },
    "attack=eab_fl": ("data=adult", "poison=group_flip"),
    "poison=feature_collision": ("model=mlp",),
}
ELSEWHERE = ("internet", "download")
"""Words by which a data set says that it is not on this machine."""

FILES = sorted(Path(conf_dir()).glob("*/*.yaml"))
PARTS = [f"{one.parent.name}={one.stem}" for one in FILES if one.parent.name != "experiment"]
EXPERIMENTS = [one.stem for one in FILES if one.parent.name == "experiment"]


def choose(choice):
    """Spell a choice as an override; a schedule belongs to local training."""
    group, _, name = choice.partition("=")
    spelled = {"schedule": f"schedule@local.schedule={name}", "algorithm": f"+algorithm={name}"}
    return spelled.get(group, choice)


@pytest.fixture
def own_file(tmp_path):
    import numpy as np

    draw = np.random.default_rng(0)
    path = tmp_path / "own.npz"
    inputs = draw.normal(size=(60, 1, 28, 28)).astype("float32")
    np.savez(path, inputs=inputs, targets=draw.integers(0, 3, size=60))
    return path


@pytest.fixture
def own_table(tmp_path):
    path = tmp_path / "own.csv"
    head = "client,start,end,gflops,down_mbps,up_mbps,memory_mb,failing"
    path.write_text("\n".join([head, *(f"{client},0,9,1,8,2,100,0" for client in range(4))]))
    return path


@pytest.mark.parametrize("choice", PARTS)
def test_every_yaml_survives_a_round(choice, tmp_path, own_file, own_table, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    extra = []
    if choice == "data=file" or choice.startswith("model="):
        extra += ["data=file", f"data.path={own_file}"]
    if choice in ("cohort=trace", "devices=table"):
        extra += [f"{choice.partition('=')[0]}.path={own_table}"]
    if choice.startswith(("attack=", "poison=")):
        extra += ["federation.hostile=1"]
    if any(word in choice for word in ("fedper", "fedrep", "body")):
        extra += ["model=mlp"]  # a logistic model is nothing but a head
    cfg = load(*TINY, *NEEDS.get(choice, ()), *extra, choose(choice))
    try:
        result = simulate(cfg, tmp_path / "run", progress=False)
    except ValueError as error:
        if choice.startswith("data=") and any(word in str(error) for word in ELSEWHERE):
            pytest.skip(str(error))
        raise
    assert result.summary["round"] == 1
    assert result.summary["test_loss"] is not None or result.summary["diverged"]
    if choice.startswith("poison=") and choice not in ("poison=none", "poison=under_sampling"):
        assert 0 <= result.summary["attack_success"] <= 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_survives_a_round(name, tmp_path):
    result = simulate(load(f"+experiment={name}", *ROUND), tmp_path / "run", progress=False)
    assert result.summary["round"] == 1


def test_every_group_of_the_schema_has_a_default_that_exists():
    cfg = load()
    from dai_lab.config.schema import PARTS as GROUPS

    assert set(GROUPS) <= {one.partition("=")[0] for one in PARTS}
    assert all("_target_" in cfg[group] for group in GROUPS)
