"""Workers serve scripts and notebooks as they are, without a guard around anything."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SCRIPT = """
import sys
from functools import partial
import torch
from torch import nn
from dai_lab.config import load
from dai_lab.experiment import simulate

print("this script runs once")
for engine in ("local", "workers"):
    cfg = load("data=digits", "model.hidden=[6]", "federation.clients=4", "rounds=2",
               f"engine={engine}")
    print(simulate(cfg, f"run/{engine}").summary["test_loss"])
"""
OWN = """
from torch import nn
from dai_lab.core import Compute, Examples, Key, Shards, State, Task
from dai_lab.engines import workers
from dai_lab.learning import sgd
from dai_lab.models import create

class Mine(nn.Linear):
    pass

model = create(lambda shape, classes: Mine(shape[0], classes), shape=(2,), classes=2, key=Key(0))
data = Examples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
task = Task(model, data, Shards.of(list(torch.arange(4).split(1))))
try:
    with workers(sgd, task, compute=Compute()) as train:
        train(State(model.initial), model.initial, range(4), key=Key(0), round=1)
except ValueError as error:
    print(error)
"""
REFUSED = (
    "engine=workers: Mine lives in a notebook cell or script; put it in a module, or use "
    "engine=local"
)


def lines(said):
    once, one, other, refused = said.splitlines()
    assert once == "this script runs once"
    assert one == other
    assert refused == REFUSED
    return True


def test_a_script_without_a_guard_runs_once(tmp_path):
    Path(tmp_path, "script.py").write_text(SCRIPT + OWN)
    # A file of the user's must not stand in for a module that workers import.
    Path(tmp_path, "queue.py").write_text("raise SystemExit('not this one')")
    code = "import runpy, queue, sys; runpy.run_path('script.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert lines(done.stdout), done.stderr


@pytest.mark.parametrize("cells", [[SCRIPT, OWN]])
def test_a_notebook_needs_nothing_special(cells, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    said = [output.text for output in outputs if output.get("name") == "stdout"]
    assert lines("".join(said))
