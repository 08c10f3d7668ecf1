"""Prices of releases, against figures and accountants that are not ours."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from dai_lab.core import Event
from dai_lab.privacy import epsilon, noise_for, taken
from dai_lab.privacy.accounting import ORDERS, divergences

# noise, rate, times, delta; then pld, prv, rdp as measured apart from this package
SETTINGS = [
    (1.1, 256 / 60_000, 3515, 1e-5, 1.1337, 1.1438, 1.2811),
    (1.3, 1 / 240, 3600, 1e-5, 0.8530, 0.8630, 0.9422),
    (0.8, 0.01, 10_000, 1e-6, 11.183, 11.194, 12.050),
    (1.0, 0.1, 100, 1e-5, 7.0466, 7.0571, 7.904),
    (1.0, 1.0, 1, 1e-5, 4.3772, 4.387, 4.729),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_epsilons_are_those_that_were_measured_apart(setting):
    noise, rate, times, delta, *wanted = setting
    bill = {Event("gaussian", (noise,), rate): times}
    for by, figure in zip(("pld", "prv", "rdp"), wanted, strict=True):
        assert epsilon(bill, delta=delta, by=by) == pytest.approx(figure, rel=1e-3), by


@pytest.mark.parametrize("setting", SETTINGS)
def test_epsilons_agree_with_dp_accounting_within_a_hundredth(setting):
    noise, rate, times, delta, *_ = setting
    theirs = PLDAccountant()
    sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    theirs.compose(sampled, times)
    ours = epsilon({Event("gaussian", (noise,), rate): times}, delta=delta)
    assert ours == pytest.approx(theirs.get_epsilon(delta), rel=0.01)


def test_events_of_different_kinds_add_up_as_dp_accounting_adds_them():
    bill = {
        Event("gaussian", (2.0,), 0.1): 30,
        Event("gaussian", (5.0,)): 4,
        Event("gaussian", (3.0,), times=5): 1,
        Event("laplace", (4.0,)): 2,
    }
    pld, rdp = PLDAccountant(), RdpAccountant()
    for theirs in (pld, rdp):
        theirs.compose(
            dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(2.0)), 30
        )
        theirs.compose(dp_accounting.GaussianDpEvent(5.0), 4)
        theirs.compose(dp_accounting.GaussianDpEvent(3.0), 5)
        theirs.compose(dp_accounting.LaplaceDpEvent(4.0), 2)
    assert epsilon(bill, delta=1e-5) == pytest.approx(pld.get_epsilon(1e-5), rel=0.01)
    assert epsilon(bill, delta=1e-5, by="rdp") == pytest.approx(rdp.get_epsilon(1e-5), rel=0.01)


def test_a_wider_step_never_promises_more():
    for noise, rate, times, delta, *_ in SETTINGS:
        bill = {Event("gaussian", (noise,), rate): times}
        fine, coarse = (epsilon(bill, delta=delta, step=step) for step in (1e-4, 1e-3))
        assert fine <= coarse <= fine * 1.02


def test_nothing_costs_nothing_and_what_is_open_has_no_price():
    assert epsilon({}, delta=1e-5) == 0
    for event in (Event("open"), Event("gaussian", (0.0,)), Event("pure", (math.inf,))):
        assert epsilon({event: 1, Event("gaussian", (9.0,)): 1}, delta=1e-5) == math.inf


def test_epsilons_without_a_delta_add_up():
    assert epsilon({Event("pure", (0.5,)): 2}, delta=1e-12) == pytest.approx(1.0, rel=1e-3)
    sampled = math.log1p(0.1 * math.expm1(0.5))
    found = epsilon({Event("pure", (0.5,), 0.1): 1}, delta=1e-12)
    assert found == pytest.approx(sampled, rel=1e-3)


def test_concentrated_privacy_is_priced_as_the_gaussian_it_bounds():
    by_rho = epsilon({Event("zcdp", (1 / (2 * 3.0**2),)): 7}, delta=1e-5)
    assert by_rho == pytest.approx(epsilon({Event("gaussian", (3.0,)): 7}, delta=1e-5, by="rdp"))
    assert taken({Event("zcdp", (0.1,)): 1}, by="pld") == "rdp"


def test_skellam_noise_costs_more_than_normal_noise_and_hardly_more_when_fine():
    def over(scale):
        event = Event("skellam", (4.0 * scale**2, 1.0 * scale**2, 16.0 * scale))
        normal = Event("gaussian", (2.0,))
        return epsilon({event: 1}, delta=1e-5) / epsilon({normal: 1}, delta=1e-5, by="rdp")

    assert over(1) > 1.5 > 1.1 > over(4) > over(40) > 1
    assert over(40) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("variance", [2.0, 20.0])
def test_the_divergence_of_skellam_noise_is_below_its_bound(variance):
    from scipy.stats import skellam

    at = np.arange(-600, 601)
    here, there = (skellam(variance / 2, variance / 2, loc=by).logpmf(at) for by in (0, 1))
    bound = divergences(Event("skellam", (variance, 1.0, 1.0)))
    for order in (2.0, 4.0, 8.0):
        kept = np.isfinite(here) & np.isfinite(there) & (here > -600) & (there > -600)
        terms = order * here[kept] + (1 - order) * there[kept]
        true = np.logaddexp.reduce(terms) / (order - 1)
        assert 0 < true <= bound[ORDERS.index(order)] * (1 + 1e-9)


def test_sampling_what_is_known_by_divergences_is_bounded_from_above():
    rho = 1 / (2 * 2.0**2)
    bound = divergences(Event("zcdp", (rho,), 0.1))
    true = divergences(Event("gaussian", (2.0,), 0.1))
    whole = np.isfinite(bound)
    assert (bound[whole] >= true[whole] * (1 - 1e-9)).all()
    assert epsilon({Event("zcdp", (rho,), 0.01): 100}, delta=1e-5) < epsilon(
        {Event("zcdp", (rho,)): 100}, delta=1e-5
    )


def test_noise_for_a_budget_keeps_to_it_and_not_by_much():
    for rate, times in ((1.0, 1), (1.0, 30), (0.02, 500)):
        noise = noise_for(2.0, delta=1e-5, rate=rate, times=times)
        event = Event("gaussian", (noise,), rate)
        assert 1.99 < epsilon({event: times}, delta=1e-5) <= 2.0


def test_hardly_any_noise_has_a_price_all_the_same():
    assert 100 < epsilon({Event("gaussian", (0.05,), 0.5): 2}, delta=1e-5) < 800


def test_what_cannot_be_priced_right_is_refused_by_name():
    bill = {Event("gaussian", (1.0,)): 1}
    with pytest.raises(ValueError, match=r"accounting\.by=gdp is a limit theorem, not a bound"):
        epsilon(bill, delta=1e-5, by="gdp")
    with pytest.raises(ValueError, match=r"accounting\.by must be one of pld, prv, rdp"):
        epsilon(bill, delta=1e-5, by="moments")
    with pytest.raises(ValueError, match=r"accounting\.by=prv prices Gaussian noise, not laplace"):
        epsilon({Event("laplace", (1.0,)): 1}, delta=1e-5, by="prv")
    for delta in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"accounting\.delta must be in \(0, 1\)"):
            epsilon(bill, delta=delta)
    with pytest.raises(ValueError, match=r"accounting\.epsilon must be above 0"):
        noise_for(0.0, delta=1e-5)
