"""Sessions end with the exact sum of the survivors, and refuse who departs from the protocol."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.core import Key, TooFew
from dai_lab.secagg import Client, Refused, Server, Terms, keys, session, wire
from dai_lab.secagg.sessions import STEPS

SEEDS = st.integers(0, 999)


def everyone(there):
    return {one: [other for other in there if other != one] for one in there}


def ring(there):
    """Two neighbors on each side."""
    size = len(there)
    near = {at: {(at + step) % size for step in (-2, -1, 1, 2)} - {at} for at in range(size)}
    return {there[at]: sorted(there[other] for other in near[at]) for at in range(size)}


def deal(seed, ids, width=5, modulus=20, words=np.uint32):
    stream = np.random.default_rng(seed)
    return {one: stream.integers(0, 2**modulus, width, dtype=words) for one in ids}


def added(vectors, who, modulus):
    return sum((vectors[one].astype(object) for one in who), np.zeros(5, object)) % 2**modulus


@settings(max_examples=60)
@given(seed=SEEDS, data=st.data())
def test_the_sum_is_exact_whoever_drops_out_at_whatever_step(seed, data):
    count = data.draw(st.integers(1, 12))
    ids = sorted(data.draw(st.sets(st.integers(0, 2**31 - 3), min_size=count, max_size=count)))
    modulus = data.draw(st.sampled_from([1, 8, 20, 31, 32, 33, 64]))
    active = data.draw(st.booleans())
    words = np.uint32 if modulus <= 32 else np.uint64
    terms = Terms(b"here", 5, modulus, 1, active=active)
    terms = replace(terms, threshold=data.draw(st.integers(terms.least(count), count)))
    when = data.draw(st.lists(st.sampled_from([*STEPS, None]), min_size=count, max_size=count))
    lost = {step: {one for one, at in zip(ids, when, strict=True) if at == step} for step in STEPS}
    vectors = deal(seed, ids, modulus=modulus, words=words)
    left, gone = [], set()
    for step in STEPS:
        gone |= lost[step] if active or step != "consent" else set()
        left.append(count - len(gone))
    stay = [one for one in ids if not any(one in lost[step] for step in STEPS[:3])]

    def play():
        return session(terms, vectors, key=Key(seed), neighbors=everyone, lost=lost)

    if min(left) < terms.threshold:
        with pytest.raises(TooFew, match="the threshold is"):
            play()
        return
    found = play()
    assert found.survivors == tuple(stay) and not found.refused
    assert found.values.dtype == words
    assert (found.values == added(vectors, stay, modulus)).all()


@settings(max_examples=30)
@given(seed=SEEDS, count=st.integers(6, 12), data=st.data())
def test_in_a_graph_the_sum_is_exact_while_each_neighborhood_keeps_its_threshold(seed, count, data):
    ids, terms = list(range(count)), Terms(b"here", 5, 20, 3)
    gone = data.draw(st.sets(st.sampled_from(ids), max_size=4))
    vectors, graph = deal(seed, ids), ring(ids)
    left = {one: len(({one, *graph[one]}) - gone) for one in ids}

    def play():
        return session(terms, vectors, key=Key(seed), neighbors=ring, lost={"mask": gone})

    if min(left.values()) < 3:
        with pytest.raises(TooFew):
            play()
        return
    stay = [one for one in ids if one not in gone]
    assert (play().values == added(vectors, stay, 20)).all()


def test_a_hundred_clients_of_whom_thirty_drop_out_add_up():
    ids, vectors = list(range(100)), deal(3, range(100))
    found = session(
        Terms(b"here", 5, 32, 67), vectors, key=Key(0), neighbors=everyone,
        lost={"mask": range(0, 20), "unmask": range(90, 100)},
    )  # fmt: skip
    assert (found.values == added(vectors, ids[20:], 32)).all()


class Stage:
    """Clients and a server between which a test may do what it likes."""

    def __init__(self, count=6, active=False, threshold=5, corrupt=0, place=b"here"):
        self.terms = Terms(place, 5, 20, threshold, corrupt=corrupt, active=active)
        self.signers = {one: keys.identity(bytes([one] * 32)) for one in range(count)}
        self.roster = {one: signer.public_key() for one, signer in self.signers.items()}
        self.server = Server(self.terms, roster=self.roster, neighbors=everyone)
        self.clients = [self.client(one) for one in range(count)]
        self.vectors = deal(1, range(count))

    def client(self, one):
        return Client(one, self.terms, identity=self.signers[one], roster=self.roster)

    def advertised(self):
        return self.server.introduce({one.number: one.advertise() for one in self.clients})

    def shared(self):
        told = self.advertised()
        return self.server.route({one.number: one.share(told[one.number]) for one in self.clients})

    def sent(self, lost=()):
        told = self.shared()
        return self.server.gather({
            one.number: one.mask(told[one.number], self.vectors[one.number])
            for one in self.clients if one.number not in lost
        })  # fmt: skip


def test_nobody_is_told_the_shares_of_both_secrets_of_a_client():
    stage = Stage()
    told = stage.sent(lost=[5])
    assert set(told) == {0, 1, 2, 3, 4}
    first = wire.read_revealed(stage.clients[0].unmask(told[0]))
    assert not first.own.keys() & first.keys.keys() and set(first.keys) == {5}
    for again in (told[0], wire.write_request(wire.Request([0, 1, 2, 3, 5], {}))):
        with pytest.raises(Refused, match="client 0 is at step 4, not 3"):
            stage.clients[0].unmask(again)
    both = wire.Revealed({1: bytes(36)}, {1: bytes(36)})
    with pytest.raises(Refused, match="both shares of client 1"):
        wire.read_revealed(wire.write_revealed(both))


def test_survivors_that_differ_from_client_to_client_are_refused():
    stage = Stage(active=True, threshold=5, corrupt=1)
    told = stage.sent(lost=[5])
    other = wire.write_request(wire.Request([0, 1, 2, 3, 4, 5], {}))
    consents = {one: stage.clients[one].consent(told[one]) for one in range(3)}
    consents |= {one: stage.clients[one].consent(other) for one in (3, 4)}
    signed = {one: wire.read_consent(data) for one, data in consents.items()}
    request = wire.write_request(wire.Request([0, 1, 2, 3, 4], signed))
    with pytest.raises(Refused, match="client 3 did not sign this"):
        stage.clients[0].unmask(request)
    with pytest.raises(Refused, match="client 3 signed other survivors"):
        stage.clients[3].unmask(request)
    few = {one: signed[one] for one in range(3)}
    with pytest.raises(Refused, match="client 1 has 3 of its neighborhood left"):
        stage.clients[1].unmask(wire.write_request(wire.Request([0, 1, 2, 3, 4], few)))


def test_a_server_that_is_not_believed_needs_a_threshold_no_two_stories_reach():
    with pytest.raises(Refused, match="a threshold of 4 in a neighborhood of 6: it must be 5"):
        stage = Stage(active=True, threshold=4, corrupt=2)
        told = stage.advertised()
        stage.clients[0].share(told[0])


@pytest.mark.parametrize(
    ("survivors", "complaint"),
    [
        ([1, 2, 3, 4, 5], "client 0 sent its vector and is said not to have"),
        ([0, 1, 2], "client 0 has 3 of its neighborhood left, and the threshold is 5"),
        ([0, 1, 2, 3, 4, 5], "client 5 survived without ever sharing"),
    ],
)
def test_survivors_that_cannot_be_are_refused(survivors, complaint):
    stage = Stage()
    told = stage.advertised()
    told = stage.server.route({one: stage.clients[one].share(told[one]) for one in range(5)})
    stage.clients[0].mask(told[0], stage.vectors[0])
    with pytest.raises(Refused, match=complaint):
        stage.clients[0].unmask(wire.write_request(wire.Request(survivors, {})))


def test_shares_that_were_changed_swapped_or_sealed_for_another_session_are_refused():
    changed = Stage()
    told = wire.read_sealed(changed.shared()[0])
    bent = bytes([told[1][0] ^ 1]) + told[1][1:]
    for client, text in ((0, {**told, 1: bent}), (2, {0: told[1]})):
        with pytest.raises(Refused, match="are not what it sealed"):
            changed.clients[client].mask(wire.write_sealed(text), changed.vectors[client])
    swapped = Stage()
    told = wire.read_sealed(swapped.shared()[0])
    crossed = wire.write_sealed({**told, 1: told[2], 2: told[1]})
    with pytest.raises(Refused, match="are not what it sealed"):
        swapped.clients[0].mask(crossed, swapped.vectors[0])
    later = Stage(place=b"the next round")
    later.shared()
    with pytest.raises(Refused, match="are not what it sealed"):
        later.clients[0].mask(wire.write_sealed(told), later.vectors[0])


def test_keys_of_another_round_another_client_or_nobody_known_are_refused():
    stage, before = Stage(), Stage(place=b"the round before")
    adverts = {one.number: one.advertise() for one in stage.clients}
    adverts[1] = before.clients[1].advertise()  # replayed
    adverts[2] = adverts[3]  # another client's
    with pytest.raises(TooFew, match="4 clients are left, and the threshold is 5"):
        stage.server.introduce({**adverts, 9: adverts[4]})
    assert stage.server._refused[1] == "secagg: client 1 did not sign this"
    assert stage.server._refused[2] == "secagg: client 2 did not sign this"
    assert stage.server._refused[9] == "secagg: client 9 is not on the roster"


@pytest.mark.parametrize("lie", ["replayed", "another's", "own", "stranger", "twice"])
def test_clients_do_not_take_a_servers_word_for_keys(lie):
    stage, before = Stage(), Stage(place=b"the round before")
    told = wire.read_introduction(stage.advertised()[0])
    old = wire.read_advert(before.clients[1].advertise())
    adverts, complaint = {
        "replayed": ({1: old}, "client 1 did not sign this"),
        "another's": ({1: told.adverts[2]}, "client 1 did not sign this"),
        "own": ({0: told.adverts[1]}, "client 0 is no neighbor of its own"),
        "stranger": ({17: told.adverts[1]}, "client 17 is not on the roster"),
        "twice": ({}, "two clients show the same key"),
    }[lie]
    if lie == "twice":
        one = told.adverts[1]
        text = keys.advert_text(stage.terms.place, 2, one.channel, one.mask)
        copied = replace(one, signature=stage.signers[2].sign(text))
        adverts = {2: copied}
    bent = wire.Introduction(told.session, {**told.adverts, **adverts})
    with pytest.raises(Refused, match=complaint):
        stage.clients[0].share(wire.write_introduction(bent))


def test_a_step_out_of_order_or_taken_twice_is_refused():
    stage = Stage()
    with pytest.raises(Refused, match="client 0 is at step 0, not 1"):
        stage.clients[0].share(b"")
    told = stage.advertised()
    stage.clients[0].share(told[0])
    with pytest.raises(Refused, match="client 0 is at step 2, not 1"):
        stage.clients[0].share(told[0])
    with pytest.raises(Refused, match=r"signed only where terms\.active is set"):
        stage.clients[0].consent(b"")


def test_a_client_that_talks_nonsense_is_left_out_and_named():
    stage = Stage(count=8, threshold=5)
    told = stage.shared()
    masked = {one: stage.clients[one].mask(told[one], stage.vectors[one]) for one in range(8)}
    masked |= {0: b"nonsense", 1: masked[1][:-1]}
    told = stage.server.gather(masked)
    assert set(told) == set(range(2, 8))
    revealed = {one: stage.clients[one].unmask(told[one]) for one in told}
    revealed[2] = wire.write_revealed(wire.Revealed({}, {}))
    found = stage.server.total(revealed)
    assert (found.values == added(stage.vectors, range(2, 8), 20)).all()
    assert set(found.refused) == {0, 1, 2}
    assert "other shares than it was asked for" in found.refused[2]


def test_shares_that_do_not_give_the_key_that_was_shown_end_the_session():
    stage = Stage()
    told = stage.sent(lost=[5])
    revealed = {one: stage.clients[one].unmask(told[one]) for one in told}
    given = wire.read_revealed(revealed[1])
    bent = bytes([given.keys[5][0] ^ 1]) + given.keys[5][1:]
    revealed[1] = wire.write_revealed(wire.Revealed(given.own, {5: bent}))
    with pytest.raises(
        Refused, match=r"the shares of client 5 (do not give its key|make no secret)"
    ):
        stage.server.total(revealed)


def test_what_is_sent_looks_like_noise_and_never_twice_the_same():
    width, terms = 40_000, Terms(b"here", 40_000, 32, 2)
    vectors = {one: np.zeros(width, np.uint32) for one in range(3)}

    def sent(place):
        signers = {one: keys.identity(bytes([one] * 32)) for one in range(3)}
        roster = {one: signer.public_key() for one, signer in signers.items()}
        here = replace(terms, place=place)
        draw = {one: keys.simulated(Key(5) / place.decode() / one) for one in range(3)}
        clients = {
            one: Client(one, here, identity=signers[one], roster=roster, randomness=draw[one])
            for one in range(3)
        }
        server = Server(here, roster=roster, neighbors=everyone)
        told = server.introduce({one: clients[one].advertise() for one in range(3)})
        told = server.route({one: clients[one].share(told[one]) for one in range(3)})
        return wire.read_masked(clients[0].mask(told[0], vectors[0]))

    first, second = sent(b"here"), sent(b"there")
    for text in (first, second):
        counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
        chi = ((counts - len(text) / 256) ** 2 / (len(text) / 256)).sum()
        assert 160 < chi < 370  # 255 degrees of freedom: beyond one time in a million
    words = [{text[at : at + 16] for at in range(0, len(text), 16)} for text in (first, second)]
    assert not words[0] & words[1] and len(words[0]) == len(first) // 16


def test_the_same_seed_gives_the_same_transcript_and_another_place_another():
    vectors = deal(0, range(4))

    def transcript(seed, place):
        terms = Terms(place, 5, 20, 3)
        return session(terms, vectors, key=Key(seed), neighbors=everyone).transcript

    assert transcript(0, b"a") == transcript(0, b"a")
    assert len({transcript(seed, place) for seed in (0, 1) for place in (b"a", b"b")}) == 4


READERS = [
    wire.read_advert, wire.read_introduction, wire.read_sealed, wire.read_masked,
    wire.read_request, wire.read_consent, wire.read_revealed, wire.read_weights,
]  # fmt: skip
WRITERS = [
    wire.write_advert, wire.write_introduction, wire.write_sealed, wire.write_masked,
    wire.write_request, wire.write_consent, wire.write_revealed, wire.write_weights,
]  # fmt: skip
TAGS = (b"adv", b"int", b"shr", b"vec", b"req", b"con", b"rev", b"wts")


@settings(max_examples=300)
@given(at=st.integers(0, 7), tagged=st.booleans(), data=st.binary(max_size=300))
def test_a_decoder_takes_only_what_an_encoder_gives(at, tagged, data):
    data = TAGS[at] + data if tagged else data
    try:
        found = READERS[at](data)
    except Refused:
        return
    assert WRITERS[at](found) == data


@settings(max_examples=200)
@given(data=st.data())
def test_a_message_with_any_bit_changed_is_refused_or_read_as_what_it_now_says(data):
    sealed = {2: bytes(40), 7: bytes(40), 9: bytes(range(40))}
    messages = [
        wire.write_advert(wire.Advert(bytes(32), bytes(32), bytes(64))),
        wire.write_introduction(wire.Introduction(bytes(32), {
            3: wire.Advert(bytes(32), bytes(32), bytes(64))})),
        wire.write_sealed(sealed), wire.write_masked(bytes(50)),
        wire.write_request(wire.Request([1, 4, 6], sealed)), wire.write_consent(bytes(64)),
        wire.write_revealed(wire.Revealed({1: bytes(36)}, {2: bytes(36), 5: bytes(36)})),
        wire.write_weights({1: -3, 2: 70_000}),
    ]  # fmt: skip
    at = data.draw(st.integers(0, 7))
    bit = data.draw(st.integers(0, 8 * len(messages[at]) - 1))
    bent = bytearray(messages[at])
    bent[bit // 8] ^= 1 << bit % 8
    for cut in (bytes(bent), messages[at][:-1], messages[at] + b"\0"):
        try:
            found = READERS[at](cut)
        except Refused:
            continue
        assert WRITERS[at](found) == cut
    assert WRITERS[at](READERS[at](messages[at])) == messages[at]
