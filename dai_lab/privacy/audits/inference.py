"""What else an update or a model tells: a property of the data, an attribute, a record's source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core import Examples, Key, Model, Rows, Shards, Vector
from dai_lab.privacy.audits.curves import Rate, exact
from dai_lab.privacy.audits.shadows import losses

PIECE = 1 << 16
"""Parameters projected at a time, so that a large model needs no large matrix."""


@dataclass(frozen=True)
class Guesses:
    """How an attack did, trial by trial."""

    correct: Bool[np.ndarray, "trials"]
    chance: float
    """What always giving the most common answer gets right."""

    def rate(self, *, confidence: float = 0.95) -> Rate:
        """Give the share of right guesses with its exact interval, for independent trials."""
        return exact(int(self.correct.sum()), len(self.correct), confidence=confidence)


def property_shards(
    having: Bool[Tensor, "examples"],
    *,
    clients: int,
    size: int,
    shares: tuple[float, float],
    key: Key,
) -> tuple[Shards, Bool[Tensor, "clients"]]:
    """Give half of the clients a larger share of examples with a property.

    Args:
        having: Which examples have it.
        clients: Even, and at least 2. What one holds, another may hold too.
        size: Different examples a client holds, at least 1.
        shares: Of examples that have it, first without and then with the property of holding
            many; each in [0, 1].
        key: Where clients and examples are drawn.

    Returns:
        Who holds what, and which clients hold many.

    Raises:
        ValueError: A number out of range, or too few examples of either kind.

    Source:
        Ganju et al. 2018, Property inference attacks on fully connected neural networks,
        section 3 (shadow data with and without the property).
    """
    if clients < 2 or clients % 2:
        raise ValueError(f"property.clients must be even and at least 2, got {clients}")
    if size < 1 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"property: size {size} must be at least 1, shares {shares} in [0, 1]")
    kinds = [(~having).nonzero().squeeze(1), having.nonzero().squeeze(1)]
    counts = [round(share * size) for share in shares]
    if max(counts) > len(kinds[1]) or size - min(counts) > len(kinds[0]):
        raise ValueError(
            f"property.size={size} at shares {shares} needs {size - min(counts)} examples "
            f"without and {max(counts)} with it: there are {len(kinds[0])} and {len(kinds[1])}"
        )
    many = torch.randperm(clients, generator=(key / "many").stream()) < clients // 2
    held = []
    for client in range(clients):
        stream = (key / "client" / client).stream()
        most = counts[int(many[client])]
        some = [
            kind[torch.randperm(len(kind), generator=stream)[:count]]
            for kind, count in zip(kinds, (size - most, most), strict=True)
        ]
        held.append(torch.cat(some))
    return Shards.of(held), many


def property_inference(
    shadows: Rows,
    had: Bool[Tensor, "_"],
    targets: Rows,
    truth: Bool[Tensor, "trials"],
    *,
    key: Key,
    width: int = 64,
    penalty: float = 1.0,
) -> Guesses:
    """Guess from updates whose data has a property, as learned from updates of one's own.

    Args:
        shadows: Updates the attacker made on data of its own, of both kinds.
        had: Which of them came from data with the property.
        targets: Updates to judge, as long.
        truth: Which of those did.
        key: Where the projection is drawn.
        width: Directions at random that an update is reduced to, at least 1.
        penalty: On the squared weights of a logistic regression, above 0.

    Raises:
        ValueError: A knob out of range, or shadow updates of one kind alone.

    Source:
        Melis et al. 2019, arXiv:1805.04049, section V (property inference from updates).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if width < 1 or not penalty > 0:
        raise ValueError(
            f"property: width {width} must be at least 1 and penalty {penalty} above 0"
        )
    if not 0 < int(had.sum()) < len(had):
        raise ValueError("property: shadow updates must be of both kinds")
    seen, judged = (projected(rows, width=width, key=key).numpy() for rows in (shadows, targets))
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))
    found = judge.fit(seen, had.numpy()).predict(judged)
    return _guesses(torch.from_numpy(found).long(), truth.long())


def projected(rows: Rows, *, width: int, key: Key) -> Float[Tensor, "_ width"]:
    """Reduce rows to random directions, which keep most of the distances between them.

    Args:
        rows: One vector a row.
        width: Directions, at least 1.
        key: Where they are drawn; the same key gives the same directions.

    Source:
        Johnson and Lindenstrauss 1984, Extensions of Lipschitz mappings into a Hilbert space.
    """
    found = torch.zeros((len(rows), width), dtype=torch.float64)
    for place, piece in enumerate(rows.split(PIECE, dim=1)):
        stream = (key / "projection" / place).stream()
        directions = torch.randn((piece.shape[1], width), generator=stream)
        found += (piece.cpu().float() @ directions).double()
    return found / math.sqrt(width)


def spelled(
    inputs: Float[Tensor, "examples features"],
    values: Int[Tensor, "examples"],
    columns: Sequence[int],
) -> Float[Tensor, "kinds columns"]:
    """Find how each value of an attribute is written in some columns, from the first who has it.

    Args:
        inputs: Where it is written.
        values: Of the attribute, from 0; each occurs.
        columns: Those that hold the attribute and nothing else.

    Raises:
        ValueError: A value that does not occur, or that is written in several ways.
    """
    found: list[Tensor] = []
    for value in range(int(values.max()) + 1):
        written = inputs[values == value][:, list(columns)]
        if not len(written) or not bool((written == written[0]).all()):
            how = "in several ways" if len(written) else "nowhere"
            raise ValueError(f"attribute: value {value} is written {how} in columns {columns}")
        found.append(written[0])
    return torch.stack(found)


def attribute_losses(
    model: Model,
    params: Vector,
    examples: Examples,
    *,
    columns: Sequence[int],
    codes: Float[Tensor, "kinds columns"],
) -> Float[Tensor, "kinds examples"]:
    """Charge a model for every example as it would be with each value of an attribute.

    Args:
        model: What ``params`` are parameters of.
        params: The target.
        examples: Inputs ``[examples, features]``; what they hold in ``columns`` is not used.
        columns: Those that hold the attribute.
        codes: How each value is written there, as by :func:`spelled`.
    """
    charged = []
    for code in codes:
        inputs = examples.inputs.clone()
        inputs[:, list(columns)] = code
        charged.append(losses(model, params.unsqueeze(0), replace(examples, inputs=inputs))[0])
    return torch.stack(charged)


def imputed(
    known: Float[Tensor, "others features"],
    values: Int[Tensor, "others"],
    features: Float[Tensor, "examples features"],
) -> Float[Tensor, "kinds examples"]:
    """Say how likely each value is by what else is known of an example, without the model.

    Args:
        known: What is known of other people: their features without the attribute, and labels.
        values: Of their attribute, from 0; each occurs.
        features: The same of the examples in question.

    Raises:
        ValueError: A value that does not occur, or only one.

    Source:
        Jayaraman and Evans 2022, arXiv:2209.01292 (what imputation alone achieves).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds = values.unique().tolist()
    if len(kinds) < 2 or kinds != list(range(len(kinds))):
        raise ValueError(f"attribute: values must be 0, 1, and so on, each of them, got {kinds}")
    judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    judge.fit(known.double().numpy(), values.numpy())
    return torch.from_numpy(judge.predict_proba(features.double().numpy()).T.copy())


def attribute_inference(
    losses: Float[Tensor, "kinds examples"],
    truth: Int[Tensor, "examples"],
    *,
    prior: Float[Tensor, "kinds"],
    imputed: Float[Tensor, "kinds examples"] | None = None,
) -> Mapping[str, Guesses]:
    """Guess a hidden attribute: the value under which the known label is most likely.

    Args:
        losses: Of each example with each value; cross-entropy, so that ``exp(-loss)`` is the
            chance of the label.
        truth: The values, from 0.
        prior: Share of each value among people.
        imputed: Chance of each value by what else is known, as by :func:`imputed`.

    Returns:
        ``model`` weighs the prior by the model, ``prior`` does without the model. With
        ``imputed``, that alone, and ``both``, in which the model weighs it. A model leaks only
        what it adds.

    Source:
        Fredrikson et al. 2015, Model inversion attacks that exploit confidence information,
        section 4; Yeom et al. 2018, arXiv:1709.01604, section 4.
    """
    chances = prior.double().unsqueeze(1).expand_as(losses)
    beliefs = {"prior": chances.log(), "model": chances.log() - losses}
    if imputed is not None:
        beliefs |= {"imputed": imputed.log(), "both": imputed.log() - losses}
    return {name: _guesses(belief.argmax(0), truth) for name, belief in beliefs.items()}


def source_inference(
    losses: Float[Tensor, "clients examples"], owner: Int[Tensor, "examples"]
) -> Guesses:
    """Guess whose training data an example is from: the client whose model charges it least.

    Args:
        losses: Of each example under each client's model, which is the common one plus the
            client's row.
        owner: Which of the clients holds it, from 0.

    Source:
        Hu et al. 2021, arXiv:2109.05659, section IV.
    """
    return _guesses(losses.argmin(0), owner)


def _guesses(guess: Int[Tensor, "trials"], truth: Int[Tensor, "trials"]) -> Guesses:
    if not len(truth):
        raise ValueError("audit: there is nothing to guess")
    common = float(truth.bincount().max()) / len(truth)
    return Guesses((guess == truth).cpu().numpy(), common)
