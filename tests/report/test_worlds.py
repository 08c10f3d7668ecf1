"""Figures of what accuracy costs and who ranks where."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from dai_lab.report import expenses, grouped, report, runs, tried
from dai_lab.report.figures import rendered
from dai_lab.report.trials import over
from dai_lab.report.worlds import draw_costs, draw_ranks

WORLDS = {
    (world, name): end
    for world, easy in (("iid", 0.9), ("skewed", 0.7))
    for name, end in (("fedavg", easy), ("fedper", easy - 0.1), ("scaffold", easy + 0.05))
}


@pytest.fixture(scope="module")
def named(studies, tmp_path_factory):
    return studies.named(tmp_path_factory.mktemp("named"), WORLDS, personal=("fedper",))


@pytest.fixture(scope="module")
def trials(named):
    return tried(grouped(runs(named))[0])


def panels(figure):
    return [axes for axes in figure.axes if axes.axison]


def test_every_resource_that_was_spent_has_a_panel_in_a_unit_to_read(studies, tmp_path):
    figure = expenses(studies.sweep(tmp_path))
    assert [axes.get_xlabel() for axes in panels(figure)] == [
        "rounds",
        "MB sent, up and down",
        "GFLOP of training",
        "simulated minutes",
    ]
    assert len({axes.get_ylim() for axes in panels(figure)}) == 1


def test_what_nobody_spends_has_no_panel_and_who_spends_nothing_no_line(studies, tmp_path):
    settings = studies.config("none")
    idle = [
        {"round": row["round"], "test_accuracy": 0.5, "bytes_up": 0, "bytes_down": 0}
        for row in studies.records(settings)
    ]
    studies.write(tmp_path, settings, rows=idle)
    assert [axes.get_xlabel() for axes in panels(expenses(tmp_path))] == ["rounds"]
    busy = [{**row, "bytes_up": row["round"], "bytes_down": 1000} for row in idle]
    studies.write(tmp_path, studies.config("alie"), rows=busy)
    rounds, sent = panels(expenses(tmp_path))
    assert [len(rounds.lines), len(sent.lines)] == [2, 1]
    with pytest.raises(ValueError, match="no finished run has any of personal_accuracy"):
        expenses(tmp_path, metrics=["personal_accuracy"])


def test_seeds_that_spend_unevenly_are_drawn_in_steps(studies, tmp_path):
    place = studies.sweep(tmp_path)
    *even, uneven = panels(expenses(place))
    assert {line.get_drawstyle() for axes in even for line in axes.lines} == {"default"}
    assert {line.get_drawstyle() for line in uneven.lines} == {"steps-post"}
    seeds = [*tried(grouped(runs(place))[0])[0].seeds.values()]
    amounts, points, _ = over(seeds, "test_accuracy", "simulated_seconds")
    assert uneven.lines[0].get_xdata() == pytest.approx(amounts / 60)
    assert uneven.lines[0].get_ydata() == pytest.approx([point.value for point in points])


def test_each_world_has_a_panel_and_each_method_one_look_in_all(trials):
    figure = draw_costs(trials, metrics=("test_accuracy",), resources=("round",))
    assert [axes.get_title(loc="left") for axes in panels(figure)] == ["iid", "skewed"]
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in axes.lines}
        for axes in panels(figure)
    ]
    assert looks[0] == looks[1] and len(looks[0]) == len(set(looks[0].values())) == 3
    assert [text.get_text() for text in figure.legends[0].texts] == ["fedavg", "fedper", "scaffold"]


def test_models_of_ones_own_get_panels_below(trials):
    figure = draw_costs(trials, resources=("round",))
    titles = [axes.get_title(loc="left") for axes in panels(figure)]
    assert titles[2:] == [f"{one}: accuracy of clients' own models" for one in ("iid", "skewed")]
    assert [len(axes.lines) for axes in panels(figure)] == [3, 3, 1, 1]


def test_a_rank_is_drawn_where_it_is(trials):
    axes = draw_ranks(trials).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "scaffold",
        "fedavg",
        "fedper",
    ]
    marks = {line.get_label(): line for line in axes.lines}
    assert marks["iid"].get_xdata() == pytest.approx([1, 2, 3])
    assert [round(y) for y in marks["skewed"].get_ydata()] == [0, 1, 2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.filterwarnings("error")
def test_figures_stay_on_their_ground_and_clear_of_the_edges(trials, dark):
    for figure in (draw_costs(trials, dark=dark), draw_ranks(trials, dark=dark)):
        image = imread(BytesIO(rendered(figure, "png", dark=dark)), format="png")[..., :3]
        assert (image[0, 0].max() < 0.12) == dark
        ink = np.abs(image - image[0, 0]).max(axis=2) > 0.1
        assert ink.mean() > 0.01
        assert not ink[0].any() and not ink[-1].any()
        assert not ink[:, 0].any() and not ink[:, -1].any()


def test_the_report_of_several_worlds_ranks_methods(named):
    page = report(named).read_text()
    assert "iid, scaffold" in page and "Place by final test accuracy" in page
    drawn = {path.stem for path in (named / "report").glob("*.png")}
    assert drawn == {"curves", "costs", "final", "ranking"}
