"""Hostile clients are who they are said to be, know what they may, and leave others alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from dai_lab import attacks
from dai_lab.aggregators import krum
from dai_lab.config import build, load
from dai_lab.core import Compute, Key, Lies, Poisoned, State
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, play
from dai_lab.federation.hostile import changed, poisoned, told

KEY = Key(0)
BLIND = {
    "sign_flip": attacks.sign_flip,
    "alie": attacks.alie,
    "ipm": attacks.ipm,
    "min_max": attacks.min_max,
    "min_sum": attacks.min_sum,
    "mimic": attacks.mimic,
    "fang_trimmed_mean": attacks.fang_trimmed_mean,
    "gaussian": attacks.gaussian,
    "model_replacement": attacks.model_replacement,
}
OF_A_MEAN = ("ipm", "sign_flip", "gaussian", "model_replacement", "mimic")


def federation(*overrides, key=KEY, **given):
    cfg = load(
        "data=digits", "model=logistic", "federation.clients=8", "federation.holdout=0.2",
        "federation.hostile=3", *overrides,
    )  # fmt: skip
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **{**parts, **given}, watch={}, frame=cfg.frame.value, **cfg.federation,
        every=cfg.evaluation.every, compute=Compute(), key=key,
    )  # fmt: skip


def sent_by(us, rows, seed=0):
    state = State(us.task.model.initial)
    cohort = range(len(rows))
    return told(us, rows, torch.ones(len(rows)), cohort, state, 1, Key(seed)).rows


def rows_of(us, seed):
    return torch.randn(8, us.task.model.params, generator=Key(seed).stream())


def liars(us):
    return torch.tensor([client in us.hostile for client in range(8)])


@pytest.mark.parametrize("name", BLIND)
def test_who_hears_nothing_sends_the_same_whatever_others_send(name):
    us = federation("federation.knows=own", attack=BLIND[name])
    lying, one, other = liars(us), rows_of(us, 0), rows_of(us, 1)
    other[lying] = one[lying]
    assert torch.equal(sent_by(us, one)[lying], sent_by(us, other)[lying])
    hears = federation(attack=attacks.ipm)
    assert not torch.equal(sent_by(hears, one)[lying], sent_by(hears, other)[lying])


@pytest.mark.parametrize("name", OF_A_MEAN)
def test_who_hears_the_mean_sends_the_same_while_it_stays(name):
    us = federation("federation.knows=mean", attack=BLIND[name])
    lying, one = liars(us), rows_of(us, 0)
    other = one.clone()
    other[~lying] = one[~lying].mean(0) + torch.zeros_like(one[~lying])
    torch.testing.assert_close(sent_by(us, one)[lying], sent_by(us, other)[lying])


def test_a_spread_cannot_be_told_from_a_mean():
    us = federation("federation.knows=mean", attack=attacks.alie)
    with pytest.raises(ValueError, match=r"attack=alie needs to know at least 2 rows .* knows 1"):
        sent_by(us, rows_of(us, 0))


@pytest.mark.parametrize("knows", ["own", "mean", "rows"])
def test_the_defense_is_known_only_to_who_is_said_to_know_it(knows):
    us = federation(f"federation.knows={knows}", attack=attacks.opt_ipm)
    with pytest.raises(ValueError, match=r"set federation\.knows=defense"):
        sent_by(us, rows_of(us, 0))


def test_the_defense_an_attacker_runs_is_the_servers():
    seen = {}

    def spy(own, sight):
        seen["outcome"] = sight.defense(-own)
        return Lies(-own)

    us = federation(
        "federation.knows=defense", "federation.clip=0.5", attack=spy,
        aggregator=partial(krum, f=2), privacy=build(load("privacy=clip").privacy),
    )  # fmt: skip
    (only,) = play(us, KEY, rounds=1)
    applied = only.state.params - us.task.model.initial
    torch.testing.assert_close(seen["outcome"].update, applied)
    kept = [str(client) not in only.record["clients_dropped"].split(",") for client in us.hostile]
    assert seen["outcome"].kept.tolist() == kept


@pytest.mark.parametrize(
    "rule",
    [
        "krum",
        "geometric_median",
        "centered_clipping",
        "nnm aggregator.f=3 aggregator.then.f=3",
        "bucketing aggregator@aggregator.then=centered_clipping",
    ],
)
@pytest.mark.parametrize("who", ["first", "random"])
def test_what_an_attacker_need_not_compare_again_changes_nothing(rule, who):
    """Whether liars send one row, several, or no numbers, and wherever in the cohort they are."""
    found = {}

    def spy(own, sight):
        tries = [-own, own[:1].neg().expand(len(own), -1), own.clone().fill_(torch.nan)]
        found["quick"] = [sight.defense(one) for one in tries for _ in range(2)]
        return Lies(-own)

    def slow(visible, context):
        return aggregator(replace(visible, compare=None), context)

    words = ("federation.knows=defense", f"federation.who={who}", "federation.hostile=3")
    quick = federation(*words, *f"aggregator={rule}".split(), attack=spy)
    aggregator, sent = quick.aggregator, rows_of(quick, 0)
    center = {"aggregator/center": torch.ones(quick.task.model.params)}
    outcomes = []
    for us in (quick, replace(quick, aggregator=slow)):
        told(us, sent, torch.ones(8), range(8), State(sent[0], center), 1, KEY)
        outcomes.append(found["quick"])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one.update, other.update)
        assert torch.equal(one.kept, other.kept)


def test_an_attack_that_writes_into_honest_rows_is_refused():
    def careless(own, sight):
        sight.honest.zero_()
        return Lies(-own)

    us = federation("federation.who=first", attack=careless)
    with pytest.raises(ValueError, match="attack writes into the rows it is shown"):
        sent_by(us, rows_of(us, 0))


def test_an_attacker_cannot_foresee_what_the_server_draws():
    """The bucketing that liars imagine is one of many, and not the one that comes."""
    seen = {}

    def spy(own, sight):
        seen["update"] = sight.defense(-own).update
        return Lies(-own)

    words = ("federation.knows=defense", "aggregator=bucketing", "federation.hostile=1")
    us = federation(*words, attack=spy)
    (only,) = play(us, KEY, rounds=1)
    assert not torch.allclose(seen["update"], only.state.params - us.task.model.initial)


def test_in_place_of_the_servers_examples_an_attacker_has_its_own():
    seen = {}

    def spy(own, sight):
        seen["update"] = sight.defense(-own).update
        return Lies(-own)

    words = ("federation.knows=defense", "federation.root=50")
    for rule in ("fltrust", "zeno", "lfr"):
        us = federation(*words, f"aggregator={rule}", attack=spy)
        (only,) = play(us, KEY, rounds=1)
        actual = only.state.params - us.task.model.initial
        assert seen["update"].isfinite().all()
        if rule == "fltrust":
            assert not torch.allclose(seen["update"], actual)


def test_an_attack_that_changes_nothing_is_an_error_and_behaving_is_not():
    def forgetful(own, sight):
        return Lies(own.clone())

    us = federation(attack=forgetful)
    with pytest.raises(ValueError, match="attack changed none of the rows that hostile clients"):
        list(play(us, KEY, rounds=1))
    for quiet in (attacks.none, partial(attacks.between, attack=attacks.sign_flip, start=9)):
        (only,) = play(replace(us, attack=quiet), KEY, rounds=1)
        assert only.record["rows_changed"] == 0


def test_what_an_attack_notes_is_in_the_record_and_what_it_remembers_in_the_state():
    us = federation(attack=attacks.mimic)
    first, second = play(us, KEY, rounds=2)
    assert first.record["attack/copied"] == second.record["attack/copied"]
    assert int(second.state.memory["attack/target"]) == first.record["attack/copied"]


def test_hostile_clients_are_those_asked_for():
    assert federation("federation.who=first").hostile == (0, 1, 2)
    words = ("partition=quantity", "federation.holdout=0")
    sizes = federation(*words, "federation.hostile=0").task.shards.sizes
    most = federation(*words, "federation.who=largest").hostile
    least = federation(*words, "federation.who=smallest").hostile
    assert set(most) == set(sizes.argsort()[-3:].tolist())
    assert set(least) == set(sizes.argsort()[:3].tolist())
    drawn = {federation(key=Key(seed)).hostile for seed in range(8)}
    assert len(drawn) > 4


def test_liars_from_outside_leave_all_the_data_to_the_others():
    inside, outside = federation(), federation("federation.holds=drawn")
    alone = federation("federation.clients=5", "federation.hostile=0")
    lists = [outside.task.shards[client] for client in range(8)]
    honest = [one for client, one in enumerate(lists) if client not in outside.hostile]
    assert all(one.equal(alone.task.shards[at]) for at, one in enumerate(honest))
    everything = set(alone.task.shards.indices.tolist())
    for client in outside.hostile:
        mine = lists[client].tolist()
        assert len(mine) == len(set(mine)) == round(len(everything) / 5)
        assert set(mine) <= everything
    assert [len(outside.holdout[client]) for client in outside.hostile] == [0, 0, 0]
    assert outside.hostile == inside.hostile
    pooled = federation("federation.holds=drawn", "frame=centralized")
    assert sorted(pooled.task.shards.indices.tolist()) == sorted(everything)


def relabeled(held, plot, *, share=1.0):
    """Call everything a zero."""
    zeros = torch.zeros_like(held.targets)
    draws = torch.rand(len(held), generator=plot.key.stream())
    return Poisoned(replace(held, targets=torch.where(draws < share, zeros, held.targets)))


def test_poison_reaches_only_what_the_hostile_hold():
    us = federation(poison=relabeled)
    after, _ = poisoned(us, State(us.task.model.initial), KEY, again=False)
    for client in range(8):
        was, now = us.task.shards[client], after.task.shards[client]
        assert torch.equal(us.task.data.inputs[was], after.task.data.inputs[now])
        same = torch.equal(us.task.data.targets[was], after.task.data.targets[now])
        assert same == (client not in us.hostile)
        if client in us.hostile:
            assert not after.task.data.targets[now].any()
            assert after.spoiled[client] == int((us.task.data.targets[was] != 0).sum())
    assert torch.equal(us.task.data.targets, after.task.data.targets[: len(us.task.data)])
    assert len(after.probe) == int((us.test.targets != 0).sum())
    assert not after.probe.targets.any()


def test_a_poisoned_row_counts_as_changed_and_the_success_is_measured():
    us = federation(poison=relabeled)
    plain, bad = list(play(federation(), KEY, rounds=3)), list(play(us, KEY, rounds=3))
    assert [one.record["rows_changed"] for one in bad] == [3, 3, 3]
    assert "attack_success" not in plain[-1].record
    nobody = list(play(federation("federation.hostile=0", poison=relabeled), KEY, rounds=3))
    assert bad[-1].record["attack_success"] > nobody[-1].record["attack_success"] + 0.05
    assert nobody[-1].record["rows_changed"] == 0


def test_no_poison_in_no_example_is_an_error():
    us = federation(poison=partial(relabeled, share=0.0))
    with pytest.raises(ValueError, match=r"poison changes none of the .* examples that hostile"):
        list(play(us, KEY, rounds=1))


def test_asleep_poisoners_send_what_honest_clients_would():
    asleep = partial(attacks.between, attack=attacks.none, start=3)
    plain = list(play(federation(), KEY, rounds=2))
    quiet = list(play(federation(poison=relabeled, attack=asleep), KEY, rounds=2))
    assert [one.record["rows_changed"] for one in quiet] == [0, 0]
    assert torch.equal(plain[-1].state.params, quiet[-1].state.params)


def counted(held, plot):
    """Poison differently each time, and remember how often."""
    times = plot.memory.get("poison/times", torch.tensor(0)) + 1
    if plot.owners is None:
        return Poisoned(replace(held, targets=torch.full_like(held.targets, int(times) - 1)))
    noise = torch.randn(held.inputs.shape, generator=plot.key.stream())
    inputs = held.inputs + noise * plot.params.norm()
    return Poisoned(replace(held, inputs=inputs), {"poison/times": times})


@pytest.mark.parametrize("renew", [1, 2, 3])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_renewed_poison_goes_on_where_a_killed_run_stopped(renew, stop):
    us = federation(f"federation.renew={renew}", poison=counted)
    whole = list(play(us, KEY, rounds=5))
    state = whole[stop - 1].state
    rest = list(play(us, KEY, rounds=5, state=state, done=stop))
    assert torch.equal(rest[-1].state.params, whole[-1].state.params)
    assert rest[-1].record == whole[-1].record
    assert int(whole[-1].state.memory["poison/times"]) == -(-5 // renew)


def test_a_poison_done_once_is_done_with_the_first_model():
    us = federation(poison=counted)
    whole = list(play(us, KEY, rounds=4))
    rest = list(play(us, KEY, rounds=4, state=whole[1].state, done=2))
    assert torch.equal(rest[-1].state.params, whole[-1].state.params)


@pytest.mark.parametrize("attack", ["model_replacement", "projected", "neurotoxin", "alternating"])
def test_attacks_that_train_again_need_epochs_and_say_so(attack):
    words = [f"attack={attack}"]
    (only,) = play(federation(*words, poison=relabeled), KEY, rounds=1)
    assert only.record["rows_changed"] == 3
    if attack != "model_replacement":
        us = federation(*words, "local=distributed_sgd", poison=relabeled)
        with pytest.raises(ValueError, match=r"attack needs local\.epochs: choose local=sgd"):
            list(play(us, KEY, rounds=1))


def test_examples_are_changed_where_they_differ():
    us = federation()
    some = us.test.some(torch.arange(4))
    inputs = some.inputs.clone()
    inputs[1] += 1
    other = replace(some, inputs=inputs, targets=some.targets.clone())
    other.targets[3] += 1
    assert changed(some, other).tolist() == [False, True, False, True]
