"""Fair training in whole federations: whatever becomes of rows, what clients tell comes along."""

import json
import math
from functools import cache

import pytest
import torch

from dai_lab.config import build, load
from dai_lab.core import Compute, Key, State
from dai_lab.experiment.simulate import BUILT
from dai_lab.federation import found, judging, play

KEY = Key(3)
TOLD = ("reweighing", "fairfed", "fedfb", "q_ffl", "afl", "fedminmax", "group_dro", "gifair")
MEASURES = ("demographic_parity_difference", "equalized_odds_difference",
            "equal_opportunity_difference")  # fmt: skip
PEOPLE = (
    "data=biased", "data@data.of=planted", "data.of.examples=240", "data.of.features=3",
    "data.attribute=group", "data.value=1", "data.flip=0.4", "model=logistic",
    "federation.clients=4", "local.batch_size=0", "local.rate=2.0", "fairness.attribute=group",
    "fairness.minimum=1",
)  # fmt: skip


@cache
def composed(*overrides):
    return load(*PEOPLE, *overrides)


def federation(*overrides, algorithm=None, watch=None):
    """Found one; composing settings takes long, so what is composed once is used again."""
    knobs = [one for one in overrides if "." in one.partition("=")[0]]
    cfg = composed(*(one for one in overrides if one not in knobs)).copy()
    if algorithm:
        theirs = composed(f"+algorithm={algorithm}")
        cfg.local, cfg.server = theirs.local, theirs.server
    cfg.merge_with_dotlist(knobs)
    parts = {group: build(cfg[group]) for group in BUILT}
    return found(
        **parts, watch=watch or {}, frame=cfg.frame.value, **cfg.federation,
        every=cfg.evaluation.every, fairness=cfg.fairness, compute=Compute(), key=KEY,
    )  # fmt: skip


def played(us, rounds=3, **resumed):
    """Play and see that every number is one, in the models, the memories and the records."""
    done = list(play(us, KEY, rounds=rounds, **resumed))
    for one in done:
        json.dumps(one.record, allow_nan=False)
        for numbers in (one.state.params, *one.state.memory.values()):
            assert bool(numbers.isfinite().all())
    return done


def of(algorithm, *overrides, **given):
    return federation(*overrides, algorithm=algorithm, **given)


@pytest.mark.parametrize("name", TOLD)
def test_a_run_that_goes_on_with_some_clients_ends_as_one_that_never_stopped(name):
    us = of(name, "cohort.fraction=0.5")
    whole = played(us, rounds=5)
    rest = played(us, rounds=5, state=whole[1].state, done=2)
    assert [one.record for one in rest] == [one.record for one in whole[2:]]
    before, after = (one.state.memory for one in (whole[-1], rest[-1]))
    assert rest[-1].state.params.equal(whole[-1].state.params) and before.keys() == after.keys()
    assert all(after[one].equal(before[one]) for one in before)
    assert whole[-1].record["cohort"] == 2


def test_two_worker_processes_give_the_records_of_one_process():
    """What clients count beside training they count in other company: the same up to rounding."""
    one, two = (
        played(of("fairfed", *engine))
        for engine in ((), ("engine=workers", "engine.processes=2"))
    )  # fmt: skip
    for here, there in zip(one, two, strict=True):
        assert here.record.keys() == there.record.keys()
        for name, value in here.record.items():
            rounded = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            assert there.record[name] == rounded, name


@pytest.mark.parametrize("name", ["reweighing", "fairfed", "fedfb"])
def test_a_sum_that_nobody_sees_into_tells_the_server_the_same(name):
    """Masked sums clip at 1: shares fit, and sums of losses do while the mean loss is below 1."""
    sent, plain = [], [name, "partition=dirichlet", "partition.alpha=2"]
    spy = {"spy": lambda trace: sent.append(trace.sent) or {}}
    end = played(of(*plain, watch=spy))[-1].state
    ideal = played(of(*plain, "secagg=ideal"))[-1].state
    torch.testing.assert_close(ideal.params, end.params, rtol=1e-4, atol=1e-5)
    width = len(end.params)
    largest = max(float(rows[:, width:].abs().max()) for rows in sent)
    enough = max(1.0, *(float(rows.abs().max()) for rows in sent))
    masked = played(of(*plain, "secagg=pairwise", f"secagg.clip={enough}"))[-1].state
    torch.testing.assert_close(masked.params, end.params, rtol=1e-2, atol=5e-3)
    if name != "fairfed":
        assert largest <= 1


@pytest.mark.parametrize("name", TOLD)
def test_noise_may_make_counts_negative_and_nothing_else(name):
    us = of(name, "privacy=central", "privacy.noise=8.0")
    states = [one.state for one in played(us, rounds=6)]
    survey = states[-1].memory.get("server/survey")
    if survey is not None and len(survey) > 8:
        assert float(survey.min()) < 0
    burdens = states[-1].memory.get("server/burdens", states[-1].memory.get("server/mixture"))
    if burdens is not None:
        assert float(burdens.min()) >= 0 and math.isclose(float(burdens.sum()), 1, rel_tol=1e-4)


MEDIAN, KRUM = ("aggregator=median",), ("aggregator=krum", "aggregator.f=1", "federation.clients=5")


@pytest.mark.parametrize(("name", "rule"), [*zip(TOLD, [MEDIAN, KRUM] * 4, strict=True)])
def test_liars_lie_about_counts_too_and_robust_rules_look_at_them(name, rule):
    rows = []
    spy = {"spy": lambda trace: rows.append((trace.sent, trace.hostile, trace.cohort)) or {}}
    us = of(name, *rule, "attack=sign_flip", "federation.hostile=1", watch=spy)
    end = played(us, rounds=2)[-1]
    sent, hostile, cohort = rows[0]
    lie = sent[cohort.index(hostile[0])]
    assert end.record["rows_changed"] == 1 and len(lie) > us.task.model.params
    told, honest = lie[us.task.model.params :], sent[:, us.task.model.params :].mean(0)
    assert float(told.sum()) < 0 < float(honest.abs().sum())


@pytest.mark.parametrize("name", TOLD)
def test_without_a_server_nobody_can_be_told(name):
    for frame in ("local_only", "centralized"):
        with pytest.raises(ValueError, match=f"frame={frame} has no .*frame=federated") as error:
            played(of(name, f"frame={frame}"), rounds=1)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("frame", ["local_only", "centralized"])
def test_clients_that_reweigh_by_their_own_counts_need_no_server(frame):
    assert played(federation("local=local_reweighing", f"frame={frame}"))[-1].record["test_loss"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("secagg=ideal", "decision.equal=odds"),
        ("secagg=grouped", "secagg.groups=2", "decision.equal=parity"),
        ("secagg=pairwise", "decision.equal=opportunity"),
        ("poison=group_flip", "poison.attribute=group", "federation.hostile=1"),
        ("federation.holdout=0",),
        ("personal=fine_tuned",),
        ("decision=local_thresholds",),
        ("cohort=poisson", "cohort.rate=0.2"),
    ],
)
def test_thresholds_of_groups_go_with_whatever_clients_send(overrides):
    record = played(of("fairfed", "decision=thresholds", *overrides))[-1].record
    assert record["test_accuracy"] > 0.3 and set(MEASURES) <= record.keys()


@pytest.mark.parametrize(
    "secagg",
    [
        ("secagg=plain",),
        ("secagg=ideal",),
        ("secagg=grouped", "secagg.groups=2"),
        ("secagg=pairwise",),
        ("secagg=pairwise", "secagg.weighted=false"),
        ("secagg=one_shot", "secagg.weighted=false"),
    ],
    ids=" ".join,
)
def test_what_is_revealed_is_the_sum_of_what_clients_count(secagg):
    us = federation("decision=thresholds", *secagg)
    asked = judging.evidence(us, State(us.task.model.initial), KEY)
    counts = torch.tensor([[900.0, 0, 7], [3, 0, 0], [0, 0, 0], [20, 50, 1]], dtype=torch.float64)
    torch.testing.assert_close(asked.reveal(counts), counts.sum(0), atol=0.2, rtol=0)


def test_thresholds_behind_lengths_and_angles_say_that_nothing_is_counted():
    us = of("reweighing", "decision=thresholds", "secagg=gram", "federation.clients=6",
            "aggregator=geometric_median")  # fmt: skip
    with pytest.raises(ValueError, match="secagg"):
        played(us, rounds=1)


def test_records_have_the_measures_of_groups_where_one_asks_for_groups():
    with_groups = played(of("fedminmax"))[-1].record
    assert all(0 <= with_groups[one] <= 1 for one in MEASURES)
    assert all(with_groups[f"client_{one}"] is not None for one in MEASURES)
    plain = played(federation("fairness.attribute=null"))[-1].record
    grouped = played(federation())[-1].record
    assert not any("parity" in one or "odds" in one for one in plain)
    assert {one: grouped[one] for one in plain} == plain


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("fairness.attribute=hair",), r"fairness\.attribute must be .*group.*, got 'hair'"),
        (("fairness.attribute=group+hair",), r"fairness\.attribute must be .*group.*, got 'hair'"),
        (("fairness.favorable=2",), r"fairness\.favorable must be a class in 0\.\.1, got 2"),
        (("fairness.penalty=-1",), r"fairness\.penalty must be 0 or more"),
        (("fairness.penalizes=all",), r"fairness\.penalizes must be"),
        (("fairness.minimum=0",), r"fairness\.minimum must be at least 1"),
        (("local=fairfed", "fairness.attribute=null"), r"fairness\.attribute, which is null"),
        (("decision=thresholds", "fairness.attribute=null"), r"fairness\.attribute, which is null"),
        (("decision=thresholds", "privacy=central"), r"decision\.counts=federated tells"),
        (("decision=thresholds", "local=dp_sgd"), r"decision\.counts=federated tells"),
    ],
)
def test_settings_that_make_no_sense_name_the_knob(overrides, said):
    with pytest.raises(ValueError, match=said):
        played(federation(*overrides), rounds=1)


def test_a_charge_without_groups_names_the_knob(tmp_path):
    from dai_lab.experiment import simulate

    with pytest.raises(ValueError, match=r"fairness\.penalty needs fairness\.attribute"):
        simulate(load("data=digits", "fairness.penalty=1"), tmp_path, progress=False)


@pytest.mark.parametrize("name", ["reweighing", "fedfb"])
def test_what_a_bias_takes_from_a_group_is_partly_given_back(name):
    """A group is denied two in five of what it deserves; who trains plainly learns to."""

    def gap(algorithm=None):
        many = ("data.of.examples=2000", "data.flip=0.5", "evaluation.every=40")
        us = federation(*many, algorithm=algorithm)
        return played(us, rounds=40)[-1].record["demographic_parity_difference"]

    assert gap(name) < 0.9 * gap()
