"""A reader's own data comes in as it is, or is refused in one line."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Key
from dai_lab.data import describe, file, iid, natural, tensors


def arrays(examples=20):
    draw = np.random.default_rng(0)
    return {
        "inputs": draw.normal(size=(examples, 2, 3)).astype(np.float32),
        "targets": np.arange(examples) % 4,
        "hospital": np.array(["north", "south"])[np.arange(examples) % 2],
    }


def saved(folder, **content):
    np.savez(folder / "mine.npz", **content)
    return str(folder / "mine.npz")


@given(examples=st.integers(2, 60), test=st.floats(0.05, 0.95))
def test_tensors_are_parted_without_losing_or_changing_any(examples, test):
    inputs = torch.arange(examples).float()[:, None]
    about = {"even": torch.arange(examples) % 2}
    data = tensors(inputs, torch.arange(examples), attributes=about, test=test)
    both = torch.cat([data.train.inputs, data.test.inputs]).flatten().long()
    assert both.sort().values.tolist() == list(range(examples))
    for part in (data.train, data.test):
        assert torch.equal(part.inputs.flatten().long(), part.targets)
        assert torch.equal(part.attributes["even"], part.targets % 2)
    assert data.classes == examples


def test_bytes_are_pixels_and_numbers_are_a_regression():
    pictures = tensors(torch.full((4, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 1, 2, 1]))
    assert float(pictures.train.inputs.max()) == 1 and pictures.classes == 3
    numbers = tensors(torch.randn(8, 2, dtype=torch.float64), torch.randn(8))
    assert numbers.classes == 0 and numbers.train.inputs.dtype == torch.float32
    assert "numbers from" in describe(numbers)


def test_an_npz_comes_back_with_its_words_numbered_and_its_own_test_part(tmp_path):
    content = arrays()
    tests = {f"test_{name}": array[:6] for name, array in content.items()}
    path = saved(tmp_path, **content, **tests)
    data = file(path=path)
    np.testing.assert_array_equal(data.train.inputs.numpy(), content["inputs"])
    np.testing.assert_array_equal(data.test.targets.numpy(), content["targets"][:6])
    assert data.names["hospital"] == ("north", "south")
    assert data.train.attributes["hospital"].tolist() == [0, 1] * 10
    assert data.test.attributes["hospital"].tolist() == [0, 1] * 3
    assert data.classes == 4 and data.card.name == "mine"
    with open(path, "rb") as stored:
        assert data.card.sha256 == hashlib.sha256(stored.read()).hexdigest()
    assert natural(data, key=Key(0), by="hospital").shards.sizes.tolist() == [10, 10]


def test_an_npz_without_a_test_part_is_split_the_same_way_every_time(tmp_path):
    path = saved(tmp_path, **arrays())
    one, other = file(path=path, test=0.3), file(path=path, test=0.3)
    assert len(one.test) == 6 and torch.equal(one.test.inputs, other.test.inputs)


def test_words_as_targets_become_named_classes(tmp_path):
    content = arrays() | {"targets": np.array(["cat", "ant", "bee", "ant"] * 5)}
    data = file(path=saved(tmp_path, **content))
    assert data.names["classes"] == ("ant", "bee", "cat") and data.classes == 3
    assert sorted(torch.cat([data.train.targets, data.test.targets]).tolist())[-1] == 2


def test_a_table_is_standardized_by_its_training_rows_and_its_words_are_columns(tmp_path):
    import pandas as pd

    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "height": draw.normal(170, 9, size=200),
            "color": np.array(["red", "green"])[np.arange(200) % 2],
            "city": np.array(["x", "y", "z", "w"])[np.arange(200) % 4],
            "sick": np.arange(200) % 2 == 0,
        }
    )
    table.to_parquet(tmp_path / "people.parquet")
    data = file(path=str(tmp_path / "people.parquet"), target="sick", attributes=["city"])
    assert data.shape == (3,) and data.classes == 2 and len(data.test) == 40
    assert float(data.train.inputs[:, 0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train.inputs[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-5)
    # "green" comes first in the alphabet and marks the odd rows, which are not sick.
    assert torch.equal(data.train.inputs[:, 1].long(), 1 - data.train.targets)
    assert data.names["city"] == ("w", "x", "y", "z")
    assert set(data.train.attributes) == {"city"}


BROKEN = {
    "no inputs": (
        lambda c: {"targets": c["targets"]},
        r"has no array 'inputs', only \['targets'\]",
    ),
    "NaN rows": (
        lambda c: c | {"inputs": np.where(np.arange(20)[:, None, None] < 3, np.nan, c["inputs"])},
        "3 of 20 inputs hold NaN or infinity",
    ),
    "NaN targets": (
        lambda c: c | {"targets": np.where(np.arange(20) < 2, np.nan, 1.0)},
        "2 of 20 targets are NaN or infinite",
    ),
    "too few targets": (
        lambda c: c | {"targets": c["targets"][:7]},
        "targets has 7 entries for 20 inputs",
    ),
    "wide targets": (
        lambda c: c | {"targets": np.eye(20)},
        r"targets must have one number per example, got shape \(20, 20\)",
    ),
    "negative classes": (
        lambda c: c | {"targets": c["targets"] - 1},
        "classes must be numbered from 0, got a negative target",
    ),
    "a short attribute": (
        lambda c: c | {"hospital": np.arange(4)},
        "hospital has 4 entries for 20 inputs",
    ),
    "a broken attribute": (
        lambda c: c | {"hospital": np.linspace(0, 1, 20)},
        "attribute hospital must have one whole number from 0 per example",
    ),
    "objects": (
        lambda c: c | {"hospital": np.array([{}] * 20, dtype=object)},
        "cannot be read as npz: Object arrays cannot be loaded",
    ),
    "times": (
        lambda c: c | {"inputs": np.arange(20).astype("datetime64[s]")},
        r"inputs must hold numbers, got datetime64\[s\]",
    ),
    "words for inputs": (lambda c: c | {"inputs": c["hospital"]}, "inputs must hold numbers"),
    "complex inputs": (lambda c: c | {"inputs": c["inputs"] * 1j}, "inputs must hold numbers"),
    "nothing": (lambda c: {name: array[:0] for name, array in c.items()}, "holds no examples"),
    "half a test part": (
        lambda c: c | {"test_inputs": c["inputs"]},
        "test_inputs and test_targets come together",
    ),
    "a stray test array": (
        lambda c: c | {"test_hospital": c["hospital"]},
        "has 'test_hospital' but no 'test_inputs'",
    ),
    "another shape to test": (
        lambda c: c | {"test_inputs": c["inputs"][:, :1], "test_targets": c["targets"]},
        r"inputs have shape \(2, 3\) and test_inputs \(1, 3\)",
    ),
    "an attribute for one part": (
        lambda c: c | {"test_inputs": c["inputs"], "test_targets": c["targets"]},
        "attribute hospital must be there for train and for test",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_npz_is_refused_in_one_line_that_names_the_file(name, tmp_path):
    break_it, complaint = BROKEN[name]
    path = saved(tmp_path, **break_it(arrays()))
    with pytest.raises(ValueError, match=complaint) as caught:
        file(path=path)
    assert str(caught.value).startswith("data.path=") and "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_a_damaged_file_is_refused_in_one_line(suffix, damage, tmp_path):
    import pandas as pd

    path = tmp_path / f"mine.{suffix}"
    if suffix == "npz":
        np.savez(path, **arrays(2000))
    else:
        pd.DataFrame({"a": range(2000), "target": range(2000)}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "noise": b"x" * 999, "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ValueError, match=f"cannot be read as {suffix}") as caught:
        file(path=str(path))
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling one of these is noticed."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_a_pickle_in_disguise_is_never_opened(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="cannot be read as npz"):
        file(path=str(path))
    hidden = saved(tmp_path, inputs=np.array([Trap()], dtype=object), targets=np.zeros(1, int))
    with pytest.raises(ValueError, match="cannot be read as npz"):
        file(path=hidden)
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"target": "b"}, r"data.target must be one of \['a', 'word', 'target'\], got 'b'"),
        ({"attributes": ["b"]}, "data.attributes must be other columns of .* got 'b'"),
        ({"attributes": ["target"]}, "data.attributes must be other columns of .* got 'target'"),
        ({"attributes": ["a", "word"]}, "no column is left for inputs"),
        ({"test": 0.0}, r"data.test must be above 0 and below 1, got 0.0"),
        ({"test": 1.0}, r"data.test must be above 0 and below 1, got 1.0"),
    ],
)
def test_a_knob_that_does_not_fit_the_table_is_named(knobs, complaint, tmp_path):
    import pandas as pd

    path = tmp_path / "mine.parquet"
    pd.DataFrame({"a": [1, 2, 3], "word": ["u", "v", "u"], "target": [0, 1, 0]}).to_parquet(path)
    with pytest.raises(ValueError, match=complaint):
        file(path=str(path), **knobs)


def test_a_table_with_holes_is_refused(tmp_path):
    import pandas as pd

    path = tmp_path / "mine.parquet"
    pd.DataFrame({"a": [1, None, 3], "b": [np.inf, 2.0, 3.0], "target": [0] * 3}).to_parquet(path)
    with pytest.raises(ValueError, match="2 of 3 rows have empty or infinite cells"):
        file(path=str(path))


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("", "data.path must name an .npz or .parquet file, got ''"),
        ("mine.csv", "data.path must name an .npz or .parquet file, got 'mine.csv'"),
        ("nowhere.npz", "data.path: there is no file nowhere.npz"),
    ],
)
def test_a_file_that_is_not_there_is_named(path, complaint):
    with pytest.raises(ValueError) as caught:
        file(path=path)
    assert str(caught.value) == complaint


def test_a_column_of_names_is_refused_as_input_and_taken_as_an_attribute(tmp_path):
    import pandas as pd

    path = tmp_path / "mine.parquet"
    table = pd.DataFrame({"name": [f"n{i}" for i in range(1500)], "a": 1.0, "target": 0})
    table.to_parquet(path)
    with pytest.raises(ValueError, match="column name has 1500 different words"):
        file(path=str(path))
    assert file(path=str(path), attributes=["name"]).shape == (1,)


def test_targets_that_are_years_are_not_classes():
    with pytest.raises(ValueError, match="targets name 2026 classes"):
        tensors(torch.randn(9, 2), torch.full((9,), 2025))


def test_one_number_per_example_is_one_column():
    assert tensors(torch.arange(9.0), torch.zeros(9, dtype=torch.long)).shape == (1,)


def test_ones_own_tensors_can_be_dealt():
    data = tensors(torch.randn(40, 2), torch.arange(40) % 2)
    assert iid(data, clients=4, key=Key(0)).shards.sizes.tolist() == [8, 8, 8, 8]
