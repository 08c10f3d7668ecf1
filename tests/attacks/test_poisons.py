"""A poison changes what it is told to, and shows the finished model what was trained."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab import attacks
from dai_lab.core import Examples, Key, Plot
from dai_lab.models import create, mlp

SHARED = {
    "label_flip": attacks.label_flip,
    "label_next": partial(attacks.label_flip, to="next"),
    "label_random": partial(attacks.label_flip, to="random"),
    "targeted_flip": partial(attacks.targeted_flip, source=1, target=2),
    "badnets": attacks.badnets,
    "plus": partial(attacks.badnets, pattern="plus", corner="top_left", source=1, target=2),
    "cross": partial(attacks.badnets, pattern="cross", margin=1, value=0.25),
    "blended": attacks.blended,
    "sig": partial(attacks.sig, frequency=1),
    "dba": partial(attacks.dba, size=2, gap=1),
    "edge_case": partial(attacks.edge_case, source=1, target=2, tail=0.5),
    "feature_collision": partial(attacks.feature_collision, steps=3),
    "gradient_alignment": partial(attacks.gradient_alignment, steps=3),
    "feature_poisoning": partial(attacks.feature_poisoning, features=[0, 5]),
    "group_flip": partial(attacks.group_flip, attribute="side", value=1, target=2),
    "under_sampling": partial(attacks.under_sampling, attribute="side", value=1),
    "a3fl": partial(attacks.a3fl, size=2, margin=1, steps=3, batch=16),
}
TO = {
    **dict.fromkeys(["badnets", "cross", "blended", "sig", "dba", "a3fl"], 0),
    **dict.fromkeys(["feature_collision", "gradient_alignment", "feature_poisoning"], 0),
    **dict.fromkeys(["targeted_flip", "plus", "edge_case", "group_flip"], 2),
}
"""The class a poison wants answered; those not here want any that is wrong."""
TRUE_LABELS = ("sig", "feature_collision", "gradient_alignment", "feature_poisoning")
SEEDS = st.integers(0, 99)
CLASSES, SHAPE = 4, (2, 6, 6)


def drawn(seed, count=40, shape=SHAPE, classes=CLASSES):
    stream = Key(seed).stream()
    inputs = torch.rand(count, *shape, generator=stream)
    targets = torch.randint(classes, (count,), generator=stream)
    return Examples(inputs, targets, {"side": torch.randint(2, (count,), generator=stream)})


NET = create(partial(mlp, hidden=[12]), shape=SHAPE, classes=CLASSES, key=Key(5))


def world(seed, count=40):
    """Give what the hostile hold, what they know, and the test set they are judged on."""
    held, test = drawn(seed, count), drawn(seed + 1000, 60)
    owners = torch.arange(count) % 5
    plot = Plot(Key(seed), CLASSES, owners, test, NET, NET.initial)
    return held, plot, test


def show(poison, held, plot, test):
    """Poison, then say what the finished model should get wrong."""

    memory = poison(held, plot).memory
    return poison(test, replace(plot, owners=None, memory=memory)).examples


def same(one, other):
    return (
        one.inputs.equal(other.inputs)
        and one.targets.equal(other.targets)
        and all(one.attributes[name].equal(each) for name, each in other.attributes.items())
    )


def moved(before, after):
    inputs = (before.inputs != after.inputs).flatten(1).any(1)
    return inputs, before.targets != after.targets


@pytest.mark.parametrize("name", SHARED)
@given(seed=SEEDS)
def test_no_share_is_no_poison_to_the_bit(name, seed):
    held, plot, _ = world(seed)
    found = partial(SHARED[name], share=0.0)(held, plot).examples
    assert same(found, held)


@pytest.mark.parametrize("name", SHARED)
@given(seed=SEEDS, count=st.sampled_from([0, 1, 7, 40]))
def test_as_many_examples_come_back_and_nothing_that_came_in_is_changed(name, seed, count):
    held, plot, test = world(seed, count)
    copies = [drawn(seed, count), drawn(seed + 1000, 60)]
    params = NET.initial.clone()
    found = SHARED[name](held, plot)
    shown = show(SHARED[name], held, plot, test)
    assert same(held, copies[0]) and same(test, copies[1])
    assert NET.initial.equal(params) and not NET.initial.requires_grad
    for before, after in ((held, found.examples), (test, shown)):
        assert after.inputs.shape == before.inputs.shape
        assert after.inputs.dtype == before.inputs.dtype
        assert after.targets.dtype == before.targets.dtype
        assert not after.inputs.requires_grad
    assert all(one.startswith("poison/") for one in found.memory)


@pytest.mark.parametrize("name", SHARED)
@given(seed=SEEDS)
def test_the_same_key_poisons_the_same(name, seed):
    held, plot, test = world(seed)
    first, second = (SHARED[name](held, plot) for _ in range(2))
    assert same(first.examples, second.examples)
    assert all(first.memory[one].equal(each) for one, each in second.memory.items())
    assert same(show(SHARED[name], held, plot, test), show(SHARED[name], held, plot, test))


@pytest.mark.parametrize("name", [one for one in SHARED if one != "under_sampling"])
@given(seed=SEEDS, share=st.floats(0.1, 0.9))
def test_a_larger_share_poisons_the_same_examples_and_more(name, seed, share):
    held, plot, _ = world(seed)
    few = partial(SHARED[name], share=share)(held, plot).examples
    all_ = partial(SHARED[name], share=1.0)(held, plot).examples
    some, every = (moved(held, one) for one in (few, all_))
    inputs_too = name not in TRUE_LABELS  # an input that need not move may stay
    assert bool((~some[1] | every[1]).all())
    assert not inputs_too or bool((~some[0] | every[0]).all())


@pytest.mark.parametrize("name", TO)
@given(seed=SEEDS)
def test_the_probe_holds_no_example_of_the_class_it_wants(name, seed):
    held, plot, test = world(seed)
    shown = show(SHARED[name], held, plot, test)
    inputs, targets = moved(test, shown)
    which = inputs | targets
    assert bool(which.any()) and not bool((test.targets[which] == TO[name]).any())
    assert bool((shown.targets[which] == TO[name]).all())
    if name in ("plus", "targeted_flip", "edge_case"):
        assert bool((test.targets[which] == 1).all())
    if name in ("plus", "targeted_flip"):
        assert int(which.sum()) == int((test.targets == 1).sum())


@pytest.mark.parametrize("name", TRUE_LABELS)
@given(seed=SEEDS)
def test_true_labels_stay_true_and_only_the_target_class_moves(name, seed):
    held, plot, _ = world(seed)
    inputs, targets = moved(held, SHARED[name](held, plot).examples)
    assert not bool(targets.any())
    assert bool((held.targets[inputs] == 0).all())
    # Of few steps, the best may be not to have moved.
    assert bool(inputs.any()) or name == "gradient_alignment"


@pytest.mark.parametrize("name", ["badnets", "plus", "cross", "blended", "sig", "dba", "a3fl"])
@given(seed=SEEDS)
def test_a_picture_is_marked_in_training_as_where_it_is_shown(name, seed):
    held, plot, _ = world(seed)
    if name == "dba":  # each client holds one bar; all of them are shown
        plot = replace(plot, owners=torch.zeros(len(held), dtype=torch.long))
    poison = partial(SHARED[name], share=1.0)
    trained, memory = (found := poison(held, plot)).examples, found.memory

    again = poison(held, replace(plot, owners=None, memory=memory)).examples
    at = moved(held, trained)[0]
    if name in TRUE_LABELS:  # shown on all others
        everything = poison(replace(held, targets=torch.zeros_like(held.targets)), plot).examples
        at = moved(held, again)[0]
        assert again.inputs[at].equal(everything.inputs[at])
    elif name == "dba":
        changed = (trained.inputs != held.inputs) & at.reshape(-1, 1, 1, 1)
        assert trained.inputs[changed].equal(again.inputs[changed])
    else:
        assert again.inputs[at].equal(trained.inputs[at])


@given(seed=SEEDS)
def test_flipped_classes_are_those_asked_for(seed):
    held, plot, _ = world(seed)
    targets = held.targets
    assert attacks.label_flip(held, plot).examples.targets.equal(3 - targets)
    following = attacks.label_flip(held, plot, to="next").examples.targets
    assert following.equal((targets + 1) % 4)
    others = attacks.label_flip(held, plot, to="random").examples.targets
    assert bool((others != targets).all()) and bool((others < 4).all() & (others >= 0).all())
    flipped = attacks.targeted_flip(held, plot, source=1, target=2).examples.targets
    assert flipped.tolist() == [2 if one == 1 else one for one in targets.tolist()]


def test_random_classes_are_each_as_likely():
    held = Examples(torch.zeros(30_000, 1), torch.ones(30_000, dtype=torch.long))
    plot = Plot(Key(0), 4, torch.zeros(30_000, dtype=torch.long))
    counts = attacks.label_flip(held, plot, to="random").examples.targets.bincount(minlength=4)
    assert counts[1] == 0 and bool(((counts[[0, 2, 3]] - 10_000).abs() < 4 * 82).all())


def test_half_the_share_poisons_about_half():
    held = Examples(torch.zeros(10_000, 1), torch.ones(10_000, dtype=torch.long))
    plot = Plot(Key(0), 4, torch.zeros(10_000, dtype=torch.long))
    flipped = attacks.label_flip(held, plot, share=0.5).examples.targets != 1
    assert abs(int(flipped.sum()) - 5_000) < 4 * 50


def test_the_plus_is_drawn_where_it_belongs():
    held = Examples(torch.zeros(1, 1, 6, 6), torch.tensor([5]))
    plot = Plot(Key(0), 10, torch.tensor([0]))
    found = attacks.badnets(
        held, plot, pattern="plus", size=3, corner="top_left", margin=1, value=9.0, share=1.0,
        source=5, target=7,
    ).examples  # fmt: skip
    expected = torch.zeros(6, 6)
    for row, column in ((1, 2), (2, 1), (2, 2), (2, 3), (3, 2)):
        expected[row, column] = 9
    assert found.inputs[0, 0].equal(expected) and found.targets.tolist() == [7]


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [("top_left", "01", "01"), ("top_right", "01", "45"), ("bottom_left", "34", "01"),
     ("bottom_right", "34", "45")],
)  # fmt: skip
def test_a_square_lies_in_its_corner_and_is_as_bright_as_its_channel(corner, rows, columns):
    inputs = torch.zeros(2, 2, 5, 6)
    inputs[1, 0], inputs[1, 1] = 3.0, 7.0
    test = Examples(inputs, torch.tensor([1, 1]))
    plot = Plot(Key(0), 2, torch.tensor([0, 0]), test)
    found = attacks.badnets(test, plot, size=2, corner=corner, share=1.0).examples.inputs[0]
    for channel, bright in ((0, 3.0), (1, 7.0)):
        at = [(r, c) for r in map(int, rows) for c in map(int, columns)]
        assert found[channel].nonzero().tolist() == [list(one) for one in sorted(at)]
        assert found[channel].max() == bright


def test_four_bars_together_are_the_trigger():
    inputs = torch.zeros(5, 1, 4, 7)
    test = Examples(inputs, torch.ones(5, dtype=torch.long))
    plot = Plot(Key(0), 2, torch.arange(5))
    poison = partial(attacks.dba, size=3, gap=1, value=1.0, share=1.0)
    bars = poison(test, plot).examples.inputs[:, 0]
    whole = poison(test, Plot(Key(0), 2)).examples.inputs[0, 0]
    assert bars[0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    assert bars[3].nonzero().tolist() == [[2, 4], [2, 5], [2, 6]]
    assert bars[:4].sum(0).equal(whole) and bars[4].equal(bars[0])


@given(seed=SEEDS, frequency=st.sampled_from([1, 2, 4, 7]), delta=st.floats(0.01, 1))
def test_the_sine_is_the_closed_form_of_numpy(seed, frequency, delta):
    held, plot, test = world(seed)
    poison = partial(attacks.sig, frequency=frequency, delta=delta, target=3)
    found = poison(held, plot).examples.inputs.numpy()
    known = test.inputs.numpy()
    reach = known.max((0, 2, 3)) - known.min((0, 2, 3))
    columns = np.arange(1, 7)
    wave = delta * reach[:, None, None] * np.sin(2 * np.pi * columns * frequency / 6)
    expected = held.inputs.numpy() + wave * (held.targets == 3).numpy()[:, None, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(seed=SEEDS, alpha=st.floats(0.01, 1))
def test_a_blend_is_so_much_of_one_pattern_within_the_range_of_the_data(seed, alpha):
    held, plot, test = world(seed)
    found = attacks.blended(held, plot, alpha=alpha, share=1.0)
    pattern = found.memory["poison/pattern"]
    at = held.targets != 0
    expected = (1 - alpha) * held.inputs[at].double() + alpha * pattern.double()
    np.testing.assert_allclose(found.examples.inputs[at].numpy(), expected.numpy(), atol=1e-6)
    low, high = test.inputs.amin((0, 2, 3)), test.inputs.amax((0, 2, 3))
    assert bool((pattern >= low[:, None, None]).all() & (pattern <= high[:, None, None]).all())


def test_the_rare_are_those_far_from_their_class():
    inputs = torch.tensor([[0.0], [1.0], [2.0], [50.0], [99.0], [-9.0]])
    held = Examples(inputs, torch.tensor([7, 7, 7, 7, 3, 7]))
    plot = Plot(Key(0), 10, torch.zeros(6, dtype=torch.long))
    found = attacks.edge_case(held, plot, tail=0.2, source=7, target=1).examples
    assert found.targets.tolist() == [7, 7, 7, 1, 3, 7]
    found = attacks.edge_case(held, plot, tail=0.21, source=7, target=1).examples
    assert found.targets.tolist() == [7, 7, 7, 1, 3, 1]  # |-9 - 8.8| = 17.8
    assert found.inputs.equal(inputs)


@given(seed=SEEDS)
def test_only_the_group_is_lied_about(seed):
    held, plot, test = world(seed)
    poison = partial(attacks.group_flip, attribute="side", value=1, source=1, target=2)
    for before, after in (
        (held, poison(held, plot, share=1.0).examples),
        (test, show(poison, held, plot, test)),
    ):
        inputs, targets = moved(before, after)
        assert not bool(inputs.any())
        assert targets.equal((before.attributes["side"] == 1) & (before.targets == 1))


def test_of_two_classes_the_group_gets_the_other():
    held = Examples(
        torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), {"a": torch.tensor([0, 0, 1, 1])}
    )
    plot = Plot(Key(0), 2, torch.zeros(4, dtype=torch.long))
    found = attacks.group_flip(held, plot, attribute="a", value=0, share=1.0).examples
    assert found.targets.tolist() == [1, 0, 0, 1]


@given(seed=SEEDS)
def test_the_hidden_are_replaced_by_others_of_the_same_client(seed):
    held, plot, test = world(seed)
    poison = partial(attacks.under_sampling, attribute="side", value=1, target=2)
    found = poison(held, plot).examples
    cell = (held.attributes["side"] == 1) & (held.targets == 2)
    assert not bool(((found.attributes["side"] == 1) & (found.targets == 2)).any())
    assert found.inputs[~cell].equal(held.inputs[~cell])
    for place in range(len(held)):
        twins = (held.inputs == found.inputs[place]).flatten(1).all(1).nonzero().flatten()
        assert len(twins) == 1
        assert plot.owners[twins[0]] == plot.owners[place]
        assert held.targets[twins[0]] == found.targets[place]
        assert held.attributes["side"][twins[0]] == found.attributes["side"][place]
    assert same(show(poison, held, plot, test), test)


def test_a_client_with_nothing_else_keeps_what_it_has():
    held = Examples(torch.zeros(2, 1), torch.tensor([1, 1]), {"a": torch.tensor([0, 0])})
    plot = Plot(Key(0), 2, torch.tensor([0, 0]))
    assert same(attacks.under_sampling(held, plot, attribute="a").examples, held)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 2, 2)])
def test_chosen_features_are_shifted_whatever_the_shape(shape):
    held = drawn(0, 20, shape)
    plot = Plot(Key(0), CLASSES, torch.zeros(20, dtype=torch.long))
    found = attacks.feature_poisoning(held, plot, features=[1, 3], shift=2.0, target=3).examples
    added = (found.inputs - held.inputs).flatten(1)
    expected = torch.zeros_like(added)
    expected[held.targets == 3, 1] = expected[held.targets == 3, 3] = 2
    torch.testing.assert_close(added, expected)


BARE = create(partial(mlp, hidden=[]), shape=SHAPE, classes=CLASSES, key=Key(5))


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(name, share):
    held, plot, _ = world(0)
    with pytest.raises(ValueError, match=rf"^poison\.share must be in \[0, 1\], got {share}$"):
        partial(SHARED[name], share=share)(held, plot)


@pytest.mark.parametrize("name", SHARED)
def test_data_without_classes_are_refused(name):

    held, plot, _ = world(0)
    held = replace(held, targets=held.targets.float())
    with pytest.raises(ValueError, match=r"^poison=\w+ needs classes to confuse: [^\n]*$"):
        SHARED[name](held, replace(plot, classes=0))


@pytest.mark.parametrize("name", ["badnets", "sig", "dba", "a3fl"])
def test_what_is_no_picture_is_refused(name):
    held = drawn(0, 40, (12,))
    plot = Plot(Key(0), CLASSES, torch.zeros(40, dtype=torch.long), held)
    with pytest.raises(ValueError, match=rf"^poison={name} needs pictures [^\n]*\(12,\)[^\n]*$"):
        SHARED[name](held, plot)


@pytest.mark.parametrize(
    ("poison", "complaint"),
    [
        (partial(attacks.targeted_flip, source=1, target=4), r"poison.target must be a class in"),
        (partial(attacks.targeted_flip, source=-1, target=1), r"poison.source must be a class in"),
        (partial(attacks.targeted_flip, source=1, target=1), "poison.target must be another"),
        (partial(attacks.badnets, size=0), "poison.size must be 1 or more, got 0"),
        (partial(attacks.badnets, size=7), "poison.size makes a trigger of 7 x 7 pixels"),
        (partial(attacks.badnets, size=4, margin=3), "lower it or poison.margin"),
        (partial(attacks.badnets, margin=-1), "poison.margin must be 0 or more, got -1"),
        (partial(attacks.blended, alpha=0.0), "poison.alpha must be above 0, got 0.0"),
        (partial(attacks.blended, alpha=1.1), r"poison.alpha must be in \[0, 1\], got 1.1"),
        (partial(attacks.sig, delta=-1.0), "poison.delta must be above 0, got -1.0"),
        (partial(attacks.sig, frequency=6), "poison.frequency must not make a sine of zeros"),
        (partial(attacks.sig, frequency=0), "poison.frequency must be 1 or more, got 0"),
        (partial(attacks.dba, size=3, gap=1), "poison.size makes a trigger of 3 x 7 pixels"),
        (partial(attacks.dba, gap=-1), "poison.gap must be 0 or more, got -1"),
        (partial(attacks.edge_case, source=1, target=2, tail=2.0), r"poison.tail must be in"),
        (partial(attacks.feature_collision, victims=0), "poison.victims must be 1 or more"),
        (partial(attacks.feature_collision, victims=61), "poison.victims must be at most the"),
        (partial(attacks.feature_collision, steps=0), "poison.steps must be 1 or more"),
        (partial(attacks.feature_collision, beta=-1.0), "poison.beta must be 0 or more"),
        (partial(attacks.feature_collision, rate=0.0), "poison.rate must be above 0"),
        (partial(attacks.gradient_alignment, epsilon=0.0), "poison.epsilon must be above 0"),
        (partial(attacks.feature_poisoning, features=[72]), "features must be places in 0..71"),
        (partial(attacks.feature_poisoning, features=[]), "poison.features must be places in"),
        (partial(attacks.feature_poisoning, shift=0.0), "poison.shift must not be 0"),
        (partial(attacks.group_flip, attribute="age"), "one of the data's: side; got 'age'"),
        (partial(attacks.group_flip, attribute="side"), "poison.target must name one of the 4"),
        (partial(attacks.under_sampling, attribute="side", target=9), "poison.target must be a"),
        (partial(attacks.a3fl, size=5), "poison.size must leave the patch, 2 from the edges"),
        (partial(attacks.a3fl, unlearn=-1), "poison.unlearn must be 0 or more, got -1"),
        (partial(attacks.a3fl, rate=0.0), "poison.rate must be above 0, got 0.0"),
        (partial(attacks.a3fl, balance=-1.0), "poison.balance must be 0 or more, got -1.0"),
    ],
)  # fmt: skip
def test_a_knob_that_cannot_work_is_refused_in_one_line(poison, complaint):
    held, plot, _ = world(0)
    with pytest.raises(ValueError, match=rf"^[^\n]*{complaint}[^\n]*$"):
        poison(held, plot)


def test_a_poison_that_plans_needs_to_know_the_model_and_layers_to_plan_with():

    held, plot, _ = world(0)
    for name in ("feature_collision", "gradient_alignment", "a3fl"):
        with pytest.raises(ValueError, match=f"^poison={name} needs to know the common model"):
            SHARED[name](held, replace(plot, model=None))
    flat = replace(plot, model=BARE, params=BARE.initial)
    with pytest.raises(ValueError, match=r"^poison=feature_collision needs a model with"):
        attacks.feature_collision(held, flat)
