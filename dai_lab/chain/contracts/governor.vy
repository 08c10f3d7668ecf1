# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Governor
@notice Those who hold tokens change a federation's settings by vote.
@dev Holds: a setting changes by a passed vote alone, after a delay in which members can leave; a
     failed vote, or one that nobody executes in time, changes nothing; a token votes once on a
     proposal, as it stays locked here until the vote ends, whoever it is lent to or bought by.
     There is no owner. A quadratic vote weighs the square root of what one name has locked, so
     who splits tokens over many names weighs more: it needs names that are hard to come by.
"""

from ethereum.ercs import IERC20

event Locked:
    member: indexed(address)
    amount: uint256

event Unlocked:
    member: indexed(address)
    amount: uint256

event Proposed:
    proposal: indexed(uint256)
    proposer: indexed(address)
    setting: String[64]
    choice: String[128]
    quadratic: bool
    ends: uint256

event Voted:
    proposal: indexed(uint256)
    member: indexed(address)
    support: bool
    weight: uint256

event Executed:
    proposal: indexed(uint256)
    setting: String[64]
    choice: String[128]

struct Proposal:
    setting: String[64]
    choice: String[128]
    quadratic: bool
    ends: uint256
    votes_for: uint256
    votes_against: uint256
    executed: bool

token: public(immutable(IERC20))
period: public(immutable(uint256))
timelock: public(immutable(uint256))
grace: public(immutable(uint256))
threshold: public(immutable(uint256))
quorum: public(immutable(uint256))
quadratic_quorum: public(immutable(uint256))
locked: public(HashMap[address, uint256])
until: public(HashMap[address, uint256])
voted: public(HashMap[uint256, HashMap[address, bool]])
count: public(uint256)
changes: public(uint256)
choice: public(HashMap[String[64], String[128]])
proposals: HashMap[uint256, Proposal]


@deploy
def __init__(
    money: IERC20,
    voting: uint256,
    waiting: uint256,
    executing: uint256,
    least: uint256,
    enough: uint256,
    quadratic_enough: uint256,
):
    """
    @param money What votes are weighed by.
    @param voting How many seconds a vote is open.
    @param waiting How many seconds a passed one waits before it can be executed.
    @param executing For how many seconds it then can be.
    @param least How many tokens one has locked who proposes.
    @param enough How much weight in favor a vote needs to pass,
    @param quadratic_enough and how much a quadratic one does.
    """
    assert voting != 0 and executing != 0, "governor: no time"
    assert enough != 0 and quadratic_enough != 0, "governor: no quorum"
    token = money
    period = voting
    timelock = waiting
    grace = executing
    threshold = least
    quorum = enough
    quadratic_quorum = quadratic_enough


@external
@nonreentrant
def lock(amount: uint256):
    """
    @notice Put tokens in, to vote with.
    """
    assert amount != 0, "governor: nothing"
    self.locked[msg.sender] += amount
    log Locked(member=msg.sender, amount=amount)
    assert extcall token.transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "governor: payment failed"


@external
@nonreentrant
def unlock(amount: uint256):
    """
    @notice Take tokens out, once every vote they were in has ended.
    """
    assert amount != 0, "governor: nothing"
    assert self.locked[msg.sender] >= amount, "governor: more than locked"
    assert block.timestamp >= self.until[msg.sender], "governor: vote still open"
    self.locked[msg.sender] -= amount
    log Unlocked(member=msg.sender, amount=amount)
    assert extcall token.transfer(
        msg.sender, amount, default_return_value=True
    ), "governor: payment failed"


@external
def propose(setting: String[64], choice: String[128], quadratic: bool):
    """
    @notice Open a vote; its number is in the event, the first is 1.
    @param setting What changes, such as `aggregator.f`,
    @param choice and what it changes to.
    @param quadratic Whether votes weigh the square root of what is locked.
    """
    assert self.locked[msg.sender] >= threshold, "governor: too few tokens"
    self.count += 1
    ends: uint256 = block.timestamp + period
    # Without this, tokens borrowed for one transaction would be enough to propose.
    self.until[msg.sender] = max(self.until[msg.sender], ends)
    self.proposals[self.count] = Proposal(
        setting=setting,
        choice=choice,
        quadratic=quadratic,
        ends=ends,
        votes_for=0,
        votes_against=0,
        executed=False,
    )
    log Proposed(
        proposal=self.count,
        proposer=msg.sender,
        setting=setting,
        choice=choice,
        quadratic=quadratic,
        ends=ends,
    )


@external
def vote(proposal: uint256, support: bool):
    """
    @notice Vote, once, with all that one has locked.
    """
    ends: uint256 = self.proposals[proposal].ends
    assert ends != 0, "governor: no such proposal"
    assert block.timestamp < ends, "governor: vote ended"
    assert not self.voted[proposal][msg.sender], "governor: already voted"
    weight: uint256 = self.locked[msg.sender]
    assert weight != 0, "governor: nothing locked"
    if self.proposals[proposal].quadratic:
        weight = isqrt(weight)
    self.voted[proposal][msg.sender] = True
    self.until[msg.sender] = max(self.until[msg.sender], ends)
    if support:
        self.proposals[proposal].votes_for += weight
    else:
        self.proposals[proposal].votes_against += weight
    log Voted(proposal=proposal, member=msg.sender, support=support, weight=weight)


@internal
@view
def _passed(proposal: uint256) -> bool:
    ends: uint256 = self.proposals[proposal].ends
    enough: uint256 = quorum
    if self.proposals[proposal].quadratic:
        enough = quadratic_quorum
    votes: uint256 = self.proposals[proposal].votes_for
    return (
        ends != 0
        and block.timestamp >= ends
        and votes >= enough
        and votes > self.proposals[proposal].votes_against
    )


@external
@view
def passed(proposal: uint256) -> bool:
    """
    @notice Say whether a vote has ended in favor.
    """
    return self._passed(proposal)


@external
@view
def getProposal(proposal: uint256) -> Proposal:
    """
    @notice Give all that is known of a proposal.
    """
    assert self.proposals[proposal].ends != 0, "governor: no such proposal"
    return self.proposals[proposal]


@external
def execute(proposal: uint256):
    """
    @notice Carry out what was voted, whoever asks, between its delay and its end.
    """
    assert self._passed(proposal), "governor: not passed"
    assert not self.proposals[proposal].executed, "governor: already executed"
    ready: uint256 = self.proposals[proposal].ends + timelock
    assert block.timestamp >= ready, "governor: too early"
    assert block.timestamp < ready + grace, "governor: too late"
    self.proposals[proposal].executed = True
    setting: String[64] = self.proposals[proposal].setting
    self.choice[setting] = self.proposals[proposal].choice
    self.changes += 1
    log Executed(proposal=proposal, setting=setting, choice=self.choice[setting])
