"""The fewest neighbors are those of the published table, and chances those of exact fractions."""

from fractions import Fraction
from math import comb, log2

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.secagg.finder import chances, find, ring

# From Google's parameter finder, with 40 bits of security and 20 of correctness: neighbors and
# threshold, for shares of corrupt and lost clients, without and with an active server.
ROWS = {
    50: [(6, 3), (12, 6), (16, 11), (22, 17), (34, 17), (8, 6), (16, 11)],
    100: [(12, 6), (22, 11), (32, 21), (42, 32), (68, 34), (16, 11), (32, 22)],
    200: [(20, 11), (34, 19), (46, 30), (66, 47), (122, 64), (30, 21), (56, 39)],
    500: [(28, 16), (42, 24), (60, 39), (90, 64), (216, 114), (44, 31), (82, 57)],
    1000: [(30, 17), (48, 27), (68, 44), (102, 72), (292, 154), (52, 37), (96, 67)],
    10**4: [(34, 20), (54, 31), (80, 51), (126, 88), (442, 231), (62, 44), (122, 85)],
    10**6: [(38, 22), (64, 36), (92, 58), (150, 104), (538, 280), (74, 52), (146, 101)],
}
COLUMNS = [
    (0.05, 0.05, False), (0.1, 0.1, False), (0.2, 0.1, False), (1 / 3, 0.1, False),
    (1 / 3, 1 / 3, False), (0.05, 0.05, True), (0.1, 0.1, True),
]  # fmt: skip


@pytest.mark.parametrize("clients", ROWS)
def test_the_fewest_neighbors_are_those_of_the_table(clients):
    found = [
        find(clients, corrupt=corrupt, dropping=dropping, active=active)
        for corrupt, dropping, active in COLUMNS
    ]
    assert [(one.neighbors, one.threshold) for one in found] == ROWS[clients]
    assert all(one.disconnected < -41 and one.exposed <= -41 for one in found)
    assert all(one.stuck <= -20 for one in found)


def hypergeometric(total, marked, drawn, number):
    ways = comb(marked, number) * comb(total - marked, drawn - number)
    return Fraction(ways, comb(total, drawn))


@given(clients=st.integers(4, 30), data=st.data())
def test_chances_are_those_of_exact_fractions(clients, data):
    near = data.draw(st.integers(1, (clients - 1) // 2)) * 2
    threshold = data.draw(st.integers(1, near))
    corrupt, lost = data.draw(st.integers(0, clients // 3)), data.draw(st.integers(0, clients // 3))
    found = chances(
        clients, near, threshold, corrupt=corrupt / clients, dropping=lost / clients, active=False
    )
    alive = clients - lost
    exact = {
        "exposed": sum(
            hypergeometric(clients, corrupt, near, one) for one in range(threshold, near + 1)
        ),
        "stuck": sum(hypergeometric(clients, alive, near, one) for one in range(threshold)),
    }
    for name, chance in exact.items():
        bound = getattr(found, name)
        if chance:
            assert bound == pytest.approx(log2(clients * chance), abs=1e-9)
        else:
            assert bound == -float("inf")


@given(clients=st.integers(1, 40), half=st.integers(1, 20), data=st.data())
def test_a_ring_gives_each_client_as_many_neighbors_who_know_each_other(clients, half, data):
    order = data.draw(st.permutations(range(clients)))
    found = ring(clients, 2 * half, order=order)
    drawn = networkx.Graph([(one, other) for one, near in enumerate(found) for other in near])
    assert {len(near) for near in found} == {min(2 * half, clients - 1)}
    assert all(one in found[other] for one, near in enumerate(found) for other in near)
    assert clients == 1 or networkx.is_connected(drawn)


def test_what_cannot_be_found_or_drawn_is_refused():
    with pytest.raises(ValueError, match="not even all of 20 clients are enough"):
        find(20, corrupt=0.5, dropping=0.5)
    for knobs in ({"corrupt": 1.0, "dropping": 0.1}, {"corrupt": -0.1, "dropping": 0.1}):
        with pytest.raises(ValueError, match=r"secagg\.corrupt must be a share"):
            find(100, **knobs)
    with pytest.raises(ValueError, match=r"secagg\.spare must be a share in \[0, 1\), got 1"):
        find(100, corrupt=0.1, dropping=1.0)
    with pytest.raises(ValueError, match="takes two clients, got 1"):
        find(1, corrupt=0.1, dropping=0.1)
    with pytest.raises(ValueError, match="even number from 2, got 3"):
        ring(10, 3, order=range(10))
    with pytest.raises(ValueError, match="must name every client once"):
        ring(3, 2, order=[0, 1, 1])
