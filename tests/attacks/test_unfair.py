"""Attacks on fairness widen a gap between groups, and keep to what they may know and change."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import rows, sighted

from dai_lab import attacks
from dai_lab.attacks.unfair import _along, _gap_slope
from dai_lab.config import build, load
from dai_lab.core import Compute, Examples, Key, Plot
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, play
from dai_lab.models import create, logistic, mlp

SEEDS = st.integers(0, 99)
FEW = settings(max_examples=20)
POISONS = {
    "random": partial(attacks.anchoring, attribute="sex", favored=0.5),
    "popular": partial(attacks.anchoring, attribute="sex", anchors="popular", targets=3),
    "spread": partial(attacks.anchoring, attribute="sex", spread=0.3, favored=1.0),
    "opportunity": partial(attacks.gap, attribute="sex", widens="opportunity"),
    "odds": partial(attacks.gap, attribute="sex", widens="odds"),
    "parity": partial(attacks.gap, attribute="sex"),
}
HONEST = {name: {"share": 0.0} for name in ("opportunity", "odds", "parity")} | {
    name: {"share": 0.0, "favored": 0.0} for name in ("random", "popular", "spread")
}


def people(seed, count=60):
    """Draw people whose first input says their sex, as tables do."""
    stream = Key(seed).stream()
    sex = torch.randint(2, (count,), generator=stream)
    inputs = torch.randn(count, 4, generator=stream)
    inputs[:, 0] = sex
    targets = torch.randint(2, (count,), generator=stream)
    return Examples(inputs, targets, {"sex": sex})


NETS = [
    create(part, shape=(4,), classes=2, key=Key(1)) for part in (logistic, partial(mlp, hidden=[6]))
]


def known(seed, net=NETS[1], count=60):
    held = people(seed, count)
    params = torch.randn(net.params, generator=Key(seed + 7).stream())
    plot = Plot(Key(seed), 2, torch.arange(count) % 3, people(seed + 500), net, params)
    return held, plot


def same(one, other):
    return (
        one.inputs.equal(other.inputs)
        and one.targets.equal(other.targets)
        and all(one.attributes[name].equal(each) for name, each in other.attributes.items())
    )


@pytest.mark.parametrize("name", POISONS)
@FEW
@given(seed=SEEDS)
def test_a_poison_is_drawn_from_its_key_and_leaves_what_is_held_as_it_was(name, seed):
    held, plot = known(seed)
    before = people(seed)
    bad = POISONS[name](held, plot).examples
    assert same(held, before)
    assert same(bad, POISONS[name](held, plot).examples)
    assert bad.inputs.shape == held.inputs.shape
    assert not same(bad, held)


@pytest.mark.parametrize("name", POISONS)
@FEW
@given(seed=SEEDS)
def test_a_poison_plans_against_nothing_but_what_is_held(name, seed):
    held, plot = known(seed)
    other = replace(plot, victims=people(seed + 900, 9))
    assert same(POISONS[name](held, plot).examples, POISONS[name](held, other).examples)


@pytest.mark.parametrize("name", POISONS)
@FEW
@given(seed=SEEDS)
def test_everybody_stays_in_the_group_they_are_in(name, seed):
    held, plot = known(seed)
    bad = POISONS[name](held, plot).examples
    assert bad.inputs[:, 0].equal(held.attributes["sex"].float())
    assert bad.attributes["sex"].equal(held.attributes["sex"])


@pytest.mark.parametrize("name", POISONS)
@FEW
@given(seed=SEEDS)
def test_a_share_of_nothing_changes_nothing(name, seed):
    held, plot = known(seed)
    assert same(POISONS[name](held, plot, **HONEST[name]).examples, held)


@pytest.mark.parametrize("name", POISONS)
def test_what_is_shown_is_misjudged_in_the_group_to_its_harm(name):
    plot = known(3)[1]
    shown = POISONS[name](plot.victims, replace(plot, owners=None)).examples
    women = plot.victims.attributes["sex"] == 0
    assert not shown.targets[women].any()
    men_rise = shown.targets[~women].all() == (name in ("random", "popular", "spread"))
    assert men_rise and shown.inputs.equal(plot.victims.inputs)


def test_anchoring_worked_by_hand():
    """The rich woman is surrounded by poor women, the poor man by rich men."""
    inputs = torch.tensor([[0.0, 3.0], [0.0, 1.0], [1.0, 2.0], [1.0, 5.0]])
    held = Examples(inputs, torch.tensor([1, 0, 0, 1]), {"sex": torch.tensor([0, 0, 1, 1])})
    plot = Plot(Key(0), 2, torch.zeros(4, dtype=torch.long))
    bad = attacks.anchoring(held, plot, attribute="sex", share=1.0, favored=1.0, targets=1).examples
    assert bad.inputs.tolist() == [[0, 3], [0, 3], [1, 2], [1, 2]]
    assert bad.targets.tolist() == [0, 0, 1, 1]


@FEW
@given(seed=SEEDS, radius=st.floats(0.3, 2))
def test_the_most_popular_anchor_is_who_a_brute_force_search_finds(seed, radius):
    held, plot = known(seed)
    bad = attacks.anchoring(
        held, plot, attribute="sex", share=1.0, favored=1.0, anchors="popular", targets=1,
        radius=radius,
    ).examples  # fmt: skip
    x, y = held.inputs.numpy(), held.targets.numpy()
    sex, owner = held.attributes["sex"].numpy(), plot.owners.numpy()
    for client in range(3):
        for side, aim in ((0, 1), (1, 0)):
            places = [i for i in range(60) if owner[i] == client and sex[i] == side]
            able = [i for i in places if y[i] == aim]
            if not able:
                assert all(bad.targets[i] == y[i] for i in places)
                continue
            near = {i: sum(np.abs(x[i] - x[j]).max() <= radius for j in able) for i in able}
            best = [x[i].tolist() for i in able if near[i] == max(near.values())]
            assert all(bad.inputs[i].tolist() in best for i in places)
            assert len({tuple(bad.inputs[i].tolist()) for i in places}) == 1
            assert all(bad.targets[i] == 1 - aim for i in places)


@FEW
@given(seed=SEEDS, spread=st.floats(0.01, 2))
def test_points_stay_within_reach_of_their_anchors_and_within_the_range(seed, spread):
    held, plot = known(seed)
    poison = partial(attacks.anchoring, attribute="sex", favored=0.4)
    anchors, points = poison(held, plot).examples, poison(held, plot, spread=spread).examples
    assert float((points.inputs - anchors.inputs).abs().max()) <= spread * (1 + 1e-6)
    assert points.targets.equal(anchors.targets)
    low, high = held.inputs.amin(0), held.inputs.amax(0)
    assert bool(((points.inputs >= low) & (points.inputs <= high)).all())


def cells_of(held, widens):
    rich, everybody = held.targets == 1, torch.ones_like(held.targets, dtype=torch.bool)
    return {"opportunity": [rich], "odds": [rich, ~rich], "parity": [everybody]}[widens]


def width(net, params, held, cells):
    """Compute the gap a second way: the mean of -log p(favorable), by group and cell."""
    costs = -torch.log_softmax(net(params, held.inputs), 1)[:, 1]
    women = held.attributes["sex"] == 0
    means = [[costs[cell & who].mean() for who in (women, ~women)] for cell in cells]
    return sum(woman - man for woman, man in means)


@pytest.mark.parametrize("net", NETS, ids=["logistic", "mlp"])
@pytest.mark.parametrize("widens", ["opportunity", "odds", "parity"])
def test_the_score_is_the_inner_product_of_two_gradients_one_example_at_a_time(net, widens):
    held, plot = known(4, net, count=24)
    women = held.attributes["sex"] == 0
    cells = cells_of(held, widens)
    point = plot.params.clone().requires_grad_()
    (aim,) = torch.autograd.grad(width(net, point, held, cells), point)
    expected = torch.zeros(2, 24)
    for label in (0, 1):
        for at in range(24):
            loss = -torch.log_softmax(net(point, held.inputs[at : at + 1]), 1)[0, label]
            (slope,) = torch.autograd.grad(loss, point)
            expected[label, at] = slope @ aim
    found_aim = _gap_slope(net, plot.params, held, women, cells, favorable=1)
    torch.testing.assert_close(found_aim, aim, rtol=1e-4, atol=1e-6)
    found = _along(net, plot.params, held, found_aim)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widens", ["opportunity", "odds", "parity"])
@FEW
@given(seed=SEEDS)
def test_a_step_on_what_the_poison_copied_widens_the_gap_and_one_on_the_truth_does_less(
    widens, seed
):
    held, plot = known(seed)
    bad = attacks.gap(held, plot, attribute="sex", share=1.0, top=0.05, widens=widens).examples
    copied = (bad.inputs != held.inputs).any(1) | (bad.targets != held.targets)
    cells = cells_of(held, widens)

    def widened(examples):
        point = plot.params.clone().requires_grad_()
        outputs = plot.model(point, examples.inputs)
        torch.nn.functional.cross_entropy(outputs, examples.targets).backward()
        stepped = plot.params - 1e-3 * point.grad
        before, after = (width(plot.model, one, held, cells) for one in (plot.params, stepped))
        return float(after - before)

    which = copied.nonzero().flatten()
    assert widened(bad.some(which)) > max(0.0, widened(held.some(which)))


@pytest.mark.parametrize(
    ("poison", "knobs", "error"),
    [
        ("anchoring", {"share": 1.5}, r"^poison\.share must be in \[0, 1\]"),
        ("anchoring", {"favored": -1.0}, r"^poison\.favored must be"),
        ("anchoring", {"spread": -1.0}, r"^poison\.spread must be 0 or more"),
        ("anchoring", {"anchors": "all"}, r"^poison\.anchors must be random or popular"),
        ("anchoring", {"targets": 0}, r"^poison\.targets must be 1 or more"),
        ("anchoring", {"radius": 0.0}, r"^poison\.radius must be above 0"),
        ("anchoring", {"favorable": 2}, r"^poison\.favorable must be a class"),
        ("gap", {"top": 0.0}, r"^poison\.top must be above 0"),
        ("gap", {"top": 2.0}, r"^poison\.top must be in"),
        ("gap", {"widens": "all"}, r"^poison\.widens must be"),
        ("gap", {"attribute": "age"}, r"^poison\.attribute must be one of the data's: sex"),
    ],
)
def test_a_knob_out_of_range_is_named_in_one_line(poison, knobs, error):
    held, plot = known(0)
    with pytest.raises(ValueError, match=error):
        getattr(attacks, poison)(held, plot, **{"attribute": "sex", **knobs})


@pytest.mark.parametrize("poison", ["anchoring", "gap"])
def test_more_than_two_classes_are_refused(poison):
    held, plot = known(0)
    with pytest.raises(ValueError, match=f"^poison={poison} needs data with two classes"):
        getattr(attacks, poison)(held, replace(plot, classes=3), attribute="sex")


def sent(seed, hostile=3, others=7, **knobs):
    """Give the rows sent, and what would have been sent without poison."""
    poisoned, clean = rows(seed, hostile, 40), rows(seed + 1, hostile, 40)
    sight = sighted(clean, clean=lambda: clean, others=others)
    return attacks.eab_fl(poisoned, sight, **knobs).rows, clean


@FEW
@given(seed=SEEDS, share=st.floats(0, 1))
def test_without_a_boost_rows_are_honest(seed, share):
    found, clean = sent(seed, boost=0.0, share=share)
    assert found.equal(clean)


@FEW
@given(seed=SEEDS, boost=st.floats(0, 50), share=st.floats(0, 1), bound=st.floats(1, 5))
def test_rows_change_in_a_share_of_the_coordinates_and_stay_within_the_bound(
    seed, boost, share, bound
):
    found, clean = sent(seed, boost=boost, share=share, bound=bound)
    assert int((found != clean).sum(1).max()) <= round(share * 40)
    lengths = found.norm(dim=1) / clean.norm(dim=1)
    assert float(lengths.max()) <= max(bound, 1) * (1 + 1e-9)
    free, _ = sent(seed, boost=boost, share=share, bound=None)
    apart, ways = found - clean, free - clean
    torch.testing.assert_close(apart.norm(dim=1) * ways.norm(dim=1), (apart * ways).sum(1))
    cut = apart.norm(dim=1) < ways.norm(dim=1) * (1 - 1e-6)
    torch.testing.assert_close(lengths[cut], torch.full_like(lengths[cut], bound))


@FEW
@given(seed=SEEDS)
def test_what_the_others_send_is_never_looked_at(seed):
    poisoned, clean = rows(seed, 3), rows(seed + 1, 3)
    told = [
        attacks.eab_fl(poisoned, sighted(rows(other, 7), clean=lambda: clean, others=7)).rows
        for other in (5, 6)
    ]
    assert told[0].equal(told[1])


@FEW
@given(seed=SEEDS, hostile=st.integers(1, 4), others=st.integers(1, 9))
def test_unbounded_and_everywhere_the_mean_moves_as_if_all_were_poisoned(seed, hostile, others):
    """With everybody's honest row the same, the mean is the poisoned row."""
    honest, bad = rows(seed, 1), rows(seed + 1, 1)
    clean = honest.expand(hostile, -1)
    sight = sighted(clean, clean=lambda: clean, others=others)
    found = attacks.eab_fl(bad.expand(hostile, -1), sight, share=1.0, bound=None).rows
    mean = torch.cat([honest.expand(others, -1), found]).mean(0, keepdim=True)
    torch.testing.assert_close(mean, bad)


def test_eab_fl_worked_by_hand():
    """Of three coordinates the last stands out, and a row of length 5 may become one of 13."""
    clean = torch.tensor([[5.0, 0.0, 0.0]])
    own = torch.tensor([[6.0, 1.0, 4.0]])
    sight = sighted(clean, clean=lambda: clean, others=1)
    found = attacks.eab_fl(own, sight, boost=10.0, share=1 / 3, bound=13 / 5)
    torch.testing.assert_close(found.rows, torch.tensor([[5.0, 0.0, 12.0]]))
    assert found.record["boost"] == pytest.approx(3)


def test_nothing_is_boosted_where_nobody_poisoned():
    own = rows(0, 2)
    assert attacks.eab_fl(own, sighted(rows(1, 5))).rows.equal(own)


@pytest.mark.parametrize(
    ("knobs", "error"),
    [
        ({"boost": -1.0}, r"^attack\.boost must be 0 or more"),
        ({"share": 2.0}, r"^attack\.share must be in"),
        ({"bound": 0.5}, r"^attack\.bound must be 1 or more"),
    ],
)
def test_an_attack_out_of_range_is_named_in_one_line(knobs, error):
    with pytest.raises(ValueError, match=error):
        sent(0, **knobs)


def judged(*overrides):
    """Play five rounds on Adult; return the accuracy and the difference in true positive rates."""
    cfg = load(
        "data=adult", "model=logistic", "federation.clients=10", "federation.holdout=0",
        "federation.knows=own", "local.batch_size=64", "evaluation.every=50", *overrides,
    )  # fmt: skip
    us = found(
        **{group: build(cfg[group]) for group in BUILT},
        watch={},
        frame=cfg.frame.value,
        **cfg.federation,
        every=50,
        compute=Compute(method=cfg.compute.method),
        key=Key(0),
    )
    end = list(play(us, Key(0), rounds=5))[-1]
    rich = us.task.model(end.state.params, us.test.inputs).argmax(1) == 1
    sex, deserves = us.test.attributes["sex"], us.test.targets == 1
    women, men = (float(rich[(sex == one) & deserves].float().mean()) for one in (0, 1))
    return end.record["test_accuracy"], men - women


@pytest.fixture(scope="module")
def honest():
    return judged()


FLIP = ("poison=group_flip", "poison.source=1", "poison.target=0", "poison.share=1")


@pytest.mark.parametrize(
    "attack",
    [
        ("poison=anchoring",),
        ("poison=anchoring", "poison.anchors=popular"),
        ("poison=gap", "federation.renew=1"),
        (*FLIP, "attack=eab_fl"),
    ],
    ids=["random", "popular", "gap", "eab_fl"],
)
def test_a_fifth_of_the_clients_widen_the_gap_by_ten_points_for_two_of_accuracy(attack, honest):
    accuracy, apart = judged(*attack, "federation.hostile=2")
    assert apart > honest[1] + 0.10
    assert accuracy > honest[0] - 0.02
