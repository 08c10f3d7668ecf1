"""Sums whose masks are coded: exact whoever drops out, undone in one step, and checked."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import secagg
from dai_lab.core import Key, TooFew
from dai_lab.secagg import Refused, Terms, kernels, keys, session, wire
from dai_lab.secagg.coded import WIDTH, CodedClient, CodedServer
from dai_lab.secagg.levels import pack, unpack
from dai_lab.secagg.sessions import STEPS
from dai_lab.secagg.shamir import PRIME, powers

SEEDS = st.integers(0, 999)


def everyone(there):
    return {one: [other for other in there if other != one] for one in there}


def deal(seed, ids, width):
    stream = np.random.default_rng(seed)
    return {one: stream.integers(0, PRIME, width, dtype=np.uint32) for one in ids}


def added(vectors, who):
    return sum(vectors[one].astype(np.uint64) for one in who) % PRIME


@settings(max_examples=60)
@given(seed=SEEDS, width=st.integers(1, 40), data=st.data())
def test_the_sum_is_exact_whoever_drops_out_at_whatever_step(seed, width, data):
    count = data.draw(st.integers(2, 12))
    ids = sorted(data.draw(st.sets(st.integers(0, 2**31 - 3), min_size=count, max_size=count)))
    active, corrupt = data.draw(st.booleans()), data.draw(st.integers(1, count - 1))
    terms = Terms(b"here", width, WIDTH, count, corrupt=corrupt, active=active)
    terms = replace(terms, threshold=data.draw(st.integers(terms.least(count), count)))
    when = data.draw(st.lists(st.sampled_from([*STEPS, None]), min_size=count, max_size=count))
    lost = {step: {one for one, at in zip(ids, when, strict=True) if at == step} for step in STEPS}
    vectors = deal(seed, ids, width)
    left, gone = [], set()
    for step in STEPS:
        gone |= lost[step] if active or step != "consent" else set()
        left.append(count - len(gone))
    stay = [one for one in ids if not any(one in lost[step] for step in STEPS[:3])]
    play = partial(
        session, terms, vectors, key=Key(seed), neighbors=everyone, lost=lost,
        cast=(CodedClient, CodedServer),
    )  # fmt: skip
    if min(left) < terms.threshold:
        with pytest.raises(TooFew, match="the threshold is"):
            play()
        return
    found = play()
    assert found.survivors == tuple(stay) and not found.refused
    assert (found.values == added(vectors, stay)).all()


@given(seed=SEEDS, size=st.integers(1, 8))
def test_what_is_inverted_over_the_field_multiplies_to_one(seed, size):
    matrix = np.random.default_rng(seed).integers(0, PRIME, (size, size)).astype(np.uint64)
    matrix[0, 0] = 0 if size > 1 else 1  # a pivot that must be looked for
    found = kernels.inverse(matrix)
    assert (kernels.product(matrix, found.astype(np.uint32)) == np.eye(size)).all()


class Stage:
    """Six clients, of whom five decode and two learn nothing."""

    def __init__(self, width=9, **knobs):
        self.terms = Terms(b"here", width, WIDTH, **{"threshold": 5, "corrupt": 2, **knobs})
        signers = {one: keys.identity(bytes([one] * 32)) for one in range(6)}
        roster = {one: signer.public_key() for one, signer in signers.items()}
        self.server = CodedServer(self.terms, roster=roster, neighbors=everyone)
        self.clients = [
            CodedClient(one, self.terms, identity=signers[one], roster=roster) for one in range(6)
        ]
        self.vectors = deal(1, range(6), width)

    def shared(self):
        told = self.server.introduce({one.number: one.advertise() for one in self.clients})
        return self.server.route({one.number: one.share(told[one.number]) for one in self.clients})

    def unmasked(self):
        told = self.shared()
        told = self.server.gather(
            {
                one.number: one.mask(told[one.number], self.vectors[one.number])
                for one in self.clients
            }
        )
        return {one.number: one.unmask(told[one.number]) for one in self.clients}


def bent(message):
    values = unpack(wire.read_masked(message), 3, WIDTH).copy()
    values[1] = (values[1] + 1) % PRIME
    return wire.write_masked(pack(values, WIDTH))


def test_a_wrong_sum_of_codes_shows_where_more_than_enough_came():
    stage = Stage()
    sent = stage.unmasked()
    with pytest.raises(Refused, match="sums of codes contradict each other"):
        stage.server.total({**sent, 4: bent(sent[4])})
    stage = Stage()
    sent = stage.unmasked()
    assert (stage.server.total(sent).values == added(stage.vectors, range(6))).all()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (wire.write_masked(pack(np.zeros(2, np.uint32), WIDTH)), "client 0 sent no sum of codes"),
        (wire.write_masked(pack(np.full(3, PRIME, np.uint32), WIDTH)), "sent no sum of codes"),
        (b"nonsense", "this is no vec message"),
    ],
)
def test_what_is_no_sum_of_codes_leaves_its_sender_out(message, complaint):
    stage = Stage()
    found = stage.server.total({**stage.unmasked(), 0: message})
    assert (found.values == added(stage.vectors, range(6))).all()
    assert complaint in found.refused[0]


@given(seed=SEEDS, data=st.data())
def test_as_many_codes_as_are_corrupt_fit_every_mask(seed, data):
    decode = data.draw(st.integers(2, 8))
    corrupt = data.draw(st.integers(1, decode - 1))
    spies = sorted(
        data.draw(st.sets(st.integers(0, 2**31 - 3), min_size=corrupt, max_size=corrupt))
    )
    stream = np.random.default_rng(seed)
    pieces, other = stream.integers(0, PRIME, (2, decode, 3), dtype=np.uint32)
    ladder, open_ = powers([one + 1 for one in spies], decode), decode - corrupt
    seen = kernels.product(ladder, pieces).astype(np.uint64)
    explained = kernels.product(ladder[:, :open_], other[:open_])
    rest = ((seen + PRIME - explained) % PRIME).astype(np.uint32)
    noise = kernels.product(kernels.inverse(ladder[:, open_:]), rest)
    again = kernels.product(ladder, np.concatenate([other[:open_], noise]))
    assert (again == seen).all() and (other != pieces).any()


def test_a_code_for_another_client_or_without_noise_is_refused():
    stage = Stage()
    told = wire.read_sealed(stage.shared()[0])
    with pytest.raises(Refused, match="are not what it sealed"):
        stage.clients[0].mask(wire.write_sealed({**told, 1: told[2]}), stage.vectors[0])
    with pytest.raises(Refused, match="a code without noise tells its holder"):
        Stage(corrupt=0).shared()
    with pytest.raises(ValueError, match="modulus must be 31 bits for coded masks, got 20"):
        CodedServer(replace(stage.terms, modulus=20), roster={}, neighbors=everyone)


@settings(max_examples=25)
@given(seed=SEEDS, count=st.integers(1, 9), active=st.booleans(), weighted=st.booleans())
def test_the_mean_is_that_of_pairwise_to_the_bit(seed, count, active, weighted):
    stream = Key(seed).stream()
    sent = torch.randn(count, 4, generator=stream).clamp(-1, 1)
    weights = torch.randint(1, 50, (count,), generator=stream).float()
    knobs = {"clients": tuple(range(count)), "key": Key(seed), "weighted": weighted}
    found = secagg.one_shot(sent, weights, active=active, **knobs)
    pairs = secagg.masked(sent, weights, **knobs)
    assert found.rows.equal(pairs.rows) and found.members == pairs.members
    assert found.weights.equal(pairs.weights)
    assert found.rows.equal(secagg.one_shot(sent, weights, rehearsal=True, **knobs).rows)


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"bits": 28}, r"the sum needs 31 bits, and the field holds 30: lower secagg\.bits"),
        ({"corrupt": -0.1}, r"secagg\.corrupt must be a share in \[0, 1\), got -0.1"),
        ({"threshold": 2}, r"secagg\.threshold must be 3 or more of 8, or secagg\.corrupt lower"),
        ({"threshold": 9}, r"secagg\.threshold must be in 1\.\.8 \(a neighborhood\), got 9"),
        ({"dropping": 0.9}, r"clients are left, and the threshold is 6: lower secagg\.threshold"),
    ],
)
def test_what_cannot_be_agreed_on_names_the_knob(knobs, complaint):
    sent, weights = torch.zeros(8, 3), torch.ones(8)
    with pytest.raises(ValueError, match=complaint):
        secagg.one_shot(sent, weights, clients=tuple(range(8)), key=Key(0), **knobs)
