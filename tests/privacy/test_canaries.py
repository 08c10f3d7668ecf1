"""Planted clients behind noise of their own: a row alone gives away a promise that is broken."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy import stats

from dai_lab import privacy
from dai_lab.config import build, load
from dai_lab.core import Compute, Context, Key, State
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import Accounting, Audit, found
from dai_lab.federation.aggregating import aggregated
from dai_lab.federation.canaries import SCORES, join, listen, verdicts
from dai_lab.privacy import epsilon

PLANTED, DELTA = 400, 1e-5
LOCAL = {
    "gaussian": partial(privacy.local_gaussian, noise=4.0),
    "laplace": partial(privacy.local_laplace, noise=1.0),
    "unit": partial(privacy.private_unit, epsilon=0.5),
}
BROKEN = {
    "gaussian": partial(privacy.local_gaussian, noise=0.4),
    "laplace": partial(privacy.local_laplace, noise=0.1),
    "unit": partial(privacy.private_unit, epsilon=5.0),
}
"""A tenth of the noise."""
GROUPED = ["secagg=grouped", "secagg.groups=20", "secagg@secagg.of=ideal"]


@pytest.fixture(scope="module")
def us():
    cfg = load(
        "data=digits", "model=logistic", "federation.clients=6", "federation.holdout=0",
        f"audit.clients={PLANTED}", f"accounting.delta={DELTA}",
    )  # fmt: skip
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **parts, watch={}, frame="federated", **cfg.federation, every=1, compute=Compute(),
        accounting=Accounting(**cfg.accounting), audit=Audit(**cfg.audit), key=Key(0),
    )  # fmt: skip


def heard(us, mechanism, seed=0, *, rounds=1, share=1.0, rows_seen=True):
    """Play rounds of planted clients alone; return the state, and what the last one revealed."""
    us, key = replace(us, privacy=mechanism), Key(seed)
    width = us.task.model.params
    state = State(torch.zeros(width))
    for number in range(1, rounds + 1):
        here = key / "round" / number
        protected = mechanism(torch.zeros(0, width), state=state, key=here)
        clients, sent = join(us, protected, state, width, share, here)
        seen = us.secagg(sent, torch.ones(len(clients)), clients=clients, key=here / "secagg")
        update, _ = aggregated(us.aggregator, seen, Context(here))
        listened = listen(us, state, update, here, seen if rows_seen else None)
        state = state.remember(listened)
    return state, seen


def shown(us, mechanism, seed=0, **how):
    state, _ = heard(us, mechanism, seed, **how)
    return verdicts(us, state, Key(seed))["audit/client_epsilon"]


def promised(mechanism, rounds=1):
    events = mechanism(torch.zeros(1, 5), state=State(torch.zeros(5)), key=Key(0)).local
    return epsilon(dict.fromkeys(events, rounds), delta=DELTA)


def included(us, seed):
    from dai_lab.federation.canaries import _who

    return _who(us, us.task.model.params, Key(seed))[0]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_behind_noise_of_ones_own_who_sends_says_nothing_about_who_exists(us, share):
    first = len(us.task.shards)
    local = {member for (member,) in heard(us, LOCAL["gaussian"], share=share)[1].members}
    bare = {member for (member,) in heard(us, privacy.central, share=share)[1].members}
    exist = {first + at for at in included(us, 0).nonzero().flatten().tolist()}
    assert bare == local & exist
    assert len(local - exist) > PLANTED * share / 3


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_a_true_promise_of_noise_of_ones_own_is_seldom_refuted(us, name):
    limit = promised(LOCAL[name])
    caught = [shown(us, LOCAL[name], seed) > limit for seed in range(20)]
    # One in twenty may be; 5 of 20 would happen by chance three times in a thousand such tests.
    assert sum(caught) < 5


def test_a_promise_of_almost_nothing_is_seldom_refuted(us):
    faint = partial(privacy.local_laplace, noise=20.0)
    limit = promised(faint)
    assert limit == pytest.approx(0.05, abs=1e-3)
    assert sum(shown(us, faint, seed) > limit for seed in range(40)) < 7


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_a_tenth_of_the_noise_that_is_promised_is_found_out_by_every_seed(us, name):
    limit = promised(LOCAL[name])
    assert min(shown(us, BROKEN[name], seed) for seed in range(5)) > limit


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_in_the_mean_alone_the_noise_of_the_others_hides_what_is_broken(us, name):
    assert shown(us, BROKEN[name], rows_seen=False) < promised(LOCAL[name])


def test_without_noise_rows_show_all_that_as_many_coins_can(us):
    bare = shown(us, partial(privacy.local_gaussian, noise=0.0))
    assert 4 < bare < 5
    assert bare == shown(us, partial(privacy.central, noise=0.0), rows_seen=False)


def test_scores_of_single_rows_are_normal_with_the_mean_and_deviation_of_the_mechanism(us):
    noise, rounds = 2.0, 9
    state, _ = heard(us, partial(privacy.local_gaussian, noise=noise), rounds=rounds)
    scores, there = state.memory[SCORES].numpy(), included(us, 0).numpy()
    spread = noise * rounds**0.5
    for some, mean in ((scores[there], rounds), (scores[~there], 0)):
        assert stats.kstest(some, stats.norm(mean, spread).cdf).pvalue > 0.01


@pytest.mark.parametrize("settings", [["secagg=ideal"], GROUPED])
def test_behind_a_sum_only_the_update_is_listened_to(us, settings):
    hidden = replace(us, secagg=build(load(*settings).secagg))
    with_rows, _ = heard(hidden, LOCAL["gaussian"])
    without, _ = heard(hidden, LOCAL["gaussian"], rows_seen=False)
    assert with_rows.memory[SCORES].equal(without.memory[SCORES])


def test_a_likeness_of_rows_is_not_listened_to(us):
    state, seen = heard(us, LOCAL["gaussian"], rows_seen=False)
    likeness = replace(seen, sum=lambda weights: seen)
    update, _ = aggregated(us.aggregator, seen, Context(Key(0)))
    listened = listen(us, State(state.params), update, Key(0), likeness)
    assert listened[SCORES].equal(listen(us, State(state.params), update, Key(0), None)[SCORES])
