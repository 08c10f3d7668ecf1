"""Chains to test on: one inside the process, and a real node where there is one."""

import re
from collections import Counter

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dai_lab.chain import Reverted, embedded, rpc
from dai_lab.chain.artifacts import artifact
from tests.conftest import KEY, ROOT


@pytest.fixture
def anvil(anvil_url, monkeypatch):
    """Open the node, as whoever has money there."""
    monkeypatch.setenv("DAI_LAB_CHAIN_KEY", KEY)
    return rpc(anvil_url)


@pytest.fixture
def here():
    """Open a chain in memory."""
    return embedded()


class Scene:
    """A play on some chain: what was said is written down in words that no chain changes."""

    def __init__(self, chain):
        self.chain, self.base = chain, chain.now()
        self.names, self.lines = {"0x" + "00" * 20: "nobody"}, []
        self.used, self.reasons = set(), set()

    def who(self, *names):
        """Give the accounts of these names."""
        found = [self.chain.account(one) for one in names]
        self.names |= dict(zip(found, names, strict=True))
        return found

    def call_it(self, found, name):
        """Write a name wherever this address or hash is said."""
        self.names[found] = name
        return found

    def deploy(self, kind, *arguments, by):
        """Put a contract on the chain."""
        made = self.chain.deploy(kind, *arguments, sender=by)
        self.used.add((kind, "deploy"))
        self.call_it(made.address, kind)
        return made

    def does(self, contract, function, *arguments, by):
        """Send what is carried out, and give what the contract said last."""
        receipt = self.chain.send(contract, function, *arguments, sender=by)
        self.used.add((contract.name, function))
        said = [self.plain((one.event, dict(one.fields))) for one in receipt.logs]
        self.lines.append((function, said))
        assert tuple(self.chain.logs(contract, start=receipt.block)) == receipt.logs
        return receipt.logs[-1].fields if receipt.logs else {}

    def refuses(self, reason, contract, function, *arguments, by):
        """Send what is refused, for this reason."""
        with pytest.raises(Reverted) as refusal:
            self.chain.send(contract, function, *arguments, sender=by)
        assert refusal.value.reason == reason
        self.reasons.add(reason)
        self.lines.append((function, reason))

    def not_deployed(self, reason, kind, *arguments, by):
        """Deploy what refuses to be, for this reason."""
        with pytest.raises(Reverted) as refusal:
            self.chain.deploy(kind, *arguments, sender=by)
        assert refusal.value.reason == reason
        self.reasons.add(reason)
        self.lines.append((kind, reason))

    def says(self, contract, function, *arguments):
        """Ask, and give the answer."""
        found = self.chain.call(contract, function, *arguments)
        self.used.add((contract.name, function))
        self.lines.append((function, self.plain(found)))
        return found

    def unanswered(self, reason, contract, function, *arguments):
        """Ask what is refused, for this reason."""
        with pytest.raises(Reverted) as refusal:
            self.chain.call(contract, function, *arguments)
        assert refusal.value.reason == reason
        self.reasons.add(reason)
        self.lines.append((function, reason))

    def money(self, *holders):
        """Make a token, and give each of them a thousand."""
        (bank,) = self.who("bank")
        token = self.deploy("token", "Lab coin", "LAB", 1_000_000, by=bank)
        for one in holders:
            self.does(token, "transfer", one, 1000, by=bank)
        return token

    def leaves_nothing_out(self, kind):
        """Check that all a contract does, and every reason it has to refuse, was seen."""
        source = (ROOT / "dai_lab" / "chain" / "contracts" / f"{kind}.vy").read_text()
        given = {one for one in re.findall(r'"(\w+: [^"]+)"', source) if one.startswith(kind)}
        # Those need a token that does not pay and does not refuse either: see test_hostile.py.
        assert {one for one in given if not one.endswith("payment failed")} <= self.reasons
        made = artifact(kind)
        assert {(kind, one) for one in made.functions} <= self.used
        assert [one for one in made.topics if not self.heard(one)] == []

    def heard(self, event):
        """Say whether an event was ever said."""
        return any(
            event == name for _, said in self.lines if isinstance(said, list) for name, _ in said
        )

    def plain(self, found):
        """Replace addresses, names and times by words."""
        if isinstance(found, dict):
            return {name: self.plain(one) for name, one in found.items()}
        if isinstance(found, (tuple, list)):
            return [self.plain(one) for one in found]
        if isinstance(found, int) and abs(found - self.base) < 10**7:
            return f"T{round(found - self.base, -3):+}"
        return self.names.get(found, found)


@pytest.fixture
def scene():
    """Begin a play on a chain."""
    return Scene


class Walk(RuleBasedStateMachine):
    """A walk of calls, good ones and hostile ones, beside a model that foretells every outcome.

    People have a thousand coins each, and the contract that is walked on may spend them.
    """

    supply = 4000

    @classmethod
    def goes_everywhere(cls, examples=27, steps=60):
        """Walk, and check that it was as long as meant and that everything was once done."""
        cls.seen = Counter()
        short = settings(max_examples=examples, stateful_step_count=steps)
        run_state_machine_as_test(cls, settings=short)
        # Few of them stop early. Eight walks are 10,000 steps and more.
        assert cls.seen.total() >= 0.8 * examples * steps
        made = artifact(cls.kind)
        told = {name for name, one in made.functions.items() if not one.asks}
        assert {name for name, reason in cls.seen if reason is None} >= told

    def terms(self):
        """Give what the contract is deployed with."""
        return (self.coin.address,)

    def __init__(self, *extra):
        super().__init__()
        self.chain = embedded()
        self.people = [self.chain.account(one) for one in ("ann", "bob", "cid")]
        self.extra = [self.chain.account(one) for one in extra]
        bank = self.chain.account("bank")
        self.coin = self.chain.deploy("token", "Coin", "C", self.supply, sender=bank)
        self.moved, self.acted = set(), False
        self.balances = dict.fromkeys([*self.people, *self.extra], 0)
        self.balances[bank] = self.supply
        for one in self.people:
            self.chain.send(self.coin, "transfer", one, 1000, sender=bank)
            self.moves(bank, one, 1000)
        self.contract = self.coin
        if self.kind != "token":
            self.contract = self.chain.deploy(self.kind, *self.terms(), sender=bank)
            self.balances[self.contract.address] = 0
            for one in self.people:
                everything = (self.contract.address, (1 << 256) - 1)
                self.chain.send(self.coin, "approve", *everything, sender=one)

    def time(self):
        """Give the time of the block that comes next."""
        return self.chain.now() + 1

    def tries(self, reason, function, *arguments, by):
        """Send, and be refused for the foretold reason, or for none; say whether it was done."""
        try:
            self.chain.send(self.contract, function, *arguments, sender=by)
        except Reverted as refusal:
            assert refusal.reason == reason
        else:
            assert reason is None
        self.seen[function, reason] += 1
        self.acted = True
        return reason is None

    def moves(self, payer, payee, amount):
        """Move money in the model."""
        self.balances[payer] -= amount
        self.balances[payee] += amount
        self.moved |= {payer, payee}

    def latest(self, pick, many, good):
        """Pick one of the latest of many, or, where none is picked, the latest that is good."""
        if pick is None:
            pick = next((place for place, one in enumerate(many[::-1]) if good(one)), 0)
        return max(len(many) - 1 - pick, -1)

    def short(self, payer, amount):
        """Say how a payment is refused, if it is."""
        return "token: balance too low" if self.balances[payer] < amount else None

    @precondition(lambda self: self.acted)
    @rule(seconds=strategies.sampled_from([1, 20, 61]))
    def time_passes(self, seconds):
        self.chain.advance(seconds)
        self.acted = False
        self.seen["time", None] += 1

    @invariant()
    def money_is_where_the_model_says(self):
        for holder in self.moved:
            assert self.chain.call(self.coin, "balanceOf", holder) == self.balances[holder]
        self.moved.clear()

    def teardown(self):
        """Look at everything once more, also at what nobody should have moved."""
        self.moved |= set(self.balances)
        self.money_is_where_the_model_says()
        assert sum(self.balances.values()) == self.supply
        self.ends()

    def ends(self):
        """Look at what else the contract holds."""
