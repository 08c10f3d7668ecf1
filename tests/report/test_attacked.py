"""Defenses are judged by their worst attack, peak and final."""

import numpy as np
import pytest

from dai_lab.report.attacked import attacked, backdoored, draw_cells, draw_heat, gaps, worst
from dai_lab.report.trials import Trial


def trial(algorithm, world, curves, success=None):
    """Runs that were judged at rounds 10, 20 and so on."""
    seeds = {}
    for seed, curve in enumerate(curves):
        seeds[seed] = [
            {
                "round": 10 * (at + 1),
                "test_accuracy": value,
                **({} if success is None else {"attack_success": success[seed]}),
            }
            for at, value in enumerate(curve)
        ]
    return Trial(algorithm, world, seeds)


TRIALS = [
    trial("mean", "iid+none", [[0.5, 0.9], [0.5, 0.9]]),
    trial("mean", "iid+flip", [[0.6, 0.1], [0.7, 0.2]]),
    trial("mean", "iid+mimic", [[0.5, 0.8], [0.5, 0.8]]),
    trial("krum", "iid+none", [[0.4, 0.7], [0.4, 0.7]]),
    trial("krum", "iid+flip", [[0.5, 0.7], [0.5, 0.7]]),
    trial("krum", "iid+mimic", [[0.3, 0.4], [0.3, 0.6]]),
]


def test_the_worst_attack_is_named_with_what_is_left_and_the_lowest_peak():
    table = worst(TRIALS)
    line = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("|")}
    # Under flip the mean once had 0.65, which is its lowest peak; in the end it has 0.15.
    assert "0.150" in line["mean"] and "flip; peak 0.650" in line["mean"]
    assert "**0.500** [0.400, 0.600] mimic; peak 0.500" in line["krum"]
    assert table.index("| krum") < table.index("| mean |")
    assert "none" not in line["mean"]


def test_a_run_that_broke_down_has_learned_nothing():
    broken = trial("mean", "iid+nan", [[0.5, None], [0.5, None]])
    assert "none (2 of 2 missing) nan; peak 0.500" in worst([*TRIALS[:3], broken])


def test_peaks_are_of_the_mean_over_seeds():
    found = attacked([trial("a", "x+y", [[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]])])["x", "y", "a"]
    assert found.peak.value == pytest.approx(0.5) and found.final.value == 0.5


def test_gaps_are_paired_by_seed():
    ours = trial("a", "x+y", [[0.5], [0.7], [0.9]])
    theirs = trial("b", "x+y", [[0.4], [0.6], [0.8]])
    (gap,) = gaps([ours, theirs], "a", "b").values()
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    assert gaps([ours, trial("b", "x+z", [[0.1]])], "a", "b") == {}


def test_backdoors_show_accuracy_and_success():
    table = backdoored([trial("mean", "x+dba", [[0.9], [0.9]], success=[1.0, 0.8])])
    assert "| mean | 0.900 [0.900, 0.900] / 0.900 [0.800, 1.000] |" in table
    with pytest.raises(ValueError, match="no finished run has attack_success"):
        backdoored(TRIALS)


@pytest.mark.parametrize("dark", [False, True])
def test_a_heat_map_says_every_number_where_it_can_be_read(dark):
    figure = draw_heat(TRIALS, dark=dark)
    (panel, _) = figure.axes
    said = {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in panel.texts
    }
    names = [label.get_text() for label in panel.get_yticklabels()]
    attacks = [label.get_text() for label in panel.get_xticklabels()]
    assert said[names.index("mean"), attacks.index("flip")] == ".15"
    assert said[names.index("krum"), attacks.index("none")] == ".70"
    shades = panel.images[0]
    for text in panel.texts:
        column, row = (int(one) for one in text.get_position())
        ground = shades.cmap(shades.norm(shades.get_array()[row, column]))[:3]
        light = np.dot(ground, (0.2126, 0.7152, 0.0722))
        assert (light > 0.35) == (text.get_color() == "#000000") or 0.2 < light < 0.5


def test_cells_that_were_not_run_stay_empty():
    figure = draw_cells({("x", "a", "m"): 0.5, ("y", "b", "n"): 1.0})
    assert [text.get_text() for text in figure.axes[0].texts].count("") == 3
    assert "1.00" in [text.get_text() for text in figure.axes[1].texts]


def test_a_world_without_an_attack_is_refused():
    with pytest.raises(ValueError, match=r"a world must be <place>\+<attack>, got iid"):
        worst([trial("mean", "iid", [[0.5]])])
