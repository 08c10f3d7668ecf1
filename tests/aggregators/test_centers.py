"""Centers against other libraries, and against the same steps on coordinates."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dai_lab.aggregators import centered_clipping, geometric_median
from dai_lab.core import Context, Key, State, Visible

SEEDS = st.integers(0, 999)
KINDS = ["gaussian", "outliers", "huge", "heavy", "split", "tied", "offset", "flat"]


def see(sent, weights=None, mix=None):
    count = len(sent) if mix is None else len(mix)
    weights = torch.ones(count) if weights is None else weights
    return Visible(sent, tuple((i,) for i in range(count)), weights, mix)


def rows(kind, seed, count, params=4):
    stream = Key(seed).stream()
    sent = torch.randn(count, params, generator=stream, dtype=torch.float64)
    if kind == "outliers":
        sent[: count // 3] += 20
    if kind == "huge":
        sent[: count // 3] *= 1e9
    if kind == "heavy":
        sent /= torch.rand(count, 1, generator=stream, dtype=torch.float64)
    if kind == "split":
        sent[::2] += 5
    if kind == "tied":
        sent = sent.round()
    if kind == "offset":
        sent = 100 + 1e-3 * sent
    if kind == "flat":
        sent = torch.outer(sent[:, 0], sent[0])
    return sent


def stepped(sent, masses, nu, steps, at):
    """Smoothed Weiszfeld as in the paper, on coordinates."""
    for _ in range(steps):
        pulls = masses / np.maximum(nu, np.linalg.norm(sent - at, axis=1))
        at = pulls @ sent / pulls.sum()
    return at


def moved(sent, at, tau, steps):
    """Centered clipping as in the paper, on coordinates."""
    for _ in range(steps):
        ways = sent - at
        lengths = np.linalg.norm(ways, axis=1, keepdims=True)
        factors = np.divide(tau, lengths, out=np.ones_like(lengths), where=lengths > tau)
        at = at + (ways * factors).mean(0)
    return at


def rest(sent, at, masses):
    """How far the pull of all rows is from what a row under the point can hold: 0 at a median."""
    ways = sent - at
    lengths = np.linalg.norm(ways, axis=1)
    near = lengths <= 1e-13 * np.abs(sent).max()
    pull = masses[~near] @ (ways[~near] / lengths[~near, None])
    return max(0.0, np.linalg.norm(pull) - masses[near].sum()) / masses.sum()


@given(
    kind=st.sampled_from(KINDS),
    seed=SEEDS,
    count=st.integers(3, 30),
    params=st.sampled_from([1, 2, 50]),
)
def test_nothing_pulls_at_the_geometric_median(kind, seed, count, params):
    sent = rows(kind, seed, count, params)
    at = geometric_median(see(sent)).update.numpy()
    # A point that is rounded is off by as much as that turns the way to the nearest row.
    gaps = np.linalg.norm(sent.numpy() - at, axis=1)
    gaps = gaps[gaps > 1e-13 * np.abs(sent.numpy()).max()].min(initial=np.inf)
    rounding = 1e-14 * np.abs(at).max() * np.sqrt(params) / gaps
    assert rest(sent.numpy(), at, np.ones(count)) <= 1e-10 + rounding


@pytest.mark.parametrize("kind", ["gaussian", "outliers", "heavy", "split"])
def test_the_geometric_median_is_that_of_scipy_and_of_the_package(kind):
    from scipy.optimize import minimize

    library = pytest.importorskip("geom_median.numpy")
    for seed, count in enumerate((5, 8, 17, 30)):
        sent = rows(kind, seed, count).numpy()
        at = geometric_median(see(torch.from_numpy(sent))).update.numpy()
        found = library.compute_geometric_median(
            list(sent), np.ones(count), eps=1e-12, maxiter=2000, ftol=0
        )
        # The package stops where sums of distances no longer tell points apart.
        np.testing.assert_allclose(at, found.median, rtol=1e-6, atol=1e-6)

        def total(z, sent=sent):
            return np.linalg.norm(sent - z, axis=1).sum()

        assert total(at) <= total(found.median) * (1 + 1e-15)

        best = minimize(total, sent.mean(0), options={"gtol": 1e-9})
        np.testing.assert_allclose(at, best.x, rtol=1e-5, atol=1e-6)
        assert total(at) <= best.fun * (1 + 1e-15)


@given(seed=SEEDS, count=st.integers(1, 30))
@pytest.mark.filterwarnings("ignore:aggregator=geometric_median sees")
def test_on_a_line_it_is_the_median_of_numpy(seed, count):
    line = rows("heavy", seed, count, 1)
    at = geometric_median(see(line)).update.item()
    assert at == pytest.approx(np.median(line.numpy()), rel=1e-12, abs=1e-12)
    direction = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    there = geometric_median(see(line @ direction)).update
    torch.testing.assert_close(there, at * direction[0], rtol=1e-9, atol=1e-12)


def test_the_median_of_a_triangle_with_a_wide_angle_is_its_corner():
    # A point under 120 degrees or more is the best itself (Fermat, Torricelli).
    for degrees, corner in ((119, False), (120.1, True), (150, True)):
        angle = np.deg2rad(degrees)
        sent = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2 * np.cos(angle), 2 * np.sin(angle)]])
        seen = geometric_median(see(sent.double()))
        assert (float(seen.shares[1]) == 1) is corner
        assert (float(seen.suspicion[1]) == 0) is corner
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    torch.testing.assert_close(geometric_median(see(square)).update, torch.ones(2))


@given(seed=SEEDS, near=st.floats(-9, -1))
def test_a_median_very_near_a_row_is_found(seed, near):
    """Where Weiszfeld's steps would take forever: a corner of hardly less than 120 degrees."""
    angle = np.deg2rad(120) - 10**near
    turn = rows("gaussian", seed, 1, 2)[0]
    sides = 1 + rows("gaussian", seed + 1, 1, 2)[0].abs()
    start = torch.atan2(turn[0], turn[1])
    ends = torch.stack([start, start + angle])
    ways = sides.unsqueeze(1) * torch.stack([ends.cos(), ends.sin()], dim=1)
    sent = torch.cat([torch.zeros(1, 2, dtype=torch.float64), ways])
    at = geometric_median(see(sent)).update.numpy()
    # Torricelli's point lies on the circle through the corner and both ends of an outward
    # triangle, on the line from that triangle's tip to the corner.
    a, b = ways.numpy()
    half, tall = (a + b) / 2, np.sqrt(3) / 2 * np.array([b[1] - a[1], a[0] - b[0]])
    tip = max((half + tall, half - tall), key=np.linalg.norm)
    middle = (a + b + tip) / 3
    line = -tip / np.linalg.norm(tip)
    expected = tip + 2 * ((middle - tip) @ line) * line
    np.testing.assert_allclose(at, expected, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=SEEDS, count=st.integers(3, 30), steps=st.integers(1, 5), nu=st.sampled_from([1e-6, 1.0])
)
def test_a_few_steps_are_those_on_coordinates(kind, seed, count, steps, nu):
    sent = rows(kind, seed, count)
    claimed = rows("gaussian", seed, count, 1).flatten().abs()
    for weighted, start in ((False, "mean"), (True, "mean"), (False, "zero"), (True, "zero")):
        masses = claimed.numpy() if weighted else np.ones(count)
        at = np.average(sent.numpy(), axis=0, weights=masses) if start == "mean" else np.zeros(4)
        seen = geometric_median(
            see(sent, claimed), iterations=steps, smoothing=nu, start=start, weighted=weighted
        )
        expected = torch.from_numpy(stepped(sent.numpy(), masses, nu, steps, at))
        scale = float(sent.abs().max())
        torch.testing.assert_close(seen.update, expected, rtol=1e-9, atol=1e-12 * scale)
        torch.testing.assert_close(seen.shares @ sent, seen.update)


def test_three_steps_from_zero_are_those_of_byzfl():
    byzfl = pytest.importorskip("byzfl")
    for seed in range(10):
        sent = rows("heavy", seed, 11)
        seen = geometric_median(see(sent), iterations=3, smoothing=0.1, start="zero")
        expected = byzfl.GeometricMedian(nu=0.1, T=3)(sent.numpy())
        np.testing.assert_allclose(seen.update, expected, rtol=1e-12)


@given(seed=SEEDS, counts=st.lists(st.integers(0, 4), min_size=3, max_size=9))
def test_examples_count_only_where_that_is_asked_for(seed, counts):
    assume(sum(counts) > 2)
    sent, claimed = rows("gaussian", seed, len(counts)), torch.tensor(counts, dtype=torch.float64)
    every = torch.repeat_interleave(sent, torch.tensor(counts), dim=0)
    heavy = geometric_median(see(sent, claimed), weighted=True).update
    torch.testing.assert_close(heavy, geometric_median(see(every)).update)
    light = geometric_median(see(sent, claimed)).update
    assert light.equal(geometric_median(see(sent)).update)


@given(seed=SEEDS, lie=st.floats(allow_nan=True, allow_infinity=True), liars=st.integers(1, 4))
def test_four_liars_in_eleven_hardly_move_the_median(seed, lie, liars):
    honest = rows("gaussian", seed, 11 - liars)
    lies = torch.full((liars, 4), lie, dtype=torch.float64)
    seen = geometric_median(see(torch.cat([lies, honest])))
    # Pillutla et al., after Lopuhaa and Rousseeuw 1991: 2 (n - f) / (n - 2 f) radii.
    center = honest.mean(0)
    radius = (honest - center).norm(dim=1).max()
    assert (seen.update - center).norm() <= 2 * (11 - liars) / (11 - 2 * liars) * radius


@given(
    kind=st.sampled_from(KINDS),
    seed=SEEDS,
    count=st.integers(3, 20),
    tau=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_clipping_is_that_on_coordinates_round_after_round(kind, seed, count, tau):
    state, at = None, np.zeros(4)
    for turn in range(4):
        sent = rows(kind, seed + turn, count)
        seen = centered_clipping(see(sent), Context(state=state), tau=tau, iterations=1 + turn)
        at = moved(sent.numpy(), at, tau, 1 + turn)
        scale = max(1.0, float(sent.abs().median()))
        torch.testing.assert_close(seen.update, torch.from_numpy(at), rtol=1e-9, atol=1e-9 * scale)
        state = State(torch.zeros(4)).remember(seen.memory)


def test_clipping_is_that_of_byzfl_over_three_rounds():
    byzfl = pytest.importorskip("byzfl")
    peer, state = byzfl.CenteredClipping(L=3, tau=2.0), None
    for turn in range(3):
        sent = rows("heavy", turn, 11)
        seen = centered_clipping(see(sent), Context(state=state), tau=2.0, iterations=3)
        np.testing.assert_allclose(seen.update, peer(sent.numpy()), rtol=1e-12)
        state = State(torch.zeros(4)).remember(seen.memory)


@given(seed=SEEDS)
def test_clipping_nothing_is_the_plain_mean(seed):
    sent = rows("heavy", seed, 9)
    state = State(torch.zeros(4), {"aggregator/center": rows("gaussian", seed, 1)[0]})
    for context in (Context(), Context(state=state)):
        seen = centered_clipping(see(sent), context, tau=torch.inf)
        torch.testing.assert_close(seen.update, sent.mean(0))
        assert seen.record["clipped"] == 0


@given(seed=SEEDS, lie=st.floats(1e3, 1e150), liars=st.integers(0, 4))
def test_a_liar_moves_the_center_by_tau_and_no_more(seed, lie, liars):
    honest = rows("gaussian", seed, 9)
    sent = torch.cat([honest, torch.full((liars, 4), lie, dtype=torch.float64)])
    update = centered_clipping(see(sent), tau=1.0, iterations=1).update
    alone = centered_clipping(see(honest), tau=1.0, iterations=1).update
    assert (update * len(sent) - alone * 9).norm() <= liars + 1e-9


def test_one_row_far_away_is_approached_by_tau_each_time():
    seen = centered_clipping(see(torch.tensor([[30.0, 40.0]])), tau=10.0, iterations=3)
    torch.testing.assert_close(seen.update, torch.tensor([18.0, 24.0]))
    assert seen.suspicion.tolist() == pytest.approx([20.0])
    assert seen.memory["aggregator/center"].equal(seen.update)
    again = centered_clipping(
        see(torch.tensor([[30.0, 40.0]])), Context(state=State(torch.zeros(2), seen.memory))
    )
    torch.testing.assert_close(again.update, torch.tensor([30.0, 40.0]))


LAST = Context(state=State(torch.zeros(4), {"aggregator/center": torch.ones(4).double()}))
RULES = [
    lambda seen: geometric_median(seen),
    lambda seen: geometric_median(seen, iterations=3),
    lambda seen: geometric_median(seen, iterations=3, start="zero"),
    lambda seen: centered_clipping(seen, tau=1.0),
    lambda seen: centered_clipping(seen, LAST, tau=1.0),
]


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS, lost=st.integers(0, 3), lie=st.sampled_from([torch.nan, torch.inf, 1e200]))
def test_neither_order_nor_rows_that_are_not_finite_matter(rule, seed, lost, lie):
    sent = rows("heavy", seed, 9)
    sent[:lost, 1] = lie
    order = torch.randperm(9, generator=Key(seed).stream())
    seen, again, alone = rule(see(sent)), rule(see(sent[order])), rule(see(sent[lost:]))
    torch.testing.assert_close(again.update, seen.update)
    torch.testing.assert_close(again.suspicion, seen.suspicion[order])
    torch.testing.assert_close(seen.update, alone.update)
    assert seen.suspected.tolist() == [True] * lost + [False] * (9 - lost)


@pytest.mark.parametrize("rule", RULES[:2])
@given(seed=SEEDS, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_a_shift_moves_the_median_by_the_shift(rule, seed, shift, scale):
    sent = rows("gaussian", seed, 11)
    update = rule(see(sent)).update
    torch.testing.assert_close(rule(see(sent + shift)).update, update + shift)
    torch.testing.assert_close(rule(see(scale * sent)).update, scale * update)


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
def test_mixed_rows_need_not_be_multiplied_out(rule, seed):
    sent = rows("outliers", seed, 9)
    mix = torch.rand(7, 9, generator=Key(seed).stream(), dtype=torch.float64)
    mix[3] = mix[5]
    lazy, plain = rule(see(sent, mix=mix)), rule(see(mix @ sent))
    torch.testing.assert_close(lazy.update, plain.update)
    torch.testing.assert_close(lazy.suspicion, plain.suspicion)


@pytest.mark.parametrize("rule", RULES)
def test_rows_may_be_short_strided_and_are_never_changed(rule):
    wide = rows("outliers", 0, 9, 12).float()
    before = wide.clone()
    seen = rule(see(wide[:, ::3]))
    assert seen.update.dtype == torch.float32
    exact = rule(see(wide[:, ::3].double().contiguous())).update
    torch.testing.assert_close(seen.update.double(), exact, rtol=1e-6, atol=1e-6)
    assert wide.equal(before)


@pytest.mark.parametrize("rule", [geometric_median, centered_clipping])
@given(seed=SEEDS, count=st.integers(3, 9))
def test_clients_who_agree_get_what_they_agree_on(rule, seed, count):
    row = rows("gaussian", seed, 1)
    torch.testing.assert_close(rule(see(row.expand(count, -1))).update, row[0])


def test_two_rows_outvote_nobody():
    with pytest.warns(UserWarning, match="geometric_median sees 2 of the 3 rows"):
        assert geometric_median(see(torch.tensor([[0.0], [4.0]]))).update.item() == 2


@pytest.mark.parametrize(
    ("rule", "knobs", "complaint"),
    [
        (geometric_median, {"iterations": 0}, "aggregator.iterations must be at least 1 or null"),
        (geometric_median, {"smoothing": 0.0}, "aggregator.smoothing must be above 0"),
        (geometric_median, {"start": "last"}, "aggregator.start must be mean or zero"),
        (centered_clipping, {"tau": 0.0}, "aggregator.tau must be above 0"),
        (centered_clipping, {"tau": torch.nan}, "aggregator.tau must be above 0"),
        (centered_clipping, {"iterations": 0}, "aggregator.iterations must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(rule, knobs, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        rule(see(rows("gaussian", 0, 9)), **knobs)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"sees 9 \(0 finite\)"):
        rule(see(rows("gaussian", 0, 9) * torch.nan))


@pytest.mark.parametrize("weight", [0.0, -1.0, torch.nan, torch.inf])
def test_counts_of_examples_that_no_client_can_have_are_refused(weight):
    weights = torch.tensor([weight] + [0.0 if weight == 0 else 1.0] * 8)
    with pytest.raises(ValueError, match=r"aggregator.weighted=false"):
        geometric_median(see(rows("gaussian", 0, 9), weights), weighted=True)
