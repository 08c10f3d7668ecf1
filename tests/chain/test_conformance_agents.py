"""A chain in the process and a real node tell the same story of agents, channels and votes."""

from hashlib import sha256

import pytest

from dai_lab.chain import voucher
from dai_lab.chain.keys import ORDER

LATER, LONG = 10_000, 20_000
NOBODY = "0x" + "00" * 20


def jobs(scene):
    client, agent, judge, other = scene.who("client", "agent", "judge", "other")
    coin = scene.money(client)
    board = scene.deploy("jobs", coin.address, by=other)
    scene.says(board, "token")
    work, why, soon = sha256(b"work").digest(), sha256(b"why").digest(), scene.base + LATER
    ask = ("createJob", agent, judge, soon, "label a thousand digits")
    scene.refuses("jobs: no evaluator", board, "createJob", agent, NOBODY, soon, "", by=client)
    past = ("createJob", agent, judge, scene.base - 1, "")
    scene.refuses("jobs: expiry has passed", board, *past, by=client)

    # One job all the way.
    scene.does(board, *ask, by=client)
    scene.refuses("jobs: not a party", board, "setBudget", 1, 9, by=other)
    scene.refuses("jobs: not a party", board, "setBudget", 2, 9, by=other)
    scene.does(board, "setBudget", 1, 90, by=client)
    scene.does(board, "setBudget", 1, 100, by=agent)
    scene.refuses("jobs: another budget", board, "fund", 1, 90, by=client)
    scene.refuses("jobs: not the client", board, "fund", 1, 100, by=agent)
    scene.refuses("token: allowance too low", board, "fund", 1, 100, by=client)
    scene.does(coin, "approve", board.address, 1000, by=client)
    scene.refuses("jobs: wrong state", board, "submit", 1, work, by=agent)
    scene.refuses("jobs: wrong state", board, "claimRefund", 1, by=client)
    scene.does(board, "fund", 1, 100, by=client)
    scene.refuses("jobs: wrong state", board, "setBudget", 1, 1, by=client)
    scene.refuses("jobs: wrong state", board, "fund", 1, 100, by=client)
    scene.refuses("jobs: too early", board, "claimRefund", 1, by=client)
    scene.refuses("jobs: wrong state", board, "complete", 1, why, by=judge)
    scene.refuses("jobs: not the provider", board, "submit", 1, work, by=judge)
    scene.does(board, "submit", 1, work, by=agent)
    scene.refuses("jobs: not the evaluator", board, "complete", 1, why, by=agent)
    scene.refuses("jobs: not the evaluator", board, "reject", 1, why, by=client)
    scene.does(board, "complete", 1, why, by=judge)
    scene.refuses("jobs: wrong state", board, "complete", 1, why, by=judge)
    scene.refuses("jobs: wrong state", board, "reject", 1, why, by=judge)
    assert scene.says(coin, "balanceOf", agent) == 100

    # One that is turned down, one whose client thinks better of it, and one that runs out of time.
    scene.does(board, "createJob", NOBODY, judge, soon, "", by=client)
    scene.does(board, "setBudget", 2, 50, by=client)
    scene.refuses("jobs: no provider", board, "fund", 2, 50, by=client)
    scene.refuses("jobs: not the client", board, "setProvider", 2, agent, by=agent)
    scene.refuses("jobs: no provider", board, "setProvider", 2, NOBODY, by=client)
    scene.does(board, "setProvider", 2, agent, by=client)
    again = ("setProvider", 2, other)
    scene.refuses("jobs: provider already set", board, *again, by=client)
    scene.does(board, "fund", 2, 50, by=client)
    scene.does(board, "reject", 2, why, by=judge)
    scene.does(board, *ask, by=client)
    scene.refuses("jobs: not the client", board, "reject", 3, why, by=judge)
    scene.does(board, "reject", 3, why, by=client)
    for job in (4, 5):
        scene.does(board, *ask, by=client)
        scene.does(board, "setBudget", job, 7, by=agent)
    scene.does(board, "fund", 4, 7, by=client)
    scene.chain.advance(LONG)
    scene.refuses("jobs: expired", board, "submit", 4, work, by=agent)
    scene.refuses("jobs: expired", board, "fund", 5, 7, by=client)
    scene.does(board, "claimRefund", 4, by=other)
    scene.refuses("jobs: wrong state", board, "claimRefund", 4, by=other)
    assert [scene.says(board, "getJob", one)["status"] for one in (1, 2, 3, 4, 5)] == [
        3,
        4,
        4,
        5,
        0,
    ]
    scene.unanswered("jobs: no such job", board, "getJob", 6)
    scene.unanswered("jobs: no such job", board, "getJob", 0)
    assert scene.says(board, "count") == 5
    assert scene.says(coin, "balanceOf", client) == 900


def identity(scene):
    owner, client, thief = scene.who("owner", "client", "thief")
    book = scene.deploy("identity", by=thief)
    scene.unanswered("identity: no such agent", book, "ownerOf", 1)
    scene.does(book, "register", "https://example.org/agent.json", by=owner)
    scene.does(book, "register", "", by=thief)
    scene.refuses("identity: not the owner", book, "setAgentURI", 1, "mine", by=thief)
    scene.does(book, "setAgentURI", 1, "ipfs://card", by=owner)
    assert scene.says(book, "tokenURI", 1) == "ipfs://card"
    scene.refuses("identity: not the owner", book, "setMetadata", 1, "key", b"mine", by=thief)
    scene.does(book, "setMetadata", 1, "key", b"public key", by=owner)
    assert scene.says(book, "getMetadata", 1, "key") == b"public key"

    def feedback(score, agent=1):
        return "giveFeedback", agent, score, "speed", "ipfs://more", sha256(b"more").digest()

    scene.refuses("identity: own agent", book, *feedback(100), by=owner)
    scene.refuses("identity: score above 100", book, *feedback(101), by=client)
    scene.refuses("identity: no such agent", book, *feedback(1, agent=3), by=client)
    for score in (80, 40, 0):
        scene.does(book, *feedback(score), by=client)
    scene.does(book, *feedback(100), by=thief)
    scene.refuses("identity: no such feedback", book, "revokeFeedback", 1, 4, by=client)
    scene.refuses("identity: no such feedback", book, "revokeFeedback", 1, 2, by=thief)
    scene.does(book, "revokeFeedback", 1, 2, by=client)
    scene.refuses("identity: already revoked", book, "revokeFeedback", 1, 2, by=client)
    assert scene.says(book, "readFeedback", 1, client, 2) == {"score": 40, "revoked": True}
    scene.unanswered("identity: no such feedback", book, "readFeedback", 1, client, 0)
    assert scene.says(book, "getSummary", 1, [client]) == {"count": 2, "total": 80}
    assert scene.says(book, "getSummary", 1, [client, thief]) == {"count": 3, "total": 180}
    assert scene.says(book, "getSummary", 1, []) == {"count": 0, "total": 0}
    assert scene.says(book, "last_index", 1, client) == 3
    scene.refuses("identity: not the owner", book, "transfer", 1, thief, by=thief)
    scene.refuses("identity: zero address", book, "transfer", 1, NOBODY, by=owner)
    scene.does(book, "transfer", 1, client, by=owner)
    scene.refuses("identity: not the owner", book, "setAgentURI", 1, "", by=owner)
    assert scene.says(book, "ownerOf", 1) == client
    assert scene.says(book, "count") == 2


def channel(scene):
    payer, payee, thief = scene.who("payer", "payee", "thief")
    coin = scene.money(payer)
    door = scene.deploy("channel", coin.address, by=thief)
    twin = scene.deploy("channel", coin.address, by=thief)
    scene.says(door, "token")
    assert len(scene.chain.call(door, "DOMAIN_SEPARATOR")) == 32
    scene.used.add(("channel", "DOMAIN_SEPARATOR"))
    for one in (door, twin):
        scene.does(coin, "approve", one.address, 500, by=payer)
    expiry = scene.base + LATER
    scene.refuses("channel: zero address", door, "open", NOBODY, 1, expiry, by=payer)
    scene.refuses("channel: nothing", door, "open", payee, 0, expiry, by=payer)
    past = ("open", payee, 1, scene.base - 1)
    scene.refuses("channel: expiry has passed", door, *past, by=payer)
    for one in (door, door, twin):
        scene.does(one, "open", payee, 100, expiry, by=payer)

    def claim(number, amount, by=payer, of=door, signed=None):
        content = voucher(scene.chain, of, channel=number, amount=signed or amount)
        signature = scene.chain.sign(by, content)
        return "claim", number, amount, signature[64], signature[:32], signature[32:64]

    scene.refuses("channel: not the payee", door, *claim(1, 60), by=thief)
    scene.refuses("channel: more than is in", door, *claim(1, 101), by=payee)
    scene.refuses("channel: bad signature", door, *claim(1, 60, by=payee), by=payee)
    scene.refuses("channel: bad signature", door, *claim(1, 61, signed=60), by=payee)
    *same, v, r, s = claim(1, 60)
    mirror = (55 - v, r, (ORDER - int.from_bytes(s)).to_bytes(32))
    scene.refuses("channel: bad signature", door, *same, *mirror, by=payee)
    scene.refuses("channel: bad signature", door, *same, 27, bytes(32), bytes(32), by=payee)
    # A voucher for one channel is good for no other, in this contract or in its twin.
    scene.refuses("channel: bad signature", door, "claim", 2, 60, v, r, s, by=payee)
    scene.refuses("channel: bad signature", twin, *same, v, r, s, by=payee)
    scene.refuses("channel: too early", door, "refund", 1, by=payer)
    scene.does(door, *same, v, r, s, by=payee)
    scene.refuses("channel: closed", door, *same, v, r, s, by=payee)
    scene.chain.advance(LONG)
    scene.refuses("channel: closed", door, "refund", 1, by=payer)
    scene.refuses("channel: expired", door, *claim(2, 60), by=payee)
    scene.does(door, "refund", 2, by=thief)
    scene.refuses("channel: closed", door, "refund", 2, by=payer)
    assert scene.says(door, "channel", 1)["payee"] == payee
    assert scene.says(door, "count") == 2
    assert [scene.says(coin, "balanceOf", one) for one in (payer, payee)] == [840, 60]


def governor(scene):
    whale, fish, newt = scene.who("whale", "fish", "newt")
    coin = scene.money(whale, fish)
    times = (LATER, LATER, LATER)
    weights = (100, 500, 30)
    no_time = (coin.address, 0, 1, 1, *weights)
    scene.not_deployed("governor: no time", "governor", *no_time, by=newt)
    no_quorum = (coin.address, *times, 100, 0, 1)
    scene.not_deployed("governor: no quorum", "governor", *no_quorum, by=newt)
    house = scene.deploy("governor", coin.address, *times, *weights, by=newt)
    for question in (
        *("token", "period", "timelock", "grace"),
        *("threshold", "quorum", "quadratic_quorum"),
    ):
        scene.says(house, question)
    for one in (whale, fish):
        scene.does(coin, "approve", house.address, 1000, by=one)
    change = ("propose", "aggregator.f", "4", False)
    scene.refuses("governor: too few tokens", house, *change, by=newt)
    scene.refuses("governor: nothing", house, "lock", 0, by=whale)
    scene.refuses("token: allowance too low", house, "lock", 1, by=newt)
    scene.does(house, "lock", 900, by=whale)
    scene.does(house, "lock", 100, by=fish)
    scene.refuses("governor: nothing", house, "unlock", 0, by=fish)
    scene.refuses("governor: more than locked", house, "unlock", 101, by=fish)
    scene.does(house, "unlock", 1, by=fish)
    scene.does(house, "lock", 1, by=fish)

    scene.does(house, *change, by=fish)  # 1 passes
    scene.does(house, "propose", "aggregator", "mean", True, by=fish)  # 2 fails: 30 against 10
    scene.does(house, "propose", "rounds", "9", False, by=fish)  # 3 fails: too few for a quorum
    scene.does(house, "propose", "privacy", "none", False, by=fish)  # 4 passes, in vain
    scene.refuses("governor: vote still open", house, "unlock", 1, by=fish)
    scene.refuses("governor: no such proposal", house, "vote", 5, True, by=fish)
    scene.refuses("governor: nothing locked", house, "vote", 1, True, by=newt)
    for proposal, support in ((1, True), (2, False), (4, True)):
        scene.does(house, "vote", proposal, support, by=whale)
    for proposal, support in ((1, False), (2, True), (3, True)):
        scene.does(house, "vote", proposal, support, by=fish)
    scene.refuses("governor: already voted", house, "vote", 1, True, by=whale)
    scene.refuses("governor: vote still open", house, "unlock", 1, by=whale)
    scene.refuses("governor: not passed", house, "execute", 1, by=newt)
    scene.refuses("governor: not passed", house, "execute", 5, by=newt)
    scene.chain.advance(LATER + 1000)
    scene.refuses("governor: vote ended", house, "vote", 3, True, by=whale)
    assert [scene.says(house, "passed", one) for one in (1, 2, 3, 4)] == [True, False, False, True]
    scene.refuses("governor: too early", house, "execute", 1, by=newt)
    scene.does(house, "unlock", 900, by=whale)
    scene.chain.advance(LATER)
    for failed in (2, 3):
        scene.refuses("governor: not passed", house, "execute", failed, by=newt)
    assert scene.says(house, "choice", "aggregator.f") == ""
    scene.does(house, "execute", 1, by=newt)
    scene.refuses("governor: already executed", house, "execute", 1, by=newt)
    scene.chain.advance(LATER)
    scene.refuses("governor: too late", house, "execute", 4, by=newt)
    assert scene.says(house, "choice", "aggregator.f") == "4"
    assert scene.says(house, "choice", "privacy") == ""
    assert scene.says(house, "changes") == 1
    two = scene.says(house, "getProposal", 2)
    assert (two["votes_for"], two["votes_against"]) == (10, 30)
    scene.unanswered("governor: no such proposal", house, "getProposal", 5)
    scene.says(house, "voted", 1, fish)
    scene.says(house, "locked", fish)
    scene.says(house, "until", fish)
    scene.says(house, "count")


PLAYS = [jobs, identity, channel, governor]


@pytest.mark.parametrize("play", PLAYS)
def test_every_function_is_used_and_every_reason_is_given(play, scene, here):
    play(told := scene(here))
    told.leaves_nothing_out(play.__name__)


@pytest.mark.parametrize("play", PLAYS)
def test_a_node_tells_the_same_story(play, scene, here, anvil):
    play(inside := scene(here))
    play(outside := scene(anvil))
    assert inside.lines == outside.lines
