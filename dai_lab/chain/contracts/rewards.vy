# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Rewards
@notice Pay many at once, or put one root on chain and let each fetch their own.
@dev Holds: no leaf of a payout and no batch is paid twice; a payout never pays more than it was
     funded with, so none touches the money of another; what nobody claimed returns to the funder
     after the deadline, and not before. Trees are hashed as in RFC 6962, with SHA-256, so a log's
     own proofs pay out. That a tree's amounts are fair, and within what was funded, is for those
     to check who are in it.
"""

from ethereum.ercs import IERC20

event PayoutFunded:
    payout: indexed(bytes32)
    funder: indexed(address)
    root: bytes32
    size: uint64
    amount: uint256
    deadline: uint256

event Claimed:
    payout: indexed(bytes32)
    payee: indexed(address)
    index: uint64
    amount: uint256

event Reclaimed:
    payout: indexed(bytes32)
    amount: uint256

event BatchPaid:
    funder: indexed(address)
    batch: indexed(bytes32)
    payees: uint256
    amount: uint256

struct Payout:
    funder: address
    root: bytes32
    size: uint64
    funded: uint256
    paid: uint256
    deadline: uint256

MOST: constant(uint256) = 128
DEPTH: constant(uint256) = 64

token: public(immutable(IERC20))
payout: public(HashMap[bytes32, Payout])
claims: HashMap[bytes32, HashMap[uint64, uint256]]
batch_paid: public(HashMap[address, HashMap[bytes32, bool]])


@deploy
def __init__(money: IERC20):
    """
    @param money What is paid.
    """
    token = money


@internal
@pure
def _rooted(
    leaf: bytes32, index: uint64, size: uint64, proof: DynArray[bytes32, DEPTH]
) -> bytes32:
    # RFC 9162, section 2.1.3.2; zero, which is the root of nothing, where the path does not fit.
    if index >= size:
        return empty(bytes32)
    node: bytes32 = leaf
    here: uint64 = index
    last: uint64 = size - 1
    for other: bytes32 in proof:
        if last == 0:
            return empty(bytes32)
        if here % 2 == 1 or here == last:
            node = sha256(concat(b"\x01", other, node))
            for level: uint256 in range(DEPTH):
                if here % 2 == 1 or here == 0:
                    break
                here //= 2
                last //= 2
        else:
            node = sha256(concat(b"\x01", node, other))
        here //= 2
        last //= 2
    if last != 0:
        return empty(bytes32)
    return node


@internal
@pure
def _leaf(index: uint64, payee: address, amount: uint256) -> bytes32:
    return sha256(concat(b"\x00", abi_encode(index, payee, amount)))


@external
@pure
def rooted(
    leaf: bytes32, index: uint64, size: uint64, proof: DynArray[bytes32, DEPTH]
) -> bytes32:
    """
    @notice Give the root that a leaf's path leads to, or zero where it is no path.
    """
    return self._rooted(leaf, index, size, proof)


@external
@pure
def payout_id(funder: address, root: bytes32) -> bytes32:
    """
    @notice Give the name that a payout has, or would have.
    """
    return keccak256(abi_encode(funder, root))


@external
@nonreentrant
def fund(root: bytes32, size: uint64, amount: uint256, deadline: uint256):
    """
    @notice Put money behind a tree of amounts.
    @param size How many leaves it has.
    @param amount What can be claimed in all.
    @param deadline The second from which on nothing is, and the rest can be taken back.
    """
    payout: bytes32 = keccak256(abi_encode(msg.sender, root))
    assert self.payout[payout].funder == empty(address), "rewards: already funded"
    assert root != empty(bytes32) and size != 0, "rewards: empty tree"
    assert amount != 0, "rewards: nothing"
    assert deadline > block.timestamp, "rewards: deadline has passed"
    self.payout[payout] = Payout(
        funder=msg.sender, root=root, size=size, funded=amount, paid=0, deadline=deadline
    )
    log PayoutFunded(
        payout=payout,
        funder=msg.sender,
        root=root,
        size=size,
        amount=amount,
        deadline=deadline,
    )
    assert extcall token.transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "rewards: payment failed"


@external
@view
def claimed(payout: bytes32, index: uint64) -> bool:
    """
    @notice Say whether a leaf was paid.
    """
    return (self.claims[payout][index // 256] >> convert(index % 256, uint256)) & 1 == 1


@external
@nonreentrant
def claim(
    payout: bytes32,
    index: uint64,
    payee: address,
    amount: uint256,
    proof: DynArray[bytes32, DEPTH],
):
    """
    @notice Have a leaf paid, to whom it names, whoever asks.
    """
    assert block.timestamp < self.payout[payout].deadline, "rewards: closed"
    bit: uint256 = 1 << convert(index % 256, uint256)
    bits: uint256 = self.claims[payout][index // 256]
    assert bits & bit == 0, "rewards: already claimed"
    assert (
        self._rooted(self._leaf(index, payee, amount), index, self.payout[payout].size, proof)
        == self.payout[payout].root
    ), "rewards: bad proof"
    paid: uint256 = self.payout[payout].paid
    assert amount <= self.payout[payout].funded - paid, "rewards: not enough funded"
    self.claims[payout][index // 256] = bits | bit
    self.payout[payout].paid = paid + amount
    log Claimed(payout=payout, payee=payee, index=index, amount=amount)
    assert extcall token.transfer(
        payee, amount, default_return_value=True
    ), "rewards: payment failed"


@external
@nonreentrant
def reclaim(payout: bytes32):
    """
    @notice Take back what nobody claimed in time.
    """
    assert msg.sender == self.payout[payout].funder, "rewards: not the funder"
    assert block.timestamp >= self.payout[payout].deadline, "rewards: too early"
    amount: uint256 = self.payout[payout].funded - self.payout[payout].paid
    assert amount != 0, "rewards: nothing"
    self.payout[payout].paid += amount
    log Reclaimed(payout=payout, amount=amount)
    assert extcall token.transfer(
        msg.sender, amount, default_return_value=True
    ), "rewards: payment failed"


@external
@nonreentrant
def pay_batch(
    batch: bytes32, payees: DynArray[address, MOST], amounts: DynArray[uint256, MOST]
):
    """
    @notice Pay up to 128 from the sender's own money, all or none.
    @param batch Its name, good once: what is sent again after a lost answer pays nobody twice.
    """
    assert not self.batch_paid[msg.sender][batch], "rewards: already paid"
    assert len(payees) == len(amounts), "rewards: lengths differ"
    self.batch_paid[msg.sender][batch] = True
    total: uint256 = 0
    for amount: uint256 in amounts:
        total += amount
    log BatchPaid(funder=msg.sender, batch=batch, payees=len(payees), amount=total)
    for place: uint256 in range(len(payees), bound=MOST):
        assert extcall token.transferFrom(
            msg.sender, payees[place], amounts[place], default_return_value=True
        ), "rewards: payment failed"
