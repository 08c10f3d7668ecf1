"""Poisons made against a model do to it what their papers say, measured by other means."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from dai_lab import attacks
from dai_lab.core import Examples, Key, Plot
from dai_lab.data import digits
from dai_lab.models import create, mlp, small_cnn

BASE, VICTIM = 3, 8


def descended(model, inputs, targets, steps=300, rate=0.5):
    """Train by plain gradient descent, in torch alone."""
    params = model.initial.clone()
    for _ in range(steps):
        params.requires_grad_()
        loss = functional.cross_entropy(model(params, inputs), targets)
        (slope,) = torch.autograd.grad(loss, params)
        params = (params - rate * slope).detach()
    return params


@pytest.fixture(scope="module")
def known():
    """Give a trained model, what the hostile hold, and the plot of both."""
    data = digits()
    model = create(partial(mlp, hidden=[32]), shape=data.shape, classes=10, key=Key(0))
    params = descended(model, data.train.inputs[600:], data.train.targets[600:])
    held = data.train.some(torch.arange(600))
    plot = Plot(Key(1), 10, torch.arange(600) % 3, data.test, model, params)
    return held, plot


def hidden(plot, inputs):
    """Compute the 32 units before the last layer by hand."""
    into = plot.params[: 64 * 32].reshape(32, 64)
    bias = plot.params[64 * 32 : 64 * 32 + 32]
    return (inputs.flatten(1) @ into.T + bias).relu()


@pytest.mark.parametrize("victims", [1, 3])
def test_collided_features_are_five_times_as_near_and_pictures_nearly_as_they_were(known, victims):
    held, plot = known
    poison = partial(attacks.feature_collision, victims=victims, target=BASE, source=VICTIM)
    found = poison(held, plot)
    at = found.memory["poison/victims"]
    aims = hidden(plot, plot.victims.inputs[at])
    mine = held.targets == BASE
    aims = aims[torch.arange(int(mine.sum())) % victims]
    before = (hidden(plot, held.inputs[mine]) - aims).norm(dim=1)
    after = (hidden(plot, found.examples.inputs[mine]) - aims).norm(dim=1)
    assert bool((after < before).all()) and float((before / after).median()) >= 5
    away = (found.examples.inputs - held.inputs)[mine].flatten(1).norm(dim=1)
    apart = (plot.victims.inputs[at[0]] - held.inputs[mine]).flatten(1).norm(dim=1)
    assert float(away.mean()) < float(apart.mean())
    assert found.examples.targets.equal(held.targets)


def test_a_collision_that_may_not_move_stays_where_it_was(known):
    held, plot = known
    found = attacks.feature_collision(held, plot, target=BASE, beta=1e9).examples
    torch.testing.assert_close(found.inputs, held.inputs, rtol=0, atol=1e-4)


def test_a_last_layer_trained_on_collisions_takes_the_victim_for_their_class(known):
    """As in the source: the features stay, another library learns the last layer anew."""
    from sklearn.linear_model import LogisticRegression

    held, plot = known
    found = attacks.feature_collision(held, plot, target=BASE, source=VICTIM, beta=0.01)
    victim = hidden(plot, plot.victims.inputs[found.memory["poison/victims"]]).numpy()
    answers = []
    for examples in (held, found.examples):
        last = LogisticRegression(C=100.0, max_iter=2000)
        last.fit(hidden(plot, examples.inputs).numpy(), examples.targets.numpy())
        answers.append(int(last.predict(victim)[0]))
    assert answers == [VICTIM, BASE]


def test_features_are_what_enters_the_last_layer_of_a_convolutional_network():
    from dai_lab.attacks.clean_labels import features

    model = create(small_cnn, shape=(1, 8, 8), classes=10, key=Key(0))
    inputs = torch.rand(5, 1, 8, 8, generator=Key(1).stream())
    found = features(model, model.initial, inputs, "feature_collision")
    last = model.views(model.initial)
    names = list(last)[-2:]
    outputs = functional.linear(found, last[names[0]], last[names[1]])
    torch.testing.assert_close(outputs, model(model.initial, inputs))
    hooks = [layer._forward_pre_hooks for layer in model.module.modules()]
    assert not any(hooks)


def cosine(plot, examples, other):
    """Compare gradients of the mean loss, with torch's own cross-entropy."""

    def slope(some):
        point = plot.params.clone().requires_grad_()
        functional.cross_entropy(plot.model(point, some.inputs), some.targets).backward()
        return point.grad.double()

    one, two = slope(examples), slope(other)
    return float(one @ two / one.norm() / two.norm())


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_the_gradient_on_true_labels_turns_to_that_on_the_mislabeled_victim(known, epsilon):
    held, plot = known
    poison = partial(attacks.gradient_alignment, target=BASE, source=VICTIM, epsilon=epsilon)
    found = poison(held, plot)
    mine = (held.targets == BASE).nonzero().flatten()
    victim = plot.victims.some(found.memory["poison/victims"])
    wanted = replace(victim, targets=torch.tensor([BASE]))
    before = cosine(plot, held.some(mine), wanted)
    after = cosine(plot, found.examples.some(mine), wanted)
    assert 1 - after < (1 - before) / 2
    away = (found.examples.inputs - held.inputs).abs()
    assert float(away.max()) <= epsilon + 1e-6
    assert 0 <= float(found.examples.inputs.min()) <= float(found.examples.inputs.max()) <= 1


def test_a_step_on_aligned_examples_makes_the_victim_look_more_like_their_class(known):
    held, plot = known
    found = attacks.gradient_alignment(held, plot, target=BASE, source=VICTIM, epsilon=0.5)
    mine = (held.targets == BASE).nonzero().flatten()
    victim = plot.victims.some(found.memory["poison/victims"])

    def loss_after(examples):
        point = plot.params.clone().requires_grad_()
        outputs = plot.model(point, examples.inputs)
        functional.cross_entropy(outputs, examples.targets).backward()
        stepped = plot.params - 0.1 * point.grad / point.grad.norm()
        outputs = plot.model(stepped, victim.inputs)
        return float(functional.cross_entropy(outputs, torch.tensor([BASE])))

    assert loss_after(found.examples.some(mine)) < loss_after(held.some(mine))


def test_victims_stay_the_same_when_poison_is_renewed(known):
    held, plot = known
    poison = partial(attacks.feature_collision, victims=3, steps=1)
    first = poison(held, plot).memory["poison/victims"]
    later = replace(plot, key=Key(77))
    assert not poison(held, later).memory["poison/victims"].equal(first)
    renewed = poison(held, replace(later, memory={"poison/victims": first}))
    assert renewed.memory["poison/victims"].equal(first)


def answered(plot, trigger, size, margin, params=None):
    """Mark all test examples of other classes by hand; how many are answered with class 0?"""
    test = plot.victims.some((plot.victims.targets != 0).nonzero().flatten())
    inputs = test.inputs.clone()
    inputs[:, :, margin : margin + size, margin : margin + size] = trigger
    outputs = plot.model(plot.params if params is None else params, inputs)
    return float((outputs.argmax(1) == 0).float().mean())


def test_a_trigger_that_was_searched_beats_a_random_one(known):
    held, plot = known
    poison = partial(attacks.a3fl, size=3, margin=2)
    found = poison(held, plot)
    trigger = found.memory["poison/trigger"]
    stream = Key(9).stream()
    random = [answered(plot, torch.rand(1, 3, 3, generator=stream), 3, 2) for _ in range(20)]
    assert answered(plot, trigger, 3, 2) > max(random) + 0.1
    assert bool((trigger >= 0).all() & (trigger <= 1).all())
    shown = poison(plot.victims, replace(plot, owners=None, memory=found.memory)).examples
    assert shown.inputs[plot.victims.targets != 0][:, :, 2:5, 2:5].sub(trigger).abs().max() == 0


def test_a_search_goes_on_from_the_last_trigger_and_leaves_that_alone(known):
    held, plot = known
    poison = partial(attacks.a3fl, size=3, steps=5)
    first = poison(held, plot).memory["poison/trigger"]
    copy = first.clone()
    stayed = poison(held, replace(plot, memory={"poison/trigger": first}), steps=0)
    assert stayed.memory["poison/trigger"].equal(first)
    further = poison(held, replace(plot, memory={"poison/trigger": first}))
    assert not further.memory["poison/trigger"].equal(first)
    assert first.equal(copy) and not first.requires_grad


@pytest.mark.parametrize("balance", [0.0, 5.0])
def test_a_step_goes_down_both_losses_the_second_on_a_model_that_unlearned(known, balance):
    held, plot = known
    found = attacks.a3fl(
        held, plot, size=3, steps=1, rate=0.1, unlearn=4, unlearn_rate=0.3, balance=balance,
        batch=600,
    )  # fmt: skip
    trigger = torch.full((1, 3, 3), 0.5, requires_grad=True)
    border = torch.zeros(8, 8)
    border[2:5, 2:5] = 1
    bad = held.inputs * (1 - border) + functional.pad(trigger, (2, 3, 2, 3))
    start = replace(plot.model, initial=plot.params)
    wary = descended(start, bad.detach(), held.targets, steps=4, rate=0.3)
    weight = balance * float(plot.params @ wary / plot.params.norm() / wary.norm())
    wanted = torch.zeros_like(held.targets)
    losses = [functional.cross_entropy(plot.model(at, bad), wanted) for at in (plot.params, wary)]
    (losses[0] + weight * losses[1]).backward()
    expected = 0.5 - 0.1 * trigger.grad.sign()
    torch.testing.assert_close(found.memory["poison/trigger"], expected)


def test_one_step_worked_by_hand():
    """A linear model of one pixel: the sign of the weights' difference says where to go."""
    from torch import nn

    from dai_lab.models import flat

    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[2.0], [-1.0]]))
        module[1].bias.zero_()
    model = flat(module, classes=2)
    held = Examples(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), torch.tensor([1, 1]))
    plot = Plot(Key(0), 2, torch.tensor([0, 0]), held, model, model.initial)
    found = attacks.a3fl(held, plot, size=1, margin=0, steps=1, rate=0.1, share=1.0, target=0)
    torch.testing.assert_close(found.memory["poison/trigger"], torch.tensor([[[0.6]]]))
    torch.testing.assert_close(found.examples.inputs.flatten(), torch.tensor([0.6, 0.6]))
    assert found.examples.targets.tolist() == [0, 0]
