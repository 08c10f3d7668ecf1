"""Rules of the lab as the strategy of a stock Flower app."""

import json
import os
import subprocess
import sys
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from dai_lab.aggregators import krum, mean, median, trimmed_mean
from dai_lab.core import ALONE, Aggregate, Key

pytest.importorskip("flwr", reason="Flower is not installed: pip install dai-lab[flower]")

from flwr.app import (
    Array,
    ArrayRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import FedAvg

from dai_lab.bridges.flower import RobustStrategy

QUICKSTART = Path(__file__).parent / "quickstart"
NODES = [2**64 - 1, 7, 2**63, 41, 12, 99, 3]
HONEST = {"num-examples": 10, "train_loss": 1.0}


class Loopback:
    """Flower's grid with every node in this process, each giving the answer it is told to."""

    def __init__(self, answers):
        self.answers = dict(zip(NODES, answers, strict=False))

    def get_node_ids(self):
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout=None):
        sent = [one for one in messages if self.answers[one.metadata.dst_node_id] is not None]
        return [self.reply(one) for one in sent]

    def reply(self, message):
        answer = self.answers[message.metadata.dst_node_id]
        answer = answer(message.content) if callable(answer) else answer
        return Message(answer, reply_to=message)


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    """Flower gives its processes a number; beartype wants a Grid, of which two methods are used."""
    from flwr.serverapp import Grid

    Grid.register(Loopback)
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:  # an older Flower needs no number
        return
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def model(seed=0, scale=1.0):
    draw = np.random.default_rng(seed)
    return {
        "weight": (scale * draw.normal(size=(3, 4))).astype(np.float32),
        "bias": (scale * draw.normal(size=3)).astype(np.float64),
        "half": (scale * draw.normal(size=2)).astype(np.float16),
        "scalar": np.float32(scale * draw.normal()).reshape(()),
        "tracked": np.array(seed, dtype=np.int64),
        "mask": np.array([True, seed % 2 == 0]),
    }


def record(arrays):
    return ArrayRecord({name: Array(np.asarray(one)) for name, one in arrays.items()})


def says(arrays, metrics=HONEST):
    arrays = arrays if isinstance(arrays, ArrayRecord) else record(arrays)
    return RecordDict({"arrays": arrays, "metrics": MetricRecord(dict(metrics))})


def plays(rule, answers, rounds=1, **options):
    options = {"fraction_evaluate": 0.0, "min_available_nodes": len(answers), **options}
    strategy = rule if isinstance(rule, FedAvg) else RobustStrategy(rule, **options)
    return strategy.start(Loopback(answers), record(model()), num_rounds=rounds)


def numbers(arrays):
    return {name: one.numpy() for name, one in arrays.items()}


def by_node(result, name, round=1):
    told = result.train_metrics_clientapp[round]
    return dict(zip(told["aggregator/nodes"], told[f"aggregator/{name}"], strict=True))


def close(some, others, *, only=None, **within):
    some, others = numbers(some), numbers(others)
    assert list(some) == list(others)
    for name in some.keys() if only is None else only:
        one = some[name]
        np.testing.assert_allclose(one, others[name], err_msg=name, **within)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_is_that_of_flowers_own_strategy(weighted):
    examples = [3, 5, 8, 1] if weighted else [4, 4, 4, 4]
    answers = [
        says({**model(n), "tracked": model()["tracked"], "mask": model()["mask"]},
             {**HONEST, "num-examples": count})
        for n, count in enumerate(examples)
    ]  # fmt: skip
    theirs = plays(FedAvg(fraction_evaluate=0.0, min_available_nodes=4), answers)
    ours = plays(mean, answers)
    # Flower adds up in float16, and in an order it draws.
    close(ours.arrays, theirs.arrays, rtol=0, atol=5e-3, only={"half"})
    close(ours.arrays, theirs.arrays, rtol=1e-6, atol=1e-6, only=model().keys() - {"half"})


def test_arrays_keep_their_names_order_shapes_and_types():
    ours = numbers(plays(median, [says(model(n)) for n in range(5)]).arrays)
    assert list(ours) == list(model())
    assert {name: (one.dtype, one.shape) for name, one in ours.items()} == {
        name: (one.dtype, one.shape) for name, one in model().items()
    }


def test_each_number_is_the_median_of_what_clients_sent():
    sent = [model(n) for n in range(1, 6)]
    ours = numbers(plays(median, [says(one) for one in sent]).arrays)
    for name in ("weight", "bias", "half", "scalar", "tracked"):
        expected = np.median(np.stack([one[name] for one in sent]), axis=0)
        np.testing.assert_allclose(ours[name], expected, rtol=2e-3, atol=1e-6)
    assert ours["mask"].tolist() == [True, False]  # two even seeds of five


def test_columns_first_and_other_byte_orders_are_the_same_numbers():
    sent = [model(n) for n in range(5)]
    turned = [{**one, "weight": np.asfortranarray(one["weight"]).astype(">f4", order="F"),
               "bias": one["bias"].astype(">f8")} for one in sent]  # fmt: skip
    plain, other = (plays(median, [says(one) for one in them]) for them in (sent, turned))
    close(plain.arrays, other.arrays, rtol=0)


def raw(data, like="bias"):
    old = Array(model()[like])
    return Array(dtype=old.dtype, shape=old.shape, stype=old.stype, data=data)


def saved(array, **options):
    out = BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def claiming(shape):
    """A header that promises far more numbers than follow it."""
    out = BytesIO()
    head = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, head)
    return out.getvalue() + bytes(24)


def bad(**changes):
    found = record(model(9))
    for name, one in changes.items():
        found[name] = one if isinstance(one, Array) else Array(np.asarray(one))
    return found


def without(name):
    return record({key: one for key, one in model(9).items() if key != name})


def two_records():
    answer = says(model(9))
    answer["more"] = record(model(9))
    return answer


MALFORMED = {
    "an array is missing": lambda: says(without("bias")),
    "an array too many": lambda: says(bad(extra=np.zeros(3))),
    "another shape": lambda: says(bad(weight=np.zeros((4, 3), np.float32))),
    "a shape that would broadcast": lambda: says(bad(bias=np.zeros(1))),
    "a NaN": lambda: says(bad(bias=np.array([0.0, np.nan, 0.0]))),
    "an infinity": lambda: says(bad(scalar=np.float32(np.inf))),
    "text": lambda: says(bad(bias=np.array(["a", "b", "c"]))),
    "complex numbers": lambda: says(bad(bias=np.zeros(3, complex))),
    "a counter with a fraction": lambda: says(bad(tracked=np.array(0.5))),
    "no numpy at all": lambda: says(bad(bias=raw(b"garbage"))),
    "bytes that end too early": lambda: says(bad(bias=raw(saved(np.zeros(3))[:-4]))),
    "a pickle": lambda: says(bad(bias=raw(saved(np.array([print] * 3, object),
                                                allow_pickle=True)))),
    "a header that asks for a petabyte": lambda: says(bad(bias=raw(claiming((2**47,))))),
    "a header with a size below zero": lambda: says(bad(bias=raw(claiming((-1, -3))))),
    "two records of arrays": two_records,
    "nothing but a claim": lambda: RecordDict({"metrics": MetricRecord(dict(HONEST))}),
}  # fmt: skip


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("rule", [median, partial(krum, f=1), mean], ids=["median", "krum", "mean"])
def test_a_malformed_reply_is_a_liar_and_nothing_else_changes(answer, rule):
    honest = [says(model(n)) for n in range(1, 6)]
    result = plays(rule, [answer(), *honest])
    assert by_node(result, "suspected")[NODES[0]] == 1
    assert by_node(result, "suspicion")[NODES[0]] == np.inf
    assert by_node(result, "shares")[NODES[0]] == 0
    assert sum(by_node(result, "suspected").values()) == 1
    fewer = rule if rule in (median, mean) else partial(krum, f=0)
    close(result.arrays, plays(fewer, [None, *honest], min_available_nodes=6).arrays, rtol=1e-6)
    assert result.train_metrics_clientapp[1]["train_loss"] == 1.0


def test_a_reply_of_nothing_at_all_is_a_liar_too():
    honest = [says(model(n)) for n in range(1, 6)]
    result = plays(partial(krum, f=1), [RecordDict(), *honest])
    assert [node for node, one in by_node(result, "suspected").items() if one] == [NODES[0]]


def test_what_is_no_float32_makes_a_row_of_float32_infinite():
    sent = [{"only": np.full(3, value)} for value in (1e300, 1.0, 2.0, 3.0)]
    strategy = RobustStrategy(median, fraction_evaluate=0.0, min_available_nodes=4)
    start = record({"only": np.zeros(3, np.float32)})
    result = strategy.start(Loopback([says(one) for one in sent]), start, num_rounds=1)
    assert by_node(result, "suspicion")[NODES[0]] == np.inf
    assert numbers(result.arrays)["only"].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("claim", [10**12, -5, np.nan, np.inf, [1, 2], None])
def test_no_claim_of_examples_sways_a_robust_rule_or_stops_the_mean(claim):
    honest = [says(model(n)) for n in range(1, 6)]
    metrics = {} if claim is None else {"num-examples": claim}
    lied = [says(model(9, scale=100), metrics), *honest]
    told = [says(model(9, scale=100)), *honest]
    for rule in (median, partial(krum, f=1), partial(mean, weighted=False)):
        close(plays(rule, lied).arrays, plays(rule, told).arrays, rtol=0)
    if claim != 10**12:
        # A claim that nobody can make counts for nothing.
        close(plays(mean, lied).arrays, plays(mean, [None, *honest]).arrays, rtol=1e-6, atol=1e-2)


def test_where_nobody_claims_examples_all_count_the_same():
    answers = [says(model(n), {"train_loss": 1.0}) for n in range(4)]
    same = [says(model(n)) for n in range(4)]
    close(plays(mean, answers).arrays, plays(mean, same).arrays, rtol=0)


def test_the_order_in_which_replies_arrive_does_not_matter():
    class Late(Loopback):
        def send_and_receive(self, messages, *, timeout=None):
            return sorted(
                super().send_and_receive(messages), key=lambda one: -one.metadata.src_node_id
            )

    answers = [says(model(5)) for n in range(7)]  # all alike: only order tells whom krum picks
    options = {"fraction_evaluate": 0.0, "min_available_nodes": 7}
    grids = Loopback(answers), Late(answers)
    shares = []
    for grid in grids:
        strategy = RobustStrategy(partial(krum, f=1), **options)
        shares.append(by_node(strategy.start(grid, record(model()), num_rounds=1), "shares"))
    assert shares[0] == shares[1]


def test_a_client_that_fails_is_no_row_and_a_round_of_failures_changes_nothing():
    honest = [says(model(n)) for n in range(1, 6)]
    failed = Error(code=0, reason="out of memory")
    result = plays(median, [failed, *honest])
    assert set(by_node(result, "suspected")) == set(NODES[1:6])
    assert set(by_node(result, "suspected").values()) == {0}
    close(result.arrays, plays(median, [None, *honest]).arrays, rtol=0)
    strategy = RobustStrategy(median, fraction_evaluate=0.0)
    nothing = strategy.start(Loopback([failed] * 3), record(model()), num_rounds=1)
    assert not nothing.train_metrics_clientapp
    assert not len(nothing.arrays)


def test_where_the_rule_sees_too_few_rows_the_model_stays_and_the_round_says_so():
    honest = [says(model(n)) for n in range(1, 5)]
    result = plays(partial(krum, f=1), honest)
    assert result.train_metrics_clientapp[1]["aggregator/refused"] == 1
    assert not len(result.arrays)
    nobody = plays(mean, [says(bad(bias=np.full(3, np.nan)))] * 3)
    assert nobody.train_metrics_clientapp[1]["aggregator/refused"] == 1
    assert not len(nobody.arrays)


def test_a_rule_remembers_from_round_to_round_and_draws_anew():
    seen = []

    def rule(visible, context=ALONE):
        before = context.state.memory.get("aggregator/last")
        draw = torch.rand(1, generator=(context.key / "x").stream()).item()
        seen.append((visible.members, before, draw, context.state.params))
        row = visible.rows[0]
        ones = torch.ones(visible.count)
        return Aggregate(row, ones, ones, ones.bool(), {"aggregator/last": row}, {"found": 2.5})

    def answer(content):
        arrays = numbers(content["arrays"])
        moved = {k: one + one.dtype.type(1) if one.dtype.kind == "f" else one
                 for k, one in arrays.items()}  # fmt: skip
        return says(moved)

    result = plays(rule, [answer] * 4, rounds=3, seed=5)
    members, before, draws, starts = zip(*seen, strict=True)
    assert before[0] is None
    torch.testing.assert_close(before[1], before[2], rtol=0, atol=5e-3)  # some are float16
    assert set(members[0]) == {(0,), (1,), (2,), (3,)}
    assert members[0] == members[1] == members[2]
    assert len(set(draws)) == 3
    key = Key(5) / "round" / 1 / "aggregator" / "x"
    assert draws[0] == torch.rand(1, generator=key.stream()).item()
    torch.testing.assert_close(starts[2], starts[0] + 2, rtol=0, atol=5e-3)
    assert result.train_metrics_clientapp[2]["aggregator/found"] == 2.5


def test_a_rule_may_train_and_judge_on_the_servers_own_examples():
    def root(arrays):
        assert list(arrays) == list(model())
        return record(model(3))

    def judge(arrays):
        return float(numbers(arrays)["scalar"]), 0.25

    def rule(visible, context=ALONE):
        losses, errors = context.judge(context.state.params + visible.rows)
        expected = [float(model(n)["scalar"]) for n in (1, 2)]
        torch.testing.assert_close(losses, torch.tensor(sorted(expected)).to(losses))
        assert errors.tolist() == [0.25, 0.25]
        ones = torch.ones(visible.count)
        return Aggregate(context.root(), ones, ones, ones.bool())

    order = sorted((1, 2), key=lambda n: float(model(n)["scalar"]))
    answers = dict(zip(sorted(NODES[:2]), order, strict=True))
    result = plays(rule, [says(model(answers[node])) for node in NODES[:2]], root=root, judge=judge)
    ours = numbers(result.arrays)
    np.testing.assert_allclose(ours["weight"], model(3)["weight"], rtol=1e-5, atol=1e-6)


def test_metrics_of_clients_are_medians_that_a_minority_cannot_sway():
    metrics = [{"num-examples": 1, "acc": value} for value in (0.5, 0.6, 0.7)]
    lies = [{"num-examples": 10**9, "acc": -1e9}, {"acc": np.nan, "made_up": 1.0}]
    answers = [RecordDict({"metrics": MetricRecord(one)}) for one in [*metrics, *lies]]
    options = {"fraction_train": 0.0, "fraction_evaluate": 1.0, "min_available_nodes": 5}
    strategy = RobustStrategy(median, **options)
    result = strategy.start(Loopback([*answers, RecordDict()]), record(model()), num_rounds=1)
    assert dict(result.evaluate_metrics_clientapp[1]) == {"acc": pytest.approx(0.55)}


def test_what_cannot_be_a_row_is_refused_in_one_line():
    strategy = RobustStrategy(median, fraction_evaluate=0.0)
    with pytest.raises(ValueError, match="needs arrays of float16, float32 or float64"):
        strategy.start(
            Loopback([says({"tracked": np.arange(3)})] * 2),
            record({"tracked": np.arange(3)}), num_rounds=1,
        )  # fmt: skip
    early = RobustStrategy(median)
    ask = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(ValueError, match="configure_train must come before"):
        early.aggregate_train(1, [Message(says(model()), reply_to=ask)])


def test_flowers_own_options_reach_flower():
    strategy = RobustStrategy(partial(trimmed_mean, f=2), fraction_train=0.5, weighted_by_key="n")
    assert (strategy.fraction_train, strategy.weighted_by_key) == (0.5, "n")


CODE = """
import sys
import dai_lab.bridges
assert "flwr" not in sys.modules
sys.modules["flwr"] = None
try:
    import dai_lab.bridges.flower
except ImportError as missing:
    print(missing)
"""


def test_without_flower_the_error_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install dai-lab[flower]")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Run the quickstart app in Flower's own simulation: ten nodes, of which two lie."""
    pytest.importorskip("ray", reason="Flower's simulation needs ray: pip install dai-lab[ray]")
    folder = tmp_path_factory.mktemp("flower")
    calm = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    # Away from what another simulation of this user keeps.
    env = {**os.environ, **calm, "FLWR_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, str(QUICKSTART / "server_app.py"), str(folder)],
        env=env, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert (folder / "result.json").exists(), done.stdout[-2000:] + done.stderr[-4000:]
    liars = {int(one.name) for one in folder.iterdir() if one.name.isdigit()}
    return json.loads((folder / "result.json").read_text()), liars


def test_a_stock_quickstart_app_learns_though_two_of_its_ten_nodes_lie(simulated):
    result, liars = simulated
    assert len(liars) == 2
    assert list(result["train"]) == ["1", "2"]
    for told in result["train"].values():
        accused = zip(told["aggregator/nodes"], told["aggregator/suspected"], strict=True)
        assert {node for node, one in accused if one} == liars
        assert sum(one > 0 for one in told["aggregator/shares"]) == 6  # n - f - 2
    assert result["evaluate"]["2"]["eval_acc"] > 0.95
    assert result["train"]["2"]["train_loss"] < 0.7 * result["train"]["1"]["train_loss"]


def test_a_stock_quickstart_app_gets_its_buffers_back(simulated):
    result, _ = simulated
    assert result["tracked"] == 20
    assert "1.running_mean" in result["arrays"]
