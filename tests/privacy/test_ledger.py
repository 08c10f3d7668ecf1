"""Who has been charged what, from round to round."""

import pytest
import torch

from dai_lab.core import Event
from dai_lab.privacy import charged, epsilon, repeated, same, spent

NOISE = Event("gaussian", (2.0,))
RECORD = Event("gaussian", (1.0,), 0.1, "record", 30)


def after(*rounds):
    memory = {}
    for number, bills in enumerate(rounds, 1):
        memory |= charged(memory, bills, round=number)
    return memory


def test_everyone_pays_for_what_they_were_in():
    memory = after([(NOISE, [0, 1])], [(NOISE, [1, 2])], [(NOISE, [1])])
    assert spent(memory) == {"client": [{NOISE: 3}]}


def test_an_event_is_the_same_after_a_checkpoint_has_named_it():
    odd = Event("skellam", (1e6, 0.1 + 0.2, 1e-9), 1 / 3, "record", 7)
    assert spent(after([(odd, None)])) == {"record": [{odd: 1}]}


def test_what_everybody_pays_is_added_to_what_each_pays():
    memory = after([(NOISE, None), (NOISE, [4])], [(NOISE, None)])
    assert spent(memory) == {"client": [{NOISE: 3}]}


def test_clients_and_records_are_counted_apart():
    memory = after([(NOISE, [0]), (RECORD, [0])])
    assert spent(memory) == {"client": [{NOISE: 1}], "record": [{RECORD: 1}]}


def test_bills_that_cannot_be_compared_are_both_kept():
    other = Event("gaussian", (1.0,), 0.2)
    memory = after([(NOISE, [0]), (other, [1])], [(NOISE, [0]), (other, [2])])
    bills = spent(memory)["client"]
    assert {NOISE: 2} in bills and {other: 1} in bills and len(bills) == 2


def test_many_different_bills_are_bounded_by_a_few_that_cost_no_less():
    events = [Event("gaussian", (1.5,), 64 / held, "record", 5) for held in range(100, 400, 6)]
    memory = after([(event, [client]) for client, event in enumerate(events)])
    bills = spent(memory)["record"]
    assert bills == [{events[0]: 1}]  # who holds least is sampled most
    most = max(epsilon(bill, delta=1e-5, by="rdp") for bill in bills)
    worst = max(epsilon({event: 1}, delta=1e-5, by="rdp") for event in events)
    assert worst <= most < 1.2 * worst


@pytest.mark.parametrize("again", [1, 2])
def test_a_round_is_never_charged_twice(again):
    memory = after([(NOISE, None)], [(NOISE, None)])
    with pytest.raises(ValueError, match=r"accounting: round \d is charged already"):
        charged(memory, [(NOISE, None)], round=again)


def test_a_ledger_goes_on_as_it_went():
    one = after([(NOISE, [0, 1]), (RECORD, None)])
    two = {**one, **charged(one, [(NOISE, [1]), (RECORD, None)], round=2)}
    ahead = repeated(one, two, 3)
    assert spent(ahead) == {"client": [{NOISE: 5}], "record": [{RECORD: 5}]}
    assert same(two, {**two, "privacy/norm": torch.tensor(1.0)}) and not same(one, two)


def test_more_bills_than_are_priced_one_by_one_are_bounded_together():
    events = [Event("gaussian", (1.5,), 0.01 * (one + 1), "record") for one in range(30)]
    memory = after(*[[(event, [client] * 1)] for client, event in enumerate(events)])
    for number in range(31, 200):
        again = [(events[client], [client]) for client in range(30) if client <= 200 - number]
        memory |= charged(memory, again, round=number)
    (bill,) = spent(memory)["record"]
    ((event, count),) = bill.items()
    assert event.rate == 0.3 and count == max(
        int(table[1].sum()) for name, table in memory.items() if name.startswith("privacy/spent/")
    )
