"""An attack sends a row for each of its own, leaves its inputs alone, and changes something."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import rows, sighted

from dai_lab import attacks
from dai_lab.aggregators import krum
from dai_lab.core import Key, Lies, Sight, State

SEEDS = st.integers(0, 999)
FLIP = partial(attacks.sign_flip, scale=3.0)


def trained(sight_params):
    """Stand in for local training: each pass goes a tenth of the way to all ones, or to minus."""

    def train(start=None, *, clean=False, stage=0, **knobs):
        here = sight_params if start is None else start
        goal = -1.0 if clean else 1.0
        moved = 0.1 * (goal - here)
        return moved if moved.dim() == 2 else moved.expand(2, -1)

    return train


HARMFUL = {
    "sign_flip": attacks.sign_flip,
    "sign_flip of the mean": partial(attacks.sign_flip, of="mean"),
    "sign_flip of the sum": partial(attacks.sign_flip, of="sum"),
    "gaussian": attacks.gaussian,
    "not_finite": attacks.not_finite,
    "zero": attacks.zero,
    "alie": attacks.alie,
    "ipm": attacks.ipm,
    "min_max": attacks.min_max,
    "min_sum": attacks.min_sum,
    "fang_trimmed_mean": attacks.fang_trimmed_mean,
    "mimic": attacks.mimic,
    **{kind: partial(attacks.free_rider, kind=kind) for kind in ("plain", "disguised", "random")},
    "sometimes": partial(attacks.sometimes, attack=FLIP, probability=1.0),
    "between": partial(attacks.between, attack=FLIP),
    "sleeper": partial(attacks.sleeper, attack=FLIP, sleep=0),
    "partly": partial(attacks.partly, attack=FLIP),
    "model_replacement": attacks.model_replacement,
}
SEARCHING = {
    "opt_alie": attacks.opt_alie,
    "opt_ipm": attacks.opt_ipm,
    "agr_tailored": attacks.agr_tailored,
    "fang_krum": attacks.fang_krum,
    "adaptive": partial(attacks.adaptive, evals=60),
}


@pytest.mark.parametrize("name", HARMFUL)
@given(seed=SEEDS, hostile=st.integers(1, 4), count=st.integers(4, 9))
def test_an_attack_sends_a_row_for_each_of_its_own(name, seed, hostile, count):
    keeps_the_law(HARMFUL[name], seed, hostile, count)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize(("seed", "hostile", "count"), [(0, 1, 7), (1, 2, 8), (2, 2, 9)])
def test_a_search_sends_a_row_for_each_of_its_own(name, seed, hostile, count):
    keeps_the_law(SEARCHING[name], seed, hostile, count)


def keeps_the_law(attack, seed, hostile, count):
    honest, own = rows(seed, count), rows(seed + 1, hostile)
    before = honest.clone(), own.clone()

    def send():
        return attack(own, sighted(honest, partial(krum, f=2), seed=seed)).rows

    sent = send()
    assert sent.shape == own.shape and sent.dtype == own.dtype
    assert torch.equal(honest, before[0]) and torch.equal(own, before[1])
    assert torch.equal(sent.nan_to_num(7.0), send().nan_to_num(7.0))
    assert not torch.equal(sent, own)


@pytest.mark.parametrize("name", HARMFUL | SEARCHING)
@given(seed=SEEDS)
def test_at_no_strength_an_attack_is_honest(name, seed):
    honest, own = rows(seed, 8), rows(seed + 1, 2)
    attack = (HARMFUL | SEARCHING)[name]
    lies = attacks.partly(own, sighted(honest), attack=attack, strength=0.0)
    assert torch.equal(lies.rows, own) and lies.quiet


@given(seed=SEEDS)
def test_to_behave_is_to_send_what_was_computed(seed):
    own = rows(seed, 3)
    assert torch.equal(attacks.none(own, sighted(rows(seed, 4))).rows, own)


def test_who_poisons_behaves_by_sending_what_clean_data_say():
    own, clean = rows(0, 2), rows(1, 2)
    sight = sighted(rows(2, 5), clean=lambda: clean)
    asleep = attacks.sometimes(own, sight, attack=FLIP, probability=0.0)
    assert torch.equal(asleep.rows, clean) and asleep.quiet
    half = attacks.partly(own, sight, attack=attacks.none, strength=0.5).rows
    torch.testing.assert_close(half, (own + clean) / 2)


@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_a_flipped_row_points_backwards(seed, scale):
    own = rows(seed, 3)
    sent = attacks.sign_flip(own, sighted(rows(seed, 4)), scale=scale).rows
    cosine = torch.nn.functional.cosine_similarity(sent, own)
    torch.testing.assert_close(cosine, -torch.ones_like(cosine))
    torch.testing.assert_close(sent.norm(dim=1), scale * own.norm(dim=1))


@given(seed=SEEDS, hostile=st.integers(1, 5))
def test_a_flipped_sum_leaves_nothing_of_all_rows(seed, hostile):
    honest, own = rows(seed, 7), rows(seed + 1, hostile)
    sent = attacks.sign_flip(own, sighted(honest), of="sum").rows
    total = torch.cat([honest, sent]).sum(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)


@given(seed=SEEDS, z=st.floats(-3, 3))
def test_alie_hides_z_deviations_below_the_mean_as_numpy_counts(seed, z):
    honest = rows(seed, 7)
    expected = honest.numpy().mean(0) - z * honest.numpy().std(0, ddof=1)
    sent = attacks.alie(rows(seed, 2), sighted(honest), z=z).rows
    np.testing.assert_allclose(sent.numpy(), np.stack([expected, expected]), atol=1e-12)


def test_alie_worked_by_hand():
    honest = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    sent = attacks.alie(torch.zeros(1, 2), sighted(honest), z=2**0.5).rows
    torch.testing.assert_close(sent, torch.tensor([[0.0, 0.0]]))


@pytest.mark.parametrize(
    ("clients", "hostile", "z"), [(25, 5, 0.253), (51, 12, 0.361), (12, 2, 0.0), (11, 1, 0.0)]
)
def test_alies_own_z_is_the_papers(clients, hostile, z):
    honest = rows(0, clients - hostile)
    lies = attacks.alie(rows(1, hostile), sighted(honest), z=None)
    assert lies.record["z"] == pytest.approx(z, abs=1e-3)
    expected = honest.mean(0) - lies.record["z"] * honest.std(0)
    torch.testing.assert_close(lies.rows, expected.expand(hostile, -1))


@given(seed=SEEDS, epsilon=st.floats(0.01, 100))
def test_the_inner_product_with_the_honest_mean_is_negative(seed, epsilon):
    honest = rows(seed, 7)
    sent = attacks.ipm(rows(seed, 3), sighted(honest), epsilon=epsilon).rows
    mean = honest.mean(0)
    torch.testing.assert_close(sent @ mean, (-epsilon * mean @ mean).expand(3))


def test_noise_has_the_spread_asked_for_and_differs_by_row_and_key():
    own = torch.zeros(2, 100_000)
    noise = attacks.gaussian(own, sighted(own), std=200.0).rows
    assert noise.std().item() == pytest.approx(200, rel=0.01)
    assert abs(noise.mean().item()) < 200 * 4 / 200_000**0.5
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, attacks.gaussian(own, sighted(own, seed=1), std=200.0).rows)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_the_share_asked_for_is_no_number(value):
    own = torch.zeros(3, 1000)
    sent = attacks.not_finite(own, sighted(own), value=value, share=0.1).rows
    assert ((~sent.isfinite()).sum(1) == 100).all()
    assert torch.equal(sent[0].isfinite(), sent[1].isfinite())
    assert str(float(sent[0][~sent[0].isfinite()][0])) == value


def test_a_sleeper_by_chance_wakes_as_often_as_it_is_told():
    own = torch.ones(2, 3)
    by_chance = partial(attacks.sometimes, attack=attacks.sign_flip, probability=0.3)
    keys = (Key(0) / "round" / number for number in range(1000))
    sent = [by_chance(own, Sight(own, key=key)).rows for key in keys]
    awake = sum(bool((each == -own).all()) for each in sent)
    assert all(bool((each.abs() == own).all()) for each in sent)
    assert 300 - 4 * 14.5 < awake < 300 + 4 * 14.5


def test_schedules_are_awake_in_the_rounds_they_name():
    own = torch.ones(1, 3)

    def awake(schedule):
        lies = [schedule(own, Sight(own, round=number)) for number in range(1, 9)]
        assert all(one.quiet == torch.equal(one.rows, own) for one in lies)
        return [number for number, one in enumerate(lies, start=1) if not one.quiet]

    def two_of_four(one, sight):
        return attacks.sleeper(one, sight, attack=noisy, sleep=2, awake=2)

    def noisy(one, sight):
        return Lies(-one.clone())

    assert awake(partial(attacks.between, attack=noisy, start=3)) == [3, 4, 5, 6, 7, 8]
    assert awake(partial(attacks.between, attack=noisy, start=3, stop=4)) == [3, 4]
    assert awake(two_of_four) == [3, 4, 7, 8]


def test_a_plain_rider_sends_nothing_and_a_disguise_fades():
    own = torch.ones(2, 50_000)
    plain = attacks.free_rider(own, Sight(own), kind="plain").rows
    assert not plain.any()
    for number, decay in ((1, 1.0), (4, 1.0), (4, 0.5)):
        sent = attacks.free_rider(
            own, Sight(own, round=number), kind="disguised", noise=0.1, decay=decay
        ).rows
        assert sent.std().item() == pytest.approx(0.1 * number**-decay, rel=0.02)
    uniform = attacks.free_rider(own, Sight(own), kind="random", noise=0.1).rows
    assert uniform.abs().max() <= 0.1
    assert uniform.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_a_rider_repeats_what_the_last_round_changed():
    own, ride = torch.ones(2, 3), partial(attacks.free_rider, kind="delta", noise=0.0)
    first = ride(own, Sight(own, state=State(torch.zeros(3))))
    assert not first.rows.any()
    later = State(torch.tensor([1.0, -2.0, 0.5]), first.memory)
    assert torch.equal(ride(own, Sight(own, state=later)).rows, later.params.expand(2, -1))


def test_a_replaced_model_is_the_attackers_own():
    own, honest = rows(0, 2), torch.zeros(6, 5, dtype=torch.float64)
    sent = attacks.model_replacement(own, sighted(honest)).rows
    torch.testing.assert_close(torch.cat([honest, sent]).mean(0), own.mean(0))
    short = attacks.model_replacement(own, sighted(honest), norm=0.5).rows
    torch.testing.assert_close(short.norm(dim=1), torch.full((2,), 0.5, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(short, own)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_projected_row_stays_in_its_ball_and_a_row_within_it_is_left_alone():
    own = torch.ones(2, 4)
    sight = sighted(torch.zeros(5, 4), train=trained(torch.zeros(4)))
    free = attacks.projected(own, sight, radius=9.0, stages=3).rows
    torch.testing.assert_close(free, torch.full((2, 4), 1 - 0.9**3))
    held = attacks.projected(own, sight, radius=0.3, stages=3, boost=2.0).rows
    torch.testing.assert_close(held.norm(dim=1), torch.full((2,), 0.6))


def test_neurotoxin_moves_only_what_the_last_round_hardly_moved():
    own, params = torch.ones(2, 10), torch.arange(10.0)
    memory = {"attack/previous": torch.zeros(10)}
    sight = sighted(torch.zeros(5, 10), state=State(params, memory), train=trained(torch.zeros(10)))
    lies = attacks.neurotoxin(own, sight, top=0.3)
    assert not lies.rows[:, 7:].any() and lies.rows[:, :7].any(0)[[0, *range(2, 7)]].all()
    assert lies.record["frozen"] == 3
    assert torch.equal(lies.memory["attack/previous"], params)


def test_alternating_turns_are_those_of_the_paper():
    sight = sighted(torch.zeros(4, 3), train=trained(torch.zeros(3)), state=State(torch.zeros(3)))
    sent = attacks.alternating(torch.ones(2, 3), sight, stages=2, boost=3.0).rows
    here = 0.0
    for _ in range(2):
        here += 3 * 0.1 * (1 - here)
        here += 0.1 * (-1 - here)
    torch.testing.assert_close(sent, torch.full((2, 3), here))


@pytest.mark.parametrize(
    ("attack", "honest", "complaint"),
    [
        (attacks.alie, 1, "attack=alie needs to know at least 2 rows a round and knows 1"),
        (attacks.min_max, 1, "attack=min_max needs to know at least 2 rows a round and knows 1"),
        (attacks.ipm, 0, "attack=ipm needs to know at least 1 rows a round and knows 0"),
        (partial(attacks.ipm, epsilon=0.0), 3, "attack.epsilon must be above 0, got 0.0"),
        (partial(attacks.sign_flip, scale=-1.0), 3, "attack.scale must be above 0, got -1.0"),
        (partial(attacks.gaussian, std=float("nan")), 3, "attack.std must be above 0, got nan"),
        (partial(attacks.not_finite, share=0.0), 3, r"attack.share must be in \(0, 1\], got 0.0"),
        (attacks.opt_alie, 3, "attack=opt_alie tries its rows .* set federation.knows=defense"),
        (attacks.adaptive, 3, "attack=adaptive tries its rows .* set federation.knows=defense"),
        (partial(attacks.mimic, warmup=0), 3, "attack.warmup must be 1 or more, got 0"),
        (partial(attacks.free_rider, noise=-1.0), 3, "attack.noise must be 0 or more, got -1.0"),
        (partial(attacks.fang_trimmed_mean, reach=1.0), 3, "attack.reach must be above 1"),
        (partial(attacks.neurotoxin, top=1.0), 3, r"attack.top must be in \[0, 1\), got 1.0"),
        (partial(attacks.projected, radius=0.0), 3, "attack.radius must be above 0, got 0.0"),
        (partial(attacks.between, attack=FLIP, start=4, stop=2), 3, "attack.start must be 1 or"),
        (
            partial(attacks.sometimes, attack=attacks.none, probability=1.5),
            3,
            r"attack.probability must be in \[0, 1\], got 1.5",
        ),
    ],
)
def test_a_knob_or_a_round_that_cannot_work_is_refused(attack, honest, complaint):
    with pytest.raises(ValueError, match=complaint):
        attack(rows(1, 2), sighted(rows(0, honest)))
