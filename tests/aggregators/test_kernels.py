"""The passes over rows agree with slow float64 twins, on every shape, type and layout."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.aggregators import kernels
from dai_lab.aggregators.kernels import networks, there
from dai_lab.aggregators.kernels.mixtures import mixed
from dai_lab.core import Key

SIZES = st.tuples(st.integers(1, 20), st.sampled_from([1, 3, 63, 64, 65, 700]))
KINDS = {torch.float32: 2e-6, torch.float64: 1e-12}


def rows(seed, count, params, kind, offset=0.0):
    draw = Key(seed).stream()
    spread = torch.rand(count, 1, generator=draw, dtype=torch.float64).mul(3).exp()
    found = spread * torch.randn(count, params, generator=draw, dtype=torch.float64) + offset
    return found.to(kind)


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 16, 25, 33])
def test_networks_sort_and_select_whatever_they_are_given(count):
    draw = Key(count).stream()
    columns = torch.randint(0, 6, (count, 200), generator=draw)
    ranked = columns.sort(dim=0).values

    def played(net):
        values = list(columns)
        for a, b, smaller, larger in net.exchanges:
            low, high = values[a].minimum(values[b]), values[a].maximum(values[b])
            values[a] = low if smaller else torch.full_like(low, -99)
            values[b] = high if larger else torch.full_like(low, -99)
        return torch.stack([values[place] for place in net.places])

    assert played(networks.sorting(count)).equal(ranked)
    windows = [(f, count - f) for f in range((count + 1) // 2)]
    windows += [((count - 1) // 2, count // 2 + 1), (0, 1), (count - 1, count)]
    for low, high in windows:
        found = played(networks.selecting(count, low, high))
        assert found.sort(dim=0).values.equal(ranked[low:high])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5, 11, 20])
@given(params=SIZES, seed=st.integers(0, 99), offset=st.sampled_from([0.0, 100.0]))
def test_columns_are_ranked_as_sorting_ranks_them(kind, count, params, seed, offset):
    sent = rows(seed, count, params[1], kind, offset)
    ranked = sent.double().sort(dim=0).values
    for low, high in {((count - 1) // 2, count // 2 + 1), (count // 4, count - count // 4)}:
        found, finite = kernels.window(sent, low, high)
        assert finite and found.dtype == kind
        close(found, ranked[low:high].mean(0), KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5, 11, 20])
@given(params=SIZES, seed=st.integers(0, 99))
def test_the_nearest_values_are_the_nearest(kind, count, params, seed):
    # Whole numbers: every comparison is exact, and there are ties.
    draw = Key(seed).stream()
    sent = torch.randint(-9, 9, (count, params[1]), generator=draw).to(kind)
    ranked = sent.double().sort(dim=0).values
    low, high, near = (count - 1) // 2, count // 2 + 1, max(1, count - count // 3)
    order = (ranked - ranked[low:high].mean(0)).abs().sort(dim=0, stable=True).indices
    found, finite = kernels.nearest(sent, low, high, near)
    assert finite
    expected = ranked.gather(0, order[:near]).mean(0)
    torch.testing.assert_close(found.double(), expected, rtol=KINDS[kind], atol=KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@given(size=SIZES, seed=st.integers(0, 99), offset=st.sampled_from([0.0, 100.0]))
def test_pairs_of_rows_are_compared_as_their_differences_say(kind, size, seed, offset):
    sent, other = rows(seed, *size, kind, offset), rows(seed + 1, 1, size[1], kind)[0]
    whole = torch.cat([sent, other.unsqueeze(0)]).double()
    apart = (whole.unsqueeze(1) - whole).square().sum(-1)
    found = kernels.distances(sent, (other,))
    torch.testing.assert_close(found, apart, rtol=3 * KINDS[kind], atol=0)
    seen = kernels.gram(sent, (other,))
    center = whole[seen.center]
    basis = torch.cat([whole - center, center.unsqueeze(0)])
    lengths = basis.norm(dim=1)
    gap = (seen.inner - basis @ basis.T).abs()
    assert (gap <= 2 * KINDS[kind] * lengths.unsqueeze(1) * lengths).all()


@pytest.mark.parametrize("kind", KINDS)
@given(size=SIZES, seed=st.integers(0, 99))
def test_products_with_further_vectors_need_not_begin_anew(kind, size, seed):
    sent, more = rows(seed, *size, kind), tuple(rows(seed + 1, 3, size[1], kind))
    more[1][0] = torch.nan
    known = kernels.gram(sent)
    lengths = torch.stack([*sent, *more, torch.zeros_like(more[0])]).double() - sent[known.center]
    scale = lengths.norm(dim=1).nan_to_num()
    found, whole = kernels.beside(known, sent, more), kernels.gram(sent, more)
    assert found.center == whole.center
    assert torch.equal(found.inner.isnan(), whole.inner.isnan())
    gap = (found.inner - whole.inner).abs().nan_to_num()
    assert (gap <= 4 * KINDS[kind] * scale.max() ** 2).all()


@pytest.mark.parametrize("kind", KINDS)
@given(size=SIZES, seed=st.integers(0, 99))
def test_sums_signs_and_squares_are_those_of_float64(kind, size, seed):
    sent, other = rows(seed, *size, kind), rows(seed + 1, 1, size[1], kind)[0]
    weights = torch.randn(size[0] + 1, generator=Key(seed).stream(), dtype=torch.float64)
    weights[0] = 0.0
    whole = torch.cat([sent, other.unsqueeze(0)]).double()
    expected = (weights.unsqueeze(1) * whole).sum(0)
    tolerance = KINDS[kind] * float(whole.abs().max())
    assert (kernels.combine(sent, weights, (other,)) - expected).abs().max() <= tolerance
    signs, total = kernels.votes(sent)
    assert signs.equal(sent.sign().sum(0))
    torch.testing.assert_close(total.double(), sent.double().sum(0), rtol=0, atol=9 * tolerance)
    torch.testing.assert_close(kernels.squares(sent), sent.double().square().sum(1))
    away = (sent.double() - other.double()).square().sum(1)
    torch.testing.assert_close(kernels.squares(sent, other), away)


@given(size=SIZES, seed=st.integers(0, 99))
def test_where_there_is_a_gpu_torch_takes_the_same_passes(size, seed):
    sent, other = rows(seed, *size, torch.float64), rows(seed + 1, 1, size[1], torch.float64)[0]
    seen = kernels.gram(sent, (other,))
    products = there.pairs(sent, (other,), seen.center)
    apart = [at for at in range(size[0] + 1) if at != seen.center]
    torch.testing.assert_close(products[apart][:, apart], seen.inner[:-1, :-1][apart][:, apart])
    weights = torch.randn(size[0] + 1, generator=Key(seed).stream(), dtype=torch.float64)
    weights[0] = 0.0
    expected = kernels.combine(sent, weights, (other,))
    torch.testing.assert_close(there.combine(sent, weights, (other,)), expected)
    torch.testing.assert_close(there.votes(sent), kernels.votes(sent))
    torch.testing.assert_close(there.squares(sent), kernels.squares(sent))
    torch.testing.assert_close(there.squares(sent, other), kernels.squares(sent, other))


@pytest.mark.parametrize("lie", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lie_spoils_nothing_but_its_own_row(lie, kind):
    sent = rows(3, 9, 700, kind)
    honest = [0, 1, 2, 3, 5, 6, 7, 8]
    apart, seen = kernels.distances(sent), kernels.gram(sent)
    sent[4, 350] = lie
    torch.testing.assert_close(kernels.distances(sent)[honest][:, honest], apart[honest][:, honest])
    assert kernels.gram(sent).center != 4
    found = kernels.gram(sent).inner[:9, :9][honest][:, honest]
    if kernels.gram(sent).center == seen.center:
        torch.testing.assert_close(found, seen.inner[:9, :9][honest][:, honest])
    assert kernels.window(sent, 0, 9)[1] is kernels.nearest(sent, 0, 9, 5)[1] is (lie == 1e30)
    weights = torch.ones(9, dtype=torch.float64)
    weights[4] = 0.0
    assert kernels.combine(sent, weights).isfinite().all()


@given(size=SIZES, seed=st.integers(0, 99))
def test_equal_rows_are_at_no_distance_whatever_else_there_is(size, seed):
    sent = rows(seed, *size, torch.float32)
    twice = torch.cat([sent, sent.flip(0)])
    apart, seen = kernels.distances(twice), kernels.gram(twice).inner
    for one, other in enumerate(reversed(range(len(sent), len(twice)))):
        assert apart[one, other] == 0
        assert seen[one, one] + seen[other, other] - 2 * seen[one, other] == 0


def test_layout_does_not_matter_and_nothing_is_written_to():
    sent = rows(5, 12, 300, torch.float32)
    wide = torch.zeros(24, 400)
    wide[::2, 50:350] = sent
    weights = torch.arange(12, dtype=torch.float64)
    for other in (wide[::2, 50:350], sent.T.contiguous().T, sent.half().float().half()):
        same = sent.half().float() if other.dtype == torch.float16 else sent
        copy = other.clone()
        assert kernels.window(other, 2, 9)[0].equal(kernels.window(same, 2, 9)[0].to(other))
        assert kernels.distances(other).equal(kernels.distances(same))
        assert kernels.gram(other).inner.equal(kernels.gram(same).inner)
        assert kernels.combine(other, weights).equal(kernels.combine(same, weights).to(other))
        assert other.equal(copy)
    some = torch.tensor([7, 1, 4])
    assert kernels.window(sent, 1, 2, rows=some)[0].equal(sent[some].median(0).values)
    repeated = sent[:1].expand(5, -1)
    assert kernels.window(repeated, 1, 4)[0].allclose(sent[0])


@pytest.mark.parametrize("near", [0, 9])
def test_more_rows_than_a_network_is_made_for_are_ranked_all_the_same(near, monkeypatch):
    sent = rows(6, 25, 300, torch.float32)
    both = []
    for most in (512, 24):
        monkeypatch.setattr(kernels.passes, "MOST", most)
        both.append(kernels.nearest(sent, 5, 20, near) if near else kernels.window(sent, 5, 20))
    torch.testing.assert_close(*both)


def test_mixtures_are_ranked_as_if_they_were_multiplied_out():
    sent = rows(6, 12, 5000, torch.float32)
    mix = torch.rand(7, 12, generator=Key(1).stream(), dtype=torch.float64)
    mix[:, 3] = 0.0
    sent[3] = torch.nan
    held = [at for at in range(12) if at != 3]
    expected = (mix[:, held] @ sent[held].double()).sort(dim=0).values
    found, finite = kernels.window(sent, 2, 5, mix=mix)
    assert finite
    close(found, expected[2:5].mean(0), 2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("params", [1, 31, 63, 65, 4_097, 70_001])
@pytest.mark.parametrize(("count", "mixtures", "parts"), [(9, 9, 1), (26, 13, 2), (40, 12, 9)])
def test_mixtures_of_few_rows_are_added_up_row_by_row(count, mixtures, parts, params, dtype):
    sent = rows(7, count, params, dtype)
    mix = torch.zeros(mixtures, count, dtype=torch.float64)
    for one in mix[1:]:  # nothing is in the first
        one[torch.randperm(count, generator=Key(2).stream())[:parts]] = 1 / parts
    sent[mix.eq(0).all(0)] = torch.nan
    held = mix.ne(0).any(0)
    expected = torch.cat([one.clone() for one in mixed(sent, mix)], dim=1)
    close(expected, mix[:, held] @ sent[held].double(), 1e-6 if dtype == torch.float32 else 1e-12)
    found, finite = kernels.window(sent, 2, 5, mix=mix)
    assert finite
    close(found, expected.double().sort(dim=0).values[2:5].mean(0), 2e-6)


@pytest.mark.parametrize("count", [1, 7, 8, 24, 25, 32, 33, 100])
@pytest.mark.parametrize("params", [1, 64, 65, 4_100, 9_000])
def test_sums_of_any_number_of_rows_are_sums(count, params):
    sent = rows(8, count, params, torch.float32)
    weights = rows(9, 1, count, torch.float64)[0]
    close(kernels.combine(sent, weights), weights @ sent.double(), 2e-6)
    signs, total = kernels.votes(sent)
    assert signs.equal(sent.sign().sum(0))
    close(total, sent.double().sum(0), 2e-6)
    other = sent[0].flip(0)
    close(kernels.squares(sent, other), (sent.double() - other.double()).square().sum(1), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_finite_where_all_their_numbers_are(dtype):
    sent = rows(3, 6, 130, dtype)
    sent[1, 129], sent[2, 0], sent[3, 64] = torch.nan, torch.inf, -torch.inf
    sent[4] = torch.finfo(dtype).max
    assert kernels.finite(sent).tolist() == [True, False, False, False, True, True]


def test_threads_change_nothing_but_the_time():
    sent = rows(7, 21, 70_000, torch.float32)
    weights = torch.arange(21, dtype=torch.float64)

    def passes():
        gram = kernels.gram(sent).inner
        window, _ = kernels.window(sent, 4, 17)
        scaled, _ = kernels.window(sent, 4, 17, mix=weights.diag())
        others = (kernels.combine(sent, weights), *kernels.votes(sent), kernels.squares(sent))
        return kernels.distances(sent), gram, window, scaled, *others

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = passes()
        torch.set_num_threads(3)
        together = passes()
    finally:
        torch.set_num_threads(before)
    assert all(one.equal(other) for one, other in zip(alone, together, strict=True))


SIMULATED = """
import torch
from dai_lab.aggregators import kernels
from dai_lab.aggregators.kernels.cuda import by_column
from dai_lab.aggregators.kernels.mixtures import mixed
from dai_lab.core import Key
for count, params in ((1, 3), (2, 5), (7, 130), (12, 4)):
    for kind in (torch.float32, torch.float64):
        sent = torch.randn(count, params, generator=Key(count).stream()).to(kind)
        low, high, near = (count - 1) // 2, count // 2 + 1, max(1, count - count // 3)
        for found, expected in (
            (by_column(sent, low, high, 0), kernels.window(sent, low, high)),
            (by_column(sent, low, high, near), kernels.nearest(sent, low, high, near)),
        ):
            torch.testing.assert_close(found[0], expected[0])
            assert found[1] is expected[1] is True
        sent[0, 0] = torch.inf
        assert by_column(sent, low, high, 0)[1] is False
print("agree")
"""


def test_cuda_code_gives_what_the_processor_gives_in_the_simulator():
    pytest.importorskip("numba.cuda")
    simulated = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    words = [sys.executable, "-c", SIMULATED]
    done = subprocess.run(words, capture_output=True, text=True, env=simulated)
    assert done.stdout.split() == ["agree"], done.stderr[-2000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_on_a_gpu_every_pass_gives_what_the_processor_gives():
    sent = rows(8, 25, 3000, torch.float32)
    far = sent.cuda()
    weights = torch.arange(25, dtype=torch.float64)
    close(kernels.window(far, 5, 20)[0].cpu(), kernels.window(sent, 5, 20)[0].double(), 1e-6)
    close(kernels.distances(far).cpu(), kernels.distances(sent), 1e-6)
    close(kernels.combine(far, weights.cuda()).cpu(), kernels.combine(sent, weights).double(), 1e-6)
