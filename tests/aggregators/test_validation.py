"""Zeno and Fang's rejections: rows are tried on examples of the server's own."""

from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.aggregators import fang_err, fang_lfr, fang_union, krum, mean, median, zeno
from dai_lab.config import build, load
from dai_lab.core import Context, Key, State, TooFew, Visible

SEEDS = st.integers(0, 999)
GOAL = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
RULES = [zeno, fang_lfr, fang_err, fang_union]


def rows(seed, count=7, params=3):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=torch.float64)


def see(sent):
    weights = torch.ones(len(sent), dtype=sent.dtype)
    return Visible(sent, tuple((i,) for i in range(len(sent))), weights)


def judge(params):
    """Charge the squared distance from the goal; call each wrong coordinate's sign an error."""
    loss = (params - GOAL).square().sum(1)
    return loss, (params.sign() != GOAL.sign()).double().mean(1)


START = torch.tensor([0.2, 0.1, -0.3], dtype=torch.float64)
WISE = Context(state=State(START), judge=judge)


@given(seed=SEEDS, f=st.integers(0, 6), rho=st.sampled_from([0.0, 0.0005, 0.3]))
def test_zeno_averages_the_rows_of_the_best_scores(seed, f, rho):
    sent = rows(seed)
    scores = [
        float(judge(START[None])[0] - judge((START + row)[None])[0] - rho * row @ row)
        for row in sent
    ]
    best = sorted(range(7), key=lambda one: -scores[one])[: 7 - f]
    found = zeno(see(sent), WISE, f=f, rho=rho)
    torch.testing.assert_close(found.update, sent[best].mean(0))
    torch.testing.assert_close(found.suspicion, -torch.tensor(scores, dtype=torch.float64))
    assert found.suspected.nonzero().flatten().tolist() == sorted(set(range(7)) - set(best))


@settings(max_examples=40)
@given(seed=SEEDS, which=st.sampled_from([0, 1]), then=st.sampled_from([mean, median]))
def test_a_rejection_drops_the_rows_without_which_the_model_is_best(seed, which, then):
    sent = rows(seed)
    with_all = judge((START + then(see(sent)).update)[None])[which].item()
    impact = []
    for one in range(7):
        others = torch.cat([sent[:one], sent[one + 1 :]])
        impact.append(with_all - judge((START + then(see(others)).update)[None])[which].item())
    worst = sorted(range(7), key=lambda one: -impact[one])[:2]
    kept = [one for one in range(7) if one not in worst]
    found = (fang_lfr, fang_err)[which](see(sent), WISE, f=2, then=then)
    torch.testing.assert_close(found.update, then(see(sent[kept])).update)
    torch.testing.assert_close(found.suspicion, torch.tensor(impact, dtype=torch.float64))
    assert found.suspected.nonzero().flatten().tolist() == sorted(worst)
    assert found.shares[worst].tolist() == [0.0, 0.0]


@settings(max_examples=40)
@given(seed=SEEDS)
def test_the_union_drops_whom_either_rejection_drops(seed):
    sent = rows(seed)
    accused = [rule(see(sent), WISE, f=2).suspected for rule in (fang_lfr, fang_err)]
    found = fang_union(see(sent), WISE, f=2)
    assert found.suspected.equal(accused[0] | accused[1])
    torch.testing.assert_close(found.update, sent[~found.suspected].mean(0))


@pytest.mark.parametrize("rule", [zeno, fang_lfr, fang_union])
@given(seed=SEEDS, lie=st.sampled_from([-1e9, -30.0, 50.0, 1e9, torch.nan, torch.inf]))
def test_two_who_ruin_the_model_are_found(rule, seed, lie):
    honest = 0.1 * rows(seed, 5) + 0.3 * (GOAL - START)
    sent = torch.cat([honest[:2], torch.full((2, 3), lie, dtype=torch.float64), honest[2:]])
    found = rule(see(sent), WISE, f=2)
    assert found.suspected[[2, 3]].all()
    kept = found.update
    assert (kept >= honest.amin(0) - 1e-12).all() and (kept <= honest.amax(0) + 1e-12).all()


@given(seed=SEEDS, lie=st.sampled_from([-1e9, 40.0, 1e9, 1e200, torch.inf]))
def test_zeno_finds_the_only_honest_row_among_seven(seed, lie):
    honest = 0.5 * (GOAL - START) + 0.05 * rows(seed, 1)
    sent = torch.cat([torch.full((6, 3), lie, dtype=torch.float64), honest])
    found = zeno(see(sent), WISE, f=6)
    torch.testing.assert_close(found.update, honest[0])


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(seed=SEEDS)
def test_the_order_of_clients_does_not_matter(rule, seed):
    # Error rates are few, so ties are common: impacts must differ for the order not to count.
    def fine(params):
        loss, _ = judge(params)
        return loss, (params - 0.7 * GOAL).abs().sum(1)

    context = Context(state=State(START), judge=fine)
    sent, order = rows(seed), torch.randperm(7, generator=Key(seed).stream())
    before = sent.clone()
    plain, found = rule(see(sent), context, f=2), rule(see(sent[order]), context, f=2)
    torch.testing.assert_close(found.update, plain.update)
    assert found.suspected.equal(plain.suspected[order])
    assert sent.equal(before)


@pytest.mark.parametrize("rule", [fang_lfr, fang_err, fang_union])
def test_with_no_liar_expected_only_the_rule_inside_is_left(rule):
    sent = rows(1)
    found = rule(see(sent), WISE, f=0, then=partial(krum, f=2))
    plain = krum(see(sent), f=2)
    assert found.update.equal(plain.update) and found.suspected.equal(plain.suspected)


@pytest.mark.parametrize("rule", RULES)
def test_rows_that_are_mixtures_are_judged_as_if_multiplied_out(rule):
    sent = rows(2)
    mix = torch.rand(6, 7, generator=Key(3).stream(), dtype=torch.float64)
    out = mix @ sent
    lazy = Visible(sent, tuple((i,) for i in range(6)), torch.ones(6).double(), mix)
    torch.testing.assert_close(rule(lazy, WISE, f=2).update, rule(see(out), WISE, f=2).update)


def test_a_model_whose_loss_is_no_number_is_the_worst():
    def strict(params):
        loss, error = judge(params)
        return torch.where(params[:, 0] > 5, torch.nan, loss), error

    sent = torch.tensor([[0.1, 0.0, 0.0], [9.0, 0.0, 0.0], [0.2, -0.1, 0.0]]).double()
    context = Context(state=State(START), judge=strict)
    found = zeno(see(sent), context, f=1)
    assert found.suspected.tolist() == [False, True, False]
    assert found.suspicion[1] == torch.inf
    assert fang_lfr(see(10 * sent), context, f=1).suspected.tolist() == [False, True, False]


def test_no_two_rows_are_better_dropped_than_the_two_that_ruin():
    sent = torch.cat([0.3 * (GOAL - START) + 0.05 * rows(4, 5), torch.tensor([[9.0, 9, 9]] * 2)])
    found = fang_lfr(see(sent), WISE, f=2)
    losses = {
        pair: judge((START + sent[[o for o in range(7) if o not in pair]].mean(0))[None])[0].item()
        for pair in combinations(range(7), 2)
    }
    assert tuple(found.suspected.nonzero().flatten().tolist()) == min(losses, key=losses.get)


@pytest.mark.parametrize("rule", RULES)
def test_what_cannot_be_tried_is_refused_in_one_line(rule):
    with pytest.raises(ValueError, match=r"set federation\.root") as missing:
        rule(see(rows(0)), Context(state=State(START)))
    assert "\n" not in str(missing.value)
    with pytest.raises(ValueError, match="needs the model"):
        rule(see(rows(0)), Context(judge=judge))
    with pytest.raises(TooFew, match=r"lower aggregator\.f or raise"):
        rule(see(rows(0)), WISE, f=7)
    with pytest.raises(ValueError, match=r"aggregator\.f must be at least 0"):
        rule(see(rows(0)), WISE, f=-1)


def test_a_charge_below_0_is_refused():
    with pytest.raises(ValueError, match=r"aggregator\.rho must be at least 0"):
        zeno(see(rows(0)), WISE, rho=-1.0)


@pytest.mark.parametrize("name", ["lfr", "err", "lfr_err"])
def test_any_rule_goes_inside_from_the_command_line(name):
    inside = ("aggregator@aggregator.then=trimmed_mean", "aggregator.then.f=2", "aggregator.f=0")
    rule = build(load(f"aggregator={name}", *inside).aggregator)
    sent = rows(5)
    trimmed = sent.sort(0).values[2:5].mean(0)
    torch.testing.assert_close(rule(see(sent), WISE).update, trimmed)
