"""Addresses, signatures and what is signed are the ones that others compute."""

import json
from pathlib import Path

import pytest
from eth_account import Account as Theirs
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.chain import authorization, embedded, payout_proofs, payout_root, voucher
from dai_lab.chain.keys import ORDER, Account
from dai_lab.chain.payouts import leaf

SECRETS = st.integers(1, ORDER - 1)
VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "merkle_rfc6962.json"


@given(SECRETS, st.binary(min_size=32, max_size=32))
def test_a_signature_is_the_one_and_only_that_others_give(secret, digest):
    ours = Account(secret)
    theirs = Theirs.from_key(secret.to_bytes(32))
    assert ours.address == theirs.address.lower()
    signature = ours.sign(digest)
    assert Theirs._recover_hash(digest, signature=signature).lower() == ours.address
    assert int.from_bytes(signature[32:64]) <= ORDER // 2
    assert signature == ours.sign(digest)


def test_an_account_shows_its_address_and_not_its_secret():
    assert repr(Account(7)) == f"Account({Account(7).address})"
    with pytest.raises(ValueError, match="32 bytes"):
        Account(7).sign(b"short")


def typed(chain, contract, name, kind, fields, message):
    """Let somebody else hash what is signed."""
    domain = {
        "name": name,
        "version": "1",
        "chainId": chain.chain_id,
        "verifyingContract": contract.address,
    }
    types = {kind: [dict(zip(("type", "name"), one.split(), strict=True)) for one in fields]}
    signable = encode_typed_data(domain, types, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def test_payments_and_vouchers_are_hashed_as_eip_712_says():
    chain = embedded()
    ann, bob = chain.account("ann"), chain.account("bob")
    coin = chain.deploy("token", "Lab coin", "LAB", 1, sender=ann)
    door = chain.deploy("channel", coin.address, sender=ann)
    fields = ["address from", "address to", "uint256 value", "uint256 validAfter"]
    fields += ["uint256 validBefore", "bytes32 nonce"]
    message = {"from": ann, "to": bob, "value": 5, "validAfter": 6, "validBefore": 7}
    for kind, received in (("Transfer", False), ("Receive", True)):
        theirs = typed(
            *(chain, coin, "Lab coin", f"{kind}WithAuthorization", fields),
            message | {"nonce": b"n" * 32},
        )
        ours = authorization(
            chain,
            coin,
            payer=ann,
            payee=bob,
            amount=5,
            nonce=b"n" * 32,
            valid_after=6,
            valid_before=7,
            received=received,
        )
        assert ours == theirs
    fields = ["uint256 channel", "uint256 amount"]
    theirs = typed(
        *(chain, door, "dai_lab channel", "Voucher", fields), {"channel": 3, "amount": 9}
    )
    assert voucher(chain, door, channel=3, amount=9) == theirs


@settings(max_examples=30)
@given(st.integers(1, 70), st.data())
def test_every_proof_of_a_payout_leads_to_its_root_and_to_no_other(count, data):
    chain, till = shared()
    owed = [(f"0x{one:040x}", one * 7) for one in range(count)]
    root, proofs = payout_root(owed), payout_proofs(owed)
    index = data.draw(st.integers(0, count - 1))
    found = leaf(index, *owed[index])
    path = ("rooted", found, index, count, proofs[index])
    assert chain.call(till, *path) == root
    other = data.draw(st.integers(0, 70).filter(lambda one: one != index))
    assert chain.call(till, "rooted", found, other, count, proofs[index]) != root


def shared(made=[]):  # noqa: B006 (one chain for all examples)
    if not made:
        chain = embedded()
        ann = chain.account("ann")
        made += [chain, chain.deploy("rewards", ann, sender=ann)]
    return made


def test_the_contract_judges_the_public_vectors_of_inclusion_as_they_say():
    from base64 import b64decode

    chain, till = shared()
    vectors = json.loads(VECTORS.read_text())["inclusion"]
    judged = 0
    for one in vectors:
        proof = [b64decode(node or "") for node in one["proof"] or []]
        words = [b64decode(one["leafHash"] or ""), *proof]
        if {len(word) for word in words} != {32} or len(proof) > 64:
            continue  # the contract's types have no such thing
        path = (words[0], one["leafIdx"], one["treeSize"], proof)
        good = chain.call(till, "rooted", *path) == b64decode(one["root"] or "")
        assert good == (not one["wantErr"]), one["desc"]
        judged += 1
    assert judged == 77


def test_a_payout_to_nobody_is_refused():
    with pytest.raises(ValueError, match="somebody"):
        payout_root([])
