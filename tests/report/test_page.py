"""Figures and the page: readable, safe, self-contained, repeatable."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from omegaconf import OmegaConf

from dai_lab.metrics import estimate
from dai_lab.report import command, curves, finals, read, report
from dai_lab.report.figures import rendered, styles


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pixels(data):
    from matplotlib.image import imread

    return imread(BytesIO(data), format="png")[..., :3]


@pytest.fixture(scope="module")
def study(studies, tmp_path_factory):
    return studies.sweep(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(study):
    return report(study).read_text()


def test_the_page_needs_nothing_but_itself(page):
    tags = Tags(page)
    assert tags.open == []
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[\w+/=]+", "", page))
    sources = [attrs.get("src") or attrs.get("srcset") for tag, attrs in tags.found]
    images = [source for source in sources if source]
    assert len(images) == 6
    for source in images:
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(b64decode(data)).tag.endswith("svg")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags.found}
    assert all(attrs["alt"] for tag, attrs in tags.found if tag == "img")


def test_the_page_has_a_light_and_a_dark_face(page):
    assert page.count("prefers-color-scheme: dark") == 4
    light, dark = (
        b64decode(re.search(rf'{name}="data:image/svg\+xml;base64,([^"]+)', page)[1]).decode()
        for name in ("src", "srcset")
    )
    assert "#15181c" in dark and "#15181c" not in light


def test_the_page_says_what_ran_where_and_how_to_repeat_it(page):
    for said in ("attack=alie", "0123abc", "2.15.0", "a processor", "9 finished runs of 9"):
        assert said in page


def test_the_same_runs_give_the_same_bytes(study, page):
    out = study / "report"
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    report(study)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert before.keys() == {
        *(f"{name}.{kind}" for name in ("curves", "costs", "final") for kind in ("png", "svg")),
        *(f"table.{kind}" for kind in ("md", "tex", "csv")),
        "runs.csv",
        "report.html",
    }


def test_text_from_a_config_cannot_become_markup(studies, tmp_path):
    evil = "<script>alert(1)</script>"
    for place, text in enumerate((evil, "$x_{", "plain")):
        settings = studies.config(federation={"clients": text}, name=evil, note=evil)
        studies.write(tmp_path, settings, name=f"run-{place}")
    studies.write(tmp_path, studies.config(), finished=False, name="<b>half")
    page = report(tmp_path).read_text()
    assert "<script" not in page and "<b>" not in page
    assert "&lt;script&gt;" in page and "&lt;b&gt;half" in page
    assert "<script" not in (tmp_path / "report" / "table.md").read_text()


def test_a_study_with_nothing_finished_still_gets_a_page(studies, tmp_path):
    studies.write(tmp_path, studies.config(rounds=8), finished=False)
    page = report(tmp_path).read_text()
    assert "No run has finished" in page and "unfinished: 8 of 8 rounds" in page
    assert not (tmp_path / "report" / "curves.svg").exists()
    with pytest.raises(ValueError, match="no finished run has any of test_accuracy"):
        curves(tmp_path)


def test_runs_on_different_machines_are_shown_to_differ(studies, tmp_path):
    studies.write(tmp_path, studies.config(seed=0))
    other = studies.write(tmp_path, studies.config(seed=1)) / "environment.json"
    other.write_text(other.read_text().replace("0123abc", "4567def"))
    assert "<code>0123abc</code><br><code>4567def</code>" in report(tmp_path).read_text()


def test_a_report_that_cannot_be_written_is_one_line(studies, tmp_path):
    studies.write(tmp_path, studies.config())
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write the report into"):
        report(tmp_path)


def test_lines_and_bands_are_the_estimates_of_each_round(studies, study):
    axes = curves(study).axes[0]
    assert [line.get_label() for line in axes.lines] == [
        "attack=alie",
        "attack=ipm",
        "attack=none",
    ]
    by_seed = [studies.records(studies.config("alie", seed), final=0.5) for seed in range(3)]
    wanted = [estimate([rows[place]["test_accuracy"] for rows in by_seed]) for place in range(8)]
    assert axes.lines[0].get_ydata() == pytest.approx([one.value for one in wanted])
    corners = axes.collections[0].get_paths()[0].vertices
    for number, one in enumerate(wanted, start=1):
        heights = corners[corners[:, 0] == number, 1]
        assert (heights.min(), heights.max()) == pytest.approx((one.low, one.high))


def test_a_figure_is_drawn_on_its_ground_and_leaves_settings_alone(study):
    before = dict(matplotlib.rcParams)
    light = pixels(rendered(curves(study), "png"))
    dark = pixels(rendered(curves(study, dark=True), "png", dark=True))
    assert dict(matplotlib.rcParams) == before
    assert light[0, 0].min() == 1 and dark[0, 0].max() < 0.12
    # Something is drawn, and it stays clear of the edges.
    for image in (light, dark):
        ink = np.abs(image - image[0, 0]).max(axis=2) > 0.1
        assert ink.mean() > 0.01
        assert not ink[0].any() and not ink[-1].any()
        assert not ink[:, 0].any() and not ink[:, -1].any()


@pytest.mark.filterwarnings("error")
def test_long_labels_and_many_settings_still_fit(studies, tmp_path):
    for place in range(24):
        extra = {f"a_long_knob_number_{knob}": place + knob for knob in range(5)}
        studies.write(tmp_path, studies.config(rounds=3, extra=extra), name=f"run-{place}")
    for figure in (curves(tmp_path), finals(tmp_path)):
        ink = pixels(rendered(figure, "png")).min(axis=2) < 0.9
        assert ink.any() and not ink[:, 0].any() and not ink[:, -1].any()


def test_no_two_of_thirty_curves_look_alike():
    for dark in (False, True):
        looks = [tuple(map(str, style.values())) for style in styles(30, dark=dark)]
        assert len(set(looks)) == 30


def test_a_notebook_shows_the_figure_without_any_magic_on_its_own_ground(study):
    for dark in (False, True):
        figure = curves(study, dark=dark)
        shown, saved = BytesIO(figure._repr_png_()), BytesIO()
        figure.savefig(saved, format="png", dpi=150)
        np.testing.assert_array_equal(pixels(saved.getvalue()), pixels(shown.getvalue()))
        assert (pixels(shown.getvalue())[0, 0].max() < 0.12) == dark


@pytest.mark.parametrize(
    "words",
    [
        ["seed=2"],
        ["frame=centralized", "rounds=3"],
        ["attack=alie", "attack.z=2.5", "federation.hostile=3"],
        ["attack=sleeper", "federation.clip=1.5"],
        ["model.hidden=[64,32]", "name=a-b", "evaluation.target=0.8"],
        ["partition=dirichlet", "partition.alpha=0.1", "server=fedadam"],
    ],
)
def test_the_command_composes_to_the_very_same_settings(studies, tmp_path, words):
    import shlex

    from dai_lab.config import digest, load

    before = load(*words)
    settings = OmegaConf.to_container(before, resolve=True, enum_to_str=True)
    line = command(read(studies.write(tmp_path, settings, rows=[{"round": 1}])))
    start, *found = shlex.split(line.removeprefix("python -m "))
    assert start == "dai_lab.run"
    assert digest(load(*found)) == digest(before)


def test_several_seeds_are_repeated_by_one_sweep(studies, tmp_path):
    from dai_lab.config import load

    for seed in (0, 1, 10):
        made = load("attack=alie", f"seed={seed}")
        settings = OmegaConf.to_container(made, resolve=True, enum_to_str=True)
        studies.write(tmp_path, settings, name=f"run-{seed}")
    line = "python -m dai_lab.run -m attack=alie seed=0,1,10"
    assert line in report(tmp_path).read_text()


def test_uncommitted_code_is_noted(studies, tmp_path):
    place = studies.write(tmp_path, studies.config()) / "environment.json"
    place.write_text(place.read_text().replace("false", "true"))
    assert "1 of 1 runs used code that differs from its commit" in report(tmp_path).read_text()


def test_a_part_of_ones_own_is_repeated_from_its_config_file(studies, tmp_path):
    from dai_lab.config import load

    settings = OmegaConf.to_container(load(), resolve=True, enum_to_str=True)
    settings["attack"] = {"_target_": "__main__.mine", "power": 3}
    place = studies.write(tmp_path, settings)
    assert str(place / "config.yaml") in command(read(place))


def test_importing_the_report_costs_no_plotting_library():
    probe = (
        "import sys, dai_lab.report\n"
        "print([m for m in ('matplotlib', 'pandas', 'jinja2', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr
