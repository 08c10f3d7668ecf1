"""Laws of the algorithms: turn one off and it is FedAvg; leave it on and it keeps its promise."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.aggregators import mean
from dai_lab.core import Compute, Examples, Key, Shards, State, Task
from dai_lab.federation.stages import learn
from dai_lab.learning import (
    body,
    ditto,
    fedavg,
    feddyn,
    feddyn_server,
    fednova,
    fednova_server,
    fedper,
    fedrep,
    fine_tuned,
    ifca,
    ifca_server,
    own_head,
    pfedme,
    remembered,
    scaffold,
    scaffold_server,
    sgd,
)
from dai_lab.models import create, mlp
from dai_lab.secagg import ideal, plain

METHODS = ["flat", "vmap", "chain", "compiled"]
SIZES = (7, 0, 19, 1, 12)
COHORTS = ((0, 2, 3), (1, 2, 4), (0, 1, 2, 3, 4), (2, 3))
"""Some rounds' clients, one of which holds nothing."""
SOME = {"batch_size": 4, "epochs": 2, "rate": 0.1}


def task(sizes=SIZES, seed=0):
    stream, count = Key(seed).stream(), sum(sizes)
    inputs = torch.randn(count, 5, generator=stream)
    targets = torch.randint(3, (count,), generator=stream)
    dealt = torch.randperm(count, generator=stream).split(list(sizes))
    model = create(partial(mlp, hidden=[6]), shape=(5,), classes=3, key=Key(seed))
    return Task(model, Examples(inputs, targets), Shards.of(list(dealt)))


def round_of(
    what, state, number, cohort, *, train, server=fedavg, secagg=plain, method="auto", **knobs
):
    found = train(
        what, state, state.params, cohort, key=Key(1) / number, round=number,
        compute=Compute(method=method), **knobs,
    )  # fmt: skip
    state = learn(state, cohort, found)
    sizes = what.shards.sizes
    joined = {
        "federation/participation": torch.tensor(len(cohort) / len(sizes)),
        "federation/examples": sizes[list(cohort)].sum() / sizes.sum(),
    }
    visible = secagg(found.rows, found.weights, clients=cohort, key=Key(2) / number)
    return server(state.remember(joined), mean(visible).update)


def rounds(what, cohorts=COHORTS, forget=(), **knobs):
    """Play and return every state; what ``forget`` names is forgotten before each round."""
    states = [State(what.model.initial)]
    for number, cohort in enumerate(cohorts, start=1):
        kept = {name: one for name, one in states[-1].memory.items() if name not in forget}
        states.append(round_of(what, State(states[-1].params, kept), number, cohort, **knobs))
    return states[1:]


def same_models(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        if tolerance:
            torch.testing.assert_close(one.params, other.params, **tolerance)
        else:
            assert one.params.equal(other.params)


@pytest.mark.parametrize("method", METHODS)
def test_scaffold_without_controls_is_fedavg(method):
    what = task()
    zeroed = ("server/control", "clients/control", "clients/control/of")
    ours = rounds(
        what, train=scaffold, server=scaffold_server, forget=zeroed, method=method, **SOME
    )
    same_models(ours, rounds(what, train=sgd, method=method, **SOME))


@given(sizes=st.lists(st.integers(0, 9), min_size=2, max_size=5), data=st.data())
@settings(max_examples=12)
def test_the_servers_control_is_the_mean_of_the_clients(sizes, data):
    """Counted by examples, whoever took part; who was never asked has none."""
    what = task([*sizes, 3])
    someone = st.lists(st.integers(0, len(sizes) - 1), min_size=1, unique=True)
    cohorts = [(*sorted(data.draw(someone)), len(sizes)) for _ in range(3)]
    shares = what.shards.sizes / what.shards.sizes.sum()
    for state in rounds(what, cohorts, train=scaffold, server=scaffold_server, **SOME):
        zero = torch.zeros(what.model.params)
        own = state.recall("clients/control", range(len(shares)), zero)
        control = state.memory["server/control"]
        torch.testing.assert_close(control, shares @ own, rtol=1e-4, atol=1e-5)
        assert control.any()


@pytest.mark.parametrize("method", METHODS)
def test_feddyn_without_a_regularizer_is_fedavg(method):
    what, off = task(), partial(feddyn_server, alpha=0.0)
    ours = rounds(what, train=feddyn, server=off, alpha=0.0, method=method, **SOME)
    same_models(ours, rounds(what, train=sgd, method=method, **SOME))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "knobs", [{}, {"momentum": 0.9}, {"proximal": 0.5}, {"proximal": 15.0}, {"proximal": 20.0}]
)
def test_fednova_with_equal_steps_is_fedavg(method, knobs):
    what = task([9] * 5)
    cohorts = ((0, 2, 3), (1, 4))
    ours = rounds(
        what, cohorts, train=fednova, server=fednova_server, method=method, **SOME, **knobs
    )
    plainly = rounds(what, cohorts, train=sgd, method=method, **SOME, **knobs)
    same_models(ours, plainly, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_dittos_common_model_is_fedavgs(method):
    what = task()
    ours = rounds(what, train=ditto, leash=0.7, own_epochs=3, method=method, **SOME)
    same_models(ours, rounds(what, train=sgd, method=method, **SOME))


@pytest.mark.parametrize("method", METHODS)
def test_ditto_without_a_leash_is_local_training(method):
    """Own models then never hear of the common one: each client's is its own history of SGD."""
    what, own = task(), {}
    last = rounds(what, train=ditto, leash=0.0, own_epochs=3, method=method, **SOME)[-1]
    for number, cohort in enumerate(COHORTS, start=1):
        start = torch.stack([own.get(client, what.model.initial) for client in cohort])
        found = sgd(
            what, State(start[0]), start, cohort, key=Key(1) / number / "personal", round=number,
            compute=Compute(method=method), **{**SOME, "epochs": 3},
        )  # fmt: skip
        own |= dict(zip(cohort, start + found.rows, strict=True))
    everyone = sorted(own)
    asked = remembered(what, last, everyone, key=Key(0), compute=Compute())
    assert asked.equal(torch.stack([own[client] for client in everyone]))


@given(seed=st.integers(0, 99), leash=st.floats(0.5, 4))
@settings(max_examples=10)
def test_a_shorter_leash_keeps_dittos_own_models_nearer(seed, leash):
    what = task([12] * 3, seed)

    def strayed(leash):
        here = {"leash": leash, "own_epochs": 5, "batch_size": 0, "rate": 0.1}
        found = ditto(
            what, State(what.model.initial), what.model.initial, range(3), key=Key(1), round=1,
            compute=Compute(), **here,
        )  # fmt: skip
        return (found.learned["clients/personal"] - what.model.initial).norm(dim=1)

    assert (strayed(2 * leash) < strayed(leash)).all()
    assert (strayed(leash) < strayed(0.0)).all()
    # After steps at rate r the pull of w undoes a share r * w each: no step outweighs the last.
    assert (strayed(9.9) < 0.3 * strayed(0.0)).all()


@given(rate=st.floats(0.01, 0.2), own_rate=st.floats(0.01, 0.2), leash=st.floats(0.5, 4))
@settings(max_examples=10)
def test_pfedme_with_one_inner_step_on_everything_is_a_gradient_step(rate, own_rate, leash):
    what = task()
    ours = rounds(
        what, train=pfedme, inner_steps=1, batch_size=0, rate=rate, own_rate=own_rate, leash=leash
    )
    same_models(
        ours, rounds(what, train=sgd, batch_size=0, rate=rate * own_rate * leash),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_pfedmes_local_model_goes_a_share_of_the_way_to_its_own():
    what, (rate, leash) = task(), (0.02, 10.0)
    found = pfedme(
        what, State(what.model.initial), what.model.initial, range(5), key=Key(1), round=1,
        compute=Compute(), batch_size=0, inner_steps=7, rate=rate, leash=leash,
    )  # fmt: skip
    fitted = found.learned["clients/personal"] - what.model.initial
    torch.testing.assert_close(found.rows, rate * leash * fitted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_fedper_alone_is_plain_training_cut_in_two(method):
    what, alone = task([19]), ((0,),) * 3
    last = rounds(what, alone, train=fedper, server=body, method=method, **SOME)[-1]
    ours = own_head(what, last, [0], key=Key(0), compute=Compute())[0]
    theirs = rounds(what, alone, train=sgd, method=method, **SOME)[-1]
    torch.testing.assert_close(ours, theirs.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("train", [fedper, fedrep])
def test_the_common_head_stays_where_it_was(train, method):
    what = task()
    cut = 5 * 6 + 6
    for state in rounds(what, train=train, server=body, method=method, **SOME):
        assert state.params[cut:].equal(what.model.initial[cut:])
        assert not state.params[:cut].equal(what.model.initial[:cut])
        assert state.memory["clients/head"].shape[1] == what.model.params - cut


@pytest.mark.parametrize("method", METHODS)
def test_what_fedrep_does_to_the_body_comes_after_the_head(method):
    what = task()

    def once(**knobs):
        return fedrep(
            what, State(what.model.initial), what.model.initial, range(5), key=Key(1), round=1,
            compute=Compute(method=method), batch_size=4, **knobs,
        )  # fmt: skip

    short, long = once(epochs=1), once(epochs=4)
    assert short.learned["clients/head"].equal(long.learned["clients/head"])
    assert not short.rows.equal(long.rows)
    fitted = once(head_epochs=4)
    assert not fitted.learned["clients/head"].equal(short.learned["clients/head"])
    assert not fitted.rows.equal(short.rows)


@pytest.mark.parametrize("secagg", [plain, ideal], ids=["plain", "one secure sum"])
@pytest.mark.parametrize("method", METHODS)
def test_ifca_with_one_cluster_is_fedavg_and_a_sum_is_all_it_needs(method, secagg):
    what = task()
    ours = rounds(
        what, train=ifca, server=ifca_server, clusters=1, secagg=secagg, method=method, **SOME
    )
    same_models(
        ours, rounds(what, train=sgd, method=method, **SOME), rtol=1e-4, atol=1e-5
    )  # fmt: skip


@given(clusters=st.integers(2, 5), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_a_secure_sum_leaves_ifca_the_same_models(clusters, seed):
    knobs = {"train": ifca, "server": ifca_server, "clusters": clusters, **SOME}
    what = task(seed=seed)
    hidden, seen = (rounds(what, secagg=each, **knobs)[-1] for each in (ideal, plain))
    ours, theirs = (state.memory["server/clusters"] for state in (hidden, seen))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours.shape == (clusters, what.model.params)


@pytest.mark.parametrize("method", METHODS)
def test_fine_tuning_is_one_more_round_of_local_sgd(method):
    what, compute = task(), Compute(method=method)
    state = State(what.model.initial + 0.1)
    ask = partial(fine_tuned, what, state, (0, 1, 3), key=Key(4), compute=compute)
    assert ask(epochs=0).equal(state.params.expand(3, -1))
    found = sgd(what, state, state.params, (0, 1, 3), key=Key(4), round=1, compute=compute, **SOME)
    assert ask(**SOME).equal(state.params + found.rows)
    assert ask(**SOME)[1].equal(state.params)  # holds nothing to tune on
