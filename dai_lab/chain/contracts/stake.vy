# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Stake
@notice Money that one loses by lying, and gets back only after a delay in which lies come out.
@dev Holds: what is staked, what is leaving, what was slashed and what was withdrawn add up to what
     was deposited; the contract holds the first two; no piece of evidence costs the same member
     twice. The slasher is trusted to judge, and can take stakes; it has no way to anything else.
"""

from ethereum.ercs import IERC20

event Staked:
    member: indexed(address)
    amount: uint256

event Unstaked:
    member: indexed(address)
    amount: uint256
    ready: uint256

event Withdrawn:
    member: indexed(address)
    amount: uint256

event Slashed:
    member: indexed(address)
    amount: uint256
    evidence: indexed(bytes32)

token: public(immutable(IERC20))
slasher: public(immutable(address))
beneficiary: public(immutable(address))
delay: public(immutable(uint256))
staked: public(HashMap[address, uint256])
leaving: public(HashMap[address, uint256])
ready: public(HashMap[address, uint256])
judged: public(HashMap[address, HashMap[bytes32, bool]])
deposited: public(uint256)
slashed: public(uint256)
withdrawn: public(uint256)


@deploy
def __init__(money: IERC20, judge: address, gains: address, seconds: uint256):
    """
    @param money What is staked.
    @param judge Who slashes.
    @param gains Who gets what is slashed: not the judge, who should have nothing to win.
    @param seconds How long stake that leaves can still be slashed.
    """
    assert judge != gains, "stake: the judge gains"
    assert gains != empty(address), "stake: zero address"
    assert seconds != 0, "stake: no delay"
    token = money
    slasher = judge
    beneficiary = gains
    delay = seconds


@external
@nonreentrant
def stake(amount: uint256):
    """
    @notice Put money at stake.
    """
    assert amount != 0, "stake: nothing"
    self.staked[msg.sender] += amount
    self.deposited += amount
    log Staked(member=msg.sender, amount=amount)
    assert extcall token.transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "stake: payment failed"


@external
def unstake(amount: uint256):
    """
    @notice Begin to leave; for all that is leaving, the delay begins anew.
    """
    assert amount != 0, "stake: nothing"
    assert self.staked[msg.sender] >= amount, "stake: more than staked"
    self.staked[msg.sender] -= amount
    self.leaving[msg.sender] += amount
    self.ready[msg.sender] = block.timestamp + delay
    log Unstaked(member=msg.sender, amount=amount, ready=self.ready[msg.sender])


@external
@nonreentrant
def withdraw():
    """
    @notice Take what has left.
    """
    amount: uint256 = self.leaving[msg.sender]
    assert amount != 0, "stake: nothing"
    assert block.timestamp >= self.ready[msg.sender], "stake: too early"
    self.leaving[msg.sender] = 0
    self.withdrawn += amount
    log Withdrawn(member=msg.sender, amount=amount)
    assert extcall token.transfer(
        msg.sender, amount, default_return_value=True
    ), "stake: payment failed"


@external
@nonreentrant
def slash(member: address, amount: uint256, evidence: bytes32):
    """
    @notice Take stake from who lied, what is leaving last.
    @param evidence Hash of what shows it, which whoever doubts the slasher asks for.
    """
    assert msg.sender == slasher, "stake: not the slasher"
    assert amount != 0, "stake: nothing"
    assert evidence != empty(bytes32), "stake: no evidence"
    assert not self.judged[member][evidence], "stake: already slashed"
    staked: uint256 = self.staked[member]
    assert staked + self.leaving[member] >= amount, "stake: more than staked"
    self.judged[member][evidence] = True
    first: uint256 = min(staked, amount)
    self.staked[member] = staked - first
    self.leaving[member] -= amount - first
    self.slashed += amount
    log Slashed(member=member, amount=amount, evidence=evidence)
    assert extcall token.transfer(
        beneficiary, amount, default_return_value=True
    ), "stake: payment failed"
