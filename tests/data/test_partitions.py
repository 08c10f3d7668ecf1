"""Every way of dealing keeps every example once and depends on the key alone."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Card, Dataset, Examples, Key, Partitioner, Shards
from dai_lab.data import (
    classes,
    dirichlet,
    features,
    holdings,
    iid,
    natural,
    quantity,
    similarity,
    split,
    tensors,
)

WAYS = {
    "iid": iid,
    "dirichlet": dirichlet,
    "dirichlet, extreme": partial(dirichlet, alpha=1e-6),
    "dirichlet, at least 5": partial(dirichlet, alpha=0.1, minimum=5),
    "classes": classes,
    "one class": partial(classes, classes_per_client=1),
    "quantity": quantity,
    "quantity, power": partial(quantity, law="power", alpha=1.5),
    "features": features,
    "similarity": similarity,
    "similarity, none": partial(similarity, similarity=0.0),
}


def data(examples, labels=10, shape=(3,), seed=0, **attributes):
    stream = Key(seed).stream()
    inputs = torch.randn(examples, *shape, generator=stream)
    targets = torch.randint(labels, (examples,), generator=stream)
    train = Examples(inputs, targets, attributes)
    return Dataset(train, Examples(inputs[:1], targets[:1]), labels, Card("toy", "", "", ""))


def same(one, other):
    return torch.equal(one.shards.indices, other.shards.indices) and torch.equal(
        one.shards.offsets, other.shards.offsets
    )


@pytest.mark.parametrize("name", WAYS)
@given(
    clients=st.integers(1, 40),
    each=st.integers(5, 30),
    extra=st.integers(0, 50),
    seed=st.integers(0, 999),
)
def test_every_example_goes_to_exactly_one_client_whatever_the_key(
    name, clients, each, extra, seed
):
    toy = data(clients * each + extra, seed=seed)
    dealt = WAYS[name](toy, clients=clients, key=Key(seed))
    assert len(dealt.shards) == clients
    assert torch.equal(dealt.shards.indices.sort().values, torch.arange(len(toy.train)))
    assert dealt.shards.sizes.min() >= (5 if "at least 5" in name else 1)
    assert same(dealt, WAYS[name](toy, clients=clients, key=Key(seed)))


@pytest.mark.parametrize("name", WAYS)
def test_another_key_deals_otherwise_and_the_data_stays_as_it_was(name):
    toy = data(500)
    inputs = toy.train.inputs.clone()
    one, other = (WAYS[name](toy, clients=10, key=Key(seed)) for seed in (1, 2))
    assert not same(one, other)
    assert torch.equal(toy.train.inputs, inputs)
    assert isinstance(WAYS[name], Partitioner)


@given(clients=st.integers(1, 60), examples=st.integers(60, 400))
def test_iid_sizes_differ_by_at_most_one(clients, examples):
    sizes = iid(data(examples), clients=clients, key=Key(0)).shards.sizes
    assert sizes.max() - sizes.min() <= 1


@given(clients=st.integers(1, 30), held=st.integers(1, 4), seed=st.integers(0, 99))
def test_shards_of_sorted_labels_are_few_and_equal(clients, held, seed):
    toy = data(240, seed=seed)
    dealt = classes(toy, clients=clients, key=Key(seed), classes_per_client=held)
    pairs = int((holdings(dealt) > 0).sum())
    # Cutting ten runs of labels into n shards makes at most n + 9 pieces.
    assert pairs <= clients * held + 9
    sizes = dealt.shards.sizes
    assert sizes.max() - sizes.min() <= held


def test_two_shards_of_mcmahan_are_two_digits_when_the_classes_are_equal():
    toy = data(2000)
    targets = torch.arange(2000) % 10
    toy = Dataset(Examples(toy.train.inputs, targets), toy.test, 10, toy.card)
    held = (holdings(classes(toy, clients=100, key=Key(0))) > 0).sum(dim=1)
    assert set(held.tolist()) <= {1, 2}
    assert (held == 2).sum() > 80


@given(clients=st.integers(2, 40), minimum=st.integers(0, 10), seed=st.integers(0, 99))
def test_dirichlet_ends_and_keeps_the_minimum_even_where_one_client_would_take_all(
    clients, minimum, seed
):
    toy = data(clients * 10, seed=seed)
    dealt = dirichlet(toy, clients=clients, key=Key(seed), alpha=1e-9, minimum=minimum)
    assert dealt.shards.sizes.min() >= minimum
    assert int(dealt.shards.sizes.sum()) == clients * 10


def test_the_repair_takes_from_the_largest_only():
    toy = data(4000)
    free = dirichlet(toy, clients=50, key=Key(3), alpha=0.1, minimum=0).shards.sizes
    mended = dirichlet(toy, clients=50, key=Key(3), alpha=0.1, minimum=30).shards.sizes
    gave = mended < free
    level = mended[gave].min()
    assert free.min() < 30 and gave.any()
    assert (mended[free < 30] == 30).all()
    assert mended[gave].max() - level <= 1
    assert (free[~gave] <= level + 1).all()


def test_dirichlet_proportions_have_the_mean_and_variance_of_the_distribution():
    toy = data(40_000, labels=4)
    counts = [
        holdings(dirichlet(toy, clients=10, key=Key(seed), alpha=0.7, minimum=0))
        for seed in range(60)
    ]
    shares = torch.stack([count / count.sum(dim=0) for count in counts]).flatten()
    # One share of a symmetric Dirichlet vector of n parts: (1/n)(1 - 1/n) / (n alpha + 1).
    assert float(shares.mean()) == pytest.approx(0.1, abs=1e-6)
    assert float(shares.var()) == pytest.approx(0.1 * 0.9 / 8, rel=0.12)


def test_a_large_alpha_is_close_to_iid_and_a_small_one_is_not():
    toy = data(10_000)
    spread = [
        float(holdings(dirichlet(toy, clients=10, key=Key(0), alpha=alpha)).float().std())
        for alpha in (0.05, 1.0, 1e5)
    ]
    assert spread[0] > 2 * spread[1] > 10 * spread[2]


def test_the_power_law_gives_sizes_in_proportion_to_one_over_rank():
    toy = data(2928)  # 1000 (1 + 1/2 + ... + 1/10) = 2928.97
    sizes = quantity(toy, clients=10, key=Key(0), law="power", alpha=1.0, minimum=0).shards.sizes
    expected = torch.tensor([1000 / rank for rank in range(1, 11)])
    assert (sizes.sort(descending=True).values - expected).abs().max() <= 1


def test_quantity_skew_leaves_labels_alone():
    toy = data(20_000)
    dealt = quantity(toy, clients=10, key=Key(0))
    counts = holdings(dealt).double()
    big = counts[dealt.shards.sizes > 500]
    assert (big / big.sum(dim=1, keepdim=True) - 0.1).abs().max() < 0.05
    assert dealt.shards.sizes.max() > 4 * dealt.shards.sizes.min()


def test_feature_noise_grows_with_the_client_and_without_noise_it_is_iid():
    toy = data(20_000)
    dealt = features(toy, clients=4, key=Key(0), noise=0.8)
    change = dealt.data.train.inputs - toy.train.inputs
    for client, level in enumerate((0.2, 0.4, 0.6, 0.8)):
        assert float(change[dealt.shards[client]].std()) == pytest.approx(level, rel=0.03)
    plain = features(toy, clients=4, key=Key(0), noise=0.0)
    assert plain.data.train.inputs is toy.train.inputs
    assert same(plain, dealt)
    assert torch.equal(dealt.data.train.targets, toy.train.targets)


def test_a_quarter_turn_is_what_torch_calls_rot90():
    toy = data(5000, shape=(2, 6, 6))
    dealt = features(toy, clients=3, key=Key(0), noise=0.0, rotation=90.0)
    for client, quarters in enumerate((-1, 0, 1)):
        mine = dealt.shards[client]
        turned = toy.train.inputs[mine].rot90(quarters, dims=(2, 3))
        torch.testing.assert_close(dealt.data.train.inputs[mine], turned, atol=1e-4, rtol=0)


def test_a_half_turn_of_a_wide_image_flips_it_both_ways():
    toy = data(40, shape=(1, 4, 9))
    dealt = features(toy, clients=2, key=Key(0), noise=0.0, rotation=180.0)
    flipped = toy.train.inputs.flip(2, 3)
    torch.testing.assert_close(dealt.data.train.inputs, flipped, atol=1e-4, rtol=0)


@given(
    clients=st.integers(1, 20),
    examples=st.integers(20, 200),
    holdout=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)
def test_holding_out_takes_the_floor_of_each_clients_own(clients, examples, holdout, seed):
    shards = quantity(data(examples), clients=clients, key=Key(seed)).shards
    kept, held = split(shards, holdout=holdout, key=Key(seed))
    for client in range(clients):
        mine, left, out = (set(one[client].tolist()) for one in (shards, kept, held))
        assert left | out == mine and not left & out
        assert len(out) == int(len(mine) * holdout + 1e-9)


def test_holding_out_nothing_leaves_everything_and_29_percent_of_100_is_29():
    shards = Shards.of([torch.arange(100), torch.arange(100, 103)])
    kept, held = split(shards, holdout=0.0, key=Key(0))
    assert torch.equal(kept.indices, shards.indices) and held.sizes.tolist() == [0, 0]
    assert split(shards, holdout=0.29, key=Key(0))[1].sizes.tolist() == [29, 0]
    assert not torch.equal(
        split(shards, holdout=0.5, key=Key(0))[1].indices,
        split(shards, holdout=0.5, key=Key(1))[1].indices,
    )


@pytest.mark.parametrize(
    ("deal", "complaint"),
    [
        (partial(dirichlet, alpha=-1.0), r"partition.alpha must be above 0, got -1.0"),
        (partial(dirichlet, alpha=float("nan")), "partition.alpha must be above 0, got nan"),
        (partial(dirichlet, minimum=-1), "partition.minimum must be at least 0, got -1"),
        (partial(dirichlet, minimum=11), r"federation.clients=10 .* need 110 examples .* has 100"),
        (partial(quantity, alpha=0.0), r"partition.alpha must be above 0, got 0.0"),
        (partial(quantity, law="zipf"), "partition.law must be 'dirichlet' or 'power', got 'zipf'"),
        (partial(classes, classes_per_client=0), "partition.classes_per_client must be at least 1"),
        (partial(classes, classes_per_client=11), "need 110 examples and there are 100"),
        (partial(features, noise=-0.1), "partition.noise must be at least 0, got -0.1"),
        (partial(features, rotation=10.0), r"partition.rotation turns images and toy"),
        (partial(natural, by="hair"), r"partition.by must be one of \['subject'\], got 'hair'"),
        (natural, "federation.clients must be 2, one for each subject of toy, or 0, got 10"),
        (lambda toy, key, clients: iid(toy, clients=0, key=key), "federation.clients .* got 0"),
        (lambda toy, key, clients: iid(toy, clients=101, key=key), "federation.clients=101"),
    ],
)
def test_an_impossible_deal_is_refused_in_one_line_that_names_the_knob(deal, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        deal(data(100, subject=torch.arange(100) % 2), clients=10, key=Key(0))
    assert "\n" not in str(caught.value)


def test_labels_that_are_numbers_cannot_be_dealt_by_class():
    toy = tensors(torch.randn(50, 2), torch.randn(50))
    with pytest.raises(ValueError, match="partition=dirichlet deals by class and tensors has none"):
        dirichlet(toy, clients=2, key=Key(0))
    with pytest.raises(ValueError, match="must be an attribute, and tensors has none"):
        natural(toy, key=Key(0))
    assert len(iid(toy, clients=2, key=Key(0)).shards) == 2


@pytest.mark.parametrize("name", sorted(set(WAYS) - {"dirichlet, at least 5"}))
def test_a_hundred_thousand_clients_cost_no_more_python_than_a_thousand(name, lines_run):
    def deal(clients):
        toy = data(5 * clients, shape=(1,))
        shards = WAYS[name](toy, clients=clients, key=Key(0)).shards
        split(shards, holdout=0.2, key=Key(0))
        assert len(shards) == clients and shards.sizes.min() >= 1

    deal(1000)  # imports and caches
    assert lines_run(lambda: deal(100_000)) < 3 * lines_run(lambda: deal(1000))


@given(
    clients=st.integers(1, 20), share=st.floats(0, 1), extra=st.integers(0, 30), seed=st.integers(0)
)
def test_similar_clients_hold_as_many_and_share_what_is_dealt_at_random(
    clients, share, extra, seed
):
    toy = data(10 * clients + extra)
    shards = similarity(toy, clients=clients, key=Key(seed), similarity=share).shards
    assert shards.sizes.max() - shards.sizes.min() <= 2
    targets = toy.train.targets
    runs = [targets[shards[client]].unique() for client in range(clients)]
    if share == 0:
        ends = [(int(run.min()), int(run.max())) for run in runs]
        assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_the_more_similar_the_more_classes_a_client_holds():
    toy = data(2000)
    held = []
    for share in (0.0, 0.33, 0.66, 1.0):
        shards = similarity(toy, clients=10, key=Key(0), similarity=share).shards
        counts = torch.stack(
            [toy.train.targets[shards[one]].bincount(minlength=10) for one in range(10)]
        )
        held.append(float((counts / counts.sum(1, keepdim=True)).max(1).values.mean()))
    assert held == sorted(held, reverse=True)
    assert held[0] > 0.8 and held[-1] < 0.2
    with pytest.raises(ValueError, match=r"partition\.similarity must be in \[0, 1\], got 1\.5"):
        similarity(toy, clients=10, key=Key(0), similarity=1.5)
