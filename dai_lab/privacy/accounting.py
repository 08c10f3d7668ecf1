"""What a list of releases amounts to: epsilon at a delta, by three accountants.

``pld``
    Privacy loss distributions (dp-accounting), an upper bound tight to the discretization.
``prv``
    Opacus's, to check the first by; its bound is looser by its error of 0.01. Gaussians only.
``rdp``
    Rényi divergences (dp-accounting): looser by a tenth, the only one for what is known by its
    divergences alone (distributed noise, zero-concentrated privacy). ``pld`` falls back on it
    where there is such an event, which :func:`taken` tells.

Opacus's ``gdp`` is not offered: a limit theorem, not a bound, it claims too little.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from dai_lab.core import Event

ACCOUNTANTS = ("pld", "prv", "rdp")

FINE = 1e-4
"""Width of a step of a discretized privacy loss."""

MOST_STEPS = 2**18
"""Steps of one release's loss at most."""

BY_DIVERGENCE = ("zcdp", "skellam")

ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)


def epsilon(
    events: Mapping[Event, int], *, delta: float, by: str = "pld", step: float = FINE
) -> float:
    """Price releases about one client or one record.

    Args:
        events: How many rounds each event happened in; in each, ``event.times`` times.
        delta: Probability in (0, 1) that the promise may fail with.
        by: ``pld``, ``prv`` or ``rdp``.
        step: Width of a step of a discretized privacy loss; the wider, the sooner and the looser.

    Returns:
        The least epsilon that can be promised; infinite where something was released in the open.

    Raises:
        ValueError: A knob out of range, or events that ``by`` cannot price.

    Source:
        Koskela et al. 2020, arXiv:1906.03049; Gopi et al. 2021, arXiv:2106.02848; Mironov 2017,
        arXiv:1702.07476, converted by Canonne et al. 2020, arXiv:2004.00010, proposition 12.
    """
    _known(by)
    if not 0 < delta < 1:
        raise ValueError(f"accounting.delta must be in (0, 1), got {delta}")
    counts = tuple(
        sorted(
            ((event, event.times * count) for event, count in events.items() if count),
            key=repr,
        )
    )
    if any(_open(event) for event, _ in counts):
        return math.inf
    if not counts:
        return 0.0
    return _epsilon(counts, delta, taken(events, by=by), step)


def taken(events: Mapping[Event, int], *, by: str) -> str:
    """Return which accountant prices these events where ``by`` was asked for.

    Raises:
        ValueError: ``prv`` was asked for, and there is more than Gaussian noise.
    """
    kinds = {event.mechanism for event, count in events.items() if count}
    if by == "prv" and kinds - {"gaussian", "open"}:
        raise ValueError(
            f"accounting.by=prv prices Gaussian noise, not {', '.join(sorted(kinds))}: "
            "choose pld or rdp"
        )
    return "rdp" if by == "pld" and kinds & {*BY_DIVERGENCE} else by


def noise_for(
    target: float, *, delta: float, rate: float = 1.0, times: int = 1, by: str = "pld"
) -> float:
    """Return the least Gaussian noise multiplier that keeps to a budget.

    Args:
        target: Epsilon to keep to, above 0.
        delta: Probability that the promise may fail with.
        rate: Probability with which a unit takes part in each release.
        times: How many releases there are.
        by: Which accountant prices them.

    Raises:
        ValueError: A knob out of range.
    """
    if not target > 0:
        raise ValueError(f"accounting.epsilon must be above 0, got {target}")
    from scipy.optimize import brentq

    def over(power: float, step: float = 1e-3) -> float:
        event = Event("gaussian", (math.exp(power),), rate)
        return epsilon({event: times}, delta=delta, by=by, step=step) - target

    low, high = -4.0, 0.0
    while over(high) > 0:
        low, high = high, high + 1
    high = float(brentq(over, low, high, xtol=1e-3))
    while over(high, FINE) > 0:
        high += 1e-3
    while over(high - 1e-3, FINE) <= 0:
        high -= 1e-3
    return math.exp(high)


def _known(by: str) -> None:
    if by == "gdp":
        raise ValueError(
            "accounting.by=gdp is a limit theorem, not a bound: it claims less than is given "
            f"away; choose {', '.join(ACCOUNTANTS)}"
        )
    if by not in ACCOUNTANTS:
        raise ValueError(f"accounting.by must be one of {', '.join(ACCOUNTANTS)}, got {by!r}")


def _open(event: Event) -> bool:
    nothing = event.mechanism in ("gaussian", "laplace") and event.numbers[0] == 0
    endless = event.mechanism in ("pure", "zcdp") and math.isinf(event.numbers[0])
    return event.mechanism == "open" or nothing or endless


@lru_cache(4096)
def _epsilon(counts: tuple[tuple[Event, int], ...], delta: float, by: str, step: float) -> float:
    counts = _merged(counts)
    if by == "prv":
        from opacus.accountants import PRVAccountant

        opacus = PRVAccountant()
        opacus.history = [(event.numbers[0], event.rate, count) for event, count in counts]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # logarithms of 0, where they are meant
            return float(opacus.get_epsilon(delta=delta, eps_error=0.01, delta_error=delta / 1000))
    if by == "rdp":
        from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

        curve = np.sum([count * divergences(event) for event, count in counts], axis=0)
        usable = np.isfinite(curve)
        return float(compute_epsilon(np.array(ORDERS)[usable], curve[usable], delta)[0])
    if len(counts) == 1 and counts[0][0].mechanism == "gaussian" and counts[0][0].rate == 1:
        return _of_gaussian(counts[0][0].numbers[0], delta)
    # Where there is hardly any noise, fine steps would be without number.
    step = max(step, *(_span(event) / MOST_STEPS for event, _ in counts))
    total: Any = None
    for event, count in counts:
        loss = _losses(event, step)
        loss = loss if count == 1 else loss.self_compose(count)
        total = loss if total is None else total.compose(loss)
    return float(total.get_epsilon_for_delta(delta))


def _span(event: Event) -> float:
    """Return the largest loss that one such release is looked at for."""
    number = event.numbers[0]
    if event.mechanism == "gaussian":
        return 1 / (2 * number**2) + 10 / number
    return number if event.mechanism == "pure" else 1 / number


def _of_gaussian(noise: float, delta: float) -> float:
    """Price one release in closed form.

    Source:
        Balle and Wang 2018, arXiv:1805.06530, theorem 8.
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def over(given: float) -> float:
        half = 1 / (2 * noise)
        lost = ndtr(half - given * noise) - math.exp(given + log_ndtr(-half - given * noise))
        return float(lost) - delta

    # Chernoff's bound is never too low.
    most = 1 / (2 * noise**2) + math.sqrt(2 * math.log(1 / delta)) / noise
    return float(brentq(over, 0.0, most, xtol=1e-12 * most)) if over(0.0) > 0 else 0.0


def _merged(counts: tuple[tuple[Event, int], ...]) -> tuple[tuple[Event, int], ...]:
    """See Gaussian releases that everybody is in as one with less noise, which they are."""
    whole = [(e, count) for e, count in counts if e.mechanism == "gaussian" and e.rate == 1]
    if not whole:
        return counts
    rest = tuple((e, count) for e, count in counts if e.mechanism != "gaussian" or e.rate != 1)
    precision = sum(count / event.numbers[0] ** 2 for event, count in whole)
    return (*rest, (Event("gaussian", (1 / math.sqrt(precision),)), 1))


@lru_cache(64)
def _losses(event: Event, step: float) -> Any:
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld

    if event.mechanism == "gaussian":
        return pld.from_gaussian_mechanism(
            event.numbers[0], sampling_prob=event.rate, value_discretization_interval=step
        )
    if event.mechanism == "laplace":
        return pld.from_laplace_mechanism(
            event.numbers[0], sampling_prob=event.rate, value_discretization_interval=step
        )
    # Whatever has this epsilon and no delta gives away no more than two answers that do.
    assert event.mechanism == "pure"
    given = math.log1p(event.rate * math.expm1(event.numbers[0]))
    promise = common.DifferentialPrivacyParameters(given)
    return pld.from_privacy_parameters(promise, value_discretization_interval=step)


@lru_cache(1024)
def divergences(event: Event) -> Float64[NDArray[Any], "orders"]:
    """Return the Rényi divergence at each of ``ORDERS`` that one such release is bounded by.

    Source:
        Skellam noise: Agarwal et al. 2021, arXiv:2110.04995, theorem 3.5. Poisson sampling of
        what is known by its divergences: Zhu and Wang 2019, theorem 5 (orders that are whole).
    """
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    orders = np.array(ORDERS)
    if event.mechanism in BY_DIVERGENCE:
        curve = _curve(event, orders)
        return curve if event.rate == 1 else _sampled(event, orders)
    if event.mechanism == "pure" or (event.mechanism == "laplace" and event.rate < 1):
        given = event.numbers[0] if event.mechanism == "pure" else 1 / event.numbers[0]
        return _of_two(math.log1p(event.rate * math.expm1(given)), orders)
    one: Any = dp_event.LaplaceDpEvent(event.numbers[0])
    if event.mechanism == "gaussian":
        one = dp_event.GaussianDpEvent(event.numbers[0])
    if event.rate < 1:
        one = dp_event.PoissonSampledDpEvent(event.rate, one)
    accountant = RdpAccountant(orders.tolist())
    # Orders near 1 that do not converge are left out, and need not be mentioned.
    quiet = logging.getLogger("absl")
    before = quiet.level
    quiet.setLevel(logging.ERROR)
    accountant.compose(one)
    quiet.setLevel(before)
    return np.asarray(accountant.rdp)


def _of_two(given: float, orders: Any) -> Float64[NDArray[Any], "_"]:
    """Return the divergences of two answers whose odds differ by ``exp(given)``, the most it can.

    Source:
        Mironov 2017, arXiv:1702.07476, proposition 5.
    """
    likely, rare = -math.log1p(math.exp(-given)), -given - math.log1p(math.exp(-given))
    ways = orders * likely + (1 - orders) * rare, orders * rare + (1 - orders) * likely
    return np.asarray(np.logaddexp(*ways) / (orders - 1))


def _curve(event: Event, orders: Any) -> Float64[NDArray[Any], "_"]:
    if event.mechanism == "zcdp":
        return np.asarray(event.numbers[0] * orders)
    variance, squared, absolute = event.numbers
    more = ((2 * orders - 1) * squared + 6 * absolute) / (4 * variance**2)
    least = np.minimum(more, 3 * absolute / (2 * variance))
    return np.asarray(orders * squared / (2 * variance) + least)


def _sampled(event: Event, orders: Any) -> Float64[NDArray[Any], "_"]:
    """Bound a sampled release's divergences at whole orders; there is no bound at others."""
    from scipy.special import gammaln, logsumexp

    rate, found = event.rate, np.full(len(orders), np.inf)
    for at, order in enumerate(orders):
        if order != int(order) or order < 2:
            continue
        of = np.arange(2, int(order) + 1)
        inner = _curve(event, of.astype(float))
        choose = gammaln(order + 1) - gammaln(of + 1) - gammaln(order - of + 1)
        terms = choose + (order - of) * math.log1p(-rate) + of * math.log(rate)
        terms = terms + (of - 1) * inner + np.where(of > 2, math.log(3), 0.0)
        first = (order - 1) * math.log1p(-rate) + math.log(order * rate - rate + 1)
        found[at] = logsumexp([first, *terms]) / (order - 1)
    return found
