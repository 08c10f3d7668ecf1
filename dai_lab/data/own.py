"""Your own data: tensors in a notebook, an npz or a parquet file on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dai_lab.core import Card, Dataset, Examples
from dai_lab.data.cards import content_hash, file_hash, rows_to_test
from dai_lab.data.tables import encode

if TYPE_CHECKING:
    import pandas as pd


def tensors(
    inputs: Tensor,
    targets: Tensor,
    *,
    test_inputs: Tensor | None = None,
    test_targets: Tensor | None = None,
    attributes: Mapping[str, Tensor] | None = None,
    test_attributes: Mapping[str, Tensor] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    test: float = 0.2,
    card: Card | None = None,
) -> Dataset:
    """Make a data set of your own tensors.

    Args:
        inputs: ``[examples, ...]``, or one number per example; bytes are taken for pixels and
            divided by 255, everything else becomes 32-bit floating point as it is.
        targets: ``[examples]``; integers from 0 are classes, floating-point numbers a regression.
        test_inputs: What to be judged by; without it, ``test`` of the examples are set apart,
            the same ones for every seed.
        test_targets: Targets of ``test_inputs``.
        attributes: Whole numbers from 0 about each example, by name.
        test_attributes: The same for ``test_inputs``.
        names: Readable names of ``classes`` and of each attribute's values.
        test: Share to set apart, above 0 and below 1.
        card: Where the data comes from; without it, a card with the content's hash.

    Raises:
        ValueError: Lengths or shapes differ, values are NaN or negative, or there is nothing.
    """
    if (test_inputs is None) != (test_targets is None):
        raise ValueError("data: test_inputs and test_targets come together or not at all")
    train = _examples("inputs", inputs, targets, attributes or {})
    if test_inputs is None or test_targets is None:
        rows = rows_to_test(len(train), fraction=test)
        train, judge = _rows(train, ~rows), _rows(train, rows)
    else:
        judge = _examples("test_inputs", test_inputs, test_targets, test_attributes or {})
        _agree(train, judge)
    classes = _classes(train.targets, judge.targets, (names or {}).get("classes", ()))
    fresh = Card("tensors", "made in this process", "yours", content_hash(inputs, targets))
    return Dataset(train, judge, classes, card or fresh, names or {})


def file(
    *,
    path: str = "",
    target: str = "target",
    attributes: Sequence[str] = (),
    test: float = 0.2,
) -> Dataset:
    """Read your own data from an ``.npz`` or a ``.parquet`` file.

    An npz holds ``inputs`` and ``targets``, perhaps ``test_inputs`` and ``test_targets``; any
    other array of one entry per example is an attribute (``test_<name>`` for the test part).
    They are taken as ``tensors`` takes them. A parquet file is a table: numbers are
    standardized, words become one column each, and rows of the test part influence neither.
    Words as targets or attributes are numbered in alphabetical order.

    Args:
        path: The file.
        target: Parquet: the column to predict.
        attributes: Parquet: columns kept as attributes, out of the model's sight.
        test: Share of examples set apart to be judged by, where the file itself has no test
            part; the same examples for every seed.

    Raises:
        ValueError: The file is missing, damaged, holds Python objects, lacks an array or a
            column, or its arrays do not fit together.
    """
    where = Path(path).expanduser()
    if where.suffix not in (".npz", ".parquet"):
        raise ValueError(f"data.path must name an .npz or .parquet file, got {path!r}")
    if not where.is_file():
        raise ValueError(f"data.path: there is no file {path}")
    origin = Card(where.stem, where.name, "yours", file_hash(where))
    try:
        if where.suffix == ".npz":
            return _npz(where, test, origin)
        return _parquet(where, target, list(attributes), test, origin)
    except ValueError as error:
        line = " ".join(str(error).split())
        raise ValueError(
            line if line.startswith("data.") else f"data.path={path}: {line}"
        ) from None


def _npz(where: Path, test: float, origin: Card) -> Dataset:
    """Read a file of arrays; never a pickled object."""
    try:
        with np.load(where, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot be read as npz: {error}") from None
    if missing := [name for name in ("inputs", "targets") if name not in arrays]:
        raise ValueError(f"has no array {missing[0]!r}, only {sorted(arrays)}")
    numbered, names = _numbered(arrays)
    inputs, targets = numbered.pop("inputs"), numbered.pop("targets")
    test_inputs, test_targets = (
        numbered.pop("test_inputs", None),
        numbered.pop("test_targets", None),
    )
    if test_inputs is None and (stray := [name for name in numbered if name.startswith("test_")]):
        raise ValueError(f"has {stray[0]!r} but no 'test_inputs'")
    return tensors(
        inputs,
        targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        attributes={k: v for k, v in numbered.items() if not k.startswith("test_")},
        test_attributes={k[5:]: v for k, v in numbered.items() if k.startswith("test_")},
        names=names,
        test=test,
        card=origin,
    )


def _numbered(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Number words in alphabetical order, alike in the train and the test part."""
    numbers: dict[str, Tensor] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name in arrays:
        array, plain = arrays[name], name.removeprefix("test_")
        if array.dtype.kind in "US" and plain != "inputs":
            both = [arrays[key].astype(str) for key in (plain, f"test_{plain}") if key in arrays]
            words = np.unique(np.concatenate([one.ravel() for one in both]))
            array = np.searchsorted(words, array.astype(str))
            names["classes" if plain == "targets" else plain] = tuple(words.tolist())
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} must hold numbers, got {array.dtype}")
        kept = {"u": array.dtype if array.dtype == np.uint8 else np.int64, "f": np.float64}
        kind = kept.get(array.dtype.kind, array.dtype.newbyteorder("="))
        numbers[name] = torch.from_numpy(np.array(array, dtype=kind, order="C"))
    return numbers, names


def _parquet(
    where: Path, target: str, attributes: Sequence[str], test: float, origin: Card
) -> Dataset:
    """Read a table and encode it."""
    import pandas as pd
    from pyarrow import ArrowException

    try:
        table = pd.read_parquet(where)
    except (OSError, ValueError, ArrowException) as error:
        raise ValueError(f"cannot be read as parquet: {error}") from None
    columns = [str(name) for name in table]
    table.columns = columns
    if target not in columns:
        raise ValueError(f"data.target must be one of {columns}, got {target!r}")
    if strangers := [name for name in attributes if name not in columns or name == target]:
        raise ValueError(
            f"data.attributes must be other columns of {columns}, got {strangers[0]!r}"
        )
    if holes := int(table.isin([np.inf, -np.inf]).where(table.notna(), True).any(axis=1).sum()):
        raise ValueError(f"{holes} of {len(table)} rows have empty or infinite cells")
    rest = table.drop(columns=[target, *attributes])
    if rest.shape[1] == 0:
        raise ValueError("no column is left for inputs")
    for name in rest:
        if (
            rest[name].dtype.kind not in "biuf"
            and (words := rest[name].astype(str).nunique()) > 999
        ):
            raise ValueError(f"column {name} has {words} different words, too many to be inputs")
    kept = {name: _plain(table[name]) for name in attributes}
    numbered, names = _numbered({"targets": _plain(table[target]), **kept})
    labels = numbered.pop("targets")
    rows = rows_to_test(len(table), fraction=test)
    inputs = encode(rest, rows)
    whole = _examples("inputs", inputs, labels, numbered)
    train, judge = _rows(whole, ~rows), _rows(whole, rows)
    classes = _classes(train.targets, judge.targets, names.get("classes", ()))
    return Dataset(train, judge, classes, origin, names)


def _plain(column: pd.Series[Any]) -> np.ndarray:
    """Take a column's numbers, or its words."""
    numbers = column.dtype.kind in "biuf"
    return column.to_numpy() if numbers else column.to_numpy(str)


def _examples(
    what: str, inputs: Tensor, targets: Tensor, attributes: Mapping[str, Tensor]
) -> Examples:
    """Check and convert one part."""
    if inputs.dim() == 0 or len(inputs) == 0:
        raise ValueError(f"data: {what} holds no examples")
    if targets.dim() != 1:
        raise ValueError(
            f"data: targets must have one number per example, got shape {tuple(targets.shape)}"
        )
    if inputs.is_complex():
        raise ValueError(f"data: {what} must be real numbers, got {inputs.dtype}")
    for name, column in {"targets": targets, **attributes}.items():
        if len(column) != len(inputs):
            raise ValueError(f"data: {name} has {len(column)} entries for {len(inputs)} {what}")
    for name, column in attributes.items():
        if column.is_floating_point() or column.dim() != 1 or bool((column < 0).any()):
            raise ValueError(
                f"data: attribute {name} must have one whole number from 0 per example"
            )
    if targets.is_floating_point() and not bool(targets.isfinite().all()):
        bad = int((~targets.isfinite()).sum())
        raise ValueError(f"data: {bad} of {len(targets)} targets are NaN or infinite")
    numbers = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
    return Examples(
        numbers if numbers.dim() > 1 else numbers[:, None],
        targets.float() if targets.is_floating_point() else targets.long(),
        {name: column.long() for name, column in attributes.items()},
    )


def _rows(part: Examples, rows: Tensor) -> Examples:
    """Take the marked examples."""
    attributes = {name: column[rows] for name, column in part.attributes.items()}
    return Examples(part.inputs[rows], part.targets[rows], attributes)


def _agree(train: Examples, test: Examples) -> None:
    """Refuse parts that do not describe the same kind of thing."""
    shapes = tuple(train.inputs.shape[1:]), tuple(test.inputs.shape[1:])
    if shapes[0] != shapes[1]:
        raise ValueError(f"data: inputs have shape {shapes[0]} and test_inputs {shapes[1]}")
    if train.targets.dtype != test.targets.dtype:
        raise ValueError("data: targets and test_targets must both be classes or both numbers")
    if lacking := sorted(train.attributes.keys() ^ test.attributes.keys()):
        raise ValueError(f"data: attribute {lacking[0]} must be there for train and for test")


def _classes(train: Tensor, test: Tensor, names: Sequence[str]) -> int:
    """Count the classes; 0 for a regression."""
    if train.is_floating_point():
        return 0
    if int(min(train.min(), test.min())) < 0:
        raise ValueError("data: classes must be numbered from 0, got a negative target")
    classes = max(int(max(train.max(), test.max())) + 1, len(names))
    if classes > max(1000, len(train) + len(test)):
        raise ValueError(
            f"data: targets name {classes} classes: number them from 0, or make them "
            "floating-point numbers for a regression"
        )
    return classes
