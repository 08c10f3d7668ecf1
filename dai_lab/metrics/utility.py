"""How well a model does, over examples, over clients and over rounds."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core import Shards


def correct(
    outputs: Float[Tensor, "examples classes"], targets: Int[Tensor, "examples"]
) -> Bool[Tensor, "examples"]:
    """Say which examples a classifier gets right; an output with NaN in it is wrong.

    Args:
        outputs: One score per class; the highest wins.
        targets: The right class of each example.
    """
    sane = ~outputs.isnan().any(dim=1)
    return (outputs.argmax(dim=1) == targets) & sane


def accuracy(right: Bool[Tensor, "examples"]) -> float:
    """Share of examples the model gets right, in 0..1.

    Raises:
        ValueError: There are no examples.
    """
    if len(right) == 0:
        raise ValueError("data: accuracy needs at least one example")
    return int(right.sum()) / len(right)


def mean_loss(losses: Float[Tensor, "examples"]) -> float:
    """Average one loss per example, in double precision.

    Raises:
        ValueError: There are no examples.
    """
    if len(losses) == 0:
        raise ValueError("data: a mean loss needs at least one example")
    # Apple's devices have no doubles; there the sum is made on the CPU.
    exact = losses.cpu() if losses.device.type == "mps" else losses
    return float(exact.double().mean())


def per_client(right: Bool[Tensor, "examples"], shards: Shards) -> Float[Tensor, "clients"]:
    """Accuracy of one model on every client's own examples, all clients at once.

    Args:
        right: Whether each example of the data set is classified correctly.
        shards: Who holds which of these examples.

    Returns:
        One accuracy in 0..1 per client; NaN for a client that holds no example.
    """
    hits = right.cpu().long()[shards.indices.cpu()]
    # Differences of a running count of whole numbers: exact, and the same on every device.
    running = torch.cat([hits.new_zeros(1), hits.cumsum(0)])
    offsets = shards.offsets.cpu()
    return running[offsets].diff().double() / offsets.diff()


def spread(accuracies: Float[Tensor, "clients"]) -> dict[str, float | int]:
    """Summarize accuracy over clients: mean, mean of the worst tenth, variance.

    The worst tenth is at least one client. The variance is that of this population, not an
    estimate for a larger one. A client with NaN is left out; ``clients`` counts the
    others.

    Raises:
        ValueError: No client has an accuracy.

    Source:
        Li et al. 2020, arXiv:1905.10497, section 4.1.
    """
    known = accuracies[~accuracies.isnan()].double()
    if len(known) == 0:
        raise ValueError("data: no client holds an example to be judged by")
    worst = known.sort().values[: max(1, len(known) // 10)]
    return {
        "mean": float(known.mean()),
        "worst10": float(worst.mean()),
        "variance": float(known.var(correction=0)),
        "clients": len(known),
    }


def final(records: Iterable[Mapping[str, Any]], metric: str) -> float | None:
    """Last value of ``metric``; ``None`` if the last record that names it holds no number."""
    values = [record[metric] for record in records if metric in record]
    return _number(values[-1]) if values else None


def peak(
    records: Iterable[Mapping[str, Any]], metric: str, *, lowest: bool = False
) -> float | None:
    """Best value of ``metric`` over all rounds; ``None`` if there is none.

    A peak picks a round by looking at the test data, so it flatters: show ``final`` beside it.

    Args:
        records: One mapping a round.
        metric: Name of an entry.
        lowest: Whether lower is better, as for a loss.
    """
    found = [_number(record.get(metric)) for record in records]
    values = [value for value in found if value is not None]
    if not values:
        return None
    return min(values) if lowest else max(values)


def cost_to(
    records: Iterable[Mapping[str, Any]],
    metric: str,
    target: float,
    *resources: str,
    lowest: bool = False,
) -> float | None:
    """What had been spent when ``metric`` first reached ``target``; ``None`` if it never did.

    The whole cost of the first evaluated round at or past the target counts: nothing is
    interpolated, so judging every tenth round can only make a target look dearer. Falling
    below the target later changes nothing.

    Args:
        records: One mapping a round, in order, with what was spent since the start.
        metric: Name of an entry.
        target: Value to reach.
        resources: Entries whose sum is the cost, such as ``"bytes_up", "bytes_down"``; a round
            that lacks one has no known cost, which is ``None`` too.
        lowest: Whether lower is better, as for a loss.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, section 3 (there with interpolation, on curves
        made monotone).
    """
    for record in records:
        value = _number(record.get(metric))
        if value is not None and (value <= target if lowest else value >= target):
            spent = [_number(record.get(one)) for one in resources]
            known = [one for one in spent if one is not None]
            return sum(known) if len(known) == len(spent) else None
    return None


def rounds_to(
    records: Iterable[Mapping[str, Any]], metric: str, target: float, *, lowest: bool = False
) -> int | None:
    """First round whose ``metric`` reaches ``target``; ``None`` if no round does.

    Args:
        records: One mapping a round, in order, with an entry ``round``.
        metric: Name of an entry.
        target: Value to reach.
        lowest: Whether lower is better, as for a loss.
    """
    found = cost_to(records, metric, target, "round", lowest=lowest)
    return None if found is None else int(found)


def seconds_to(round: int | None, seconds: Mapping[int, float]) -> float | None:
    """Time spent up to the end of ``round``; ``None`` if the target was never reached.

    Args:
        round: What ``rounds_to`` found.
        seconds: How long each round took.
    """
    if round is None:
        return None
    return sum(spent for number, spent in seconds.items() if number <= round)


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (str, bool)) or not isfinite(value):
        return None
    return float(value)
