"""Noise that clients share: what a sum decodes to, what it promises, and that it keeps it."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from dai_lab.core import Event, Key, State
from dai_lab.privacy import discrete
from dai_lab.privacy.distributed import BETA, Grid, Plan, distributed_gaussian, rounded, skellam

SEEDS = st.integers(0, 999)
PARTS = pytest.mark.parametrize("part", [distributed_gaussian, skellam])
ORDERS = np.concatenate([np.linspace(1.01, 20, 2000), np.geomspace(20, 2000, 500)])
DELTA = 1e-5


def play(part, rows, seed=0, **knobs):
    state = State(torch.zeros(rows.shape[1]))
    return part(rows, state=state, key=Key(seed), **knobs)


def encoding(part, params=250, **knobs):
    return play(part, torch.zeros(1, params), **knobs).encoding


def grid(params, **knobs):
    usual = {"norm": 1.0, "noise": 1.0, "bits": 16, "clients": 20, "dropping": 0.0}
    usual |= {"corrupt": 0.0, "spread": 4.0, "beta": BETA}
    return Plan(**usual | knobs).on(params)


def added(made, rows, key):
    words = [made.encode(row, key / at) for at, row in enumerate(rows)]
    return np.sum(words, 0, np.uint64) % np.uint64(2**made.bits)


def epsilon(event):
    """Price an event at ``DELTA``, by the papers' curves and Canonne et al. 2020, prop. 12."""
    if event.mechanism == "zcdp":
        curve = ORDERS * event.numbers[0]
    else:
        assert event.mechanism == "skellam"
        variance, squared, l1 = event.numbers
        rest = ((2 * ORDERS - 1) * squared + 6 * l1) / (4 * variance**2)
        curve = ORDERS * squared / (2 * variance) + np.minimum(rest, 3 * l1 / (2 * variance))
    found = curve + np.log1p(-1 / ORDERS) - (math.log(DELTA) + np.log(ORDERS)) / (ORDERS - 1)
    return float(found.min())


@PARTS
@settings(max_examples=25)
@given(seed=SEEDS, params=st.integers(1, 40), count=st.integers(1, 9))
def test_without_noise_a_sum_decodes_to_itself_within_its_roundings(part, seed, params, count):
    rows = np.random.default_rng(seed).normal(size=(count, params)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = encoding(part, params, noise=0.0, clients=count)
    found = made.decode(added(made, rows, Key(seed)), count)
    apart = grid(params, noise=0.0, clients=count).grain * math.sqrt(made.width)
    assert found.shape == (params,) and found.dtype == np.float64
    assert np.linalg.norm(found - rows.astype(np.float64).sum(0)) <= count * (apart + 1e-6)
    assert made.events(count) == (Event("open"),)


@PARTS
@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_what_is_decoded_is_right_on_average(part, noise):
    row = np.array([0.6, -0.2, 0.1, 0.05, -0.5])
    made = encoding(part, 5, noise=noise, clients=1, bits=7)
    found = np.stack([made.decode(made.encode(row, Key(0) / at), 1) for at in range(400)])
    # Rounding is refused where it is long, which the paper allows to bias it a little.
    off, sure = np.abs(found.mean(0) - row), found.std(0) / math.sqrt(len(found))
    assert found.std() > 0.01 and (off < 4 * sure + 0.02 * grid(5, bits=7, clients=1).grain).all()


@PARTS
def test_rows_that_are_too_long_are_shortened_by_whoever_encodes_them(part):
    made = encoding(part, 4, noise=0.0, clients=1, bits=24)
    for scale in (3.0, 1e30, 1e200):
        row = scale * np.array([0.0, 3.0, 0.0, -4.0])
        found = made.decode(made.encode(row, Key(0)), 1)
        np.testing.assert_allclose(found, [0, 0.6, 0, -0.8], atol=1e-5)
    rows = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    found = play(part, rows, norm=2.0)
    assert found.rows.tolist() == [[2.0, 0.0], [0.0, 0.5]] and found.bound == 2.0


@settings(max_examples=40)
@given(seed=SEEDS, params=st.integers(1, 64), beta=st.sampled_from([0.0, BETA, 0.99]))
def test_no_rounding_is_longer_than_the_bound_that_is_paid_for(seed, params, beta):
    here = grid(params, bits=5, clients=2, beta=beta)
    row = np.random.default_rng(seed).normal(size=params)
    turned = discrete.rotated(
        row * here.longest / np.linalg.norm(row), discrete.signs(params, Key(seed))
    )
    for at in range(30):
        whole = rounded(turned, here.l2, discrete.stream(Key(seed) / at))
        assert np.linalg.norm(whole) <= here.l2 and np.abs(whole).sum() <= here.l1
        assert (np.abs(whole - turned) < 1).all()


@pytest.mark.parametrize("beta", [BETA, 0.9, 0.99])
def test_roundings_that_are_too_long_exist_and_are_no_more_frequent_than_beta(beta):
    turned = np.full(64, 0.5)  # halfway is where most is left to chance
    here = Grid(64, grain=1.0, std=0.0, longest=4.0, beta=beta)
    draw = np.random.default_rng(1)
    long = [np.linalg.norm(np.floor(turned + draw.random(64))) > here.l2 for _ in range(4000)]
    assert 0.01 < np.mean(long) <= beta


@PARTS
def test_a_sum_wraps_only_where_it_must(part):
    rows = np.tile(np.random.default_rng(0).normal(size=64), (30, 1))
    rows /= np.linalg.norm(rows[0])
    off = {}
    for spread in (0.5, 4.0):
        made = encoding(part, 64, clients=30, noise=0.0, spread=spread)
        off[spread] = np.abs(made.decode(added(made, rows, Key(1)), 30) - rows.sum(0)).max()
    assert off[4.0] < 0.1 < 1 < off[0.5]
    made = encoding(part, 64, clients=30, bits=8)
    half = 2**7
    edge = np.zeros(64, np.uint64)
    edge[0] = half - 1
    up = made.decode(edge, 30)
    edge[0] = half
    down = made.decode(edge, 30)
    np.testing.assert_allclose(up / (half - 1), -down / half)


@PARTS
@pytest.mark.parametrize(
    ("dropping", "corrupt", "shared_by"),
    [(0.0, 0.0, 10), (0.2, 0.0, 8), (0.0, 0.25, 7), (0.2, 0.25, 6), (0.95, 0.5, 1)],
)
def test_each_client_adds_what_makes_the_honest_who_stay_reach_the_noise(
    part, dropping, corrupt, shared_by
):
    knobs = {"clients": 10, "dropping": dropping, "corrupt": corrupt, "norm": 2.0, "noise": 3.0}
    made = encoding(part, 4096, **knobs)
    alone = made.decode(made.encode(np.zeros(4096), Key(0)), 1)
    assert alone.std() == pytest.approx(6 / math.sqrt(shared_by), rel=0.04)
    (event,) = encoding(skellam, 4096, **knobs).events(math.floor(10 * (1 - dropping) + 1e-9) or 1)
    if shared_by > 1:
        assert event.numbers[0] * grid(4096, **knobs).grain ** 2 == pytest.approx(36)


@PARTS
def test_the_fewer_stay_and_the_more_are_corrupt_the_more_is_given_away(part):
    made = encoding(part, clients=50, dropping=0.2)
    costs = [epsilon(*made.events(stayed)) for stayed in range(50, 0, -1)]
    assert costs == sorted(costs) and costs[0] < costs[10] < costs[-1] / 2
    wary = encoding(part, clients=50, dropping=0.2, corrupt=0.1)
    assert epsilon(*wary.events(40)) == pytest.approx(costs[10], rel=0.01)
    assert epsilon(*wary.events(20)) > epsilon(*wary.events(40))
    none_honest = encoding(part, clients=50, corrupt=0.6)
    assert none_honest.events(1) == (Event("open"),)


@PARTS
def test_without_noise_and_bound_nothing_happens(part):
    rows = torch.randn(4, 7, generator=Key(0).stream())
    found = play(part, rows, noise=0.0, norm=math.inf, bits=2, clients=1000)
    assert found.rows is rows and found.encoding is None and found.bound == math.inf


@PARTS
def test_the_rotation_is_the_rounds_and_the_promise_does_not_depend_on_rows(part):
    one, two = (play(part, rows, seed=5) for rows in (torch.zeros(3, 9), torch.ones(1, 9)))
    words = np.arange(16, dtype=np.uint32)
    assert (one.encoding.decode(words, 3) == two.encoding.decode(words, 3)).all()
    assert one.encoding.events(3) == two.encoding.events(3)
    other = play(part, torch.zeros(3, 9), seed=6)
    assert (one.encoding.decode(words, 3) != other.encoding.decode(words, 3)).any()
    row = np.ones(9)
    same, again, fresh = (one.encoding.encode(row, key) for key in (Key(1), Key(1), Key(2)))
    assert (same == again).all() and (same != fresh).any()


@PARTS
@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"norm": 0.0}, r"privacy\.norm must be above 0, got 0"),
        ({"norm": math.inf}, r"privacy\.norm must be finite where privacy\.noise is not 0"),
        ({"noise": -1.0}, r"privacy\.noise must be 0 or more, got -1"),
        ({"noise": math.inf}, r"privacy\.noise must be 0 or more, got inf"),
        ({"bits": 33}, r"privacy\.bits must be 2 to 32, got 33"),
        ({"clients": 0}, r"privacy\.clients must be 1 or more, got 0"),
        ({"dropping": 1.0}, r"privacy\.dropping must be a share in \[0, 1\), got 1"),
        ({"corrupt": -0.1}, r"privacy\.corrupt must be a share in \[0, 1\), got -0.1"),
        ({"beta": 1.0}, r"privacy\.beta must be a share in \[0, 1\), got 1"),
        ({"spread": 0.0}, r"privacy\.spread must be above 0, got 0"),
        ({"bits": 4, "clients": 99}, r"raise privacy\.bits, or lower privacy\.clients"),
    ],
)
def test_what_cannot_be_promised_names_the_knob(part, knobs, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        encoding(part, **knobs)
    assert "\n" not in str(error.value)


def test_noise_finer_than_half_a_grain_has_a_price_only_as_skellam():
    knobs = {"clients": 1000, "bits": 10, "noise": 0.8}
    with pytest.raises(ValueError, match=r"raise privacy\.bits or .* privacy=skellam"):
        encoding(distributed_gaussian, **knobs)
    assert epsilon(*encoding(skellam, **knobs).events(1000)) < math.inf


# What the price promises, against distributions written out in full.


def summed_pmf(std, count):
    """Give the probabilities of a sum of discrete Gaussians, and where it starts."""
    far = math.ceil(14 * std) + 3
    one = np.exp(-(np.arange(-far, far + 1) ** 2) / (2 * std**2))
    found = one = one / one.sum()
    for _ in range(count - 1):
        found = np.convolve(found, one)
    return found


def shifted(pmf, by):
    return np.append(pmf, np.zeros(by)), np.append(np.zeros(by), pmf)


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("bits", [4, 7])
def test_one_clients_loss_is_below_its_price_by_an_accountant_that_is_not_ours(noise, bits):
    from dp_accounting.pld import privacy_loss_distribution as pld

    knobs = {"clients": 1, "bits": bits, "noise": noise}
    here = grid(1, **knobs)
    (event,) = encoding(distributed_gaussian, 1, **knobs).events(1)
    exact = pld.from_discrete_gaussian_mechanism(here.std, sensitivity=math.floor(here.l2))
    priced = epsilon(event)
    assert exact.get_delta_for_epsilon(priced) <= DELTA
    # The bound is on the length before it is cut to a whole number: so much is allowed.
    slack = 1.35 * (here.l2 / math.floor(here.l2)) ** 2
    assert priced <= slack * exact.get_epsilon_for_delta(DELTA)


@pytest.mark.parametrize(("count", "bits"), [(2, 4), (5, 5), (12, 6)])
@pytest.mark.parametrize("noise", [1.4, 2.0])
def test_divergences_of_a_sum_written_out_are_below_what_rho_promises(count, bits, noise):
    knobs = {"clients": count, "bits": bits, "spread": 2.0, "noise": noise, "beta": 0.9}
    here = grid(1, **knobs)
    assert 0.5 < here.std < 2  # where a sum is not yet quite a discrete Gaussian itself
    ((rho,),) = (one.numbers for one in encoding(distributed_gaussian, 1, **knobs).events(count))
    there, gone = shifted(summed_pmf(here.std, count), math.floor(here.l2))
    both = (there > 1e-290) & (gone > 1e-290)
    for order in (1.5, 2.0, 4.0, 8.0):
        terms = order * np.log(there[both]) + (1 - order) * np.log(gone[both])
        assert np.log(np.exp(terms).sum()) / (order - 1) <= order * rho
    price = epsilon(Event("zcdp", (rho,)))
    assert np.maximum(there - math.exp(price) * gone, 0).sum() <= DELTA


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_the_numbers_of_skellam_mean_what_its_curve_takes_them_for(count, noise):
    knobs = {"clients": count, "bits": 5, "spread": 2.0, "noise": noise}
    (event,) = encoding(skellam, 1, **knobs).events(count)
    variance, squared, _ = event.numbers
    values = np.arange(-400, 401)
    pmf = stats.skellam.pmf(values, variance / 2, variance / 2)
    there, gone = shifted(pmf, math.floor(math.sqrt(squared)))
    assert np.maximum(there - math.exp(epsilon(event)) * gone, 0).sum() <= DELTA
    knobs["spread"] = 5.0  # so that none of the following wraps
    made = encoding(skellam, 4096, **knobs)
    here = grid(4096, **knobs)
    words = made.encode(np.zeros(4096), Key(3)).astype(np.int64)
    centered = (words + 16) % 32 - 16
    assert centered.var() == pytest.approx(here.std**2, rel=0.1)
    assert made.events(count)[0].numbers[0] == pytest.approx(count * here.std**2)


# Distributed mean estimation: Kairouz et al. 2021, section 5, with rows of length 10.


def central(target):
    """Give the standard deviation of a Gaussian in one place: Balle and Wang 2018, theorem 8."""

    def beyond(std):
        near, far = 0.5 / std - target * std, -0.5 / std - target * std
        return stats.norm.cdf(near) - math.exp(target) * stats.norm.cdf(far) - DELTA

    return brentq(beyond, 0.05, 200)


def affordable(part, target, **knobs):
    low, high = 0.1, 1000.0
    for _ in range(25):
        noise = math.sqrt(low * high)
        try:
            enough = epsilon(*encoding(part, noise=noise, **knobs).events(knobs["clients"]))
        except ValueError:
            enough = math.inf
        low, high = (low, noise) if enough <= target else (noise, high)
    return high


def times_central(part, target, *, clients, bits, repeats):
    knobs = {"clients": clients, "bits": bits, "norm": 10.0, "spread": 2.0}
    made = encoding(part, noise=affordable(part, target, **knobs), **knobs)
    errors = []
    for at in range(repeats):
        rows = np.random.default_rng((7, at)).normal(size=(clients, 250))
        rows *= 10 / np.linalg.norm(rows, axis=1, keepdims=True)
        found = made.decode(added(made, rows, Key(at)), clients)
        errors.append(np.square(found - rows.sum(0)).mean())
    return np.mean(errors) / (10 * central(target)) ** 2


@PARTS
@pytest.mark.parametrize("target", [1.0, 6.0])
def test_sixteen_bits_are_nearly_as_good_as_noise_in_one_place(part, target):
    # Most of what is lost is in pricing a curve: a continuous Gaussian loses as much by it.
    assert 1 < times_central(part, target, clients=100, bits=16, repeats=8) <= 1.3


def test_ten_bits_of_a_thousand_clients_are_not_and_skellam_is_hurt_less():
    coarse = {"clients": 1000, "bits": 10, "repeats": 1}
    by = {part: times_central(part, 6.0, **coarse) for part in (distributed_gaussian, skellam)}
    assert by[distributed_gaussian] > 40 > by[skellam] > 8
    fine = partial(times_central, clients=1000, bits=16, repeats=1)
    assert fine(distributed_gaussian, 6.0) < 1.5
