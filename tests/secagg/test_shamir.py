"""Any threshold of shares gives the secret, fewer nothing, and sums of shares share the sum."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.secagg import shamir
from dai_lab.secagg.keys import simulated
from dai_lab.secagg.shamir import PRIME


def fixed(*coefficients):
    """Randomness that draws these, over and over."""
    words = np.array(coefficients, "<u4").tobytes()
    return lambda count: (words * count)[:count]


def at_zero(points, values):
    """Lagrange with whole numbers of any size."""
    found = 0
    for one, value in zip(points, values, strict=True):
        above = below = 1
        for other in points:
            if other != one:
                above, below = above * other % PRIME, below * (other - one) % PRIME
        found += value * above * pow(below, -1, PRIME)
    return found % PRIME


@settings(max_examples=60)
@given(seed=st.integers(0, 999), data=st.data())
def test_any_threshold_of_shares_gives_the_secrets_back(seed, data):
    count = data.draw(st.integers(1, 15))
    threshold = data.draw(st.integers(1, count))
    points = data.draw(st.sets(st.integers(1, PRIME - 1), min_size=count, max_size=count))
    points = np.array(sorted(points))
    draw = simulated(Key(seed))
    secrets = np.frombuffer(draw(16), "<u4") % PRIME
    shares = shamir.share(
        secrets.astype(np.uint32), threshold=threshold, points=points, randomness=draw
    )
    some = np.array(data.draw(st.permutations(range(count)))[:threshold])
    found = shamir.combine(points[some], shares[some])
    assert found.tolist() == secrets.tolist()
    column = [int(one) for one in shares[some, 0]]
    assert at_zero([int(one) for one in points[some]], column) == secrets[0]


def test_a_published_polynomial_gives_the_published_shares():
    """Wikipedia's example: 1234 + 166 x + 94 x^2."""
    points = np.arange(1, 7)
    shares = shamir.share(
        np.array([1234], np.uint32), threshold=3, points=points, randomness=fixed(166, 94)
    )
    assert shares[:, 0].tolist() == [1494, 1942, 2578, 3402, 4414, 5614]
    assert shamir.combine(points[[1, 3, 4]], shares[[1, 3, 4]]).tolist() == [1234]


def test_one_share_less_fits_every_secret():
    points = np.array([5, 6])
    [[held], _] = shamir.share(
        np.array([77], np.uint32), threshold=2, points=points, randomness=fixed(123)
    )
    for other in (0, 1, 77, PRIME - 1):
        slope = (int(held) - other) * pow(5, -1, PRIME) % PRIME
        again = shamir.share(
            np.array([other], np.uint32), threshold=2, points=points, randomness=fixed(slope)
        )
        assert again[0].tolist() == [held]


def test_coefficients_are_uniform_and_the_word_that_is_none_is_drawn_again():
    words = iter([np.array([PRIME, 7], "<u4").tobytes(), np.array([9], "<u4").tobytes()])
    assert shamir.elements(2, lambda count: next(words)).tolist() == [9, 7]


@given(seed=st.integers(0, 99))
def test_a_sum_of_shares_is_a_share_of_the_sum(seed):
    points, draw = np.array([1, 4, 9, 16]), simulated(Key(seed))
    parts = [np.frombuffer(draw(12), "<u4").astype(np.uint32) % PRIME for _ in range(2)]
    shares = [shamir.share(p, threshold=3, points=points, randomness=draw) for p in parts]
    both = ((shares[0].astype(np.uint64) + shares[1]) % PRIME).astype(np.uint32)
    total = (parts[0].astype(np.uint64) + parts[1]) % PRIME
    assert shamir.combine(points[1:], both[1:]).tolist() == total.tolist()


def test_many_owners_are_put_together_at_once():
    points, draw = np.arange(1, 8), simulated(Key(3))
    secrets = [np.frombuffer(draw(8), "<u4").astype(np.uint32) % PRIME for _ in range(5)]
    shares = np.stack([
        shamir.share(one, threshold=4, points=points, randomness=draw) for one in secrets
    ])  # fmt: skip
    found = shamir.combine_many(points[2:6], shares[:, 2:6])
    assert found.tolist() == [one.tolist() for one in secrets]


@given(secret=st.binary(min_size=32, max_size=32))
def test_a_secret_of_bytes_comes_back_from_its_limbs(secret):
    assert shamir.joined(shamir.limbs(secret)) == secret


def test_what_is_no_secret_point_share_or_threshold_is_refused():
    share, some = shamir.share, np.array([1], np.uint32)
    with pytest.raises(ValueError, match="32 bytes, got 31"):
        shamir.limbs(bytes(31))
    for parts in (np.full(9, 2**30, np.uint32), np.full(9, 2**30 - 1, np.uint32), some):
        with pytest.raises(ValueError, match="no limbs of a secret"):
            shamir.joined(parts)
    for threshold in (0, 3):
        with pytest.raises(ValueError, match=rf"threshold must be in 1\.\.2, got {threshold}"):
            share(some, threshold=threshold, points=np.array([1, 2]), randomness=os.urandom)
    for points in ([0, 1], [1, 1], [1, PRIME]):
        with pytest.raises(ValueError, match="points must be distinct and in 1"):
            share(some, threshold=1, points=np.array(points), randomness=os.urandom)
    with pytest.raises(ValueError, match="must be below 2147483647"):
        shamir.combine(np.array([1]), np.full((1, 1), PRIME, np.uint32))
    with pytest.raises(ValueError, match="1 shares at 2 points"):
        shamir.combine(np.array([1, 2]), np.ones((1, 1), np.uint32))
