"""Clipping bounds lengths and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab import privacy
from dai_lab.core import Key

SEEDS = st.integers(0, 999)


def rows(seed, count=6):
    stream = Key(seed).stream()
    spread = torch.randn(count, 1, generator=stream).mul(3).exp()
    return spread * torch.randn(count, 5, generator=stream)


@given(seed=SEEDS, norm=st.floats(1e-3, 1e3))
def test_no_row_is_longer_than_the_bound_and_short_ones_are_untouched(seed, norm):
    sent = rows(seed)
    clipped = privacy.clip(sent, key=Key(0), norm=norm)
    lengths = sent.norm(dim=1)
    assert (clipped.norm(dim=1) <= norm * (1 + 1e-5)).all()
    short = lengths < norm * (1 - 1e-5)
    assert torch.equal(clipped[short], sent[short])


@given(seed=SEEDS, norm=st.floats(1e-3, 1e3))
def test_clipping_agrees_with_torch_renorm_and_is_done_once(seed, norm):
    sent = rows(seed)
    clipped = privacy.clip(sent, key=Key(0), norm=norm)
    torch.testing.assert_close(clipped, sent.renorm(2, 0, norm), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(privacy.clip(clipped, key=Key(0), norm=norm), clipped)


@given(seed=SEEDS)
def test_an_infinite_bound_and_no_privacy_change_nothing(seed):
    sent = rows(seed)
    assert torch.equal(privacy.clip(sent, key=Key(0), norm=float("inf")), sent)
    assert torch.equal(privacy.none(sent, key=Key(0)), sent)


def test_rows_of_zeros_and_rows_too_long_to_square_are_clipped():
    sent = torch.tensor([[0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30], [3.0, 4.0]])
    clipped = privacy.clip(sent, key=Key(0), norm=1.0)
    expected = torch.tensor([[0.0, 0.0], [0.6, 0.8], [3e-30, 4e-30], [0.6, 0.8]])
    torch.testing.assert_close(clipped, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_without_a_length_does_not_pass_for_a_clipped_one(bad):
    clipped = privacy.clip(torch.tensor([[bad, 1.0], [0.1, 0.1]]), key=Key(0), norm=1.0)
    assert clipped[0].isnan().any() and clipped[1].isfinite().all()


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_a_bound_below_zero_is_refused(norm):
    with pytest.raises(ValueError, match=r"privacy\.norm must be above 0, got"):
        privacy.clip(rows(0), key=Key(0), norm=norm)
