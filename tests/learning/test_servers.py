"""Server optimizers against plain-Python twins of the papers, and against torch where equal."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.core import Key, State
from dai_lab.learning import servers

SERVERS = {
    "fedavg": servers.fedavg,
    "fedavgm": servers.fedavgm,
    "fedadagrad": servers.fedadagrad,
    "fedadam": servers.fedadam,
    "fedyogi": servers.fedyogi,
}
SEEDS = st.integers(0, 999)


def updates(seed, rounds=5, params=4):
    return torch.randn(rounds, params, generator=Key(seed).stream(), dtype=torch.float64)


def play(server, every):
    state = State(torch.zeros(every.shape[1], dtype=every.dtype))
    for update in every:
        state = server(state, update)
    return state


def published(name, every, *, rate, beta1, beta2, tau):
    """Algorithm 2 of Reddi et al., one number at a time."""
    result = []
    for coordinate in every.T.tolist():
        x, m, v = 0.0, 0.0, tau**2
        for delta in coordinate:
            m = beta1 * m + (1 - beta1) * delta
            if name == "fedadagrad":
                v = v + delta**2
            elif name == "fedyogi":
                sign = (v > delta**2) - (v < delta**2)
                v = v - (1 - beta2) * delta**2 * sign
            else:
                v = beta2 * v + (1 - beta2) * delta**2
            x = x + rate * m / (math.sqrt(v) + tau)
        result.append(x)
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("name", SERVERS)
@given(seed=SEEDS)
def test_a_step_returns_a_new_state_and_leaves_the_old_one(name, seed):
    every = updates(seed)
    first = SERVERS[name](State(every[0].clone(), {"clients/momentum": every}), every[1])
    frozen = first.params.clone(), {key: value.clone() for key, value in first.memory.items()}
    second = SERVERS[name](first, every[2])
    assert torch.equal(first.params, frozen[0])
    assert all(torch.equal(first.memory[key], value) for key, value in frozen[1].items())
    assert second.memory.keys() == first.memory.keys()
    assert second.memory["clients/momentum"] is every


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
@given(
    seed=SEEDS,
    rate=st.floats(1e-3, 1),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.999),
    tau=st.floats(1e-4, 10),
)
def test_adaptive_servers_are_the_published_algorithm(name, seed, rate, beta1, beta2, tau):
    knobs = {"rate": rate, "beta1": beta1, "tau": tau}
    if name != "fedadagrad":
        knobs["beta2"] = beta2
    state = play(partial(SERVERS[name], **knobs), updates(seed))
    expected = published(name, updates(seed), rate=rate, beta1=beta1, beta2=beta2, tau=tau)
    torch.testing.assert_close(state.params, expected)
    assert set(state.memory) == {"server/momentum", "server/second"}


@given(seed=SEEDS, rate=st.floats(0.01, 2), beta=st.floats(0, 0.99))
def test_fedavgm_is_sgd_with_momentum_down_the_negative_update(seed, rate, beta):
    every = updates(seed)
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=rate, momentum=beta)
    for update in every:
        weight.grad = -update
        optimizer.step()
    state = play(partial(servers.fedavgm, rate=rate, beta=beta), every)
    torch.testing.assert_close(state.params, weight.detach())


@given(seed=SEEDS, rate=st.floats(0.01, 2))
def test_momentum_off_is_fedavg_bit_for_bit(seed, rate):
    plain = play(partial(servers.fedavg, rate=rate), updates(seed))
    off = play(partial(servers.fedavgm, rate=rate, beta=0.0), updates(seed))
    assert torch.equal(plain.params, off.params)


@given(seed=SEEDS)
def test_fedavg_at_rate_one_adds_the_updates_up(seed):
    torch.testing.assert_close(play(servers.fedavg, updates(seed)).params, updates(seed).sum(0))


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
@given(seed=SEEDS)
def test_a_large_tau_makes_an_adaptive_server_fedavg(name, seed):
    tau = 1e6
    adaptive = partial(SERVERS[name], rate=2 * tau, beta1=0.0, tau=tau)
    if name != "fedadagrad":
        # The second moment starts at tau squared and must stay there for this to hold.
        adaptive = partial(adaptive, beta2=1 - 1e-12)
    state = play(adaptive, updates(seed))
    torch.testing.assert_close(state.params, updates(seed).sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        (partial(servers.fedavg, rate=0.0), "server.rate must be above 0, got 0.0"),
        (partial(servers.fedavg, rate=float("nan")), "server.rate must be above 0, got nan"),
        (partial(servers.fedavgm, beta=1.0), "server.beta must be at least 0 and below 1, got 1"),
        (partial(servers.fedadam, beta1=-0.1), "server.beta1 must be"),
        (partial(servers.fedyogi, beta2=1.0), "server.beta2 must be"),
        (partial(servers.fedadagrad, tau=0.0), "server.tau must be above 0"),
    ],
)
def test_a_knob_out_of_range_is_named(server, complaint):
    with pytest.raises(ValueError, match=complaint):
        server(State(torch.zeros(2)), torch.ones(2))
