"""A chain in the process and a real node tell the same story of money and rounds."""

from hashlib import sha256

import pytest

from dai_lab.chain import authorization, payout_proofs, payout_root
from dai_lab.chain.keys import ORDER
from dai_lab.chain.typed import digest

LATER, LONG = 10_000, 20_000
NOBODY = "0x" + "00" * 20


def parts(signature):
    """Take a signature apart as contracts want it: v, r, s."""
    return signature[64], signature[:32], signature[32:64]


def mirrored(v, r, s):
    """Give the other signature of the same message, which is as good elsewhere."""
    return 55 - v, r, (ORDER - int.from_bytes(s)).to_bytes(32)


def token(scene):
    alice, bob, carol = scene.who("alice", "bob", "carol")
    coin = scene.money(alice)
    for question in ("name", "symbol", "decimals", "totalSupply"):
        scene.says(coin, question)
    scene.refuses("token: balance too low", coin, "transfer", bob, 1001, by=alice)
    scene.refuses("token: zero address", coin, "transfer", NOBODY, 1, by=alice)
    scene.does(coin, "approve", bob, 300, by=alice)
    scene.does(coin, "transferFrom", alice, carol, 100, by=bob)
    assert scene.says(coin, "allowance", alice, bob) == 200
    scene.refuses("token: allowance too low", coin, "transferFrom", alice, bob, 201, by=bob)
    assert len(scene.chain.call(coin, "DOMAIN_SEPARATOR")) == 32
    scene.used.add(("token", "DOMAIN_SEPARATOR"))

    def signed(nonce, after=0, before=1 << 255, received=False, by=alice):
        content = authorization(
            scene.chain,
            coin,
            payer=alice,
            payee=bob,
            amount=10,
            nonce=nonce,
            valid_after=after,
            valid_before=before,
            received=received,
        )
        signature = parts(scene.chain.sign(by, content))
        return (alice, bob, 10, after, before, nonce), signature

    pays, takes = "transferWithAuthorization", "receiveWithAuthorization"
    first, signature = signed(b"1" * 32)
    scene.refuses("token: bad signature", coin, pays, *first, *mirrored(*signature), by=carol)
    scene.refuses("token: bad signature", coin, takes, *first, *signature, by=bob)
    other, forged = signed(b"1" * 32, by=carol)
    scene.refuses("token: bad signature", coin, pays, *other, *forged, by=carol)
    none = (27, bytes(32), bytes(32))
    scene.refuses("token: bad signature", coin, pays, NOBODY, *first[1:], *none, by=carol)
    scene.does(coin, pays, *first, *signature, by=carol)
    scene.refuses("token: nonce used", coin, pays, *first, *signature, by=carol)
    early, signature = signed(b"2" * 32, after=scene.base + LATER)
    scene.refuses("token: not yet valid", coin, pays, *early, *signature, by=carol)
    late, signature = signed(b"2" * 32, before=scene.base)
    scene.refuses("token: expired", coin, pays, *late, *signature, by=carol)
    mine, signature = signed(b"2" * 32, received=True)
    scene.refuses("token: not the payee", coin, takes, *mine, *signature, by=carol)
    scene.does(coin, takes, *mine, *signature, by=bob)
    nobody = (27, b"1" * 32, b"2" * 32)
    canceled = "cancelAuthorization"
    scene.refuses("token: bad signature", coin, canceled, alice, b"3" * 32, *nobody, by=bob)
    kind = "CancelAuthorization(address authorizer,bytes32 nonce)"
    content = digest(scene.chain, coin, "Lab coin", kind, (alice, b"3" * 32))
    signature = parts(scene.chain.sign(alice, content))
    scene.does(coin, canceled, alice, b"3" * 32, *signature, by=carol)
    gone, signature = signed(b"3" * 32)
    scene.refuses("token: nonce used", coin, pays, *gone, *signature, by=carol)
    assert scene.says(coin, "authorizationState", alice, b"3" * 32) is True
    assert [scene.says(coin, "balanceOf", one) for one in (alice, bob, carol)] == [880, 20, 100]


def data_registry(scene):
    owner, lab, thief = scene.who("owner", "lab", "thief")
    coin = scene.money(lab)
    registry = scene.deploy("data_registry", coin.address, by=thief)
    assert scene.says(registry, "token") == coin.address
    run, root = b"run".ljust(32), sha256(b"records").digest()
    data = scene.call_it(scene.chain.call(registry, "dataset_id", owner, root), "data")
    scene.says(registry, "dataset_id", owner, root)
    scene.does(registry, "register", root, 60_000, "CC-BY-4.0", by=owner)
    again = ("register", root, 1, "mine")
    scene.refuses("data_registry: already registered", registry, *again, by=owner)
    scene.call_it(scene.chain.call(registry, "dataset_id", thief, root), "copy")
    scene.does(registry, "register", root, 1, "mine", by=thief)
    assert scene.says(registry, "dataset", data)["owner"] == owner

    expiry = scene.base + LATER
    grant = ("grant", data, lab, "training", expiry)
    use = ("use", data, "training", run)
    scene.refuses("data_registry: not the owner", registry, *grant, 5, by=thief)
    past = ("grant", data, lab, "training", scene.base - 1, 5)
    scene.refuses("data_registry: expiry has passed", registry, *past, by=owner)
    scene.refuses("data_registry: no consent", registry, *use, 5, by=lab)
    scene.does(registry, *grant, 5, by=owner)
    scene.refuses("token: allowance too low", registry, *use, 5, by=lab)
    scene.does(coin, "approve", registry.address, 1000, by=lab)
    scene.does(registry, *use, 5, by=lab)
    assert scene.says(coin, "balanceOf", owner) == 5
    scene.refuses("data_registry: no consent", registry, "use", data, "ads", run, 5, by=lab)
    scene.refuses("data_registry: no consent", registry, *use, 5, by=thief)
    scene.does(registry, *grant, 900, by=owner)
    scene.refuses("data_registry: fee too high", registry, *use, 5, by=lab)
    revoke = ("revoke", data, lab, "training")
    scene.refuses("data_registry: not the owner", registry, *revoke, by=thief)
    assert scene.says(registry, "allowed", data, lab, "training") is True
    scene.does(registry, *revoke, by=owner)
    assert scene.says(registry, "allowed", data, lab, "training") is False
    scene.refuses("data_registry: no consent", registry, *use, 900, by=lab)
    scene.refuses("data_registry: no consent", registry, *revoke, by=owner)
    scene.does(registry, *grant, 0, by=owner)
    scene.does(registry, *use, 0, by=lab)
    scene.says(registry, "consent", data, lab, "training")
    scene.chain.advance(LONG)
    scene.refuses("data_registry: consent expired", registry, *use, 0, by=lab)
    assert scene.says(registry, "allowed", data, lab, "training") is False
    assert len(scene.chain.logs(registry, "DataUsed")) == 2


def round_ledger(scene):
    author, rival = scene.who("author", "rival")
    ledger = scene.deploy("round_ledger", by=rival)
    run, root, owed = b"run".ljust(32), b"\x01" * 32, b"\x02" * 32
    cid = bytes.fromhex("0155122018b0be9f4b58f5a2c4b7d2a7b6b8b2ac2f1bb4ed8d9a2f5b0b0a8f7f0f3d2e1c")

    def commit(round, root, size):
        return "commit_round", run, round, root, size, cid, owed

    scene.refuses("round_ledger: not the author", ledger, *commit(1, root, 3), by=author)
    scene.does(ledger, "open_run", run, by=author)
    scene.refuses("round_ledger: run taken", ledger, "open_run", run, by=rival)
    scene.refuses("round_ledger: run taken", ledger, "open_run", run, by=author)
    scene.refuses("round_ledger: out of order", ledger, *commit(0, root, 3), by=author)
    scene.refuses("round_ledger: out of order", ledger, *commit(2, root, 3), by=author)
    scene.refuses("round_ledger: not the author", ledger, *commit(1, root, 3), by=rival)
    scene.does(ledger, *commit(1, root, 3), by=author)
    scene.refuses("round_ledger: out of order", ledger, *commit(1, root, 3), by=author)
    scene.refuses("round_ledger: log shrank", ledger, *commit(2, root, 2), by=author)
    scene.refuses("round_ledger: log forked", ledger, *commit(2, b"\x03" * 32, 3), by=author)
    scene.does(ledger, *commit(2, root, 3), by=author)
    scene.does(ledger, *commit(3, b"\x03" * 32, 9), by=author)
    scene.refuses("round_ledger: log shrank", ledger, *commit(4, root, 3), by=author)
    scene.refuses(
        "round_ledger.commit_round: no reason given",
        ledger,
        *("commit_round", run, 4, root, 9, b"c" * 65, owed),
        by=author,
    )
    assert scene.says(ledger, "head", run) == 3
    assert scene.says(ledger, "author", run) == author
    assert scene.says(ledger, "commitment", run, 1) == {
        "log_root": root,
        "log_size": 3,
        "model_cid": cid,
        "reward_root": owed,
    }
    scene.unanswered("round_ledger: no such round", ledger, "commitment", run, 4)
    scene.unanswered("round_ledger: no such round", ledger, "commitment", run, 0)


def stake(scene):
    member, judge, treasury, liar = scene.who("member", "judge", "treasury", "liar")
    coin = scene.money(member, liar)
    terms = (coin.address, judge, treasury, LATER)
    scene.not_deployed("stake: the judge gains", "stake", coin.address, judge, judge, 1, by=judge)
    scene.not_deployed("stake: no delay", "stake", coin.address, judge, treasury, 0, by=judge)
    scene.not_deployed("stake: zero address", "stake", coin.address, judge, NOBODY, 1, by=judge)
    pot = scene.deploy("stake", *terms, by=judge)
    for question in ("token", "slasher", "beneficiary", "delay"):
        scene.says(pot, question)
    for one in (member, liar):
        scene.does(coin, "approve", pot.address, 1000, by=one)
        scene.does(pot, "stake", 600, by=one)
    scene.refuses("stake: nothing", pot, "stake", 0, by=liar)
    scene.refuses("token: allowance too low", pot, "stake", 401, by=liar)
    scene.refuses("stake: nothing", pot, "withdraw", by=liar)
    scene.refuses("stake: nothing", pot, "unstake", 0, by=liar)
    scene.refuses("stake: more than staked", pot, "unstake", 601, by=liar)
    scene.does(pot, "unstake", 500, by=liar)
    scene.refuses("stake: too early", pot, "withdraw", by=liar)
    proof = sha256(b"what shows it").digest()
    scene.refuses("stake: not the slasher", pot, "slash", member, 1, proof, by=liar)
    scene.refuses("stake: nothing", pot, "slash", liar, 0, proof, by=judge)
    scene.refuses("stake: no evidence", pot, "slash", liar, 1, bytes(32), by=judge)
    scene.refuses("stake: more than staked", pot, "slash", liar, 601, proof, by=judge)
    scene.does(pot, "slash", liar, 250, proof, by=judge)
    scene.refuses("stake: already slashed", pot, "slash", liar, 1, proof, by=judge)
    assert scene.says(pot, "judged", liar, proof) is True
    assert (scene.says(pot, "staked", liar), scene.says(pot, "leaving", liar)) == (0, 350)
    scene.says(pot, "ready", liar)
    scene.chain.advance(LONG)
    scene.does(pot, "withdraw", by=liar)
    totals = [scene.says(pot, one) for one in ("deposited", "slashed", "withdrawn")]
    assert totals == [1200, 250, 350]
    assert scene.says(coin, "balanceOf", pot.address) == 600
    assert scene.says(coin, "balanceOf", treasury) == 250


def rewards(scene):
    server, a, b, c = scene.who("server", "a", "b", "c")
    coin = scene.money(server)
    till = scene.deploy("rewards", coin.address, by=server)
    scene.says(till, "token")
    owed = [(a, 10), (b, 20), (c, 30), (a, 40), (b, 50)]
    root, proofs = payout_root(owed), payout_proofs(owed)
    payout = scene.call_it(scene.chain.call(till, "payout_id", server, root), "payout")
    scene.call_it(root, "root")
    scene.says(till, "payout_id", server, root)
    scene.does(coin, "approve", till.address, 1000, by=server)
    deadline = scene.base + LATER

    def claim(index, payee=None, amount=None, proof=None):
        who, much = owed[index]
        path = proofs[index] if proof is None else proof
        return "claim", payout, index, payee or who, amount or much, path

    scene.refuses("rewards: closed", till, *claim(0), by=a)
    scene.refuses("rewards: empty tree", till, "fund", bytes(32), 5, 1, deadline, by=server)
    scene.refuses("rewards: empty tree", till, "fund", root, 0, 1, deadline, by=server)
    scene.refuses("rewards: nothing", till, "fund", root, 5, 0, deadline, by=server)
    late = ("fund", root, 5, 100, scene.base - 1)
    scene.refuses("rewards: deadline has passed", till, *late, by=server)
    scene.does(till, "fund", root, 5, 100, deadline, by=server)
    scene.refuses("rewards: already funded", till, "fund", root, 5, 9, deadline, by=server)
    scene.refuses("rewards: bad proof", till, *claim(0, payee=b), by=b)
    scene.refuses("rewards: bad proof", till, *claim(0, amount=11), by=a)
    scene.refuses("rewards: bad proof", till, *claim(0, proof=[]), by=a)
    scene.refuses("rewards: bad proof", till, *claim(0, proof=[*proofs[0], root]), by=a)
    beyond = ("claim", payout, 7, a, 10, proofs[0])
    scene.refuses("rewards: bad proof", till, *beyond, by=a)
    scene.does(till, *claim(0), by=c)
    scene.refuses("rewards: already claimed", till, *claim(0), by=a)
    assert scene.says(till, "claimed", payout, 0) is True
    scene.does(till, *claim(4), by=b)
    # The tree owes 150, and 100 are there: none is paid more than what is left.
    scene.does(till, *claim(3), by=a)
    scene.refuses("rewards: not enough funded", till, *claim(1), by=b)
    leaf = sha256(b"leaf").digest()
    assert scene.says(till, "rooted", leaf, 0, 1, []) == leaf
    assert scene.says(till, "rooted", leaf, 1, 1, []) == bytes(32)
    scene.refuses("rewards: not the funder", till, "reclaim", payout, by=a)
    scene.refuses("rewards: too early", till, "reclaim", payout, by=server)
    second = payout_root(owed[:2])
    scene.call_it(second, "second root")
    other = scene.call_it(scene.chain.call(till, "payout_id", server, second), "other payout")
    scene.does(till, "fund", second, 2, 77, deadline, by=server)
    pays = ("pay_batch", b"batch".ljust(32))
    scene.does(till, *pays, [a, b, a], [1, 2, 3], by=server)
    scene.refuses("rewards: already paid", till, *pays, [a], [1], by=server)
    assert scene.says(till, "batch_paid", server, b"batch".ljust(32)) is True
    fresh = ("pay_batch", b"other".ljust(32))
    scene.refuses("rewards: lengths differ", till, *fresh, [a, b], [1], by=server)
    scene.refuses("token: allowance too low", till, *fresh, [a, b], [1, 9999], by=server)
    scene.chain.advance(LONG)
    scene.refuses("rewards: closed", till, *claim(2), by=c)
    scene.refuses("rewards: nothing", till, "reclaim", payout, by=server)
    scene.does(till, "reclaim", other, by=server)
    scene.says(till, "payout", payout)
    assert [scene.says(coin, "balanceOf", one) for one in (a, b, c)] == [54, 52, 0]
    assert scene.says(coin, "balanceOf", till.address) == 0


PLAYS = [token, data_registry, round_ledger, stake, rewards]


@pytest.mark.parametrize("play", PLAYS)
def test_every_function_is_used_and_every_reason_is_given(play, scene, here):
    play(told := scene(here))
    told.leaves_nothing_out(play.__name__)


@pytest.mark.parametrize("play", PLAYS)
def test_a_node_tells_the_same_story(play, scene, here, anvil):
    play(inside := scene(here))
    play(outside := scene(anvil))
    assert inside.lines == outside.lines
