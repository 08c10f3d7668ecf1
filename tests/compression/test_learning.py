"""Compressed federations learn about as well, and their record counts what they send."""

import pytest

from dai_lab.config import load
from dai_lab.experiment import simulate

CLIENTS, ROUNDS, PARAMS = 5, 30, 650
LENGTHS = {
    ("compression=top_k", "compression.then.share=0.05"): 32 * 4 + 40,
    ("compression=random_k",): 65 * 4 + 8,
    ("compression=qsgd",): 4 + 650,
    ("compression=sign",): 82 + 4,
    ("compression=power_sgd",): 4 * (2 * (10 + 64) + 10),
    ("compression=signsgd", "aggregator=majority_vote", "server.rate=0.02"): 82,
}
"""What a client sends of a model of 10 x 64 weights and 10 biases, in bytes."""


def learn(folder, *overrides):
    cfg = load(
        "data=digits", "model=logistic", f"federation.clients={CLIENTS}", f"rounds={ROUNDS}",
        f"evaluation.every={ROUNDS}", *overrides,
    )  # fmt: skip
    return simulate(cfg, folder, progress=False).summary


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("plain") / "run")


def test_the_plain_federation_learns_and_sends_every_parameter(plain):
    assert plain["test_accuracy"] > 0.88
    assert plain["bytes_up"] == 4 * PARAMS * CLIENTS * ROUNDS


@pytest.mark.parametrize("choice", LENGTHS, ids=lambda choice: choice[0])
def test_few_bytes_teach_nearly_as_much(choice, plain, tmp_path):
    summary = learn(tmp_path / "run", *choice)
    assert summary["test_accuracy"] > plain["test_accuracy"] - 0.04
    assert summary["bytes_up"] == LENGTHS[choice] * CLIENTS * ROUNDS
    assert summary["bytes_up"] < plain["bytes_up"] / 3
    assert summary["bytes_down"] == plain["bytes_down"]


def test_a_vote_holds_against_two_liars_in_five_and_a_mean_does_not(tmp_path):
    lies = ("federation.hostile=2", "attack=sign_flip", "attack.scale=10")
    vote = ("aggregator=majority_vote", "server.rate=0.02")
    assert learn(tmp_path / "vote", *lies, *vote)["test_accuracy"] > 0.8
    assert learn(tmp_path / "mean", *lies)["test_accuracy"] < 0.5


@pytest.mark.parametrize("algorithm", ["scaffold", "fedper", "fednova", "ifca"])
@pytest.mark.parametrize("choice", ["top_k", "power_sgd"])
def test_rows_that_hold_more_or_less_than_a_model_are_compressed_too(algorithm, choice, tmp_path):
    cfg = load(
        "data=digits", "model.hidden=[6]", "federation.clients=4", "rounds=2",
        f"+algorithm={algorithm}", f"compression={choice}",
    )  # fmt: skip
    summary = simulate(cfg, tmp_path / "run", progress=False).summary
    assert summary["round"] == 2 and not summary["diverged"]
