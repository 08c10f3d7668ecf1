"""Jobs, votes, rounds and consent, over any walk of calls, go as the rules say."""

from math import isqrt

import pytest
from hypothesis import strategies
from hypothesis.stateful import precondition, rule

from tests.chain.conftest import Walk

PERSON = strategies.integers(0, 2)
AMOUNT = strategies.integers(0, 400)
PICK = strategies.integers(0, 3)
YES = strategies.booleans()
RIGHT = strategies.sampled_from([None, None, None, None, 0, 1, 2])
"""Who acts, or on what: mostly whoever may and what can be, else anybody and anything."""
NOBODY = "0x" + "00" * 20
MAIN_ROAD = ["set_provider", "fund", "submit", "complete"]
OPEN, FUNDED, SUBMITTED, COMPLETED, REJECTED, EXPIRED = range(6)


def first(reasons):
    """Give the first reason that holds, if any."""
    return next((one for one, true in reasons.items() if true), None)


class JobsWalk(Walk):
    kind = "jobs"

    def __init__(self):
        super().__init__()
        self.jobs = []
        # What is here from the start is reached by short walks too.
        self.create(0, 1, 2, 400)
        self.create(0, 1, 2, 60)
        self.fund(None, None)

    def open_ones(self):
        return sum(one["status"] == OPEN and one["expiry"] > self.time() for one in self.jobs)

    def job(self, pick, by, role, *states, over=False):
        """Pick a job, or none, and who acts on it."""
        place = self.latest(
            pick,
            self.jobs,
            lambda one: one["status"] in states and (one["expiry"] <= self.time()) == over,
        )
        none = {"client": "", "provider": "", "evaluator": "", "budget": 0, "expiry": 0}
        job = self.jobs[place] if place >= 0 else none | {"status": OPEN}
        right = job[role] if job[role] in self.people else self.people[0]
        return place + 1, job, right if by is None else self.people[by]

    @precondition(lambda self: self.open_ones() < 2)
    @rule(client=PERSON, provider=RIGHT, evaluator=PERSON, length=strategies.integers(0, 120))
    def create(self, client, provider, evaluator, length):
        client, evaluator = self.people[client], self.people[evaluator]
        provider = NOBODY if provider is None else self.people[provider]
        expiry = self.time() + length
        reason = None if length else "jobs: expiry has passed"
        if self.tries(reason, "createJob", provider, evaluator, expiry, "", by=client):
            parties = {"client": client, "provider": provider, "evaluator": evaluator}
            self.jobs.append(parties | {"budget": 0, "expiry": expiry, "status": OPEN})
            self.set_budget(0, None, 100)

    def set_provider(self, pick, by):
        number, job, by = self.job(pick, by, "client", OPEN)
        reasons = {
            "jobs: not the client": by != job["client"],
            "jobs: wrong state": job["status"] != OPEN,
            "jobs: provider already set": job["provider"] != NOBODY,
        }
        if self.tries(first(reasons), "setProvider", number, self.people[1], by=by):
            job["provider"] = self.people[1]

    @rule(
        # One rule, as rules are left out at random, and a job needs many things in a row.
        does=strategies.sampled_from(
            [*MAIN_ROAD, *MAIN_ROAD, "reject", "refund", "refund", "wait"]
        ),
        pick=RIGHT,
        by=RIGHT,
    )
    def go_on(self, does, pick, by):
        getattr(self, does)(pick, by)

    def wait(self, pick, by):
        self.chain.advance(61)

    @rule(pick=RIGHT, by=RIGHT, amount=AMOUNT)
    def set_budget(self, pick, by, amount):
        number, job, by = self.job(pick, by, "client", OPEN)
        reasons = {
            "jobs: not a party": by not in (job["client"], job["provider"]),
            "jobs: wrong state": job["status"] != OPEN,
        }
        if self.tries(first(reasons), "setBudget", number, amount, by=by):
            job["budget"] = amount

    def fund(self, pick, by):
        number, job, by = self.job(pick, by, "client", OPEN)
        reasons = {
            "jobs: not the client": by != job["client"],
            "jobs: wrong state": job["status"] != OPEN,
            "jobs: no provider": job["provider"] == NOBODY,
            "jobs: another budget": not job["budget"],
            "jobs: expired": self.time() >= job["expiry"],
        }
        reason = first(reasons) or self.short(by, job["budget"])
        if self.tries(reason, "fund", number, job["budget"], by=by):
            job["status"] = FUNDED
            self.moves(by, self.contract.address, job["budget"])

    def submit(self, pick, by):
        number, job, by = self.job(pick, by, "provider", FUNDED)
        reasons = {
            "jobs: not the provider": by != job["provider"],
            "jobs: wrong state": job["status"] != FUNDED,
            "jobs: expired": self.time() >= job["expiry"],
        }
        if self.tries(first(reasons), "submit", number, bytes(32), by=by):
            job["status"] = SUBMITTED

    def complete(self, pick, by):
        number, job, by = self.job(pick, by, "evaluator", SUBMITTED)
        reasons = {
            "jobs: not the evaluator": by != job["evaluator"],
            "jobs: wrong state": job["status"] != SUBMITTED,
        }
        if self.tries(first(reasons), "complete", number, bytes(32), by=by):
            job["status"] = COMPLETED
            self.moves(self.contract.address, job["provider"], job["budget"])

    def reject(self, pick, by):
        number, job, by = self.job(pick, by, "evaluator", FUNDED, SUBMITTED)
        paid_in = job["status"] in (FUNDED, SUBMITTED)
        reasons = {
            "jobs: wrong state": job["status"] > SUBMITTED,
            "jobs: not the client": job["status"] == OPEN and by != job["client"],
            "jobs: not the evaluator": paid_in and by != job["evaluator"],
        }
        if self.tries(first(reasons), "reject", number, bytes(32), by=by):
            job["status"] = REJECTED
            if paid_in:
                self.moves(self.contract.address, job["client"], job["budget"])

    def refund(self, pick, by):
        number, job, by = self.job(pick, by, "client", FUNDED, SUBMITTED, over=True)
        reasons = {
            "jobs: wrong state": job["status"] not in (FUNDED, SUBMITTED),
            "jobs: too early": self.time() < job["expiry"],
        }
        if self.tries(first(reasons), "claimRefund", number, by=by):
            job["status"] = EXPIRED
            self.moves(self.contract.address, job["client"], job["budget"])

    def ends(self):
        held = sum(one["budget"] for one in self.jobs if one["status"] in (FUNDED, SUBMITTED))
        assert held == self.balances[self.contract.address]


class GovernorWalk(Walk):
    kind = "governor"
    voting, waiting, grace, least, quorum, quadratic = 60, 30, 300, 50, 200, 12

    def __init__(self):
        super().__init__()
        self.locked, self.until = ({one: 0 for one in self.people} for _ in "ab")
        self.proposals, self.choice, self.changes = [], {}, 0
        for who in range(3):
            self.lock(who, 100 + 50 * who)

    def terms(self):
        times = self.voting, self.waiting, self.grace
        return self.coin.address, *times, self.least, self.quorum, self.quadratic

    @rule(who=PERSON, amount=AMOUNT.map(lambda one: one * 2))
    def lock(self, who, amount):
        who = self.people[who]
        reason = self.short(who, amount) if amount else "governor: nothing"
        if self.tries(reason, "lock", amount, by=who):
            self.locked[who] += amount
            self.moves(who, self.contract.address, amount)

    @rule(who=PERSON, amount=AMOUNT)
    def unlock(self, who, amount):
        who = self.people[who]
        amount = min(amount, self.locked[who] + 1)
        reasons = {
            "governor: nothing": amount == 0,
            "governor: more than locked": self.locked[who] < amount,
            "governor: vote still open": self.time() < self.until[who],
        }
        if self.tries(first(reasons), "unlock", amount, by=who):
            self.locked[who] -= amount
            self.moves(self.contract.address, who, amount)

    @rule(who=RIGHT, setting=PICK, choice=PICK, quadratic=YES)
    def propose(self, who, setting, choice, quadratic):
        rich = max(self.people, key=self.locked.get)
        who, ends = rich if who is None else self.people[who], self.time() + self.voting
        reason = "governor: too few tokens" if self.locked[who] < self.least else None
        if self.tries(reason, "propose", str(setting), str(choice), quadratic, by=who):
            self.until[who] = ends
            said = {"setting": str(setting), "choice": str(choice), "quadratic": quadratic}
            self.proposals.append(said | {"ends": ends, "votes": {}, "done": False})

    @rule(who=PERSON, pick=RIGHT, support=strategies.sampled_from([True, True, False]))
    def vote(self, who, pick, support):
        now = self.time()
        place = self.latest(
            pick, self.proposals, lambda one: now < one["ends"] and len(one["votes"]) < 3
        )
        who = self.people[who]
        if pick is None and place >= 0:
            votes = self.proposals[place]["votes"]
            who = max(self.people, key=lambda one: (one not in votes, self.locked[one]))
        one = self.proposals[place] if place >= 0 else {"ends": 0, "votes": {}}
        reasons = {
            "governor: no such proposal": place < 0,
            "governor: vote ended": now >= one["ends"],
            "governor: already voted": who in one["votes"],
            "governor: nothing locked": self.locked[who] == 0,
        }
        if self.tries(first(reasons), "vote", place + 1, support, by=who):
            weight = isqrt(self.locked[who]) if one["quadratic"] else self.locked[who]
            one["votes"][who] = weight if support else -weight
            self.until[who] = max(self.until[who], one["ends"])

    @precondition(lambda self: self.proposals)
    @rule(who=PERSON, pick=RIGHT)
    def execute(self, who, pick):
        now, wait = self.time(), self.waiting
        place = self.latest(
            pick,
            self.proposals,
            lambda one: one["ends"] + wait <= now and not one["done"] and one["votes"],
        )
        place = max(place, 0)
        one = self.proposals[place]
        votes = one["votes"].values()
        favor, against = sum(v for v in votes if v > 0), -sum(v for v in votes if v < 0)
        enough = self.quadratic if one["quadratic"] else self.quorum
        ready = one["ends"] + wait
        reasons = {
            "governor: not passed": now < one["ends"] or favor < enough or favor <= against,
            "governor: already executed": one["done"],
            "governor: too early": now < ready,
            "governor: too late": now >= ready + self.grace,
        }
        if self.tries(first(reasons), "execute", place + 1, by=self.people[who]):
            one["done"] = True
            self.choice[one["setting"]] = one["choice"]
            self.changes += 1

    def ends(self):
        assert self.chain.call(self.contract, "changes") == self.changes
        for setting in map(str, range(4)):
            chosen = self.choice.get(setting, "")
            assert self.chain.call(self.contract, "choice", setting) == chosen
        assert sum(self.locked.values()) == self.balances[self.contract.address]


class LedgerWalk(Walk):
    kind = "round_ledger"

    def __init__(self):
        super().__init__()
        self.authors, self.rounds = {}, {}
        self.open_run(0, 0)

    def terms(self):
        return ()

    @rule(who=PERSON, run=PICK)
    def open_run(self, who, run):
        reason = "round_ledger: run taken" if run in self.authors else None
        if self.tries(reason, "open_run", bytes([run]) * 32, by=self.people[who]):
            self.authors[run], self.rounds[run] = self.people[who], []

    @rule(
        who=RIGHT,
        run=PICK,
        step=strategies.sampled_from([0, 1, 1, 1, 1, 2]),
        growth=strategies.integers(-2, 5),
        root=strategies.integers(0, 2),
        cid=strategies.binary(max_size=64),
    )
    def commit(self, who, run, step, growth, root, cid):
        by = self.authors.get(run, self.people[0]) if who is None else self.people[who]
        rounds = self.rounds.get(run, [])
        last = rounds[-1] if rounds else {"log_root": b"", "log_size": -1}
        size, root = max(last["log_size"] + growth, 0), bytes([root]) * 32
        reasons = {
            "round_ledger: not the author": self.authors.get(run) != by,
            "round_ledger: out of order": step != 1,
            "round_ledger: log shrank": size < last["log_size"],
            "round_ledger: log forked": size == last["log_size"] and root != last["log_root"],
        }
        owed = bytes([step]) * 32
        said = (bytes([run]) * 32, len(rounds) + step, root, size, cid, owed)
        if self.tries(first(reasons), "commit_round", *said, by=by):
            kept = {"log_root": root, "log_size": size, "model_cid": cid, "reward_root": owed}
            rounds.append(kept)

    def ends(self):
        for run, rounds in self.rounds.items():
            assert self.chain.call(self.contract, "head", bytes([run]) * 32) == len(rounds)
            for number, kept in enumerate(rounds, 1):
                told = self.chain.call(self.contract, "commitment", bytes([run]) * 32, number)
                assert told == kept


class RegistryWalk(Walk):
    kind = "data_registry"

    def __init__(self):
        super().__init__()
        self.data, self.consents, self.uses = {}, {}, 0
        for who, owner in enumerate(self.people):
            self.tries(None, "register", b"r" * 32, 1, "", by=owner)
            told = self.chain.call(self.contract, "dataset_id", owner, b"r" * 32)
            self.data[who] = told

    @rule(owner=PERSON, by=RIGHT, user=PERSON, purpose=YES, length=AMOUNT, fee=AMOUNT)
    def grant(self, owner, by, user, purpose, length, fee):
        expiry, by = self.time() + length, owner if by is None else by
        reasons = {
            "data_registry: not the owner": owner != by,
            "data_registry: expiry has passed": length == 0,
        }
        said = (self.data[owner], self.people[user], str(purpose), expiry, fee)
        if self.tries(first(reasons), "grant", *said, by=self.people[by]):
            self.consents[owner, user, purpose] = [expiry, fee]

    @rule(owner=PERSON, by=RIGHT, user=PERSON, purpose=YES)
    def revoke(self, owner, by, user, purpose):
        by = owner if by is None else by
        reasons = {
            "data_registry: not the owner": owner != by,
            "data_registry: no consent": (owner, user, purpose) not in self.consents,
        }
        said = (self.data[owner], self.people[user], str(purpose))
        if self.tries(first(reasons), "revoke", *said, by=self.people[by]):
            del self.consents[owner, user, purpose]

    @rule(pick=RIGHT, owner=PERSON, user=PERSON, purpose=YES, most=AMOUNT)
    def use(self, pick, owner, user, purpose, most):
        if pick is None and self.consents:
            owner, user, purpose = list(self.consents)[-1]
        expiry, fee = self.consents.get((owner, user, purpose), [0, 0])
        most = max(most, fee) if pick is None else most
        reasons = {
            "data_registry: no consent": expiry == 0,
            "data_registry: consent expired": self.time() >= expiry,
            "data_registry: fee too high": fee > most,
        }
        payer = self.people[user]
        reason = first(reasons) or self.short(payer, fee)
        said = (self.data[owner], str(purpose), bytes(32), most)
        if self.tries(reason, "use", *said, by=payer):
            self.uses += 1
            self.moves(payer, self.people[owner], fee)

    def ends(self):
        assert len(self.chain.logs(self.contract, "DataUsed")) == self.uses


@pytest.mark.parametrize("walk", [JobsWalk, GovernorWalk, LedgerWalk, RegistryWalk])
def test_every_outcome_of_any_walk_is_foretold(walk):
    walk.goes_everywhere()
