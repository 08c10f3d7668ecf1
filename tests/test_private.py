"""A run keeps its promises, prices them, and refuses those it could not keep."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from dai_lab.config import build, load
from dai_lab.core import Compute, Event, Key, Updates
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import Accounting, Audit, found, play
from dai_lab.privacy import epsilon, local_gaussian

KEY = Key(0)


def federation(*overrides, key=KEY, **given):
    cfg = load(
        "data=digits", "federation.clients=6", "federation.holdout=0", "model=logistic",
        *overrides,
    )  # fmt: skip
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **{**parts, **given},
        watch={},
        frame=cfg.frame.value,
        **cfg.federation,
        every=cfg.evaluation.every,
        accounting=Accounting(**cfg.accounting),
        audit=Audit(**cfg.audit),
        compute=Compute(),
        key=key,
    )


def played(us, rounds=3, key=KEY, **resumed):
    return list(play(us, key, rounds=rounds, **resumed))


SUMMED = ["secagg=ideal"]
FREE = {
    "clip": ["privacy.norm=inf"],
    "central": ["privacy.norm=inf", "privacy.noise=0"],
    "adaptive": ["privacy.norm=inf", "privacy.noise=0"],
    "unsound": ["privacy.of.norm=inf", "privacy.of.noise=0"],
    "local_gaussian": ["privacy.norm=inf", "privacy.noise=0"],
    "local_laplace": ["privacy.norm=inf", "privacy.noise=0"],
    "private_unit": ["privacy.norm=inf", "privacy.epsilon=inf"],
    "distributed_gaussian": ["privacy.norm=inf", "privacy.noise=0", *SUMMED],
    "skellam": ["privacy.norm=inf", "privacy.noise=0", *SUMMED],
}


@pytest.mark.parametrize("cohort", ["cohort=uniform", "cohort=poisson"])
@pytest.mark.parametrize("name", sorted(set(FREE) - {"unsound"}))
def test_without_noise_and_bound_a_private_run_is_the_plain_one_bit_for_bit(name, cohort):
    split = [cohort, "partition=quantity", *(SUMMED if SUMMED[0] in FREE[name] else [])]
    plain = played(federation(*split))[-1]
    free = played(federation(f"privacy={name}", *FREE[name], *split))[-1]
    assert free.state.params.equal(plain.state.params)
    assert free.record == plain.record


def test_every_mechanism_there_is_was_tried_without_noise():
    from pathlib import Path

    from dai_lab.config import conf_dir

    there = {one.stem for one in Path(conf_dir()).glob("privacy/*.yaml")}
    assert there == {*FREE, "none"}


def test_dp_sgd_without_noise_and_bound_is_sgd_bit_for_bit():
    knobs = ["local.epochs=2", "local.batch_size=16", "local.rate=0.05", "local.momentum=0.5"]
    plain = played(federation("local=sgd", *knobs))[-1]
    free = played(federation("local=dp_sgd", "local.norm=inf", "local.noise=0", *knobs))[-1]
    assert free.state.params.equal(plain.state.params)
    assert free.record == plain.record


@pytest.mark.parametrize(
    ("settings", "bill"),
    [
        (["privacy=central", "privacy.noise=3"], {Event("gaussian", (3.0,)): 3}),
        (
            ["privacy=central", "privacy.noise=3", "cohort=poisson", "cohort.rate=0.5"],
            {Event("gaussian", (3.0,), 0.5): 3},
        ),
        (
            ["privacy=adaptive", "privacy.noise=3", "privacy.blur=5"],
            {Event("gaussian", (3.0,)): 3},
        ),
        (["privacy=local_laplace", "privacy.noise=3"], {Event("laplace", (3.0,)): 3}),
        (["privacy=private_unit", "privacy.epsilon=2"], {Event("pure", (2.0,)): 3}),
    ],
)
def test_a_run_says_what_an_accountant_would(settings, bill):
    last = played(federation(*settings))[-1].record
    wanted = epsilon(bill, delta=1e-5)
    assert last["privacy/client_epsilon"] == pytest.approx(wanted, rel=1e-9)


def test_records_are_charged_by_the_client_that_holds_fewest():
    us = federation("local=dp_sgd", "local.noise=2", "local.batch_size=20", "partition=quantity")
    last = played(us)[-1].record
    least = int(us.task.shards.sizes[us.task.shards.sizes > 0].min())
    batch = min(20, least)
    event = Event("gaussian", (2.0,), batch / least, "record", math.ceil(least / batch))
    assert last["privacy/record_epsilon"] >= epsilon({event: 3}, delta=1e-5) * (1 - 1e-6)
    assert "privacy/client_epsilon" not in last


def test_whoever_is_in_fewer_rounds_gives_away_less():
    few = played(federation("privacy=central", "cohort.fraction=0.34"), rounds=6)[-1]
    times = max(
        int(table[1].max())
        for name, table in few.state.memory.items()
        if name.startswith("privacy/spent/")
    )
    assert 1 < times < 6
    wanted = epsilon({Event("gaussian", (1.0,)): times}, delta=1e-5)
    assert few.record["privacy/client_epsilon"] == pytest.approx(wanted)


def test_the_servers_noise_is_that_of_a_sum_over_whom_it_expects():
    def still(task, state, start, cohort, **given):  # clients that learn nothing
        ones = torch.ones(len(cohort))
        return Updates(torch.zeros(len(cohort), task.model.params), ones, 0 * ones, ones)

    def moved(*settings):
        us = federation("privacy=central", "privacy.norm=3", "privacy.noise=2", *settings)
        us = replace(us, local=still)
        before, after = us.task.model.initial, played(us, rounds=1)[-1].state.params
        return float((after - before).std())

    assert moved() == pytest.approx(3 * 2 / 6, rel=0.1)
    assert moved("cohort=poisson", "cohort.rate=0.5") == pytest.approx(3 * 2 / 3, rel=0.1)


def test_clients_count_the_same_where_rows_are_bounded():
    weights = []

    def spy(visible, context):
        weights.append(visible.weights.tolist())
        return build(load().aggregator)(visible, context)

    split = ["partition=quantity"]
    played(federation(*split, aggregator=spy), rounds=1)
    played(federation(*split, "privacy=local_gaussian", aggregator=spy), rounds=1)
    assert len({*weights[0]}) > 1 and {*weights[1]} == {1.0}


def test_a_round_that_nobody_joins_looks_like_any_other():
    # A rate so low that most rounds are empty.
    us = federation("privacy=central", "cohort=poisson", "cohort.rate=0.01")
    rounds = played(us, rounds=4)
    assert [one.record["cohort"] for one in rounds].count(0) >= 3
    states = [us.task.model.initial, *(one.state.params for one in rounds)]
    assert all(not a.equal(b) for a, b in pairwise(states))
    wanted = epsilon({Event("gaussian", (1.0,), 0.01): 4}, delta=1e-5)
    assert rounds[-1].record["privacy/client_epsilon"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["privacy=central", "aggregator=median"], r"choose aggregator=mean"),
        (["privacy=central", "aggregator.weighted=false"], r"aggregator\.weighted=true"),
        (["privacy=central", "secagg=gram"], r"another secagg than gram"),
        (["privacy=central", "accounting.amplified=true"], r"amplified needs cohort=poisson"),
        (
            ["privacy=central", "accounting.amplified=true", "cohort=poisson", "pace=deadline"],
            r"amplified needs pace=everyone",
        ),
        (
            [
                "privacy=local_gaussian",
                "accounting.amplified=true",
                "cohort=poisson",
                "cohort.rate=0.9",
            ],
            r"who knows whom it asked",
        ),
        (["privacy=central", "accounting.by=gdp"], r"accounting\.by=gdp is a limit theorem"),
        (["privacy=distributed_gaussian"], r"secagg=pairwise"),
        (["privacy=adaptive", "pace=buffered", "devices=phones"], r"bounds that adapt need"),
        (["accounting.delta=0"], r"accounting\.delta must be in"),
        (["accounting.epsilon=0"], r"accounting\.epsilon must be above 0"),
        (["audit.records=5", "data=digits", "audit.confidence=1"], r"audit\.confidence must be"),
        (["audit.records=100000"], r"audit\.records must be at most"),
        (["privacy=central", "audit.clients=100000"], r"audit\.clients must be at most"),
    ],
)
def test_a_promise_that_would_be_wrong_is_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        played(federation(*settings), rounds=2)


def test_noise_on_every_row_lets_any_rule_aggregate():
    us = federation("privacy=central", "privacy.each=true", "aggregator=median")
    wanted = epsilon({Event("gaussian", (1.0,)): 3}, delta=1e-5)
    assert played(us)[-1].record["privacy/client_epsilon"] == pytest.approx(wanted)


def test_privacy_secrecy_a_rule_and_an_attack_go_together_in_one_run():
    us = federation(
        "federation.clients=12", "federation.hostile=2", "attack=alie", "privacy=central",
        "privacy.each=true", "secagg=grouped", "secagg.groups=4", "secagg@secagg.of=pairwise",
        "aggregator=median", "local=dp_sgd", "local.noise=1",
    )  # fmt: skip
    last = played(us)[-1].record
    assert last["rows_changed"] == 2 and last["visible_rows"] == 4
    assert last["privacy/client_epsilon"] > 0 and last["privacy/record_epsilon"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        ["privacy=central"],
        ["privacy=central", "cohort=poisson", "cohort.rate=0.4"],
        ["local=dp_sgd", "local.noise=1.5"],
    ],
)
def test_a_run_stops_before_it_gives_away_more_than_it_may(settings):
    unit = "record" if "local=dp_sgd" in settings else "client"
    without = [
        one.record.get(f"privacy/{unit}_epsilon") for one in played(federation(*settings), rounds=9)
    ]
    assert None not in without and sorted(without) == without
    budget = (without[3] + without[4]) / 2
    rounds = played(federation(*settings, f"accounting.epsilon={budget}"), rounds=9)
    assert len(rounds) == 4 and rounds[-1].last
    assert rounds[-1].record[f"privacy/{unit}_epsilon"] <= budget < without[4]
    assert "test_accuracy" in rounds[-1].record
    # Asked again, it does not go on.
    us = federation(*settings, f"accounting.epsilon={budget}")
    assert played(us, rounds=9, state=rounds[-1].state, done=4) == []


def test_a_round_that_costs_more_than_was_foreseen_is_withheld():
    us = federation("privacy=local_gaussian", "accounting.epsilon=9")
    noises = iter([4.0, 4.0, 0.1])

    def fading(rows, *, state, key):
        return local_gaussian(rows, state=state, key=key, noise=next(noises))

    rounds = played(replace(us, privacy=fading), rounds=9)
    assert [one.record.get("withheld", False) for one in rounds] == [False, False, True]
    assert rounds[2].state.params.equal(rounds[1].state.params)
    assert rounds[2].record["privacy/client_epsilon"] == rounds[1].record["privacy/client_epsilon"]


def test_a_resumed_run_counts_nothing_twice():
    settings = ["privacy=central", "cohort=poisson", "cohort.rate=0.5"]
    whole = played(federation(*settings), rounds=6)
    rest = played(federation(*settings), rounds=6, state=whole[2].state, done=3)
    assert [one.record for one in rest] == [one.record for one in whole[3:]]
    with pytest.raises(ValueError, match=r"accounting: round 3 is charged already"):
        played(federation(*settings), rounds=6, state=whole[2].state, done=2)


PLANTED = ["audit.clients=400", "federation.clients=6", "local.rate=1e-6"]


def test_an_audit_stays_below_what_is_promised():
    for noise in (1.0, 4.0):
        settings = ["privacy=central", f"privacy.noise={noise}", *PLANTED]
        last = played(federation(*settings), rounds=4)[-1].record
        assert 0 <= last["audit/client_epsilon"] <= last["privacy/client_epsilon"]


def test_an_audit_finds_out_that_noise_was_left_out():
    claimed = ["privacy=unsound", "privacy.of.noise=6", *PLANTED]
    last = played(federation(*claimed), rounds=4)[-1].record
    assert last["audit/client_epsilon"] > 2 * last["privacy/client_epsilon"]


def test_an_audit_that_sees_rows_finds_out_noise_of_ones_own_that_was_left_out():
    settings = ["privacy=local_gaussian", "privacy.noise=4", *PLANTED]

    def weak(rows, *, state, key):
        claimed = local_gaussian(rows, state=state, key=key, noise=4.0)
        return replace(claimed, rows=local_gaussian(rows, state=state, key=key, noise=0.4).rows)

    true, hidden = federation(*settings), federation(*settings, "secagg=ideal")
    kept, broken, unseen = (
        played(us, rounds=2)[-1].record
        for us in (true, replace(true, privacy=weak), replace(hidden, privacy=weak))
    )
    for one, caught in ((kept, False), (broken, True), (unseen, False)):
        assert (one["audit/client_epsilon"] > one["privacy/client_epsilon"]) == caught


def test_an_audit_finds_out_that_sampling_was_only_claimed():
    told = ["privacy=central", "privacy.noise=1", "accounting.claimed=0.01", *PLANTED]
    last = played(federation(*told), rounds=8)[-1].record
    assert last["audit/client_epsilon"] > last["privacy/client_epsilon"]


def test_an_audit_of_records_finds_wrong_labels_that_were_learned_by_heart():
    learned = ["frame=centralized", "audit.records=300", "local.rate=0.5", "local.epochs=5"]
    learned += ["model=mlp"]
    open_, last = (
        played(federation(*learned, *private), rounds=12)[-1].record
        for private in ([], ["local=dp_sgd", "local.noise=4", "local.norm=0.1"])
    )
    assert open_["audit/record_epsilon"] > 1 > last["audit/record_epsilon"]
    assert last["audit/record_epsilon"] <= last["privacy/record_epsilon"]


def test_half_of_the_planted_records_are_held_by_nobody():
    us = federation("audit.records=100")
    held = {*us.task.shards.indices.tolist()}
    there = torch.tensor([one in held for one in us.canaries.examples.tolist()])
    assert there.equal(us.canaries.included) and 30 < int(there.sum()) < 70
    clean = federation()
    changed = (us.task.data.targets != clean.task.data.targets).nonzero().flatten()
    assert {*changed.tolist()} == {*us.canaries.examples.tolist()}


def test_an_attacker_who_knows_the_defense_tries_it_with_the_privacy_in_it():
    us = federation(
        "federation.clients=10", "federation.hostile=2", "federation.knows=defense",
        "attack=opt_ipm", "privacy=central", "privacy.each=true", "aggregator=median",
    )  # fmt: skip
    assert played(us, rounds=1)[-1].record["rows_changed"] == 2


def test_liars_vote_too_where_bounds_adapt():
    us = federation(
        "federation.hostile=2", "attack=sign_flip", "privacy=adaptive", "privacy.blur=2"
    )
    assert played(us)[-1].state.memory["privacy/norm"] > 0


def test_the_votes_go_through_the_protocol_that_rows_go_through():
    seen = []
    secagg = build(load("secagg=ideal").secagg)

    def spy(sent, weights, **given):
        seen.append(tuple(sent.shape))
        return secagg(sent, weights, **given)

    played(replace(federation("privacy=adaptive"), secagg=partial(spy)), rounds=1)
    assert (6, 1) in seen


def test_rounding_for_a_secure_sum_makes_the_noise_on_it_count_for_less():
    settings = ["privacy=central", "privacy.noise=2", "secagg=pairwise", "secagg.bits=4"]
    us = federation(*settings)
    last = played(us, rounds=1)[-1].record
    longer = 2 * 1.0 / 15 * us.task.model.params**0.5
    event = Event("gaussian", (2 / (1 + longer),))
    wanted = epsilon({event: 1}, delta=1e-5)
    assert last["privacy/client_epsilon"] == pytest.approx(wanted, rel=1e-4)


def test_every_group_has_only_its_own_clients_noise():
    settings = ["privacy=distributed_gaussian", "privacy.clients=3", "privacy.noise=3"]
    whole = played(federation(*settings, "secagg=ideal"), rounds=1)[-1].record
    split = played(federation(*settings, "secagg=grouped", "secagg.groups=2"), rounds=1)[-1].record
    assert split["privacy/client_epsilon"] > whole["privacy/client_epsilon"]
