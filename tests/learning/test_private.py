"""Record-level privacy: sums against a slow loop, noise against its law, promises against both."""

import math
import warnings
from functools import partial

import pytest
import torch
from scipy import stats
from torch import nn

from dai_lab.config import load
from dai_lab.core import Compute, Event, Examples, Key, Model, Shards, State, Task, cross_entropy
from dai_lab.experiment import simulate
from dai_lab.federation.stages import learn
from dai_lab.learning import dp_sgd, sgd
from dai_lab.learning.private_steps import SAMPLERS, _naming, clipping, sampler_for
from dai_lab.models import create, flat, mlp, resnet8, tanh_cnn

KEY = Key(3)
INFINITE = math.inf


def grouped(shape, classes):
    """A network with group norm, a stride that leaves a border, dilation and no bias."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, dilation=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(classes),
    )


def uneven(shape, classes):
    """A chain with everything that a chain may have, in odd sizes."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(3, 4, 2),
        nn.MaxPool2d((1, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 3, 7, bias=False),
        nn.ReLU(),
        nn.Linear(7, classes),
    )


NETWORKS = {
    "mlp": (partial(mlp, hidden=[9]), (12,)),
    "tanh_cnn": (tanh_cnn, (1, 16, 16)),
    "group norm": (grouped, (2, 9, 9)),
    "uneven": (uneven, (2, 18, 17)),
    "resnet8": (resnet8, (1, 8, 8)),
}
FITS = [
    (network, sampler)
    for network in NETWORKS
    for sampler in SAMPLERS
    if sampler != "chain" or network in ("mlp", "tanh_cnn", "uneven")
]


def made(network):
    make, shape = NETWORKS[network]
    return create(make, shape=shape, classes=3, key=KEY / "model")


def drawn(shape, count, seed=0):
    stream = Key(seed).stream()
    inputs = torch.randn(count, *shape, generator=stream)
    return Examples(inputs, torch.randint(0, 3, (count,), generator=stream))


def task(sizes=(30, 0, 7), network="mlp"):
    count = sum(sizes)
    dealt = torch.randperm(count, generator=KEY.stream()).split(sizes)
    return Task(made(network), drawn(NETWORKS[network][1], count), Shards.of(list(dealt)))


def ask(what, train=dp_sgd, *, key=KEY, state=None, cohort=None, round=1, start=None, **knobs):
    start = what.model.initial if start is None else start
    state = State(what.model.initial) if state is None else state
    cohort = range(len(what.shards)) if cohort is None else cohort
    return train(what, state, start, cohort, key=key, round=round, compute=Compute(), **knobs)


def one_after_another(model, here, examples, norm):
    """What every sampler is judged by: autograd on each example alone."""
    total = torch.zeros_like(here)
    for at in range(len(examples)):
        point = here.clone().requires_grad_()
        outputs = model(point, examples.inputs[at : at + 1], train=True)
        loss = model.loss(outputs, examples.targets[at : at + 1]).sum()
        (slope,) = torch.autograd.grad(loss, point)
        total += slope * min(1.0, norm / float(slope.norm()))
    return total


@pytest.mark.parametrize("norm", [0.5, INFINITE])
@pytest.mark.parametrize(("network", "sampler"), FITS)
def test_clipped_sums_are_those_of_a_loop_over_examples(network, sampler, norm):
    model = made(network)
    here, examples = model.initial.clone(), drawn(NETWORKS[network][1], 6)
    clipped, _ = clipping(sampler, model, here, norm=norm, example=examples.inputs[:1])
    for _ in range(2):  # the second time at other weights, changed where they lie
        total, norms, losses = clipped(examples.inputs, examples.targets)
        wanted = one_after_another(model, here, examples, norm)
        assert (total - wanted).norm() <= 1e-5 * wanted.norm()
        seen = model.loss(model(here, examples.inputs), examples.targets)
        torch.testing.assert_close(losses, seen)
        assert len(norms) == 6
        assert total.norm() <= norm * 6 * (1 + 1e-6)
        here += 0.1 * torch.randn(len(here), generator=KEY.stream())
    assert model.initial.equal(made(network).initial)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_example_whose_gradient_is_not_finite_counts_for_nothing(sampler):
    model = made("tanh_cnn")
    examples = drawn((1, 16, 16), 5)
    inputs = examples.inputs.clone()
    inputs[1], inputs[3, 0, 2, 2] = torch.inf, torch.nan
    clipped, _ = clipping(sampler, model, model.initial, norm=0.5, example=inputs[:1])
    total, norms, _ = clipped(inputs, examples.targets)
    sound = torch.tensor([True, False, True, False, True])
    assert norms.isfinite().equal(sound)
    torch.testing.assert_close(total, clipped(inputs[sound], examples.targets[sound])[0])
    assert clipped(inputs[~sound], examples.targets[~sound])[0].eq(0).all()


@pytest.mark.parametrize("network", ["mlp", "tanh_cnn", "group norm"])
def test_every_sampler_trains_alike(network):
    what = task((30, 0, 7), network)
    knobs = {"batch_size": 8, "epochs": 2, "momentum": 0.5, "norm": 0.7, "noise": 0.6}
    rows = {one: ask(what, sampler=one, **knobs).rows for of, one in FITS if of == network}
    assert len(rows) >= 5
    for found in rows.values():
        torch.testing.assert_close(found, rows["hooks"], rtol=0, atol=1e-5)


def test_passes_of_any_size_give_the_same_sum(monkeypatch):
    what = task((40,), "tanh_cnn")
    knobs = {"batch_size": 25, "norm": 0.1, "noise": 0.5, "sampler": "ghost"}
    whole = ask(what, **knobs)
    monkeypatch.setattr("dai_lab.learning.private_steps.EXAMPLES_A_PASS", 7)
    torch.testing.assert_close(ask(what, **knobs).rows, whole.rows, rtol=0, atol=1e-6)


@pytest.mark.parametrize("knobs", [{}, {"momentum": 0.5, "weight_decay": 0.1, "epochs": 2}])
def test_without_clipping_and_noise_it_is_plain_sgd_bit_for_bit(knobs):
    what = task()
    plain = ask(what, sgd, batch_size=8, **knobs)
    private = ask(what, batch_size=8, norm=INFINITE, noise=0.0, **knobs)
    assert private.rows.equal(plain.rows)
    assert private.losses.equal(plain.losses)
    assert not private.events


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_of_everything_that_clips_nothing_is_a_step_of_plain_sgd(sampler):
    what = task((20, 0, 7), "tanh_cnn")
    knobs = {"batch_size": 0, "epochs": 3, "momentum": 0.9, "weight_decay": 0.01}
    plain = ask(what, sgd, **knobs)
    private = ask(what, norm=1e6, noise=0.0, sampler=sampler, **knobs)
    torch.testing.assert_close(private.rows, plain.rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(private.losses, plain.losses)


def test_drawn_batches_are_divided_by_what_was_expected():
    what = task((30,))
    found = ask(what, batch_size=8, rate=0.2, momentum=0.9, norm=0.3, noise=0.0)
    chance = (KEY / "client" / 0 / "poisson").stream()
    here, pace = what.model.initial.clone(), 0.0
    for _ in range(4):
        taken = torch.rand(30, generator=chance, dtype=torch.float64) < 8 / 30
        some = what.data.some(what.shards[0][taken])
        pace = 0.9 * pace + one_after_another(what.model, here, some, 0.3) / 8
        here = here - 0.2 * pace
    torch.testing.assert_close(found.rows[0], here - what.model.initial, rtol=0, atol=1e-6)


def test_noise_is_gaussian_of_the_promised_size():
    what = task((30,))
    knobs = {"batch_size": 10, "norm": 0.5, "rate": 1.0, "momentum": 0.0}
    stays = Task(what.model, what.data, Shards.of([torch.arange(30)]))
    loud = ask(stays, noise=4e6, **knobs).rows[0] / 3**0.5  # three steps; gradients do not show
    deviation = 0.5 * 4e6 / 10
    assert stats.kstest(loud.double().numpy() / deviation, "norm").pvalue > 0.01
    assert float(loud.var()) == pytest.approx(deviation**2, rel=0.2)
    again = ask(stays, noise=4e6, key=Key(4), **knobs).rows[0]
    assert abs(float(torch.corrcoef(torch.stack([loud, again]))[0, 1])) < 0.2


def test_clients_draw_noise_of_their_own_and_alone_the_same():
    what = task((12, 12, 12))
    rows = ask(what, batch_size=4, noise=1e6).rows
    for client in range(3):
        assert ask(what, batch_size=4, noise=1e6, cohort=[client]).rows[0].equal(rows[client])
    assert (torch.corrcoef(rows) - torch.eye(3)).abs().max() < 0.3


def test_examples_are_taken_by_a_coin_each():
    what = task((400,))
    looks = [float(ask(what, key=KEY / seed, batch_size=40, norm=1.0).looks) for seed in range(12)]
    # Ten steps of 400 coins of probability 0.1: 400 looks, give or take 19.
    assert sum(looks) / 12 == pytest.approx(400, abs=4 * 19 / 12**0.5)
    assert stats.tstd(looks) == pytest.approx(19, rel=0.5)


def test_a_batch_without_anybody_is_a_step_of_noise():
    what = task((60,))
    found = ask(what, batch_size=1, norm=1.0, noise=2.0, rate=1.0)
    assert 0 < float(found.looks) < 60 * 2
    chance = (KEY / "client" / 0 / "poisson").stream()
    drawn = [
        (torch.rand(60, generator=chance, dtype=torch.float64) < 1 / 60).sum() for _ in range(60)
    ]
    assert min(drawn) == 0
    assert float(found.looks) == sum(drawn)
    assert float(found.rows.std()) == pytest.approx(2 * 60**0.5, rel=0.2)


def test_each_client_says_what_it_promised():
    what = task((30, 0, 7))
    said = ask(what, batch_size=8, epochs=2, noise=1.5).events
    first = Event("gaussian", (1.5,), rate=8 / 30, unit="record", times=8)
    last = Event("gaussian", (1.5,), rate=1.0, unit="record", times=2)
    assert list(said) == [(first,), (), (last,)]
    opened = (Event("open", unit="record"),)
    assert list(ask(what, noise=0.0).events) == [opened, (), opened]
    kept = ask(what, norm=INFINITE, noise=0.0, keep=True, momentum=0.5).events
    assert list(kept) == [(), (), ()]


def test_who_holds_nothing_stays():
    found = ask(task((5, 0)), batch_size=2)
    assert found.rows[1].eq(0).all()
    assert found.weights.tolist() == [5, 0]
    assert found.losses[1] == found.looks[1] == 0
    assert ask(task((5, 0)), cohort=[]).rows.shape == (0, found.rows.shape[1])


def test_momentum_that_is_kept_makes_two_rounds_one():
    what = task((8, 0))
    knobs = {"batch_size": 0, "momentum": 0.9, "noise": 0.0, "norm": 0.1}
    whole = ask(what, epochs=4, **knobs).rows[0]
    found = ask(what, epochs=2, keep=True, **knobs)
    state = learn(State(what.model.initial), range(2), found)
    after = what.model.initial + found.rows[0]
    more = ask(what, epochs=2, keep=True, state=state, start=after, **knobs)
    torch.testing.assert_close(found.rows[0] + more.rows[0], whole, rtol=0, atol=1e-6)
    assert not ask(what, epochs=2, **knobs).learned


def test_training_changes_nothing_but_its_answer():
    what = task((9,), "group norm")
    before = {name: each.clone() for name, each in what.model.module.named_parameters()}
    dice = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sampler in ("hooks", "ghost", "ew"):
            ask(what, sampler=sampler, batch_size=3)
    assert torch.random.get_rng_state().equal(dice)
    for name, each in what.model.module.named_parameters():
        assert each.equal(before[name])
        assert not hasattr(each, "grad_sample")


def test_dropout_draws_from_the_client_alone():
    network = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    what = Task(flat(network, classes=3), drawn((12,), 9), Shards.of([torch.arange(9)]))
    one = ask(what, batch_size=3).rows
    torch.rand(5)
    assert ask(what, batch_size=3).rows.equal(one)
    assert not ask(what, batch_size=3, key=Key(9)).rows.equal(one)


def test_auto_looks_at_the_model_alone():
    chosen = {
        name: sampler_for("auto", made(name), rank=len(NETWORKS[name][1])) for name in NETWORKS
    }
    assert chosen == {
        "mlp": "chain", "tanh_cnn": "chain", "uneven": "chain",
        "group norm": "hooks", "resnet8": "hooks",
    }  # fmt: skip
    dense = flat(nn.Sequential(nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 3)), classes=3)
    assert sampler_for("auto", dense, rank=1) == "ghost"


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"norm": 0.0}, "local.norm must be above 0"),
        ({"noise": -1.0}, "local.noise must be 0 or more"),
        ({"noise": math.nan}, "local.noise must be 0 or more"),
        ({"norm": INFINITE}, "local.noise=1.0 is measured in norms"),
        ({"sampler": "magic"}, "local.sampler must be one of auto, hooks"),
        ({"batch_size": -1}, "local.batch_size must be 0 or more"),
        ({"epochs": 0}, "local.epochs must be 1 or more"),
        ({"rate": 0.0}, "local.rate must be above 0"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        ask(task(), **knobs)


def test_what_mixes_examples_is_refused():
    model = made("mlp")

    def centered(outputs, targets):
        losses = cross_entropy(outputs, targets)
        return losses - losses.mean()

    def meant(outputs, targets):
        return cross_entropy(outputs, targets).mean()

    normed = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    weights = dict(normed.named_parameters())
    shapes = tuple(each.shape for each in weights.values())
    start = torch.cat([each.detach().flatten() for each in weights.values()])
    batch = Model(normed, cross_entropy, tuple(weights), shapes, start)

    def asked(model, **knobs):
        what = Task(model, drawn((12,), 9), Shards.of([torch.arange(9)]))
        return ask(what, **knobs)

    def with_loss(loss):
        return Model(model.module, loss, model.names, model.shapes, model.initial)

    with pytest.raises(ValueError, match="who else is in the batch"):
        asked(with_loss(centered))
    with pytest.raises(ValueError, match="a loss for each example"):
        asked(with_loss(meant))
    with pytest.raises(ValueError, match="model: BatchNorm cannot support"):
        asked(batch)


def test_a_sampler_that_does_not_take_a_model_says_so():
    with pytest.raises(ValueError, match=r"local\.sampler=chain takes"):
        ask(task((5,), "group norm"), sampler="chain")

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.linear = nn.Parameter(torch.ones(12)), nn.Linear(12, 3)

        def forward(self, inputs):
            return self.linear(inputs * self.scale)

    what = Task(flat(Scaled(), classes=3), drawn((12,), 9), Shards.of([torch.arange(9)]))
    with pytest.raises(ValueError, match=r"local.sampler=ew does not take this model \("):
        ask(what, sampler="ew")
    torch.testing.assert_close(ask(what, sampler="hooks").rows, ask(what).rows, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frame", ["centralized", "federated", "local_only"])
def test_a_run_learns_under_noise(frame, tmp_path):
    settings = [
        "data=digits", "model=logistic", "federation.clients=3", f"frame={frame}", "rounds=3",
        "local=dp_sgd", "local.batch_size=64", "local.noise=0.8", "local.rate=1",
        "local.momentum=0.5", "local.keep=true",
    ]  # fmt: skip
    result = simulate(load(*settings), tmp_path / "run", progress=False)
    assert result.summary["test_accuracy"] > 0.6


@pytest.mark.parametrize("said", ["", "no rule for it\nand much more"])
def test_what_a_sampler_cannot_do_is_one_line_that_keeps_its_cause(said):
    cause = NotImplementedError(said) if said else NotImplementedError()
    why = "no rule for it" if said else "NotImplementedError"
    line = rf"^local\.sampler=ew does not take this model \({why}\): choose another sampler$"
    with pytest.raises(ValueError, match=line) as named, _naming("ew"):
        raise cause
    assert named.value.__cause__ is cause


def test_an_error_that_is_no_samplers_passes_as_it_is():
    with pytest.raises(RuntimeError, match=r"^out of memory$"), _naming("ew"):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("sampler", ["hooks", "functorch", "ew", "fast", "ghost"])
def test_what_a_network_itself_cannot_do_is_not_put_down_to_the_sampler(sampler):
    class Unfinished(nn.Linear):
        def forward(self, inputs):
            raise NotImplementedError("still to be written")

    what = Task(flat(Unfinished(12, 3), classes=3), drawn((12,), 9), Shards.of([torch.arange(9)]))
    with pytest.raises(NotImplementedError, match="still to be written"):
        ask(what, sampler=sampler)
