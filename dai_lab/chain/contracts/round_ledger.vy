# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Round ledger
@notice One commitment a round, whatever the number of clients: what the log said, which model came
        of it, who is owed what.
@dev Holds: the rounds of a run are 1, 2, 3, ... without gap or repeat; its log never shrinks, nor
     says two things at one size; only who opened the run commits; nothing is ever overwritten.
"""

event RunOpened:
    run: indexed(bytes32)
    author: indexed(address)

event RoundCommitted:
    run: indexed(bytes32)
    round: indexed(uint64)
    log_root: bytes32
    log_size: uint64
    model_cid: Bytes[64]
    reward_root: bytes32

struct Commitment:
    log_root: bytes32
    log_size: uint64
    model_cid: Bytes[64]
    reward_root: bytes32

author: public(HashMap[bytes32, address])
head: public(HashMap[bytes32, uint64])
commitments: HashMap[bytes32, HashMap[uint64, Commitment]]


@external
def open_run(run: bytes32):
    """
    @notice Make a run one's own; it is committed to by nobody else.
    @param run Its name, taken by who comes first: draw it at random where others might want it.
    """
    assert self.author[run] == empty(address), "round_ledger: run taken"
    self.author[run] = msg.sender
    log RunOpened(run=run, author=msg.sender)


@external
def commit_round(
    run: bytes32,
    round: uint64,
    log_root: bytes32,
    log_size: uint64,
    model_cid: Bytes[64],
    reward_root: bytes32,
):
    """
    @notice Commit to the next round of one's run, for good.
    @param run A run the sender opened.
    @param round The last one plus one; the first is 1.
    @param log_root Root of the run's event log.
    @param log_size How many events it holds: no fewer than at the last round.
    @param model_cid Where the round's model is found, as a binary CID.
    @param reward_root Root of what clients are owed; zero where nobody is.
    """
    assert self.author[run] == msg.sender, "round_ledger: not the author"
    last: uint64 = self.head[run]
    assert round == last + 1, "round_ledger: out of order"
    if last != 0:
        size: uint64 = self.commitments[run][last].log_size
        assert log_size >= size, "round_ledger: log shrank"
        if log_size == size:
            assert log_root == self.commitments[run][last].log_root, "round_ledger: log forked"
    self.head[run] = round
    self.commitments[run][round] = Commitment(
        log_root=log_root, log_size=log_size, model_cid=model_cid, reward_root=reward_root
    )
    log RoundCommitted(
        run=run,
        round=round,
        log_root=log_root,
        log_size=log_size,
        model_cid=model_cid,
        reward_root=reward_root,
    )


@external
@view
def commitment(run: bytes32, round: uint64) -> Commitment:
    """
    @notice Give what a round was committed to.
    """
    assert round != 0 and round <= self.head[run], "round_ledger: no such round"
    return self.commitments[run][round]
