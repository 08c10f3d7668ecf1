"""A small federation, and CSV files to give it."""

from dataclasses import replace

import pytest

from dai_lab.config import build, load
from dai_lab.core import Compute, Key
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, play

SMALL = ("data=digits", "federation.clients=5", "model=logistic")


def make(*overrides, key=Key(0), **given):  # noqa: B008 (a key never changes)
    """Found a federation from overrides, and put other parts in their places."""
    cfg = load(*SMALL, *overrides)
    parts = {group: build(cfg[group]) for group in BUILT}
    us = found(
        **parts,
        watch={},
        frame=cfg.frame.value,
        **cfg.federation,
        every=cfg.evaluation.every,
        compute=Compute(method=cfg.compute.method),
        key=key,
    )
    return replace(us, **given)


@pytest.fixture
def federation():
    return make


@pytest.fixture
def played():
    def run(us, rounds=3, key=Key(0), **resumed):  # noqa: B008
        return list(play(us, key, rounds=rounds, **resumed))

    return run


@pytest.fixture
def csv(tmp_path):
    """Write lines to a file and return its path."""

    def write(*lines, name="own.csv"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write
