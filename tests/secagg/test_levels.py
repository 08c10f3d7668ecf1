"""Levels are unbiased, sums of them fit, and packed bits are those that were put in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.secagg.levels import modulus, pack, quantize, restored, unpack

KEY = bytes(range(16))


@settings(max_examples=50)
@given(seed=st.integers(0, 99), bits=st.integers(1, 32), clip=st.sampled_from([0.01, 1.0, 30.0]))
def test_a_row_comes_back_to_within_a_level_and_its_clip(seed, bits, clip):
    row = np.random.default_rng(seed).standard_normal(50).astype(np.float32)
    levels = quantize(row, clip=clip, bits=bits, key=KEY)
    assert levels.dtype == np.uint32 and int(levels.max()) < 2**bits
    found = restored(levels, count=1, clip=clip, bits=bits)
    step = 2 * clip / (2**bits - 1)
    assert (np.abs(found - np.clip(row, -clip, clip)) <= step * (1 + 1e-9) + 1e-9 * clip).all()


def test_rounding_has_no_bias_and_the_variance_it_must_have():
    row = np.full(200_000, 0.3)
    found = restored(quantize(row, clip=1.0, bits=4, key=KEY), count=1, clip=1.0, bits=4)
    step = 2 / 15
    share = (0.3 + 1) / step % 1
    deviation = step * np.sqrt(share * (1 - share))
    assert abs(found.mean() - 0.3) < 5 * deviation / np.sqrt(len(row))
    assert found.std() == pytest.approx(deviation, rel=0.02)
    assert len(set(np.round(found, 6))) == 2


def test_the_ends_of_the_range_are_levels_whatever_is_drawn():
    row = np.tile([-1.0, 1.0, -7.0, 7.0], 1000)
    levels = quantize(row, clip=1.0, bits=16, key=KEY)
    assert levels.tolist() == [0, 65535, 0, 65535] * 1000


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"clip": 0.0, "bits": 8}, r"secagg\.clip must be above 0, got 0"),
        ({"clip": float("inf"), "bits": 8}, r"secagg\.clip must be above 0, got inf"),
        ({"clip": 1.0, "bits": 0}, r"secagg\.bits must be 1 to 32, got 0"),
        ({"clip": 1.0, "bits": 33}, r"secagg\.bits must be 1 to 32, got 33"),
    ],
)
def test_a_knob_out_of_range_is_named(knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        quantize(np.zeros(3), key=KEY, **knobs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite cannot be quantized"):
        quantize(np.array([0.0, bad]), clip=1.0, bits=8, key=KEY)


@given(bits=st.integers(1, 32), count=st.integers(1, 2**40))
def test_a_modulus_holds_the_largest_sum_and_is_the_smallest_that_does(bits, count):
    most = count * (2**bits - 1)
    if most >= 2**64:
        with pytest.raises(ValueError, match=r"lower secagg\.bits or secagg\.heaviest"):
            modulus(bits, count)
    else:
        assert 2 ** modulus(bits, count) > most >= 2 ** (modulus(bits, count) - 1)


@settings(max_examples=200)
@given(width=st.integers(1, 64), data=st.data())
def test_packed_values_are_one_long_number_and_come_back(width, data):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    words = np.array(values, np.uint32 if width <= 32 else np.uint64)
    text = pack(words, width)
    assert int.from_bytes(text, "little") == sum(
        value << width * at for at, value in enumerate(values)
    )
    assert len(text) == -(-len(values) * width // 8)
    back = unpack(text, len(values), width)
    assert back.tolist() == values and back.dtype == words.dtype


def test_packed_values_of_another_length_or_with_stray_bits_are_refused():
    text = pack(np.array([1, 2, 3], np.uint32), 5)
    with pytest.raises(ValueError, match="3 values of 5 bits are 2 bytes, not 3"):
        unpack(text + b"\0", 3, 5)
    with pytest.raises(ValueError, match="bits after the last value are set"):
        unpack(text[:1] + bytes([text[1] | 128]), 3, 5)
