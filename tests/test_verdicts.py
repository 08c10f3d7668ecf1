"""What a server has of its own, and what records say of its verdicts."""

import pytest
import torch

from dai_lab.aggregators import mean
from dai_lab.config import build, load
from dai_lab.core import ALONE, Aggregate, Compute, Key, Visible
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, play
from dai_lab.federation.verdicts import NAMED, verdict

KEY = Key(3)


def federation(*overrides, **given):
    cfg = load("data=digits", "model.hidden=[6]", "federation.clients=6", *overrides)
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **{**parts, **given}, watch={}, frame=cfg.frame.value, **cfg.federation, every=9,
        compute=Compute(), key=KEY,
    )  # fmt: skip


def last(us, rounds=2):
    *_, played = play(us, KEY, rounds=rounds)
    return played


def test_the_server_takes_its_examples_from_all_and_leaves_the_rest_in_place():
    us, without = federation("federation.root=50"), federation()
    assert len(us.root) == 50 and len(without.root) == 0
    left = torch.cat([us.task.shards.indices, us.root])
    assert left.sort().values.equal(without.task.shards.indices.sort().values)
    for client in range(6):
        mine = without.task.shards[client]
        kept = mine[~torch.isin(mine, us.root)]
        assert us.task.shards[client].equal(kept)
    assert us.holdout.indices.equal(without.holdout.indices)


def test_the_root_update_is_what_a_client_with_those_examples_would_send():
    rows, roots = [], []

    def asked(visible, context):
        rows.append(visible.rows)
        roots.append(context.root())
        assert context.root() is roots[-1]
        return mean(visible, context)

    first = last(federation("federation.root=50", aggregator=asked), rounds=1)
    us = federation("federation.root=50")
    for at in range(6):  # a client with the server's examples, which are drawn in the same order
        assert not rows[0][at].equal(roots[0])
    loss = us.task.model.loss
    inputs, targets = us.task.data.inputs[us.root], us.task.data.targets[us.root]
    initial = us.task.model.initial
    before = loss(us.task.model(initial, inputs), targets).mean()
    after = loss(us.task.model(initial + roots[0], inputs), targets).mean()
    assert after < before
    plain = last(federation("federation.root=50"), rounds=1)
    assert plain.state.params.equal(first.state.params)  # to ask changes nothing but the work
    extra = first.record["flops"] - plain.record["flops"]
    assert extra == us.work * 50


@pytest.mark.parametrize("engine", ["local", "workers"])
def test_a_server_with_examples_defends_itself_on_every_engine(engine):
    lies = ("federation.hostile=2", "attack=sign_flip", "attack.scale=20", "federation.root=60")
    guarded = last(federation(*lies, f"engine={engine}", "aggregator=fltrust"), rounds=6)
    broken = last(federation(*lies), rounds=6)
    assert guarded.record["hostile_suspected"] == 2
    assert guarded.state.params.norm() < broken.state.params.norm()


def test_losses_of_candidates_are_those_on_the_servers_examples():
    def asked(visible, context):
        params = context.state.params
        losses, errors = context.judge(torch.stack([params, params + visible.rows.mean(0)]))
        assert losses[1] < losses[0]
        assert (errors >= 0).all() and (errors <= 1).all()
        model, data = us.task.model, us.task.data
        outputs = model(params, data.inputs[us.root])
        wrong = (outputs.argmax(1) != data.targets[us.root]).double().mean()
        torch.testing.assert_close(errors[0].double(), wrong, rtol=1e-6, atol=1e-6)
        return mean(visible, context)

    us = federation("federation.root=40", aggregator=asked)
    last(us, rounds=1)


def test_a_server_without_examples_has_neither_update_nor_losses():
    def asked(visible, context):
        assert context.root is None and context.judge is None
        assert context.state is not None and context.model is not None
        return mean(visible, context)

    last(federation(aggregator=asked), rounds=1)


def test_more_examples_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"federation\.root must be in 0\.\.\d+ \(examples\)"):
        federation("federation.root=100000")


def test_records_name_who_was_seen_dropped_and_suspected():
    us = federation("federation.hostile=1", "attack=gaussian", "attack.std=50",
                    "aggregator=krum", "aggregator.f=1")  # fmt: skip
    record = last(us, rounds=1).record
    assert record["clients_seen"] == "0,1,2,3,4,5"
    assert record["clients_suspected"] == str(us.hostile[0])
    assert record["hostile_suspected"] == record["rows_suspected"] == 1
    assert record["rows_dropped"] == len(record["clients_dropped"].split(",")) == 5
    assert str(us.hostile[0]) in record["clients_dropped"].split(",")


def test_groups_are_named_by_their_members_and_accused_together():
    visible = Visible(torch.zeros(3, 2), ((0, 4), (1, 2), (3,)), torch.ones(3))
    shares, accused = torch.tensor([0.5, 0.0, 0.5]), torch.tensor([True, False, True])
    found = Aggregate(torch.zeros(2), shares, torch.zeros(3), accused, record={"radius": 2.0})
    record = verdict(visible, found, hostile={4, 1})
    assert record["clients_seen"] == "0+4,1+2,3"
    assert record["clients_dropped"] == "1+2" and record["clients_suspected"] == "0+4,3"
    assert record["hostile_suspected"] == 1 and record["aggregator/radius"] == 2.0


def test_large_cohorts_are_counted_and_not_named():
    count = NAMED + 1
    members = tuple((one,) for one in range(count))
    found = mean(Visible(torch.ones(count, 2), members, torch.ones(count)), ALONE)
    record = verdict(Visible(torch.ones(count, 2), members, torch.ones(count)), found, hostile=())
    assert "clients_seen" not in record and record["rows_suspected"] == 0
