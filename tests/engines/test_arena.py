"""Tensors come out of shared memory as they went in."""

import os
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dai_lab.core import Key
from dai_lab.engines.arena import ALIGNED, Arena, nameless
from dai_lab.engines.parcel import pack, unpack
from dai_lab.engines.workers import deal

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool]
SHAPES = st.lists(st.integers(0, 5), max_size=4)


KNOBS = st.tuples(SHAPES, st.sampled_from(KINDS), st.integers(0, 99), st.booleans())


def tensor(shape, kind, seed, turned):
    values = (torch.randn(shape, generator=Key(seed).stream()) * 3).to(kind)
    return values.permute(list(range(len(shape)))[::-1]) if turned else values


def shared(private=False):
    descriptor = nameless()
    return Arena(descriptor), Arena(os.dup(descriptor), private=private)


@settings(max_examples=40)
@given(st.lists(st.lists(KNOBS, max_size=4), min_size=1, max_size=4))
def test_what_one_writes_the_other_reads(rounds):
    ours, theirs = shared()
    for knobs in rounds:
        written = [tensor(*each) for each in knobs]
        places = ours.write({str(at): one for at, one in enumerate(written)})
        assert len(str(places)) < 200 * (len(written) + 1)
        for one, found in zip(written, theirs.read(places).values(), strict=True):
            assert found.dtype == one.dtype
            assert found.shape == one.shape
            assert found.equal(one)
            assert not found.numel() or found.data_ptr() % ALIGNED == 0
    ours.close()
    theirs.close()


def test_the_order_of_numbers_in_memory_is_kept():
    picture = torch.randn(2, 3, 4, 5, generator=Key(0).stream())
    picture = picture.contiguous(memory_format=torch.channels_last)
    ours, theirs = shared()
    found = theirs.read(ours.write({"": picture}))[""]
    assert found.stride() == picture.stride()


def test_what_is_read_in_private_is_nobody_elses():
    ours, theirs = shared(private=True)
    places = ours.write({"": torch.zeros(5)})
    theirs.read(places)[""].add_(1)
    assert ours.read(places)[""].sum() == 0


def test_what_was_read_outlives_its_arena():
    ours, theirs = shared()
    found = theirs.read(ours.write({"": torch.arange(9)}))[""]
    ours.close()
    theirs.close()
    assert found.tolist() == list(range(9))


@pytest.mark.parametrize("system", ["with", "without"])
def test_memory_has_no_name_anyone_could_leave_behind(system, monkeypatch):
    if system == "without":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = nameless()
    assert os.fstat(descriptor).st_nlink == 0
    ours, theirs = Arena(descriptor), Arena(os.dup(descriptor))
    assert theirs.read(ours.write({"": torch.arange(3)}))[""].tolist() == [0, 1, 2]
    ours.close()
    theirs.close()


def test_a_parcel_holds_every_tensor_once_and_weights_stay_weights():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    network[0].bias.requires_grad_(False)
    common = torch.arange(4)
    ours, theirs = shared(private=True)
    places = pack((network, [common, common], {"a": 1}), ours)
    assert len(places) == 1 + 4  # the rest, a weight, two biases and the common tensor
    found, (one, other), rest = unpack(theirs, places)
    assert found[0].weight is found[1].weight
    assert one is other
    assert rest == {"a": 1}
    for name, weight in network.named_parameters():
        there = found.get_parameter(name)
        assert type(there) is nn.Parameter
        assert there.equal(weight)
        assert there.requires_grad == weight.requires_grad


@pytest.mark.parametrize("thing", [lambda: 0, open(os.devnull).close], ids=["lambda", "method"])  # noqa: SIM115
def test_what_cannot_leave_this_process_is_refused_in_one_line(thing):
    with pytest.raises(ValueError, match=r"^engine=workers: .* put it in a module, or use") as bad:
        pack(thing, Arena(nameless()))
    assert "\n" not in str(bad.value)


SIZES = st.lists(st.integers(0, 200), max_size=60)


@settings(max_examples=60)
@given(SIZES, st.integers(1, 9))
def test_every_client_is_dealt_once_and_longest_first(sizes, hands):
    chunks = deal(sizes, hands)
    assert sorted(at for chunk in chunks for at in chunk) == list(range(len(sizes)))
    assert all(chunk == sorted(chunk) for chunk in chunks)
    assert all(chunks) or not sizes
    for before, after in pairwise(chunks):
        assert min(sizes[at] for at in before) >= max(sizes[at] for at in after)


@settings(max_examples=60)
@given(SIZES, st.integers(1, 9))
def test_chunks_are_few_and_none_is_more_than_its_share_but_for_its_last_client(sizes, hands):
    chunks = deal(sizes, hands)
    total = sum(sizes) + len(sizes)
    assert len(chunks) <= 10 * hands + 1
    for chunk in chunks:
        held = sum(sizes[at] + 1 for at in chunk)
        smallest = min((sizes[at] + 1 for at in chunk), default=0)
        assert held - smallest <= total / (1.5 * hands)


def test_ten_equal_clients_are_dealt_to_two_hands():
    assert deal([600] * 10, 2) == [[0, 1, 2], [3, 4], [5, 6], [7], [8], [9]]
