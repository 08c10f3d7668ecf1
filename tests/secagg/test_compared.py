"""Rows that nobody sees, their inner products and one weighted sum of them: exact, and no more."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import secagg
from dai_lab.core import Key, TooFew
from dai_lab.secagg import Refused, Terms, kernels, keys, wire
from dai_lab.secagg.coded import WIDTH
from dai_lab.secagg.compared import (
    TOTAL,
    Code,
    ComparedClient,
    ComparedServer,
    pairs,
    points,
    signed,
)
from dai_lab.secagg.levels import pack, unpack
from dai_lab.secagg.shamir import PRIME

SEEDS = st.integers(0, 999)


def small(seed, count, width, most=2000):
    return np.random.default_rng(seed).integers(-most, most, (count, width))


class Stage:
    """Clients whose rows are small whole numbers; three codes give a row back, five a product."""

    def __init__(self, rows, ids=None, threshold=3, corrupt=1):
        self.ids = [*range(len(rows))] if ids is None else ids
        self.rows = dict(zip(self.ids, rows, strict=True))
        width = rows.shape[1]
        self.terms = Terms(b"here", width, WIDTH, threshold, corrupt=corrupt)
        draws = {one: keys.simulated(Key(7) / one) for one in self.ids}
        signers = {one: keys.identity(draws[one](32)) for one in self.ids}
        roster = {one: signer.public_key() for one, signer in signers.items()}
        graph = {one: [other for other in self.ids if other != one] for one in self.ids}
        self.server = ComparedServer(self.terms, roster=roster, neighbors=lambda there: graph)
        self.clients = {
            one: ComparedClient(
                one, self.terms, row=(row % PRIME).astype(np.uint32), identity=signers[one],
                roster=roster, randomness=draws[one],
            )
            for one, row in self.rows.items()
        }  # fmt: skip

    def shared(self, lost=()):
        told = self.server.introduce({one: each.advertise() for one, each in self.clients.items()})
        there = [one for one in told if one not in lost]
        return self.server.route({one: self.clients[one].share(told[one]) for one in there})

    def products(self, lost=(), later=()):
        told = self.shared(lost)
        return {one: self.clients[one].compare(told[one]) for one in told if one not in later}

    def summed(self, weights, lost=()):
        told = self.server.weigh(weights)
        sent = {one: self.clients[one].combine(told[one]) for one in told if one not in lost}
        return signed(self.server.total(sent).values)


@settings(max_examples=40)
@given(seed=SEEDS, width=st.integers(1, 30), data=st.data())
def test_products_and_sums_are_exact_whoever_drops_out(seed, width, data):
    count = data.draw(st.integers(5, 12))
    threshold = data.draw(st.integers(3, (count + 1) // 2))
    ids = sorted(data.draw(st.sets(st.integers(0, 2**30 - 2), min_size=count, max_size=count)))
    stage = Stage(small(seed, count, width), ids, threshold, data.draw(st.integers(1, 2)))
    fates = data.draw(
        st.lists(st.sampled_from([0, 1, 2, None, None, None]), min_size=count, max_size=count)
    )
    lost, later, last = ({one for one, at in zip(ids, fates, strict=True) if at == when}
                         for when in range(3))  # fmt: skip
    there = [one for one in ids if one not in lost]
    if len(there) < threshold or len(there) - len(later) < 2 * threshold - 1:
        with pytest.raises(TooFew, match="the threshold is"):
            stage.server.compared(stage.products(lost, later))
        return
    rows = np.stack([stage.rows[one] for one in there])
    assert (stage.server.compared(stage.products(lost, later)) == rows @ rows.T).all()
    weights = dict(zip(there, (int(one) for one in small(seed, 1, len(there), 99)[0]), strict=True))
    first, *sizes = sorted((abs(one) for one in weights.values()), reverse=True)
    if len(there) - len(later | last) < threshold:
        return
    if not first or first > sum(sizes[stage.terms.corrupt :]):
        with pytest.raises(Refused, match="helps with no sum that is one row's by half"):
            stage.summed(weights)
        return
    blur = stage.summed(weights, later | last) - [*weights.values()] @ rows
    assert np.abs(blur).max() <= TOTAL // count * len(there)


@given(seed=SEEDS, threshold=st.integers(2, 6), data=st.data())
def test_as_many_codes_as_are_corrupt_fit_every_row(seed, threshold, data):
    corrupt = data.draw(st.integers(1, threshold - 1))
    code = Code(Terms(b"", 3 * (threshold - corrupt), WIDTH, threshold, corrupt=corrupt))
    spies = data.draw(st.sets(st.integers(0, 2**30 - 2), min_size=corrupt, max_size=corrupt))
    # What noise adds to the codes of these clients takes every value: it hides what rows add.
    units = np.zeros((corrupt, threshold, 1), np.uint32)
    for at in range(corrupt):
        units[at, code.pieces + at] = 1
    noise = np.hstack([code._moved(code.places, one, points(sorted(spies))) for one in units])
    found = kernels.inverse(noise.astype(np.uint64))
    both = kernels.product(noise.astype(np.uint64), found.astype(np.uint32))
    assert (both == np.eye(corrupt)).all()


def test_hidden_products_are_uniform_but_for_their_value():
    """Of two pairs with one product the server sees the same but the noise: nothing of pieces."""
    draws = keys.simulated(Key(3))
    code = Code(Terms(b"", 4, WIDTH, 3, corrupt=1))
    clients = [*range(5)]
    seen = []
    for _ in range(400):
        zeros = code.zeros(1, clients, draws)
        assert not code.product(dict(zip(clients, zeros, strict=True))).any()
        seen.append(zeros[:4, 0] / PRIME)
    # Four of five are free: means and products of uniform numbers, to five standard errors.
    free = np.array(seen) - 0.5
    assert np.abs(free.mean(0)).max() < 5 * np.sqrt(1 / 12 / 400)
    assert all(abs((free[:, a] * free[:, b]).mean()) < 5 / 12 / 20
               for a, b in combinations(range(4), 2))  # fmt: skip


def bent(message, count):
    values = unpack(wire.read_masked(message), count, WIDTH).copy()
    values[0] = (values[0] + 1) % PRIME
    return wire.write_masked(pack(values, WIDTH))


def test_a_wrong_product_or_code_shows_where_more_than_enough_came():
    stage = Stage(small(0, 6, 4))
    sent = stage.products()
    with pytest.raises(Refused, match="codes contradict each other"):
        stage.server.compared({**sent, 2: bent(sent[2], pairs(6))})
    stage = Stage(small(0, 6, 4))
    stage.server.compared(stage.products())
    told = stage.server.weigh(dict.fromkeys(range(6), 1))
    sent = {one: each.combine(told[one]) for one, each in stage.clients.items()}
    with pytest.raises(Refused, match="codes contradict each other"):
        stage.server.total({**sent, 5: bent(sent[5], 2)})


def test_clients_refuse_what_would_show_a_row():
    stage = Stage(small(0, 6, 4))
    told = stage.shared()
    with pytest.raises(Refused, match="are not what it sealed"):
        swapped = wire.read_sealed(told[0])
        stage.clients[0].compare(wire.write_sealed({**swapped, 1: swapped[2]}))
    client = stage.clients[1]
    client.compare(told[1])
    with pytest.raises(Refused, match="at step 3, not 2"):
        client.compare(told[1])
    with pytest.raises(Refused, match=r"no sum that is one row's by half, without 1 others"):
        # Whoever client 0 tells its row takes it away, and what is left is client 1's.
        client.combine(wire.write_weights({0: 1000, 1: 1000, 2: 1}))
    with pytest.raises(Refused, match="at step 4, not 3"):  # once, whatever was asked
        client.combine(wire.write_weights({0: 1, 1: 1, 2: 1}))
    other = stage.clients[2]
    other.compare(told[2])
    for asked in (
        lambda: other.mask(b"", np.zeros(4, np.uint32)),
        lambda: other.consent(b""),
        lambda: other.unmask(b""),
    ):
        with pytest.raises(Refused, match="a client that compares rows"):
            asked()
    with pytest.raises(Refused, match="client 9 never shared its row"):
        other.combine(wire.write_weights({0: 1, 1: 1, 9: 1}))


def test_terms_and_ids_under_which_a_code_tells_something_are_refused():
    with pytest.raises(ValueError, match="1 <= corrupt < threshold"):
        Code(Terms(b"", 4, WIDTH, 3, corrupt=0))
    with pytest.raises(ValueError, match="and no active"):
        Code(Terms(b"", 4, WIDTH, 3, corrupt=1, active=True))
    with pytest.raises(Refused, match="of clients below"):
        points([PRIME - 2])
    with pytest.raises(Refused, match="4 clients cannot decode products"):
        Stage(small(0, 4, 4)).shared()


def shown(count=9, width=40, seed=0, **knobs):
    sent = torch.randn(count, width, generator=Key(seed).stream()).double()
    clients = tuple(range(count))
    return sent, secagg.gram(sent, torch.ones(count), clients=clients, key=Key(seed), **knobs)


@pytest.mark.parametrize("rehearsal", [False, True])
def test_a_likeness_has_the_lengths_and_angles_of_the_rows_and_gives_their_sum(rehearsal):
    sent, seen = shown(rehearsal=rehearsal)
    assert seen.base.shape == (9, 9)
    assert torch.allclose(seen.base @ seen.base.T, sent @ sent.T, atol=0.02)
    weights = torch.arange(9.0).double() / 36
    assert torch.allclose(seen.sum(weights).base[0], weights @ sent, atol=2e-3)


def test_a_rehearsal_shows_the_same_without_the_ciphers_and_drop_outs_count():
    seen, weights = shown()[1], torch.full((9,), 1 / 9).double()
    row = seen.sum(weights).base
    for other in (shown(rehearsal=True)[1], shown(dropping=0.3, threshold=3)[1]):
        assert torch.allclose(seen.base, other.base, atol=1e-9)
        # But for the noise: a level of a row is 3e-4 here.
        assert torch.allclose(row, other.sum(weights).base, atol=4e-4)
    assert shown(dropping=0.3, threshold=3)[1].record["survivors"] < 9


def test_a_row_that_is_too_long_is_cut_and_one_that_is_none_is_not_there():
    sent = torch.ones(7, 4).double()
    sent[1], sent[2, 0] = 1e6, torch.nan
    seen = secagg.gram(sent, torch.arange(7.0), clients=tuple(range(7)), key=Key(0), clip=4.0)
    assert seen.members == ((0,), (1,), (3,), (4,), (5,), (6,))
    assert seen.weights.tolist() == [0, 1, 3, 4, 5, 6]
    assert seen.base.norm(dim=1).tolist() == pytest.approx([2, 4, 2, 2, 2, 2], rel=1e-3)


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"clip": 0.0}, r"secagg\.clip must be above 0, got 0"),
        ({"corrupt": 1.0}, r"secagg\.corrupt must be a share in \[0, 1\), got 1"),
        ({"threshold": 6}, r"secagg\.threshold must be in 2\.\.5 to compare 9 rows of which 1 may"),
        ({"corrupt": 0.5}, r"secagg\.threshold must be in 5\.\.5 to .* 4 may be corrupt, got 3"),
        ({"dropping": 0.9}, r"clients are left, and the threshold is 5"),
    ],
)
def test_what_cannot_be_agreed_on_names_the_knob(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        shown(**knobs)


def test_lengths_that_no_rows_have_are_refused():
    from dai_lab.secagg.gram import _likeness

    with pytest.raises(Refused, match=r"a row breaks secagg\.clip"):
        _likeness(np.array([[1.0, 3.0], [3.0, 1.0]]), Key(0))


def test_whoever_is_named_first_the_verdict_is_on_the_row_that_was_sent():
    sent, order = torch.diag(torch.arange(1.0, 8.0)).double(), (5, 0, 6, 2, 4, 1, 3)
    seen = secagg.gram(sent, torch.ones(7), clients=order, key=Key(0))
    lengths = dict(
        zip((one for (one,) in seen.members), seen.base.norm(dim=1).tolist(), strict=True)
    )
    assert lengths == pytest.approx({one: at + 1.0 for at, one in enumerate(order)}, rel=2e-3)


def test_a_sum_with_unequal_weights_is_not_a_number_whose_digits_are_the_rows():
    """Rows of 0 and 1 would stand in its digits: it comes out blurred by thousands of them."""
    rows = np.random.default_rng(0).integers(0, 2, (6, 300))
    stage = Stage(rows)
    stage.server.compared(stage.products())
    weights = dict(enumerate([4096, 4097, 2048, 2049, 2047, 2047]))
    blur = stage.summed(weights) - [*weights.values()] @ rows
    most = TOTAL // 6
    # Six uniform numbers: their variance is that of one, six times; 300 entries tell it to a tenth.
    assert np.abs(blur).max() <= 6 * most and blur.var() == pytest.approx(2 * most**2, rel=0.25)


def test_a_rule_that_keeps_nothing_asks_nobody():
    _, seen = shown()
    assert not seen.sum(torch.zeros(9).double()).base.any()


def test_a_row_of_any_length_is_cut_to_the_longest():
    sent = torch.ones(7, 4).double()
    sent[0] = 1e200
    seen = secagg.gram(sent, torch.ones(7), clients=tuple(range(7)), key=Key(0), clip=4.0)
    assert float(seen.base[0].norm()) == pytest.approx(4, rel=1e-3)
