"""Money is conserved over any walk of calls, and every outcome is the one foretold."""

import pytest
from hypothesis import strategies
from hypothesis.stateful import rule

from dai_lab.chain import authorization, payout_proofs, payout_root, voucher
from dai_lab.chain.keys import ORDER
from dai_lab.chain.typed import digest
from tests.chain.conftest import Walk

PERSON = strategies.integers(0, 2)
AMOUNT = strategies.integers(0, 400) | strategies.integers(0, 2000)
FEW = strategies.integers(0, 3)
RIGHT = strategies.sampled_from([None, None, None, None, 0, 1, 2])
"""Who acts, or on what: mostly whoever may and what can be, else anybody and anything."""
FITS = strategies.sampled_from([True, True, True, False])
"""Whether amounts are made to be no more than there is."""
SELDOM = strategies.sampled_from([False, False, False, True])
YES = strategies.booleans()


def forged(signature, mirrored):
    """Take a signature apart, and put it together as its mirror image."""
    r, s, v = signature[:32], signature[32:64], signature[64]
    return (55 - v, r, (ORDER - int.from_bytes(s)).to_bytes(32)) if mirrored else (v, r, s)


class TokenWalk(Walk):
    kind = "token"

    def __init__(self):
        super().__init__()
        self.allowed, self.used = {}, set()

    @rule(payer=PERSON, payee=PERSON, amount=AMOUNT)
    def pay(self, payer, payee, amount):
        payer, payee = self.people[payer], self.people[payee]
        if self.tries(self.short(payer, amount), "transfer", payee, amount, by=payer):
            self.moves(payer, payee, amount)

    @rule(payer=PERSON, spender=PERSON, amount=AMOUNT)
    def approve(self, payer, spender, amount):
        pair = self.people[payer], self.people[spender]
        self.tries(None, "approve", pair[1], amount, by=pair[0])
        self.allowed[pair] = amount

    @rule(pick=RIGHT, payee=PERSON, spender=PERSON, amount=AMOUNT)
    def spend(self, pick, payee, spender, amount):
        payer, payee, spender = (self.people[one] for one in (pick or 0, payee, spender))
        if pick is None and self.allowed:
            (payer, spender), most = list(self.allowed.items())[-1]
            amount %= most + 1
        allowed = self.allowed.get((payer, spender), 0)
        reason = "token: allowance too low" if allowed < amount else self.short(payer, amount)
        if self.tries(reason, "transferFrom", payer, payee, amount, by=spender):
            self.allowed[payer, spender] = allowed - amount
            self.moves(payer, payee, amount)

    @rule(
        payer=PERSON,
        payee=PERSON,
        signer=RIGHT,
        by=RIGHT,
        amount=AMOUNT,
        nonce=FEW,
        mirrored=SELDOM,
        window=strategies.tuples(strategies.integers(-9, 1), strategies.integers(-1, 9)),
        received=YES,
    )
    def carry(self, payer, payee, signer, by, amount, nonce, mirrored, window, received):
        payer, payee = self.people[payer], self.people[payee]
        signer = payer if signer is None else self.people[signer]
        by = payee if by is None else self.people[by]
        nonce, now = bytes([nonce]) * 32, self.time()
        after, before = now + window[0], now + window[1]
        content = authorization(
            self.chain,
            self.coin,
            payer=payer,
            payee=payee,
            amount=amount,
            nonce=nonce,
            valid_after=after,
            valid_before=before,
            received=received,
        )
        signature = forged(self.chain.sign(signer, content), mirrored)
        reasons = {
            "token: not the payee": received and by != payee,
            "token: not yet valid": now <= after,
            "token: expired": now >= before,
            "token: nonce used": (payer, nonce) in self.used,
            "token: bad signature": mirrored or signer != payer,
        }
        reason = next((one for one, true in reasons.items() if true), self.short(payer, amount))
        function = ("receive" if received else "transfer") + "WithAuthorization"
        said = (payer, payee, amount, after, before, nonce, *signature)
        if self.tries(reason, function, *said, by=by):
            self.used.add((payer, nonce))
            self.moves(payer, payee, amount)

    @rule(who=PERSON, signer=RIGHT, nonce=FEW, mirrored=SELDOM)
    def cancel(self, who, signer, nonce, mirrored):
        who, nonce = self.people[who], bytes([nonce]) * 32
        signer = who if signer is None else self.people[signer]
        kind = "CancelAuthorization(address authorizer,bytes32 nonce)"
        content = digest(self.chain, self.coin, "Coin", kind, (who, nonce))
        signature = forged(self.chain.sign(signer, content), mirrored)
        good = signer == who and not mirrored
        reason = None if good else "token: bad signature"
        reason = "token: nonce used" if (who, nonce) in self.used else reason
        if self.tries(reason, "cancelAuthorization", who, nonce, *signature, by=self.people[0]):
            self.used.add((who, nonce))


class StakeWalk(Walk):
    kind, delay = "stake", 20

    def __init__(self):
        super().__init__("judge", "treasury")
        self.judge, self.treasury = self.extra
        self.staked, self.leaving, self.ready = ({one: 0 for one in self.people} for _ in "abc")
        self.judged, self.sums = set(), {"deposited": 0, "slashed": 0, "withdrawn": 0}

    def terms(self):
        return self.coin.address, *self.extra, self.delay

    @rule(who=PERSON, amount=AMOUNT)
    def stake(self, who, amount):
        who = self.people[who]
        reason = self.short(who, amount) if amount else "stake: nothing"
        if self.tries(reason, "stake", amount, by=who):
            self.staked[who] += amount
            self.sums["deposited"] += amount
            self.moves(who, self.contract.address, amount)

    @rule(who=PERSON, amount=AMOUNT, fits=FITS)
    def unstake(self, who, amount, fits):
        who, now = self.people[who], self.time()
        amount = amount % (self.staked[who] + 1) if fits else amount
        enough = self.staked[who] >= amount
        reason = None if amount and enough else "stake: more than staked"
        if self.tries(reason if amount else "stake: nothing", "unstake", amount, by=who):
            self.staked[who] -= amount
            self.leaving[who] += amount
            self.ready[who] = now + self.delay

    @rule(who=RIGHT)
    def withdraw(self, who):
        most = max(self.people, key=lambda one: self.leaving[one] - self.ready[one] / 10**12)
        who = most if who is None else self.people[who]
        amount = self.leaving[who]
        early = "stake: too early" if self.time() < self.ready[who] else None
        if self.tries(early if amount else "stake: nothing", "withdraw", by=who):
            self.leaving[who] = 0
            self.sums["withdrawn"] += amount
            self.moves(self.contract.address, who, amount)

    @rule(who=PERSON, amount=AMOUNT, fits=FITS, evidence=strategies.integers(0, 9), by=RIGHT)
    def slash(self, who, amount, fits, evidence, by):
        who, by = self.people[who], self.judge if by is None else self.people[by]
        amount = amount % (self.staked[who] + self.leaving[who] + 1) if fits else amount
        proof = bytes([evidence]) * 32
        reasons = {
            "stake: not the slasher": by != self.judge,
            "stake: nothing": amount == 0,
            "stake: no evidence": evidence == 0,
            "stake: already slashed": (who, proof) in self.judged,
            "stake: more than staked": amount > self.staked[who] + self.leaving[who],
        }
        reason = next((one for one, true in reasons.items() if true), None)
        if self.tries(reason, "slash", who, amount, proof, by=by):
            first = min(amount, self.staked[who])
            self.staked[who] -= first
            self.leaving[who] -= amount - first
            self.judged.add((who, proof))
            self.sums["slashed"] += amount
            self.moves(self.contract.address, self.treasury, amount)

    def ends(self):
        told = {one: self.chain.call(self.contract, one) for one in self.sums}
        assert told == self.sums
        held = self.balances[self.contract.address]
        assert held == sum(self.staked.values()) + sum(self.leaving.values())
        assert told["deposited"] == held + told["slashed"] + told["withdrawn"]


class RewardsWalk(Walk):
    kind = "rewards"

    def __init__(self):
        super().__init__()
        ann, bob, cid = self.people
        many = [(one, 90) for one in (ann, bob, cid, ann, bob, cid, ann)]
        self.trees = [[(ann, 50)], [(bob, 5), (cid, 70), (bob, 9)], many]
        self.roots = [payout_root(one) for one in self.trees]
        self.proofs = [payout_proofs(one) for one in self.trees]
        self.payouts, self.batches = {}, set()

    @rule(who=PERSON, tree=PERSON, amount=AMOUNT, length=strategies.integers(-1, 120))
    def fund(self, who, tree, amount, length):
        who, owed, deadline = self.people[who], self.trees[tree], self.time() + length
        reasons = {
            "rewards: already funded": (who, tree) in self.payouts,
            "rewards: nothing": amount == 0,
            "rewards: deadline has passed": length <= 0,
        }
        reason = next((one for one, true in reasons.items() if true), self.short(who, amount))
        terms = (self.roots[tree], len(owed), amount, deadline)
        if self.tries(reason, "fund", *terms, by=who):
            self.payouts[who, tree] = {"left": amount, "deadline": deadline, "claimed": set()}
            self.moves(who, self.contract.address, amount)

    def picked(self, pick, over=False):
        """Pick one of the latest payouts, or one that nobody has funded."""
        many, now = list(self.payouts.items()), self.time()
        place = self.latest(pick, many, lambda one: (now >= one[1]["deadline"]) == over)
        return many[place][0] if place >= 0 else (self.people[0], 0)

    def name(self, who, tree):
        return self.chain.call(self.contract, "payout_id", who, self.roots[tree])

    @rule(
        pick=RIGHT,
        by=PERSON,
        index=strategies.integers(0, 6),
        lie=strategies.sampled_from(["", "", "", "", "payee", "amount", "index"]),
    )
    def claim(self, pick, by, index, lie):
        (funder, tree), by = self.picked(pick), self.people[by]
        owed = self.trees[tree]
        index %= len(owed)
        payee, amount = owed[index]
        proof = self.proofs[tree][index]
        payee = self.people[(self.people.index(payee) + 1) % 3] if lie == "payee" else payee
        amount += lie == "amount"
        place = index + 1 if lie == "index" else index
        one = self.payouts.get((funder, tree), {"left": 0, "deadline": 0, "claimed": set()})
        reasons = {
            "rewards: closed": self.time() >= one["deadline"],
            "rewards: already claimed": place in one["claimed"],
            "rewards: bad proof": lie,
            "rewards: not enough funded": amount > one["left"],
        }
        reason = next((one for one, true in reasons.items() if true), None)
        said = (self.name(funder, tree), place, payee, amount, proof)
        if self.tries(reason, "claim", *said, by=by):
            one["claimed"].add(index)
            one["left"] -= amount
            self.moves(self.contract.address, payee, amount)

    @rule(pick=RIGHT, by=RIGHT)
    def reclaim(self, pick, by):
        funder, tree = self.picked(pick, over=True)
        by = funder if by is None else self.people[by]
        one = self.payouts.get((funder, tree))
        reasons = {
            "rewards: not the funder": one is None or by != funder,
            "rewards: too early": one is not None and self.time() < one["deadline"],
            "rewards: nothing": one is not None and one["left"] == 0,
        }
        reason = next((why for why, true in reasons.items() if true), None)
        if self.tries(reason, "reclaim", self.name(funder, tree), by=by):
            self.moves(self.contract.address, funder, one["left"])
            one["left"] = 0

    @rule(
        who=PERSON, batch=FEW, paid=strategies.lists(strategies.tuples(PERSON, AMOUNT), max_size=4)
    )
    def pay_batch(self, who, batch, paid):
        who, name = self.people[who], bytes([batch]) * 32
        after = dict(self.balances)
        reason = "rewards: already paid" if (who, batch) in self.batches else None
        for place, amount in paid if reason is None else []:
            if after[who] < amount:
                reason = "token: balance too low"
                break
            after[who] -= amount
            after[self.people[place]] += amount
        payees = [self.people[place] for place, _ in paid]
        if self.tries(reason, "pay_batch", name, payees, [much for _, much in paid], by=who):
            self.batches.add((who, batch))
            self.balances = after
            self.moved |= set(after)

    def ends(self):
        held = sum(one["left"] for one in self.payouts.values())
        assert held == self.balances[self.contract.address]


class ChannelWalk(Walk):
    kind = "channel"

    def __init__(self):
        super().__init__()
        self.channels = []

    def picked(self, pick):
        """Pick one of the latest channels, with its number, or none."""
        place = self.latest(pick, self.channels, lambda one: one[2])
        return place + 1, self.channels[place] if place >= 0 else [*self.people[:2], 0, 0]

    @rule(payer=PERSON, payee=PERSON, amount=AMOUNT, length=strategies.integers(-1, 300))
    def open(self, payer, payee, amount, length):
        payer, payee, expiry = self.people[payer], self.people[payee], self.time() + length
        reasons = {"channel: nothing": amount == 0, "channel: expiry has passed": length <= 0}
        reason = next((one for one, true in reasons.items() if true), self.short(payer, amount))
        if self.tries(reason, "open", payee, amount, expiry, by=payer):
            self.channels.append([payer, payee, amount, expiry])
            self.moves(payer, self.contract.address, amount)

    @rule(
        pick=RIGHT,
        fits=FITS,
        other=strategies.sampled_from([0, 0, 0, 0, 1]),
        amount=AMOUNT,
        more=strategies.sampled_from([0, 0, 0, 0, 1]),
        signer=RIGHT,
        by=RIGHT,
        mirrored=SELDOM,
    )
    def claim(self, pick, fits, other, amount, more, signer, by, mirrored):
        number, (payer, payee, left, expiry) = self.picked(pick)
        amount = amount % (left + 1) if fits else amount
        signer = payer if signer is None else self.people[signer]
        by = payee if by is None else self.people[by]
        content = voucher(self.chain, self.contract, channel=number + other, amount=amount)
        signature = forged(self.chain.sign(signer, content), mirrored)
        reasons = {
            "channel: closed": left == 0,
            "channel: not the payee": by != payee,
            "channel: expired": self.time() >= expiry,
            "channel: more than is in": amount + more > left,
            "channel: bad signature": mirrored or signer != payer or more or other,
        }
        reason = next((one for one, true in reasons.items() if true), None)
        if self.tries(reason, "claim", number, amount + more, *signature, by=by):
            self.moves(self.contract.address, payee, amount)
            self.moves(self.contract.address, payer, left - amount)
            self.channels[number - 1][2] = 0

    @rule(pick=RIGHT, by=PERSON)
    def refund(self, pick, by):
        number, (payer, _, left, expiry) = self.picked(pick)
        reason = "channel: too early" if self.time() < expiry else None
        reason = reason if left else "channel: closed"
        if self.tries(reason, "refund", number, by=self.people[by]):
            self.moves(self.contract.address, payer, left)
            self.channels[number - 1][2] = 0

    def ends(self):
        held = sum(left for _, _, left, _ in self.channels)
        assert held == self.balances[self.contract.address]


@pytest.mark.parametrize("walk", [TokenWalk, StakeWalk, RewardsWalk, ChannelWalk])
def test_money_is_conserved_over_any_walk_and_every_outcome_is_foretold(walk):
    walk.goes_everywhere()
