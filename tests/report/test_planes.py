"""Pictures of rows show what is there, and runs that kept them get one."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab import aggregators
from dai_lab.config import load
from dai_lab.core import Key, Visible
from dai_lab.experiment import simulate
from dai_lab.metrics import Plane, plane
from dai_lab.report import draw_rows, report

SEEDS = st.integers(0, 99)


def cloud(seed, params=2):
    sent = torch.randn(12, params, generator=Key(seed).stream())
    sent[:2] += 30.0
    return sent


def verdict(sent, f=2):
    members = tuple((one,) for one in range(len(sent)))
    return aggregators.multi_krum(Visible(sent, members, torch.ones(len(sent))), f=f)


@given(seed=SEEDS)
def test_rows_of_two_numbers_stay_where_they_are_but_for_the_far(seed):
    sent = cloud(seed)
    found = plane(sent, verdict(sent), hostile={0, 1})
    places = torch.tensor(found.places)
    torch.testing.assert_close(places[2:], sent[2:], rtol=1e-3, atol=1e-3)
    assert found.far[:2] == [True, True]
    away = (places - sent.median(0).values).norm(dim=1)
    assert away.max() < 3.1 * away.median()
    assert found.suspected == found.hostile == [True, True] + [False] * 10
    assert found.kept[:2] == [False, False] and sum(found.kept) == 8


@given(seed=SEEDS, params=st.sampled_from([3, 50]))
def test_two_directions_keep_the_distances_of_rows_that_lie_in_a_plane(seed, params):
    flat = torch.randn(12, 2, generator=Key(seed).stream())
    basis = torch.linalg.qr(torch.randn(params, 2, generator=Key(seed, ("q",)).stream())).Q
    sent = flat @ basis.T + 5.0
    found = torch.tensor(plane(sent, verdict(sent)).places)
    near = [at for at, far in enumerate(plane(sent, verdict(sent)).far) if not far]
    apart = torch.cdist(flat, flat)[near][:, near]
    torch.testing.assert_close(torch.cdist(found, found)[near][:, near], apart, rtol=0, atol=0.02)


@pytest.mark.parametrize("params", [1, 2, 5])
def test_rows_that_are_not_finite_are_counted_and_not_drawn(params):
    sent = cloud(1, params)
    sent[3] = torch.nan
    found = plane(sent, verdict(sent), hostile={3})
    assert found.lost == 1 and len(found.places) == 11
    assert not any(found.hostile)
    lost = plane(sent * torch.nan, verdict(sent))
    assert lost.places == [] and lost.lost == 12


def test_a_written_plane_is_read_again_and_anything_else_is_refused():
    sent = cloud(2)
    found = plane(sent, verdict(sent))
    assert Plane.read(found.written()) == found
    whole = json.loads(found.written())
    for broken in ("", "[]", '{"places": []}', json.dumps({**whole, "kept": []})):
        with pytest.raises(ValueError, match="a record's plane is not one"):
            Plane.read(broken)


@pytest.mark.parametrize("dark", [False, True])
def test_every_verdict_has_a_panel_with_all_rows_in_it(dark):
    sent = cloud(3)
    figure = draw_rows(sent, {"one": verdict(sent), "two": verdict(sent, f=1)}, dark=dark)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    crosses = [sum(line.get_marker() == "x" for line in axes.get_lines()) for axes in figure.axes]
    assert crosses == [2, 1]
    assert all(len(axes.get_lines()) == 12 + c + 1 for axes, c in zip(figure.axes, crosses, strict=True))
    with pytest.raises(ValueError, match="no rows to draw"):
        draw_rows(sent, {}, dark=dark)


def test_a_run_that_kept_its_rows_has_them_in_the_report(tmp_path):
    words = ("data=digits", "model=logistic", "federation.clients=8", "rounds=4")
    lies = ("federation.hostile=2", "attack=sign_flip", "attack.scale=9", "name=seen")
    cfg = load(*words, *lies, "+watch=rows", "watch.rows.every=2", "aggregator=krum",
               "aggregator.f=2", f"results={tmp_path}")  # fmt: skip
    folder = simulate(cfg, progress=False).folder
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert ["rows/plane" in record for record in records] == [True, True, False, True]
    kept = Plane.read(records[0]["rows/plane"])
    assert sum(kept.hostile) == 2 and sum(kept.kept) == 1
    page = report(tmp_path / "seen")
    assert (page.parent / "rows.svg").exists()
    assert "on the two directions in which rows differ most" in page.read_text()


def test_how_often_rows_are_kept_must_make_sense(tmp_path):
    cfg = load("data=digits", "model=logistic", "rounds=1", "+watch=rows", "watch.rows.every=0",
               f"results={tmp_path}")  # fmt: skip
    with pytest.raises(ValueError, match=r"watch\.rows\.every must be at least 1, got 0"):
        simulate(cfg, progress=False)
