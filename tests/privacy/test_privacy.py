"""Bounds on rows, and noise: as much as is promised, distributed as is promised."""

from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dai_lab import privacy
from dai_lab.core import Event, Key, State

SEEDS = st.integers(0, 999)
NOTHING = State(torch.zeros(5))
NOISY = (privacy.central, privacy.adaptive, privacy.local_gaussian, privacy.local_laplace)


def rows(seed, count=6):
    stream = Key(seed).stream()
    spread = torch.randn(count, 1, generator=stream).mul(3).exp()
    return spread * torch.randn(count, 5, generator=stream)


@given(seed=SEEDS, norm=st.floats(1e-3, 1e3))
def test_no_row_is_longer_than_the_bound_and_short_ones_are_untouched(seed, norm):
    sent = rows(seed)
    clipped = privacy.shortened(sent, norm)
    lengths = sent.norm(dim=1)
    assert (clipped.norm(dim=1) <= norm * (1 + 1e-5)).all()
    short = lengths < norm * (1 - 1e-5)
    assert torch.equal(clipped[short], sent[short])


@given(seed=SEEDS, norm=st.floats(1e-3, 1e3))
def test_clipping_agrees_with_torch_renorm_and_is_done_once(seed, norm):
    sent = rows(seed)
    clipped = privacy.shortened(sent, norm)
    torch.testing.assert_close(clipped, sent.renorm(2, 0, norm), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(privacy.shortened(clipped, norm), clipped)


@given(seed=SEEDS, norm=st.floats(1e-3, 1e3), bad=st.sampled_from([0.0, 1e30, inf]))
def test_lengths_that_are_known_already_change_no_bit_of_what_is_clipped(seed, norm, bad):
    sent = rows(seed)
    sent[0] *= bad
    clipped = privacy.shortened(sent, norm)
    known = privacy.shortened(sent, norm, torch.linalg.vector_norm(sent, dim=1))
    found = privacy.adaptive(sent, state=NOTHING, key=Key(0), norm=norm)
    assert known.numpy().tobytes() == found.rows.numpy().tobytes() == clipped.numpy().tobytes()
    assert torch.equal(found.votes > 0, sent.norm(dim=1) <= norm)


@given(seed=SEEDS)
def test_an_infinite_bound_and_no_privacy_change_nothing(seed):
    sent = rows(seed)
    same = [privacy.none, partial(privacy.clip, norm=inf)]
    same += [partial(part, norm=inf, noise=0.0) for part in NOISY]
    same += [partial(privacy.private_unit, norm=inf, epsilon=inf)]
    for part in same:
        protected = part(sent, state=NOTHING, key=Key(0))
        assert protected.rows is sent or torch.equal(protected.rows, sent)
        assert not (protected.local or protected.central or protected.noise)


def test_rows_of_zeros_and_rows_too_long_to_square_are_clipped():
    sent = torch.tensor([[0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30], [3.0, 4.0]])
    clipped = privacy.shortened(sent, 1.0)
    expected = torch.tensor([[0.0, 0.0], [0.6, 0.8], [3e-30, 4e-30], [0.6, 0.8]])
    torch.testing.assert_close(clipped, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_without_a_length_does_not_pass_for_a_clipped_one(bad):
    clipped = privacy.shortened(torch.tensor([[bad, 1.0], [0.1, 0.1]]), 1.0)
    assert clipped[0].isnan().any() and clipped[1].isfinite().all()


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_a_bound_below_zero_is_refused(norm):
    with pytest.raises(ValueError, match=r"privacy\.norm must be above 0, got"):
        privacy.shortened(rows(0), norm)


@pytest.mark.parametrize("part", NOISY)
def test_noise_without_a_bound_is_refused(part):
    with pytest.raises(ValueError, match=r"privacy\.norm=inf bounds nothing that noise could hide"):
        part(rows(0), state=NOTHING, key=Key(0), norm=inf, noise=1.0)


@pytest.mark.parametrize("part", NOISY)
def test_a_bound_without_noise_is_not_taken_for_privacy(part):
    if part is privacy.adaptive:
        with pytest.raises(ValueError, match=r"privacy\.noise must be above 0"):
            part(rows(0), state=NOTHING, key=Key(0), norm=1.0, noise=0.0)
        return
    found = part(rows(0), state=NOTHING, key=Key(0), norm=1.0, noise=0.0)
    assert [*found.local, *found.central] == [Event("open")]


def test_a_servers_noise_is_normal_with_the_deviation_that_is_promised():
    found = privacy.central(rows(0), state=NOTHING, key=Key(0), norm=0.5, noise=3.0)
    drawn = found.noise(20_000, Key(1)).vector.numpy()
    assert stats.kstest(drawn, stats.norm(scale=1.5).cdf).pvalue > 0.01
    assert found.central == (Event("gaussian", (3.0,)),)


def test_every_client_adds_noise_of_its_own_to_its_row():
    sent = torch.zeros(40, 500)
    gauss = privacy.local_gaussian(sent, state=NOTHING, key=Key(0), norm=0.5, noise=2.0).rows
    assert stats.kstest(gauss.flatten().numpy(), stats.norm(scale=1.0).cdf).pvalue > 0.01
    laplace = privacy.local_laplace(sent, state=NOTHING, key=Key(0), norm=0.5, noise=2.0).rows
    assert stats.kstest(laplace.flatten().numpy(), stats.laplace(scale=1.0).cdf).pvalue > 0.01
    assert len(gauss.unique(dim=0)) == len(laplace.unique(dim=0)) == 40


def test_laplace_noise_is_measured_against_sums_of_absolute_entries():
    sent = 1e3 * rows(0)
    assert (sent.abs().sum(1) > 2).all()
    found = privacy.local_laplace(sent, state=NOTHING, key=Key(0), norm=2.0, noise=0.0)
    assert torch.allclose(found.rows.abs().sum(1), torch.tensor(2.0))


@pytest.mark.parametrize("length", [0.0, 0.3, 1.0, 5.0])
def test_a_random_unit_leans_toward_its_row_without_bias(length):
    size, count, norm = 8, 40_000, 2.0
    way = torch.nn.functional.normalize(rows(1, 1)[:, :1].expand(1, size) + torch.eye(size)[:1])
    sent = (length * way).expand(count, -1)
    found = privacy.private_unit(sent, state=NOTHING, key=Key(0), norm=norm, epsilon=3.0).rows
    wanted = way[0] * min(length, norm)
    error = (found.mean(0) - wanted).abs() / (found.std(0) / count**0.5)
    assert (error < 4.5).all()


def test_a_random_unit_gives_away_no_more_than_its_epsilon():
    # Along the row the density has two levels; across, it does not depend on the row at all.
    from dai_lab.privacy.local import _leaning

    for epsilon in (0.5, 2.0, 8.0):
        cap, chance, lean = _leaning(epsilon)
        ratio = (chance / stats.norm.sf(cap)) / ((1 - chance) / stats.norm.cdf(cap))
        assert np.log(ratio) == pytest.approx(epsilon, rel=1e-9)
        others = [
            stats.norm.pdf(c) * (p / stats.norm.sf(c) - (1 - p) / stats.norm.cdf(c))
            for c in np.linspace(-2, 8, 400)
            for p in [1 / (1 + np.exp(-epsilon - stats.norm.logsf(c) + stats.norm.logcdf(c)))]
        ]
        assert lean >= max(others) * (1 - 1e-6)


def test_an_adaptive_bound_settles_at_the_quantile_of_lengths():
    stream, here = Key(0).stream(), State(torch.zeros(5))
    for step in range(200):
        lengths = torch.rand(400, 1, generator=stream) * 4
        sent = lengths * torch.nn.functional.normalize(torch.randn(400, 5, generator=stream))
        key = Key(1) / step
        found = privacy.adaptive(
            sent, state=here, key=key, norm=0.01, noise=1.0, quantile=0.75, blur=20.0
        )
        here = here.remember(found.learn(float(found.votes.sum()), 400.0, key))
    assert float(here.memory["privacy/norm"]) == pytest.approx(3.0, rel=0.1)


def test_votes_and_rows_together_give_away_what_is_promised():
    found = privacy.adaptive(rows(0), state=NOTHING, key=Key(0), norm=1.0, noise=1.5, blur=2.0)
    on_rows = found.noise(40_000, Key(2)).vector.std()
    both = (float(on_rows) ** -2 + (2 * 2.0) ** -2) ** -0.5
    assert both == pytest.approx(1.5, rel=0.02)
    with pytest.raises(ValueError, match=r"privacy\.blur must be above privacy\.noise / 2"):
        privacy.adaptive(rows(0), state=NOTHING, key=Key(0), norm=1.0, noise=4.0, blur=2.0)


def test_an_unsound_mechanism_claims_all_and_draws_a_share():
    of = partial(privacy.central, norm=1.0, noise=2.0)
    found = privacy.unsound(rows(0), state=NOTHING, key=Key(0), of=of, share=0.25)
    whole = of(rows(0), state=NOTHING, key=Key(0))
    assert found.central == whole.central
    drawn = found.noise(9, Key(3)).vector
    assert torch.equal(drawn, 0.25 * whole.noise(9, Key(3)).vector)
    with pytest.raises(ValueError, match=r"privacy\.of must be a mechanism whose noise the server"):
        privacy.unsound(rows(0), state=NOTHING, key=Key(0), of=privacy.none)
