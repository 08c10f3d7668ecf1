"""An attack sends a row for each of its own, leaves its inputs alone, and changes something."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab import attacks
from dai_lab.core import Key

HARMFUL = {
    "sign_flip": attacks.sign_flip,
    "gaussian": attacks.gaussian,
    "alie": attacks.alie,
    "ipm": attacks.ipm,
    "sleeper": partial(attacks.sometimes, attack=attacks.sign_flip, probability=1.0),
}
SEEDS = st.integers(0, 999)


def rows(seed, count, params=5):
    return torch.randn(count, params, generator=Key(seed).stream(), dtype=torch.float64)


@pytest.mark.parametrize("name", HARMFUL)
@given(seed=SEEDS, hostile=st.integers(0, 5), count=st.integers(2, 9))
def test_an_attack_sends_a_row_for_each_of_its_own(name, seed, hostile, count):
    honest, own = rows(seed, count), rows(seed + 1, hostile)
    before = honest.clone(), own.clone()
    sent = HARMFUL[name](honest, own=own, key=Key(seed))
    assert sent.shape == own.shape and sent.dtype == own.dtype
    assert torch.equal(honest, before[0]) and torch.equal(own, before[1])
    assert torch.equal(sent, HARMFUL[name](honest, own=own, key=Key(seed)))
    assert hostile == 0 or not torch.equal(sent, own)


@given(seed=SEEDS)
def test_to_behave_is_to_send_what_was_computed(seed):
    own = rows(seed, 3)
    assert torch.equal(attacks.none(rows(seed, 4), own=own, key=Key(seed)), own)


@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_a_flipped_row_points_backwards(seed, scale):
    own = rows(seed, 3)
    sent = attacks.sign_flip(rows(seed, 4), own=own, key=Key(0), scale=scale)
    cosine = torch.nn.functional.cosine_similarity(sent, own)
    torch.testing.assert_close(cosine, -torch.ones_like(cosine))
    torch.testing.assert_close(sent.norm(dim=1), scale * own.norm(dim=1))


@given(seed=SEEDS, z=st.floats(-3, 3))
def test_alie_hides_z_deviations_below_the_mean_as_numpy_counts(seed, z):
    honest = rows(seed, 7)
    expected = honest.numpy().mean(0) - z * honest.numpy().std(0, ddof=1)
    sent = attacks.alie(honest, own=rows(seed, 2), key=Key(0), z=z)
    np.testing.assert_allclose(sent.numpy(), np.stack([expected, expected]), atol=1e-12)


def test_alie_worked_by_hand():
    honest = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    sent = attacks.alie(honest, own=torch.zeros(1, 2), key=Key(0), z=2**0.5)
    torch.testing.assert_close(sent, torch.tensor([[0.0, 0.0]]))


@given(seed=SEEDS, epsilon=st.floats(0.01, 100))
def test_the_inner_product_with_the_honest_mean_is_negative(seed, epsilon):
    honest = rows(seed, 7)
    sent = attacks.ipm(honest, own=rows(seed, 3), key=Key(0), epsilon=epsilon)
    mean = honest.mean(0)
    torch.testing.assert_close(sent @ mean, (-epsilon * mean @ mean).expand(3))


def test_noise_has_the_spread_asked_for_and_differs_by_row_and_key():
    own = torch.zeros(2, 100_000)
    noise = attacks.gaussian(own, own=own, key=Key(0), std=200.0)
    assert noise.std().item() == pytest.approx(200, rel=0.01)
    assert abs(noise.mean().item()) < 200 * 4 / 200_000**0.5
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, attacks.gaussian(own, own=own, key=Key(1), std=200.0))


def test_a_sleeper_wakes_as_often_as_it_is_told():
    own = torch.ones(2, 3)
    sleeper = partial(attacks.sometimes, attack=attacks.sign_flip, probability=0.3)
    sent = [sleeper(own, own=own, key=Key(0) / "round" / number) for number in range(1000)]
    awake = sum(bool((each == -own).all()) for each in sent)
    assert all(bool((each.abs() == own).all()) for each in sent)
    assert 300 - 4 * 14.5 < awake < 300 + 4 * 14.5
    never = partial(attacks.sometimes, attack=attacks.sign_flip, probability=0.0)
    assert torch.equal(never(own, own=own, key=Key(0)), own)


@pytest.mark.parametrize(
    ("attack", "honest", "complaint"),
    [
        (attacks.alie, 1, "attack=alie needs at least 2 honest rows a round and sees 1"),
        (attacks.ipm, 0, "attack=ipm needs at least 1 honest rows a round and sees 0"),
        (partial(attacks.ipm, epsilon=0.0), 3, "attack.epsilon must be above 0, got 0.0"),
        (partial(attacks.sign_flip, scale=-1.0), 3, "attack.scale must be above 0, got -1.0"),
        (partial(attacks.gaussian, std=float("nan")), 3, "attack.std must be above 0, got nan"),
        (
            partial(attacks.sometimes, attack=attacks.none, probability=1.5),
            3,
            r"attack.probability must be in \[0, 1\], got 1.5",
        ),
    ],
)
def test_a_knob_or_a_round_that_cannot_work_is_refused(attack, honest, complaint):
    with pytest.raises(ValueError, match=complaint):
        attack(rows(0, honest), own=rows(1, 2), key=Key(0))
