"""Whole-number noise has the distribution it should, and a rotation loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import hadamard

from dai_lab.core import Key
from dai_lab.privacy import discrete
from dai_lab.privacy.kernels import BLOCK

SEEDS = st.integers(0, 999)
MANY = 200_000


def surprise(drawn, pmf):
    """Give the p-value of a chi-square test against probabilities of whole numbers."""
    far = int(np.abs(drawn).max()) + 2
    values = np.arange(-far, far + 1)
    expected = len(drawn) * pmf(values)
    common = expected >= 20
    seen = np.bincount(drawn + far, minlength=len(values))
    rest = len(drawn) - expected[common].sum()
    seen = np.append(seen[common], seen[~common].sum())
    expected = np.append(expected[common], rest)
    kept = expected > 5
    return stats.chisquare(seen[kept], expected[kept] * seen[kept].sum() / expected[kept].sum())[1]


def gaussian_pmf(std):
    values = np.arange(-60 * (int(std) + 1), 60 * (int(std) + 1) + 1)
    total = np.exp(-(values**2) / (2 * std**2)).sum()
    return lambda at: np.exp(-(at**2) / (2 * std**2)) / total


def skellam_pmf(std):
    return lambda at: stats.skellam.pmf(at, std**2 / 2, std**2 / 2)


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0, 2.7, 40.0])
@pytest.mark.parametrize(
    ("sampler", "pmf"),
    [(discrete.discrete_gaussian, gaussian_pmf), (discrete.skellam_noise, skellam_pmf)],
)
def test_draws_are_distributed_as_the_closed_form_says(sampler, pmf, std):
    drawn = sampler(std, MANY, np.random.default_rng(1))
    assert surprise(drawn, pmf(std)) > 0.01
    assert surprise(drawn, pmf(1.03 * std)) < 1e-6


def test_the_two_are_told_apart_where_noise_is_small():
    gaussian = discrete.discrete_gaussian(0.7, MANY, np.random.default_rng(2))
    assert surprise(gaussian, skellam_pmf(gaussian.std())) < 1e-9


def test_sums_of_skellam_are_skellam():
    draw = np.random.default_rng(3)
    total = sum(discrete.skellam_noise(0.4, MANY, draw) for _ in range(9))
    assert surprise(total, skellam_pmf(1.2)) > 0.01


@pytest.mark.parametrize("std", [3e5, 3e9])
@pytest.mark.parametrize("sampler", [discrete.discrete_gaussian, discrete.skellam_noise])
def test_wide_noise_is_as_good_as_normal(sampler, std):
    drawn = sampler(std, MANY, np.random.default_rng(4))
    assert stats.kstest(drawn / std, "norm").pvalue > 0.01
    assert stats.kstest(drawn / std, "norm", (0, 1.02)).pvalue < 1e-3


@pytest.mark.parametrize("sampler", [discrete.discrete_gaussian, discrete.skellam_noise])
def test_noise_comes_from_the_key_and_none_is_none(sampler):
    one, again, other = (
        sampler(5.0, 100, discrete.stream(key)) for key in (Key(0) / "a", Key(0) / "a", Key(0))
    )
    assert (one == again).all() and (one != other).any() and len(one) == 100
    assert not sampler(0.0, 100, discrete.stream(Key(0))).any()


@given(seed=SEEDS, params=st.integers(1, 70))
def test_a_rotation_keeps_lengths_and_angles_and_turns_back(seed, params):
    draw = np.random.default_rng(seed)
    rows, flips = draw.normal(size=(2, params)), discrete.signs(params, Key(seed))
    turned = np.stack([discrete.rotated(row, flips) for row in rows])
    size = turned.shape[1]
    assert size == discrete.width(params) >= params > size // 2
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, atol=1e-12)
    np.testing.assert_allclose(discrete.unrotated(turned[0], flips), rows[0], atol=1e-13)
    filled = np.zeros((2, size))
    filled[:, :params] = rows * flips
    np.testing.assert_allclose(turned, filled @ hadamard(size) / np.sqrt(size), atol=1e-12)


@pytest.mark.parametrize("at", [0, 1, BLOCK, 3 * BLOCK - 5])
def test_one_large_entry_of_a_long_row_ends_up_everywhere(at):
    row = np.zeros(4 * BLOCK)
    row[at] = 64.0
    turned = discrete.rotated(row, np.ones(len(row), np.int8))
    parity = np.bitwise_count(np.arange(len(row)) & at) % 2
    assert (turned == (1 - 2.0 * parity) * 64 / np.sqrt(len(row))).all()


def test_signs_are_fair_and_drawn_from_the_key():
    flips = discrete.signs(10_000, Key(0))
    assert set(flips.tolist()) == {-1, 1} and abs(int(flips.sum())) < 400
    assert (flips == discrete.signs(10_000, Key(0))).all()
    assert (flips != discrete.signs(10_000, Key(1))).any()
