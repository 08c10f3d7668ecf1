"""What attacks search for is found: against brute force, closed forms, and other libraries."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import defended, rows, sighted

from dai_lab import attacks
from dai_lab.aggregators import krum, mean, median, multi_krum, trimmed_mean
from dai_lab.core import Sight, State

SEEDS = st.integers(0, 999)
DIRECTIONS = ("unit", "sign", "std")


def spoken(seed, count, *, offset=0.0, scale=1.0):
    return offset + scale * rows(seed, count, 6)


def step_of(lie, honest, direction):
    """How far a lie is along its direction, found again with numpy."""
    center = honest.mean(0)
    way = {
        "unit": -center / np.linalg.norm(center),
        "sign": -np.sign(center),
        "std": -honest.std(0, ddof=1),
    }[direction]
    gamma = (lie - center) @ way / (way @ way)
    np.testing.assert_allclose(center + gamma * way, lie, rtol=1e-9, atol=1e-9)
    return gamma, way


def furthest(honest, lie):
    return max(np.linalg.norm(lie - row) for row in honest)


def summed(honest, lie):
    return sum(np.linalg.norm(lie - row) ** 2 for row in honest)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@given(seed=SEEDS)
def test_min_max_is_as_far_as_the_two_honest_furthest_apart(direction, scale, seed):
    honest = spoken(seed, 8, offset=scale, scale=scale)
    lie = attacks.min_max(rows(1, 2, 6), sighted(honest), direction=direction).rows[0].numpy()
    honest = honest.numpy()
    gamma, way = step_of(lie, honest, direction)
    bound = max(np.linalg.norm(a - b) for a in honest for b in honest)
    assert furthest(honest, lie) == pytest.approx(bound, rel=1e-3)
    assert furthest(honest, lie + 1e-3 * gamma * way) > bound


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@given(seed=SEEDS)
def test_min_sum_is_as_far_from_all_as_the_most_central_honest_row(direction, scale, seed):
    honest = spoken(seed, 8, offset=scale, scale=scale)
    lie = attacks.min_sum(rows(1, 2, 6), sighted(honest), direction=direction).rows[0].numpy()
    honest = honest.numpy()
    gamma, way = step_of(lie, honest, direction)
    bound = min(summed(honest, row) for row in honest)
    assert summed(honest, lie) == pytest.approx(bound, rel=1e-3)
    assert summed(honest, lie + 1e-3 * gamma * way) > bound


def test_rows_that_are_all_alike_leave_no_room():
    honest = torch.ones(5, 3)
    for attack in (attacks.min_max, attacks.min_sum):
        for direction in DIRECTIONS:
            sent = attack(torch.zeros(1, 3), sighted(honest), direction=direction).rows
            torch.testing.assert_close(sent, torch.ones(1, 3))


RULES = {
    "mean": (mean, "Average", {}),
    "median": (median, "Median", {}),
    "trimmed_mean": (partial(trimmed_mean, f=2), "TrMean", {"f": 2}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["alie", "ipm"])
@pytest.mark.parametrize("seed", range(3))
def test_line_searches_find_what_byzfl_finds(rule, name, seed):
    byzfl = pytest.importorskip("byzfl")
    ours, theirs, knobs = RULES[rule]
    honest = spoken(seed, 9, offset=0.3)
    aggregator = getattr(byzfl, theirs)(**knobs)
    peer, attack, sign = {
        "alie": (byzfl.Optimal_ALittleIsEnough, attacks.opt_alie, -1),
        "ipm": (byzfl.Optimal_InnerProductManipulation, attacks.opt_ipm, 1),
    }[name]
    expected = torch.from_numpy(peer(agg=aggregator, pre_agg_list=[], f=2)(honest.numpy()))
    lies = attack(rows(1, 2, 6), sighted(honest, ours), step=sign * 10.0)
    torch.testing.assert_close(lies.rows, expected.expand(2, -1), rtol=1e-6, atol=1e-9)
    away = defended(honest, ours)(lies.rows).update - honest.mean(0)
    assert lies.record["distance"] == pytest.approx(float(away.norm()))


def test_plain_attacks_are_byzfls():
    byzfl = pytest.importorskip("byzfl")
    honest, own = spoken(0, 9), rows(1, 2, 6)
    for ours, theirs in (
        (partial(attacks.alie, z=-1.5), byzfl.ALittleIsEnough(tau=1.5)),
        (partial(attacks.ipm, epsilon=2.0), byzfl.InnerProductManipulation(tau=2.0)),
        (partial(attacks.sign_flip, of="mean"), byzfl.SignFlipping()),
    ):
        sent = ours(own, sighted(honest)).rows.numpy()
        np.testing.assert_allclose(sent, np.tile(theirs(honest.numpy()), (2, 1)), atol=1e-12)
    lies = attacks.mimic(own, sighted(honest))
    copied = byzfl.Mimic(lies.record["copied"])(honest.numpy())
    np.testing.assert_array_equal(lies.rows.numpy(), np.tile(copied, (2, 1)))


def scored_by_krum(everybody, f):
    """Krum's choice, from its definition."""
    apart = ((everybody[:, None] - everybody[None]) ** 2).sum(-1)
    near = np.sort(apart, axis=1)[:, 1 : len(everybody) - f - 1]
    return int(near.sum(1).argmin())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_as_far_as_krum_picks_it_and_not_a_thousandth_further(direction, seed):
    honest, f = spoken(seed, 9, offset=0.5), 2
    sight = sighted(honest, partial(krum, f=f))
    lies = attacks.agr_tailored(rows(1, f, 6), sight, direction=direction, aim="kept")
    lie, honest = lies.rows[0].numpy(), honest.numpy()
    gamma, way = step_of(lie, honest, direction)
    assert gamma > 0

    def picked(step):
        lies = np.tile(honest.mean(0) + step * way, (f, 1))
        return scored_by_krum(np.concatenate([honest, lies]), f) >= len(honest)

    assert picked(gamma) and not picked(1.001 * gamma)


@pytest.mark.parametrize("seed", range(5))
def test_as_far_as_multi_krum_keeps_all_of_them(seed):
    honest, f = spoken(seed, 9), 2
    defense = partial(multi_krum, f=f)
    sight = sighted(honest, defense)
    lies = attacks.agr_tailored(rows(1, f, 6), sight, aim="kept")
    way = lies.rows[0] - honest.mean(0)
    assert defended(honest, defense)(lies.rows).kept.all()
    beyond = honest.mean(0) + 1.001 * way
    assert not defended(honest, defense)(beyond.expand(f, -1)).kept.all()


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
@pytest.mark.parametrize("seed", range(5))
def test_no_step_of_a_fine_grid_moves_the_update_further(rule, seed):
    honest, ours = spoken(seed, 9, offset=0.5), RULES[rule][0]
    sight = sighted(honest, ours)
    lies = attacks.agr_tailored(rows(1, 2, 6), sight, direction="sign", aim="far")
    center, defense = honest.mean(0), defended(honest, ours)

    def far(row):
        return float((defense(row.expand(2, -1)).update - center).norm())

    grid = [far(center - step * center.sign()) for step in np.geomspace(1e-2, 1e2, 120)]
    assert far(lies.rows[0]) >= 0.999 * max(grid)


@pytest.mark.parametrize("seed", range(5))
def test_fangs_step_is_halved_until_krum_picks_it(seed):
    honest, f = spoken(seed, 9, offset=0.1), 2
    lies = attacks.fang_krum(rows(1, f, 6), sighted(honest, partial(krum, f=f)))
    honest = honest.numpy()
    way, n, d = -np.sign(honest.mean(0)), len(honest) + f, honest.shape[1]
    apart = np.sort(np.linalg.norm(honest[:, None] - honest[None], axis=-1), axis=1)
    step = apart[:, 1 : n - f - 1].sum(1).min() / ((n - 2 * f - 1) * d**0.5)
    step += np.linalg.norm(honest, axis=1).max() / d**0.5
    while scored_by_krum(np.concatenate([honest, np.tile(step * way, (f, 1))]), f) < len(honest):
        step /= 2
        assert step > 1e-5
    assert lies.record["step"] == pytest.approx(step)
    np.testing.assert_allclose(lies.rows.numpy(), np.tile(step * way, (f, 1)))


@given(seed=SEEDS)
def test_fangs_values_lie_beyond_all_honest_ones_against_their_mean(seed):
    honest = spoken(seed, 8)
    lies = attacks.fang_trimmed_mean(rows(1, 3, 6), sighted(honest, seed=seed)).rows
    rises = honest.mean(0) > 0
    low, high = honest.amin(0), honest.amax(0)
    for at in range(6):
        sent = lies[:, at]
        if rises[at]:
            least = low[at] / 2 if low[at] > 0 else 2 * low[at]
            assert (sent <= low[at]).all() and (sent >= least).all()
        else:
            most = 2 * high[at] if high[at] > 0 else high[at] / 2
            assert (sent >= high[at]).all() and (sent <= most).all()


def test_fangs_rows_turn_a_trimmed_mean_back():
    scipy = pytest.importorskip("scipy.stats")
    honest = spoken(3, 8, offset=0.4, scale=0.5)
    lies = attacks.fang_trimmed_mean(rows(1, 2, 6), sighted(honest)).rows
    everybody = torch.cat([honest, lies]).numpy()
    trimmed = scipy.trim_mean(everybody, 0.2, axis=0)
    moved = (trimmed - honest.mean(0).numpy()) * np.sign(honest.mean(0).numpy())
    assert (moved < 0).all()


def mimicked(history, start, warmup):
    """The same learning, row by row in numpy."""
    z, mu = start / np.linalg.norm(start), np.zeros(len(start))
    for t, honest in enumerate(history[:warmup]):
        mu = (t * mu + honest.mean(0)) / (t + 1)
        step = sum((row - mu) * ((row - mu) @ z) for row in honest)
        z = (t * z + step / np.linalg.norm(step)) / (t + 1) if t else step / np.linalg.norm(step)
        z /= np.linalg.norm(z)
        target = int((honest @ z).argmax())
    return z, target


@pytest.mark.parametrize("warmup", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_mimic_learns_whom_to_copy_and_stays_with_him(warmup, seed):
    history = [spoken(100 * seed + t, 7) for t in range(6)]
    state, copied = State(torch.zeros(6, dtype=torch.float64)), []
    for number, honest in enumerate(history, start=1):
        sight = sighted(honest, seed=seed, state=state, round=number)
        lies = attacks.mimic(rows(1, 2, 6), sight, warmup=warmup)
        state = state.remember(lies.memory)
        at = lies.record["copied"]
        assert torch.equal(lies.rows, honest[at].expand(2, -1))
        copied.append(at)
    start = sight.key.stream()
    noise = torch.randn(6, generator=start, dtype=torch.float64).numpy()
    z, target = mimicked([one.numpy() for one in history], noise, warmup)
    np.testing.assert_allclose(state.memory["attack/direction"].numpy(), z, atol=1e-9)
    assert copied[warmup - 1 :] == [target] * (7 - warmup)


def test_a_copied_client_that_is_away_is_replaced_for_the_round():
    honest = spoken(0, 4)
    memory = {"attack/target": torch.tensor(9), "attack/direction": honest[2]}
    state = State(torch.zeros(6, dtype=torch.float64), memory)
    lies = attacks.mimic(rows(1, 1, 6), sighted(honest, state=state))
    at = int((honest @ honest[2]).argmax())
    assert torch.equal(lies.rows[0], honest[at]) and not lies.memory


@pytest.mark.parametrize("aim", ["back", "far"])
@pytest.mark.parametrize("rule", [*RULES, "krum"])
def test_who_has_read_the_defense_harms_at_least_as_much_as_who_has_not(aim, rule):
    ours = partial(krum, f=2) if rule == "krum" else RULES[rule][0]
    honest = spoken(7, 9, offset=0.3)
    center, defense = honest.mean(0), defended(honest, ours)

    def harm(lies):
        lost = defense(lies).update - center
        return float(lost.norm()) if aim == "far" else -float(lost @ center / center.norm())

    lies = attacks.adaptive(rows(1, 2, 6), sighted(honest, ours), aim=aim, evals=300)
    assert lies.record["harm"] == pytest.approx(harm(lies.rows), rel=1e-6)
    own, sight = rows(1, 2, 6), sighted(honest, ours)
    for known in (
        attacks.alie, attacks.min_max, attacks.min_sum, partial(attacks.ipm, epsilon=0.5),
        attacks.mimic, attacks.fang_krum, attacks.sign_flip,
    ):  # fmt: skip
        assert lies.record["harm"] >= 0.98 * harm(known(own, sight).rows)


def test_more_tries_never_harm_less():
    honest = spoken(7, 9, offset=0.3)
    own, sight = rows(1, 2, 6), sighted(honest, partial(krum, f=2))
    found = [attacks.adaptive(own, sight, evals=evals).record["harm"] for evals in (1, 40, 80, 200)]
    assert found == sorted(found) and found[-1] > found[0]


def test_an_outcome_names_the_rows_that_were_kept():
    honest = spoken(0, 9)
    central = honest[(honest - honest.mean(0)).norm(dim=1).argmin()]
    lies = torch.stack([central, central + 100])
    assert defended(honest, partial(multi_krum, f=2))(lies).kept.tolist() == [True, False]
    assert isinstance(sighted(honest), Sight)
