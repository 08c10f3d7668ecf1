"""Arguments are written as every other library writes them, and bytes nobody wrote are refused."""

from contextlib import suppress

import eth_abi
import pytest
from eth_utils import keccak as their_keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.chain.abi import Malformed, codec
from dai_lab.chain.hashing import keccak

PLAIN = {
    **{f"uint{bits}": st.integers(0, (1 << bits) - 1) for bits in (8, 64, 256)},
    **{f"int{bits}": st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 128)},
    **{f"bytes{size}": st.binary(min_size=size, max_size=size) for size in (4, 32)},
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "bool": st.booleans(),
    "bytes": st.binary(max_size=70),
    "string": st.text(max_size=40),
}


def many(kind, size=None):
    name, of = kind
    low, high = (0, 3) if size is None else (size, size)
    values = st.lists(of, min_size=low, max_size=high).map(tuple)
    return f"{name}[{'' if size is None else size}]", values


def together(kinds):
    return f"({','.join(name for name, _ in kinds)})", st.tuples(*(of for _, of in kinds))


TYPES = st.recursive(
    st.sampled_from(sorted(PLAIN.items(), key=lambda one: one[0])),
    lambda inner: st.one_of(
        inner.map(many),
        st.builds(many, inner, st.integers(1, 3)),
        st.lists(inner, min_size=1, max_size=3).map(together),
    ),
    max_leaves=5,
)
CASES = st.lists(TYPES, min_size=1, max_size=4).flatmap(
    lambda row: st.tuples(st.just([name for name, _ in row]), together(row)[1])
)
"""Names of types, and a value of each."""


@settings(max_examples=60)
@given(CASES)
def test_every_value_is_written_and_read_as_eth_abi_does(case):
    row, given_values = case
    ours = codec(f"({','.join(row)})")
    written = ours.encode(given_values)
    # As arguments, without the offset that a tuple alone has before it.
    assert written == eth_abi.encode(row, given_values)
    assert ours.decode(written, 0) == given_values
    assert ours.decode(written, 0) == eth_abi.decode(row, written)


@settings(max_examples=40)
@given(CASES, st.data())
def test_bytes_that_are_cut_are_refused_and_changed_ones_crash_nothing(case, data):
    row, given_values = case
    ours = codec(f"({','.join(row)})")
    written = bytearray(ours.encode(given_values))
    cut = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(Malformed):
        ours.decode(bytes(written[:cut]), 0)
    written[cut] ^= data.draw(st.integers(1, 255))
    with suppress(Malformed):
        ours.decode(bytes(written), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uint64", 1 << 64),
        ("uint256", -1),
        ("uint8", True),
        ("int8", 128),
        ("uint256", 1.0),
        ("address", "0x12"),
        ("address", "0x" + "zz" * 20),
        ("bool", 1),
        ("bytes32", b"short"),
        ("bytes", "text"),
        ("string", b"bytes"),
        ("string", "\ud800"),
        ("uint8[]", 3),
        ("uint8[2]", (1, 2, 3)),
    ],
)
def test_a_value_that_a_type_does_not_have_is_refused(name, value):
    with pytest.raises(Malformed):
        codec(f"({name})").encode((value,))


def test_a_length_that_could_not_be_there_costs_nothing():
    huge = (32).to_bytes(32) + (1 << 200).to_bytes(32)
    for name in ("bytes", "string", "uint8[]", "uint8[][]"):
        with pytest.raises(Malformed, match="length"):
            codec(f"({name})").decode(huge, 0)


@pytest.mark.parametrize("name", ["uint7", "bytes33", "float", "uint", "int512", "bytes0"])
def test_a_type_there_is_not_is_refused(name):
    with pytest.raises(Malformed, match="no type"):
        codec(name)


@given(st.binary(max_size=400))
def test_keccak_is_what_others_compute(data):
    assert keccak(data) == their_keccak(data)
