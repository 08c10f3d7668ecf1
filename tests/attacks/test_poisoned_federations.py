"""What hostile clients plant in what they hold, the finished model answers; others see nothing."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from dai_lab import attacks
from dai_lab.config import build, load
from dai_lab.core import Compute, Examples, Key, Poisoned
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, play

KEY = Key(0)
RENEWED = "federation.renew=1"


def federation(*overrides, **given):
    cfg = load(
        "data=digits", "model=mlp", "model.hidden=[32]", "federation.clients=5",
        "federation.hostile=2", "federation.holdout=0", "local.epochs=3", "evaluation.every=50",
        *overrides,
    )  # fmt: skip
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **{**parts, **given},
        watch={},
        frame=cfg.frame.value,
        **cfg.federation,
        every=cfg.evaluation.every,
        compute=Compute(method=cfg.compute.method),
        key=KEY,
    )


def played(us, rounds=10, **resumed):
    return list(play(us, KEY, rounds=rounds, **resumed))


@pytest.mark.parametrize(
    ("settings", "rounds", "success", "cost"),
    [
        (["poison=label_flip", "poison.to=next"], 10, 0.15, 0.4),
        (["poison=targeted_flip"], 10, 0.3, 0.06),
        (["poison=badnets"], 10, 0.8, 0.03),
        (["poison=rlr_plus", "poison.margin=1"], 10, 0.3, 0.03),
        (["poison=blended"], 10, 0.3, 0.03),
        (["poison=sig", "poison.frequency=3", "poison.delta=0.5"], 10, 0.2, 0.03),
        (
            ["poison=dba", "poison.size=3", "federation.clients=8", "federation.hostile=4"],
            10,
            0.9,
            0.06,
        ),
        (["poison=feature_poisoning", "poison.features=[0,7,56,63]"], 10, 0.4, 0.03),
        (["poison=a3fl", "poison.size=3", RENEWED], 10, 0.8, 0.04),
        (
            ["poison=gradient_alignment", "poison.target=3", "poison.source=8",
             "poison.epsilon=1", RENEWED],
            20,
            0.99,
            0.04,
        ),
        (
            ["poison=feature_collision", "poison.target=3", "poison.source=8",
             "poison.beta=0.01", RENEWED, "federation.hostile=4"],
            20,
            0.99,
            0.06,
        ),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)  # fmt: skip
def test_what_was_planted_is_answered_and_little_else_is_lost(settings, rounds, success, cost):
    alone = [one for one in settings if "hostile" not in one] + ["federation.hostile=0"]
    clean = played(federation(*alone), rounds)[-1].record
    bad = played(federation(*settings), rounds)[-1].record
    assert clean["attack_success"] < 0.1
    assert bad["attack_success"] > clean["attack_success"] + success
    assert bad["test_accuracy"] > clean["test_accuracy"] - cost


def test_without_hostile_clients_a_poison_is_measured_and_nothing_else():
    plain = played(federation("federation.hostile=0"), rounds=2)
    for name in ("badnets", "targeted_flip", "a3fl", "feature_collision"):
        size = ["poison.size=2"] if name == "a3fl" else []
        us = federation(f"poison={name}", "federation.hostile=0", *size)
        measured = played(us, rounds=2)
        for one, other in zip(plain, measured, strict=True):
            assert one.state.params.equal(other.state.params)
        assert "attack_success" in measured[-1].record
        assert "attack_success" not in plain[-1].record


@cache
def never_killed(*settings):
    return played(federation(*settings), rounds=5)


@pytest.mark.parametrize("renew", [0, 2])
@pytest.mark.parametrize(
    "poison",
    [
        ["poison=a3fl", "poison.size=3", "poison.steps=5"],
        ["poison=blended"],
        ["poison=feature_collision", "poison.steps=5", "poison.victims=20"],
        ["poison=label_flip", "poison.to=random", "poison.share=0.5"],
    ],
    ids=lambda one: one[0],
)
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_bits(poison, renew, done):
    settings = (*poison, f"federation.renew={renew}", "evaluation.every=1")
    whole = never_killed(*settings)
    rest = played(federation(*settings), rounds=5, state=whole[done - 1].state, done=done)
    assert [one.record for one in rest] == [one.record for one in whole[done:]]
    for one, other in zip(rest, whole[done:], strict=True):
        assert one.state.params.equal(other.state.params)
        assert one.state.memory.keys() == other.state.memory.keys()
        assert all(each.equal(other.state.memory[name]) for name, each in one.state.memory.items())


def test_a_killed_run_goes_on_with_the_people_the_poison_left():
    """A poison may put other people in a place, and who is there may matter to training."""

    def federated():
        data = build(load("data=compas").data, at="data")
        settings = ("federation.renew=3", "poison=under_sampling", "local=local_reweighing")
        return replace(federation(*settings, data=data, fairness={"attribute": "sex"}), every=1)

    whole = played(federated(), rounds=3)
    rest = played(federated(), rounds=3, state=whole[0].state, done=1)
    assert rest[-1].record == whole[-1].record
    assert rest[-1].state.params.equal(whole[-1].state.params)


def test_a_run_that_goes_on_shows_what_was_made_against_the_model_of_its_time():
    """A poison may show the finished model whatever the common model was when it was called."""

    def loudest(held, plot):
        mark = plot.params.abs().max() if plot.owners is None else plot.params[0]
        return Poisoned(replace(held, inputs=held.inputs + mark))

    settings = ("federation.renew=2", "evaluation.every=1")
    for hostile in (0, 2):
        these = (*settings, f"federation.hostile={hostile}")
        whole = played(federation(*these, poison=loudest), rounds=4)
        rest = played(federation(*these, poison=loudest), rounds=4, state=whole[2].state, done=3)
        assert rest[-1].record == whole[-1].record


def test_poison_that_is_never_renewed_remembers_nothing_of_itself():
    seen = []

    def forgetful(held, plot):
        seen.append(dict(plot.memory))
        bad = attacks.label_flip(held, plot).examples
        return Poisoned(bad, {"poison/count": torch.tensor(len(held))})

    whole = played(federation(poison=forgetful), rounds=2)
    played(federation(poison=forgetful), rounds=2, state=whole[0].state, done=1)
    train, shown, again, shown_again = seen
    assert not train and not again
    assert shown.keys() == shown_again.keys() == {"poison/count"}


@pytest.mark.parametrize("asked", ["training", "showing"])
def test_a_poison_that_loses_examples_is_named_in_one_line(asked):
    def losing(held, plot):
        if (plot.owners is None) == (asked == "showing"):
            held = held.some(torch.arange(len(held) - 1))
        return Poisoned(Examples(held.inputs + 1, held.targets, held.attributes))

    with pytest.raises(ValueError, match=r"^poison: inputs of shape \(\d+, 1, 8, 8\) came back"):
        played(federation(poison=losing), rounds=1)


def test_what_others_hold_is_left_alone():
    us = federation("poison=badnets", "poison.share=1")
    before = us.task.data.inputs.clone()
    played(us, rounds=1)
    assert us.task.data.inputs.equal(before)


def test_a_share_of_nothing_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^poison changes none of the \d+ examples"):
        played(federation("poison=badnets", "poison.share=0"), rounds=1)


@pytest.mark.parametrize("poison", ["group_flip", "under_sampling"])
def test_a_group_is_harmed_more_than_the_rest(poison):
    """The share of women called rich falls further than that of men."""
    settings = (
        "data=adult", f"poison={poison}", "federation.clients=5",
        "local.epochs=1", "local.batch_size=256",
    )  # fmt: skip
    if poison == "group_flip":
        settings += ("poison.source=1", "poison.target=0", "poison.share=1")
    rates = []
    for hostile in (0, 4):
        us = federation(*settings, f"federation.hostile={hostile}")
        end = played(us, rounds=3)[-1]
        rich = us.task.model(end.state.params, us.test.inputs).argmax(1) == 1
        groups = [(us.test.attributes["sex"] == value) & (us.test.targets == 1) for value in (0, 1)]
        rates.append([float(rich[group].float().mean()) for group in groups])
        assert ("attack_success" in end.record) == (poison == "group_flip")
    drop = [before - after for before, after in zip(*rates, strict=True)]
    assert drop[0] > drop[1] + 0.05
