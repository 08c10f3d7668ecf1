"""Rows drawn in two dimensions, in notebooks and on a study's page."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from dai_lab.aggregators import krum, mean, trimmed_mean
from dai_lab.config import load
from dai_lab.core import Key, Visible
from dai_lab.experiment import simulate
from dai_lab.metrics import Plane
from dai_lab.report import draw_rows, grouped, report, runs
from dai_lab.report.depictions import depictions
from dai_lab.report.figures import rendered
from dai_lab.report.planes import SETTINGS, draw_planes, pictured


def cloud(size=2, count=11, far=50.0):
    seen = torch.randn(count, size, generator=Key(0).stream())
    seen[-1] = far
    return seen


def see(seen):
    return Visible(seen, tuple((client,) for client in range(len(seen))), torch.ones(len(seen)))


def drawn(seen, *names, dark=False):
    rules = {"mean": mean, "krum": partial(krum, f=2), "trimmed mean": partial(trimmed_mean, f=2)}
    verdicts = {name: rules[name](see(seen)) for name in names or rules}
    return draw_rows(seen, verdicts, hostile=(len(seen) - 1,), dark=dark), verdicts


def marks(axes, *kinds):
    return [line for line in axes.lines if line.get_marker() in kinds]


def a_plane(**changes):
    wanted = {
        "places": [[1.0, 2.0], [0.5, -1.0]], "update": [0.0, 0.0], "kept": [True, False],
        "suspected": [False, True], "hostile": [False, True], "far": [False, False],
    }  # fmt: skip
    return Plane(**{**wanted, **changes})


def test_every_row_has_a_mark_and_the_update_a_star():
    figure, verdicts = drawn(cloud())
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(verdicts)
    for axes, verdict in zip(figure.axes, verdicts.values(), strict=True):
        assert len(marks(axes, "o")) == 10 and len(marks(axes, "x")) == verdict.suspected.sum()
        filled = [line.get_markerfacecolor() != "none" for line in marks(axes, "o", "s", "D")[:11]]
        assert filled == (verdict.shares != 0).tolist()
        [star] = marks(axes, "*")
        if verdict is not verdicts["mean"]:
            np.testing.assert_allclose(star.get_xydata()[0], verdict.update, rtol=1e-3)


def test_a_liar_has_its_own_color_and_a_far_one_its_own_mark():
    for far, mark in ((50.0, "D"), (0.1, "s")):
        figure, _ = drawn(cloud(far=far), "krum")
        [axes] = figure.axes
        [liar] = [line for line in axes.lines if line.get_markeredgecolor() == "#D55E00"]
        assert liar.get_marker() == mark
        honest = {line.get_markeredgecolor() for line in marks(axes, "o")}
        assert honest == {"#0072B2"}


def test_panels_of_the_same_rows_have_the_same_view_which_holds_all_marks():
    figure, _ = drawn(cloud(far=1e6))
    views = {(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}
    [((left, right), (low, high))] = views
    for axes in figure.axes:
        for line in axes.lines:
            x, y = line.get_xydata()[0]
            assert left < x < right and low < y < high
    honest = np.array([line.get_xydata()[0] for line in marks(figure.axes[0], "o")])
    assert np.ptp(honest[:, 0]) > 0.1 * (right - left)  # a straying update squashes nobody


def test_an_update_beyond_the_border_says_so():
    figure, _ = drawn(cloud(far=1e6), "mean", "krum")
    strays, stays = (marks(axes, "D") for axes in figure.axes)
    assert len(strays) == 2 and len(stays) == 1  # the liar, and around the star


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dark", [False, True])
def test_everything_fits_in_the_picture(count, dark):
    seen = cloud(size=6)
    seen[3] = torch.nan
    verdict = trimmed_mean(see(seen), f=2)
    verdicts = {f"a rule with quite a long name and a number {at}": verdict for at in range(count)}
    from io import BytesIO

    from matplotlib.image import imread

    figure = draw_rows(seen, verdicts, hostile=(3, 10), dark=dark)
    assert "1 not finite" in figure.axes[0].get_xlabel()
    image = imread(BytesIO(rendered(figure, "png", dark=dark)))[..., :3]
    assert to_hex(image[0, 0]) == ("#15181c" if dark else "#ffffff")
    ink = np.abs(image - image[0, 0]).max(axis=2) > 0.1
    assert ink.mean() > 0.005
    assert not ink[0].any() and not ink[-1].any() and not ink[:, 0].any() and not ink[:, -1].any()


def test_an_update_that_is_not_finite_is_left_out_and_the_rows_are_drawn():
    seen = cloud(size=4)
    seen[2] = torch.nan
    figure, _ = drawn(seen, "mean")
    assert all(np.isfinite([*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()]))
    assert len(marks(figure.axes[0], "o")) == 9


def test_no_verdict_is_refused():
    with pytest.raises(ValueError, match="no rows to draw"):
        draw_rows(cloud(), {})


@pytest.fixture
def watched(studies, tmp_path):
    for place, attack in enumerate(("none", "alie")):
        for seed in (0, 1):
            settings = studies.config(attack, seed)
            lines = studies.records(settings)
            for at in (0, 3, 7):
                lines[at]["rows/plane"] = a_plane(update=[float(seed), float(at)]).written()
            studies.write(tmp_path, settings, rows=lines, name=f"{place}-{seed}")
    return tmp_path


def test_the_first_and_the_last_picture_of_each_settings_first_run_are_drawn(watched):
    groups, _ = grouped(runs(watched))
    found = pictured(groups)
    assert [one.update for one in found.values()] == [[0, 0], [0, 7]] * 2
    assert [name.rpartition(", ")[2] for name in found] == ["round 1", "round 8"] * 2
    figure = draw_planes(groups)
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes] == list(found)


def test_a_page_shows_pictures_where_there_are_some(studies, tmp_path):
    settings = studies.config(rounds=2)
    line = {"round": 1, "rows/plane": a_plane().written()}  # nothing else to draw
    studies.write(tmp_path, settings, rows=[line])
    assert "What the server saw" in report(tmp_path).read_text()
    assert (tmp_path / "report" / "rows.svg").exists()


def test_what_is_no_picture_under_that_name_is_left_out(studies, tmp_path):
    settings = studies.config()
    lines = studies.records(settings)
    lines[0]["rows/plane"], lines[1]["rows/plane"] = "an airplane", 747
    lines[2]["rows/plane"] = json.dumps({"places": "here"})
    studies.write(tmp_path, settings, rows=lines)
    groups, _ = grouped(runs(tmp_path))
    assert pictured(groups) == {} and "rows" not in depictions(groups)


def test_a_large_study_draws_some_of_its_settings(studies, tmp_path):
    for knob in range(SETTINGS + 2):
        settings = studies.config(rounds=2, knob=knob)
        lines = [{**row, "rows/plane": a_plane().written()} for row in studies.records(settings)]
        studies.write(tmp_path, settings, rows=lines, name=f"run-{knob}")
    assert len(pictured(grouped(runs(tmp_path))[0])) == 2 * SETTINGS


def test_a_watched_run_ends_in_a_picture_of_its_liars(tmp_path):
    cfg = load(
        "data=digits", "model=logistic", "federation.clients=8", "federation.hostile=2",
        "attack=sign_flip", "attack.scale=9", "aggregator=krum", "aggregator.f=2",
        "+watch=rows", "watch.rows.every=3", "rounds=4", f"results={tmp_path}",
    )  # fmt: skip
    simulate(cfg, progress=False)
    found = pictured(grouped(runs(tmp_path))[0])
    assert list(found) == ["run, round 1", "run, round 3"]
    for number, one in zip((1, 3), found.values(), strict=True):
        [record] = [line for line in runs(tmp_path)[0].rounds if line["round"] == number]
        assert sum(one.hostile) == 2 and sum(one.kept) == 1
        assert sum(one.suspected) == record["rows_suspected"]
        assert one.suspected == one.hostile
