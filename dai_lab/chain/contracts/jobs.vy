# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Jobs
@notice Work for money that an evaluator releases: a subset of draft ERC-8183, without hooks, the
        optional parameters and platform fees.
@dev Holds: what the contract has is what funded and submitted jobs hold; a job pays its budget
     once, to the provider if the evaluator says so and to the client otherwise; after its expiry
     the money always comes back, whatever anybody else does or omits.
"""

from ethereum.ercs import IERC20

event JobCreated:
    job: indexed(uint256)
    client: indexed(address)
    provider: address
    evaluator: indexed(address)
    expired_at: uint256

event ProviderSet:
    job: indexed(uint256)
    provider: indexed(address)

event BudgetSet:
    job: indexed(uint256)
    amount: uint256

event JobFunded:
    job: indexed(uint256)
    amount: uint256

event JobSubmitted:
    job: indexed(uint256)
    deliverable: bytes32

event JobCompleted:
    job: indexed(uint256)
    reason: bytes32
    amount: uint256

event JobRejected:
    job: indexed(uint256)
    rejector: indexed(address)
    reason: bytes32
    refund: uint256

event JobExpired:
    job: indexed(uint256)
    refund: uint256

OPEN: constant(uint8) = 0
FUNDED: constant(uint8) = 1
SUBMITTED: constant(uint8) = 2
COMPLETED: constant(uint8) = 3
REJECTED: constant(uint8) = 4
EXPIRED: constant(uint8) = 5

struct Job:
    client: address
    provider: address
    evaluator: address
    description: String[256]
    budget: uint256
    expired_at: uint256
    status: uint8
    deliverable: bytes32

token: public(immutable(IERC20))
count: public(uint256)
jobs: HashMap[uint256, Job]


@deploy
def __init__(money: IERC20):
    """
    @param money What jobs are paid in.
    """
    token = money


@internal
@view
def _client(job: uint256):
    assert self.jobs[job].client == msg.sender, "jobs: not the client"


@internal
@view
def _is(job: uint256, status: uint8):
    assert self.jobs[job].status == status, "jobs: wrong state"


@external
@view
def getJob(job: uint256) -> Job:
    """
    @notice Give all that is known of a job.
    """
    assert job != 0 and job <= self.count, "jobs: no such job"
    return self.jobs[job]


@external
def createJob(
    provider: address, evaluator: address, expired_at: uint256, description: String[256]
):
    """
    @notice Ask for work; its number is in the event, the first is 1.
    @param provider Who does it; zero where that is still open.
    @param evaluator Who says whether it was done.
    @param expired_at The second from which on the money can be taken back.
    """
    assert evaluator != empty(address), "jobs: no evaluator"
    assert expired_at > block.timestamp, "jobs: expiry has passed"
    self.count += 1
    job: uint256 = self.count
    self.jobs[job] = Job(
        client=msg.sender,
        provider=provider,
        evaluator=evaluator,
        description=description,
        budget=0,
        expired_at=expired_at,
        status=OPEN,
        deliverable=empty(bytes32),
    )
    log JobCreated(
        job=job, client=msg.sender, provider=provider, evaluator=evaluator, expired_at=expired_at
    )


@external
def setProvider(job: uint256, provider: address):
    """
    @notice Say who does an open job that nobody was named for.
    """
    self._client(job)
    self._is(job, OPEN)
    assert self.jobs[job].provider == empty(address), "jobs: provider already set"
    assert provider != empty(address), "jobs: no provider"
    self.jobs[job].provider = provider
    log ProviderSet(job=job, provider=provider)


@external
def setBudget(job: uint256, amount: uint256):
    """
    @notice Name a price, as the client or the provider, while nothing is paid in.
    """
    assert msg.sender != empty(address) and (
        msg.sender == self.jobs[job].client or msg.sender == self.jobs[job].provider
    ), "jobs: not a party"
    self._is(job, OPEN)
    self.jobs[job].budget = amount
    log BudgetSet(job=job, amount=amount)


@external
@nonreentrant
def fund(job: uint256, expected_budget: uint256):
    """
    @notice Pay the budget in.
    @param expected_budget What the client thinks it is: the provider may just have raised it.
    """
    self._client(job)
    self._is(job, OPEN)
    assert self.jobs[job].provider != empty(address), "jobs: no provider"
    budget: uint256 = self.jobs[job].budget
    assert budget != 0 and budget == expected_budget, "jobs: another budget"
    assert block.timestamp < self.jobs[job].expired_at, "jobs: expired"
    self.jobs[job].status = FUNDED
    log JobFunded(job=job, amount=budget)
    assert extcall token.transferFrom(
        msg.sender, self, budget, default_return_value=True
    ), "jobs: payment failed"


@external
def submit(job: uint256, deliverable: bytes32):
    """
    @notice Hand in work, as its hash.
    """
    assert self.jobs[job].provider == msg.sender, "jobs: not the provider"
    self._is(job, FUNDED)
    assert block.timestamp < self.jobs[job].expired_at, "jobs: expired"
    self.jobs[job].status = SUBMITTED
    self.jobs[job].deliverable = deliverable
    log JobSubmitted(job=job, deliverable=deliverable)


@external
@nonreentrant
def complete(job: uint256, reason: bytes32):
    """
    @notice Say that work was done, which pays the provider.
    """
    assert self.jobs[job].evaluator == msg.sender, "jobs: not the evaluator"
    self._is(job, SUBMITTED)
    self.jobs[job].status = COMPLETED
    amount: uint256 = self.jobs[job].budget
    log JobCompleted(job=job, reason=reason, amount=amount)
    assert extcall token.transfer(
        self.jobs[job].provider, amount, default_return_value=True
    ), "jobs: payment failed"


@external
@nonreentrant
def reject(job: uint256, reason: bytes32):
    """
    @notice Turn a job down: the client while it is open, the evaluator once it is paid in.
    """
    status: uint8 = self.jobs[job].status
    assert status <= SUBMITTED, "jobs: wrong state"
    refund: uint256 = 0
    if status == OPEN:
        self._client(job)
    else:
        assert self.jobs[job].evaluator == msg.sender, "jobs: not the evaluator"
        refund = self.jobs[job].budget
    self.jobs[job].status = REJECTED
    log JobRejected(job=job, rejector=msg.sender, reason=reason, refund=refund)
    if refund != 0:
        assert extcall token.transfer(
            self.jobs[job].client, refund, default_return_value=True
        ), "jobs: payment failed"


@external
@nonreentrant
def claimRefund(job: uint256):
    """
    @notice Give the client the money back after the expiry, whoever asks.
    """
    status: uint8 = self.jobs[job].status
    assert status == FUNDED or status == SUBMITTED, "jobs: wrong state"
    assert block.timestamp >= self.jobs[job].expired_at, "jobs: too early"
    self.jobs[job].status = EXPIRED
    refund: uint256 = self.jobs[job].budget
    log JobExpired(job=job, refund=refund)
    assert extcall token.transfer(
        self.jobs[job].client, refund, default_return_value=True
    ), "jobs: payment failed"
