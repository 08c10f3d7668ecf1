"""Committed notebooks are finished: run in order, with outputs, and silent about the machine."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
A_PLACE = re.compile(r"(?<![\w.:/])/(?:tmp|home|root|work|Users|var|usr|private)/")
"""An absolute path, as temporary folders, tracebacks and warnings show it."""


def outputs(notebook):
    """Give every output but pictures, whose text is base64."""
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            kept = {k: v for k, v in output.get("data", {}).items() if "image" not in k}
            yield {**output, "data": kept}


def test_there_are_notebooks():
    assert {"01_quickstart", "02_your_own_part"} <= {one.stem for one in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_a_notebook_is_committed_with_its_outputs_and_without_an_error(notebook):
    kinds = [output["output_type"] for output in outputs(notebook)]
    assert kinds
    assert "error" not in kinds
    assert not [one for one in outputs(notebook) if one.get("name") == "stderr"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_no_output_names_a_place_on_the_machine_it_ran_on(notebook):
    assert not [found[0] for one in outputs(notebook) if (found := A_PLACE.search(json.dumps(one)))]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_running_a_notebook_again_leaves_no_trace_of_when(notebook):
    content = json.loads(notebook.read_text())
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert "language_info" not in content["metadata"]
    assert all(cell["metadata"] == {} for cell in content["cells"])
    ids = [cell["id"] for cell in content["cells"]]
    assert ids == [str(place) for place in range(len(ids))]


def test_the_search_for_places_finds_them():
    for text in ("/usr/lib/x.py:21: Warning", "see '/tmp/abc/run'", "File /home/me/a.py"):
        assert A_PLACE.search(text)
    for text in ("results/run/abc", "https://host/home/page", "data/tmp/x"):
        assert not A_PLACE.search(text)
