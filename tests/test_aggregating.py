"""Rules on a likeness of the rows: those that only compare come to the same, others are refused."""

import pytest
import torch

from dai_lab import aggregators
from dai_lab.core import ALONE, Context, Key, Visible
from dai_lab.federation.aggregating import aggregated
from dai_lab.secagg import gram, plain

CONTEXT = Context(Key(5))


def both(rule, count=11, width=60, liars=2):
    sent = torch.randn(count, width, generator=Key(1).stream()).double() / 8 + 0.5
    sent[:liars] *= -1
    asked = {"clients": tuple(range(count)), "key": Key(2)}
    weights = torch.ones(count)
    found = [aggregated(rule, seen(sent, weights, **asked), CONTEXT)[0] for seen in (plain, gram)]
    return found


@pytest.mark.parametrize(
    "rule",
    [
        aggregators.mean,
        lambda visible, context: aggregators.multi_krum(visible, context, f=2),
        aggregators.geometric_median,
        lambda visible, context: aggregators.nnm(visible, context, f=2, then=aggregators.mean),
        lambda visible, context: aggregators.cge(visible, context, f=2),
    ],
)
def test_rules_that_only_compare_come_to_the_same_as_with_all_rows(rule):
    rows, hidden = both(rule)
    assert torch.allclose(hidden.update, rows.update, atol=5e-3)
    assert torch.allclose(hidden.shares.double(), rows.shares.double(), atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (aggregators.median, "looks at coordinates"),
        (lambda one, more: aggregators.trimmed_mean(one, more, f=2), "looks at coordinates"),
        (aggregators.centered_clipping, "remembers vectors"),
        (lambda one, more: aggregators.krum(one, more, f=2), "that is one row's by half"),
    ],
)
def test_rules_that_a_likeness_is_not_enough_for_are_refused(rule, complaint):
    with pytest.raises(ValueError, match=complaint):
        both(rule)


def test_a_rule_on_a_likeness_is_told_nothing_of_the_model():
    told = []

    def rule(visible, context):
        told.append((context.state, context.model, context.root, context.judge))
        return aggregators.mean(visible, context)

    both(rule)
    assert told[1:] == [(None,) * 4] * 3


def test_revealed_rows_are_aggregated_once():
    visible = Visible(torch.eye(3), ((0,), (1,), (2,)), torch.ones(3), record={"bytes_up": 7})
    found, took = aggregated(aggregators.mean, visible, ALONE)
    assert found.update.tolist() == pytest.approx([1 / 3] * 3) and took == {"bytes_up": 7}
