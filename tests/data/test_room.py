"""The room as a whole: settings that say what the functions say, and imports that stay light."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dai_lab import data as room
from dai_lab.config import digest, load
from dai_lab.data import digits, long_tail

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted([*CONF.glob("data/*.yaml"), *CONF.glob("partition/*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_names_its_function_and_every_knob_with_its_default(path):
    node = yaml.safe_load(path.read_text())
    assert node.pop("_target_") == f"dai_lab.data.{path.stem}"
    takes = inspect.signature(getattr(room, path.stem)).parameters
    given = ("data", "clients", "key") if path.parent.name == "partition" else ()
    given += tuple(  # what a group of its own fills
        choice.partition("@")[2].partition(":")[0]
        for one in node.pop("defaults", ())
        for choice in (one if isinstance(one, dict) else ())
    )
    defaults = {name: knob.default for name, knob in takes.items() if name not in given}
    plain = {name: list(one) if isinstance(one, tuple) else one for name, one in defaults.items()}
    assert node == plain


def test_everything_public_has_a_yaml_or_is_for_notebooks():
    for_notebooks = {"describe", "holdings", "picture", "split", "tensors"}
    assert set(room.__all__) - for_notebooks == {path.stem for path in FILES}


def test_importing_the_room_imports_nothing_heavy():
    heavy = ("matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "torchvision")
    probe = f"import sys, dai_lab.data\nprint([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr


def test_loading_data_leaves_the_global_generators_alone():
    import numpy as np

    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    room.compas()
    room.digits()
    room.watch_har()
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_a_long_tail_leaves_less_of_each_class_and_rows_as_they_were():
    whole, thin = digits(), long_tail(of=digits, ratio=0.5)
    for before, after in ((whole.train, thin.train), (whole.test, thin.test)):
        counts, left = (one.targets.bincount(minlength=10) for one in (before, after))
        assert left.tolist() == [
            max(1, round(0.5**label * count)) for label, count in enumerate(counts.tolist())
        ]
        first = (before.targets == 3).nonzero().flatten()[: left[3]]
        assert torch.equal(after.inputs[after.targets == 3], before.inputs[first])
    assert torch.equal(long_tail(of=digits, ratio=1.0).train.inputs, whole.train.inputs)
    with pytest.raises(ValueError, match=r"data\.ratio must be in \(0, 1\], got 0\.0"):
        long_tail(of=digits, ratio=0.0)


def test_where_nested_data_lie_names_no_other_run(tmp_path):
    words = ("data=long_tail", "data@data.of=fashion_mnist")
    assert digest(load(*words)) == digest(load(*words, f"data.of.root={tmp_path}"))
    assert digest(load(*words)) != digest(load(*words, "data.ratio=0.4"))
