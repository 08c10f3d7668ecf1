"""Any rule of this lab as the strategy of a stock Flower app.

A class needs its base when it is defined, so Flower is imported here at the top, and this module
only where somebody asks for it: ``dai_lab.bridges`` does not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dai_lab.core import (
    Aggregate,
    Aggregator,
    Context,
    Key,
    Model,
    Rows,
    State,
    TooFew,
    Vector,
    Visible,
)

try:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg

    from dai_lab.bridges.flower_records import differences, flattened, packed, unpacked
except ImportError:
    raise ImportError(
        "dai_lab.bridges.flower needs flwr 1.22 or later: pip install dai-lab[flower]"
    ) from None


class RobustStrategy(FedAvg):
    """Let a rule of ``dai_lab.aggregators`` decide what becomes of the clients' models.

    What a client's model changed is one row, as the lab's rules take them. A reply that lacks an
    array, has one too many or one of another shape, or holds a NaN is a row that is not finite:
    the rule leaves it out, counts it among the liars it was told to expect and accuses it. A
    client that reports an error sends no row. Arrays of whole numbers and truth values, such as
    ``num_batches_tracked``, become the middle one (the lower of two) of those sent by clients
    the rule does not accuse.

    The round's metrics hold, as lists with one entry a row, ``aggregator/nodes``,
    ``aggregator/shares``, ``aggregator/suspicion`` and ``aggregator/suspected`` (1 or 0), then
    what else the rule records. Clients' own metrics are medians, in training over those not
    accused, since a mean weighted by claims of ``num-examples`` is whatever a liar wants it to be.
    Those claims reach the rule as ``visible.weights``, which only ``mean`` looks at, unless told
    otherwise. Where the rule sees too few rows, the model stays and ``aggregator/refused`` is 1.

    The rule is a function, not a name: bridges do not know the room where rules are found. Fill
    its knobs in with ``functools.partial(multi_krum, f=2)``.

    Args:
        aggregator: From the visible rows and what the server knows to an update and a verdict.
        seed: Of whatever the rule draws.
        model: The network as the lab describes one, for rules that look at its layers. Its
            parameters must be the record's floating-point arrays, in their order.
        root: Trains the given arrays on examples of the server's own, as clients do on theirs.
        judge: Returns the loss and the error rate of the given arrays on the server's examples.
        options: What Flower's ``FedAvg`` takes: ``fraction_train``, ``min_train_nodes`` and so on.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        *,
        seed: int = 0,
        model: Model | None = None,
        root: Callable[[ArrayRecord], ArrayRecord] | None = None,
        judge: Callable[[ArrayRecord], tuple[float, float]] | None = None,
        **options: Any,
    ) -> None:
        plain = {"train_metrics_aggr_fn": medians, "evaluate_metrics_aggr_fn": medians}
        super().__init__(**{**plain, **options})
        self.aggregator, self.key, self.model = aggregator, Key(seed), model
        self.root, self.judge = root, judge
        self.before: ArrayRecord | None = None
        self.memory: Mapping[str, Tensor] = {}
        self.clients: dict[int, int] = {}

    def summary(self) -> None:
        """Log which rule decides, then what Flower logs."""
        rule = getattr(self.aggregator, "func", self.aggregator)
        _log.info("\t├──> Aggregator: %s", getattr(rule, "__name__", rule))
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what clients start from, and let Flower choose and ask them."""
        self.before = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next arrays, none where the rule refuses, and the verdict."""
        answers = _answers(replies, "aggregate_train")
        if not answers:
            return None, None
        if self.before is None:
            raise ValueError("RobustStrategy: configure_train must come before aggregate_train")
        start = unpacked(self.before)
        assert start is not None  # it is the server's own
        # In whatever order replies arrive, the same ones make the same rows.
        answers.sort(key=lambda one: int(one.metadata.src_node_id))
        contents = [one.content for one in answers]
        arrived = [unpacked(_only(one), like=start) for one in contents]
        flat = flattened(start)
        nodes = [int(one.metadata.src_node_id) for one in answers]
        visible = Visible(
            differences(arrived, start, flat),
            tuple((self.clients.setdefault(one, len(self.clients)),) for one in nodes),
            torch.tensor(claims(contents, self.weighted_by_key)),
        )
        try:
            found = self.aggregator(visible, self._context(server_round, self.before, flat))
        except TooFew as few:
            _log.warning("aggregate_train: the model stays as it is: %s", few)
            return None, MetricRecord({"aggregator/refused": 1, "aggregator/nodes": nodes})
        if not bool(found.update.isfinite().all()):
            _log.warning("aggregate_train: the model stays as it is: the update is not finite")
            return None, MetricRecord({"aggregator/refused": 1, **verdict(found, nodes)})
        self.memory = {**self.memory, **found.memory}
        trusted = [at for at, accused in enumerate(found.suspected.tolist()) if not accused]
        metrics = self.train_metrics_aggr_fn([contents[at] for at in trusted], self.weighted_by_key)
        metrics.update(verdict(found, nodes))
        counters = [one for at in trusted if (one := arrived[at]) is not None]
        return packed(flat + found.update, start, counters), metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return medians of what clients say about the model."""
        contents = [one.content for one in _answers(replies, "aggregate_evaluate")]
        if not contents:
            return None
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key)

    def _context(self, number: int, arrays: ArrayRecord, flat: Vector) -> Context:
        """Say what this server knows beside the rows."""
        start = unpacked(arrays)
        assert start is not None
        train, examine = self.root, self.judge

        def root() -> Vector:
            assert train is not None
            trained = unpacked(train(arrays), like=start)
            if trained is None:
                raise ValueError("RobustStrategy: root must return arrays like those it is given")
            return flattened(trained).to(flat) - flat

        def judge(rows: Rows) -> tuple[Tensor, Tensor]:
            assert examine is not None
            pairs = [examine(packed(row, start, [start])) for row in rows]
            losses, errors = torch.tensor(pairs, dtype=rows.dtype).reshape(-1, 2).unbind(1)
            return losses, errors

        return Context(
            self.key / "round" / number / "aggregator",
            State(flat, self.memory),
            self.model,
            None if train is None else root,
            None if examine is None else judge,
        )


def verdict(found: Aggregate, nodes: Sequence[int]) -> dict[str, Any]:
    """Write what the rule thinks of each node as Flower's metrics."""
    more = {name: one for name, one in found.record.items() if isinstance(one, int | float)}
    return {
        "aggregator/nodes": list(nodes),
        "aggregator/shares": found.shares.tolist(),
        "aggregator/suspicion": found.suspicion.tolist(),
        "aggregator/suspected": found.suspected.int().tolist(),
        **{f"aggregator/{name}": one for name, one in more.items()},
    }


def claims(contents: Sequence[RecordDict], name: str) -> list[float]:
    """Return how many examples each reply claims; all alike if none claims any."""
    claimed = [_numbers(one).get(name, 0.0) for one in contents]
    kept = [one if 0 <= one < math.inf else 0.0 for one in claimed]
    return kept if any(kept) else [1.0] * len(contents)


def medians(contents: Sequence[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Take the median of each number that more than half of the replies report."""
    told: dict[str, list[float]] = {}
    for content in contents:
        for name, value in _numbers(content).items():
            if name != weighted_by_key and math.isfinite(value):
                told.setdefault(name, []).append(value)
    return MetricRecord(
        {name: median(them) for name, them in told.items() if 2 * len(them) > len(contents)}
    )


def _only(content: RecordDict) -> ArrayRecord | None:
    records = list(content.array_records.values())
    return records[0] if len(records) == 1 else None


def _numbers(content: RecordDict) -> dict[str, float]:
    records = list(content.metric_records.values())
    found = records[0] if len(records) == 1 else {}
    return {name: float(one) for name, one in found.items() if isinstance(one, int | float)}


def _answers(replies: Iterable[Message], stage: str) -> list[Message]:
    """Keep replies that are no error, and log the others."""
    everyone = list(replies)
    for one in everyone:
        if one.has_error():
            _log.info("%s: node %d failed: %s", stage, one.metadata.src_node_id, one.error.reason)
    good = [one for one in everyone if not one.has_error()]
    _log.info("%s: %d results and %d failures", stage, len(good), len(everyone) - len(good))
    return good


_log = logging.getLogger("flwr")
