"""Bias of known strength is put into what clients hold, and found again in what they learn."""

import pytest
import torch

from dai_lab.config import load
from dai_lab.core import Compute, Key
from dai_lab.experiment.simulate import founded
from dai_lab.fairness import cells, gaps
from dai_lab.federation import play

WOMEN, MEN = 0, 1


def learned(flip):
    """Return a federation on Adult whose women above 50K are denied that, and its model."""
    cfg = load(
        "data=biased", f"data.flip={flip}", "model=logistic", "federation.clients=4",
        "federation.holdout=0", "fairness.attribute=sex", "rounds=6", "local.rate=0.1",
        "local.batch_size=64",
    )  # fmt: skip
    us = founded({**cfg, "frame": cfg.frame.value}, Compute())
    *_, last = play(us, Key(0), rounds=6)
    return us, last.state.params


@pytest.mark.parametrize("flip", [0.0, 0.25, 0.6])
def test_the_gap_that_was_planted_is_the_gap_that_is_learned(flip):
    data = founded({**load("data=adult"), "frame": "federated"}, Compute()).task.data
    hopes = [float((data.targets[data.attributes["sex"] == one]).double().mean()) for one in (0, 1)]
    planted = hopes[MEN] - (1 - flip) * hopes[WOMEN]
    us, params = learned(flip)
    people, groups = us.task.data, us.task.sensitive.of(us.task.data)
    # As labels have it: the interval over people covers what was planted, and nothing else.
    told = cells(people.targets, people.targets, groups, count=2, classes=2)
    found = gaps(told, resamples=300, key=Key(1))["demographic_parity_difference"]
    assert found[1] <= planted <= found[2]
    assert found[2] - found[1] < 0.03
    assert (found[1] <= hopes[MEN] - hopes[WOMEN] <= found[2]) == (flip == 0)
    # As the model has it: a logistic model that sees the group repeats its base rate.
    with torch.inference_mode():
        scores = us.task.model(params, people.inputs).softmax(1)[:, 1]
    means = [float(scores[groups == one].mean()) for one in (WOMEN, MEN)]
    assert means[MEN] - means[WOMEN] == pytest.approx(planted, abs=0.015)
