"""Rows seen in two dimensions."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import ALONE, Aggregate, Key, State, Trace, Visible
from dai_lab.metrics import Plane, plane, rows
from dai_lab.metrics.plane import FAR, MOST

SHAPES = st.tuples(st.integers(0, 99), st.integers(3, 12), st.integers(3, 9))
"""Seed, rows, coordinates."""


def cloud(seed, count, size, dtype=torch.float64):
    return torch.randn(count, size, generator=Key(seed).stream(), dtype=dtype)


def verdict(seen, update=None, *, dropped=(), suspected=()):
    shares = torch.full((len(seen),), 1 / len(seen), dtype=torch.float64)
    accused = torch.zeros(len(seen), dtype=torch.bool)
    shares[list(dropped)], accused[list(suspected)] = 0.0, True
    update = seen.mean(0) if update is None else update
    return Aggregate(update, shares, torch.zeros_like(shares), accused)


def near(one, other, *, within=2e-3):
    """Tell whether two pictures, written to four digits, show the same."""
    torch.testing.assert_close(
        torch.tensor([*one.places, one.update]),
        torch.tensor([*other.places, other.update]),
        rtol=within,
        atol=within,
    )
    return True


def test_rows_of_two_numbers_stay_where_they_are_with_their_verdicts():
    seen = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
    found = plane(seen, verdict(seen, dropped=(1, 3), suspected=(3,)), hostile=(3, 4))
    assert found.places == seen.tolist()
    assert found.update == pytest.approx([0.1, 0.3])
    assert found.kept == [True, False, True, False, True]
    assert found.suspected == [False, False, False, True, False]
    assert found.hostile == [False, False, False, True, True]
    assert not any(found.far) and not found.astray and found.lost == 0


@given(SHAPES)
def test_places_are_what_a_singular_value_decomposition_gives(shape):
    seen = cloud(*shape)
    update = cloud(shape[0] + 1, 1, shape[2])[0] / 9
    found = plane(seen, verdict(seen, update))
    apart = seen.numpy() - np.median(seen.numpy(), axis=0)
    away = np.linalg.norm(apart, axis=1, keepdims=True)
    border = FAR * np.sort(away.ravel())[(len(away) - 1) // 2]
    apart *= np.minimum(1, border / np.maximum(away, 1e-300))
    step = update.numpy() - np.median(seen.numpy(), axis=0)
    step *= min(1, border / np.linalg.norm(step))
    left, lengths, right = np.linalg.svd(apart, full_matrices=False)
    first = left[np.abs(left).argmax(0), range(len(lengths))]
    wanted = np.vstack([left * lengths, right @ step]) * np.sign(first)
    flat = lengths < 1e-6 * lengths[0]
    wanted[:, flat] = 0
    np.testing.assert_allclose([*found.places, found.update], wanted[:, :2], rtol=1e-3, atol=1e-3)


@given(SHAPES, st.floats(-1e3, 1e3))
def test_what_all_rows_share_is_not_seen(shape, offset):
    seen = cloud(*shape)
    assert near(plane(seen, verdict(seen)), plane(seen + offset, verdict(seen + offset)))


@given(SHAPES)
def test_the_order_of_rows_does_not_matter(shape):
    seen = cloud(*shape)
    order = torch.randperm(len(seen), generator=Key(shape[0]).stream())
    here, there = plane(seen, verdict(seen)), plane(seen[order], verdict(seen[order]))
    assert near(there, Plane(**{**vars(here), "places": [here.places[at] for at in order]}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.integers(0, 99), st.floats(1.5, 30), st.sampled_from([2, 3, 7]))
def test_how_far_beyond_the_border_a_liar_lies_is_not_seen(dtype, seed, power, size):
    seen = cloud(seed, 11, size, dtype)
    seen[10] = 100.0  # above everybody in all coordinates, so that the middle stays
    further = seen.clone()
    further[10] *= 10**power
    stays = torch.zeros(size, dtype=dtype)
    one, other = plane(seen, verdict(seen, stays)), plane(further, verdict(further, stays))
    assert one.far == other.far and one.far[10]
    assert near(one, other, within=0.05 if size == 2 else 0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_longest_rows_there_are_have_a_place_at_the_border(dtype):
    seen = cloud(0, 9, 6, dtype)
    most = torch.finfo(dtype).max
    seen[7], seen[8] = most, -most
    found = plane(seen, verdict(seen, seen[:7].mean(0)))
    assert found.far[7] and found.far[8]
    lengths = torch.tensor(found.places).norm(dim=1)
    assert lengths[7:].min() > lengths[:7].max()
    assert not found.astray


def test_an_update_that_follows_a_far_liar_is_drawn_at_the_border():
    for size in (2, 5):
        seen = cloud(1, 9, size)
        seen[8] = 1e6
        found, calm = plane(seen, verdict(seen)), plane(seen, verdict(seen, seen[0]))
        assert found.astray and not calm.astray
        reach = max(math.hypot(*place) for place in found.places)
        assert math.hypot(*found.update) < 1.01 * reach
    assert calm.update == pytest.approx(calm.places[0], abs=1e-3)


def test_rows_on_a_line_have_no_second_direction():
    line = torch.linspace(-3, 3, 9).unsqueeze(1) * torch.tensor([1.0, 2.0, -1.0, 0.5])
    found = plane(line, verdict(line, torch.tensor([0.3, -0.2, 0.9, 0.1])))
    assert all(abs(x) > 0 for x, _ in found.places if x != found.places[4][0])
    assert {y for _, y in found.places} == {0.0} and found.update[1] == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 1), (5, 4), (3, 2)])
def test_rows_that_are_all_alike_are_in_one_place(shape):
    seen = torch.ones(shape)
    found = plane(seen, verdict(seen))
    assert found.places == [found.update] * shape[0]
    assert not any(found.far) and not found.astray


def test_rows_that_are_not_finite_are_counted_and_have_no_place():
    seen = cloud(2, 6, 4)
    left = [0, 2, 3, 5]
    whole = plane(seen[left], verdict(seen[left]), hostile=(1,))
    seen[1, 2], seen[4] = torch.nan, torch.inf
    found = plane(seen, verdict(seen, seen[left].mean(0), suspected=(1, 4)), hostile=(1, 2))
    assert found.lost == 2 and found.hostile == [False, True, False, False]
    assert found.places == whole.places and not any(found.suspected)
    nobody = plane(torch.full((3, 4), torch.nan), verdict(seen[:3]))
    assert nobody.lost == 3 and nobody.places == []


def test_looking_changes_nothing():
    seen = cloud(3, 7, 5)
    seen[6] = 1e9
    before, update = seen.clone(), seen.mean(0)
    plane(seen, verdict(seen, update))
    assert seen.equal(before) and update.equal(before.mean(0))


def test_blocks_of_coordinates_add_up(monkeypatch):
    seen = cloud(4, 8, 50)
    whole = plane(seen, verdict(seen))
    monkeypatch.setattr(sys.modules["dai_lab.metrics.plane"], "BLOCK", 7)
    assert near(whole, plane(seen, verdict(seen)))


def test_what_is_written_is_read_again_without_a_line_break():
    seen = cloud(5, 6, 4)
    seen[5] = torch.nan
    line = plane(seen, verdict(seen)).written()  # the mean of these is not a number
    again = Plane.read(line)
    assert again.written() == line and "\n" not in line
    assert again.lost == 1 and all(map(math.isnan, again.update))


GOOD = {
    "places": [[0.0, 1.0]], "update": [0.0, 0.0],
    **{name: [True] for name in ("kept", "suspected", "hostile", "far")},
}  # fmt: skip


def test_a_picture_written_before_updates_could_stray_is_read():
    assert not Plane.read(json.dumps(GOOD)).astray


@pytest.mark.parametrize("line", ["", "a picture", "null", "3", "[]", "{}", '{"places":[]}'] + [
    json.dumps({**GOOD, **wrong})
    for wrong in (
        {"places": [[0.0]]}, {"places": ["ab"]}, {"places": [None]}, {"places": 1},
        {"update": [0.0]}, {"kept": []}, {"suspected": []}, {"hostile": []}, {"far": []},
        {"color": "red"},
    )
])  # fmt: skip
def test_what_is_no_picture_is_refused(line):
    with pytest.raises(ValueError, match="a record's plane is not one"):
        Plane.read(line)


def trace(seen, number, hostile=()):
    members = tuple((2 * at, 2 * at + 1) for at in range(len(seen)))
    weights = torch.ones(len(seen))
    return Trace(
        round=number, key=ALONE.key, before=State(seen[0]), after=State(seen[0]),
        cohort=tuple(range(2 * len(seen))), hostile=hostile, sent=seen, weights=weights,
        visible=Visible(seen, members, weights), aggregate=verdict(seen),
    )  # fmt: skip


def test_the_watcher_keeps_the_first_round_and_every_so_many():
    seen = cloud(6, 5, 4)
    kept = [number for number in range(1, 10) if rows(trace(seen, number), every=4)]
    assert kept == [1, 4, 8]
    with pytest.raises(ValueError, match=r"watch\.rows\.every must be at least 1, got 0"):
        rows(trace(seen, 1), every=0)


def test_the_watcher_says_which_groups_hold_a_liar():
    found = Plane.read(rows(trace(cloud(7, 5, 4), 1, hostile=(3, 8)))["plane"])
    assert found.hostile == [False, True, False, False, True]


def test_too_many_rows_are_not_kept():
    assert rows(trace(cloud(8, MOST, 3), 1))
    assert rows(trace(cloud(8, MOST + 1, 3), 1)) == {}
