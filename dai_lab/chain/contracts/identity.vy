# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Identity
@notice Who agents and nodes are, and what others say of them: a subset of draft ERC-8004, in one
        contract, without approvals, wallets of their own and responses to feedback.
@dev Holds: only its owner changes an entry or gives it away; feedback is changed by nobody and
     revoked by its author alone; an owner says nothing of their own. Anybody can have many names:
     a summary is over those whom the reader trusts, and there is none over all.
"""

event Registered:
    agent: indexed(uint256)
    owner: indexed(address)
    uri: String[256]

event URIUpdated:
    agent: indexed(uint256)
    uri: String[256]

event MetadataSet:
    agent: indexed(uint256)
    key: String[32]
    content: Bytes[256]

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    agent: indexed(uint256)

event NewFeedback:
    agent: indexed(uint256)
    client: indexed(address)
    index: uint64
    score: uint8
    tag: String[32]
    uri: String[256]
    digest: bytes32

event FeedbackRevoked:
    agent: indexed(uint256)
    client: indexed(address)
    index: uint64

struct Feedback:
    score: uint8
    revoked: bool

struct Tally:
    count: uint64
    total: uint256

MOST: constant(uint256) = 64

count: public(uint256)
owners: HashMap[uint256, address]
uris: HashMap[uint256, String[256]]
metadata: HashMap[uint256, HashMap[String[32], Bytes[256]]]
last_index: public(HashMap[uint256, HashMap[address, uint64]])
feedback: HashMap[uint256, HashMap[address, HashMap[uint64, Feedback]]]
tallies: HashMap[uint256, HashMap[address, Tally]]


@internal
@view
def _owner(agent: uint256) -> address:
    owner: address = self.owners[agent]
    assert owner != empty(address), "identity: no such agent"
    return owner


@internal
@view
def _owned(agent: uint256):
    assert self._owner(agent) == msg.sender, "identity: not the owner"


@external
def register(uri: String[256]):
    """
    @notice Make an entry of one's own; its number is in the event, the first is 1.
    @param uri Where its card is found.
    """
    self.count += 1
    self.owners[self.count] = msg.sender
    self.uris[self.count] = uri
    log Transfer(sender=empty(address), receiver=msg.sender, agent=self.count)
    log Registered(agent=self.count, owner=msg.sender, uri=uri)


@external
@view
def ownerOf(agent: uint256) -> address:
    """
    @notice Say whose an entry is.
    """
    return self._owner(agent)


@external
@view
def tokenURI(agent: uint256) -> String[256]:
    """
    @notice Say where an entry's card is found.
    """
    self._owner(agent)
    return self.uris[agent]


@external
def setAgentURI(agent: uint256, uri: String[256]):
    """
    @notice Say where the card is found from now on.
    """
    self._owned(agent)
    self.uris[agent] = uri
    log URIUpdated(agent=agent, uri=uri)


@external
@view
def getMetadata(agent: uint256, key: String[32]) -> Bytes[256]:
    """
    @notice Give what an owner wrote under a key.
    """
    return self.metadata[agent][key]


@external
def setMetadata(agent: uint256, key: String[32], content: Bytes[256]):
    """
    @notice Write something under a key, such as the key that an agent's messages are signed with.
    """
    self._owned(agent)
    self.metadata[agent][key] = content
    log MetadataSet(agent=agent, key=key, content=content)


@external
def transfer(agent: uint256, receiver: address):
    """
    @notice Give an entry away, with what was said of it.
    """
    self._owned(agent)
    assert receiver != empty(address), "identity: zero address"
    self.owners[agent] = receiver
    log Transfer(sender=msg.sender, receiver=receiver, agent=agent)


@external
def giveFeedback(
    agent: uint256, score: uint8, tag: String[32], uri: String[256], digest: bytes32
):
    """
    @notice Say what one thinks of an agent, from 0 to 100.
    @param uri Where more is said,
    @param digest and the hash of that.
    """
    assert self._owner(agent) != msg.sender, "identity: own agent"
    assert score <= 100, "identity: score above 100"
    index: uint64 = self.last_index[agent][msg.sender] + 1
    self.last_index[agent][msg.sender] = index
    self.feedback[agent][msg.sender][index] = Feedback(score=score, revoked=False)
    self.tallies[agent][msg.sender].count += 1
    self.tallies[agent][msg.sender].total += convert(score, uint256)
    log NewFeedback(
        agent=agent,
        client=msg.sender,
        index=index,
        score=score,
        tag=tag,
        uri=uri,
        digest=digest,
    )


@external
def revokeFeedback(agent: uint256, index: uint64):
    """
    @notice Take back what one said.
    """
    assert index != 0 and index <= self.last_index[agent][msg.sender], "identity: no such feedback"
    said: Feedback = self.feedback[agent][msg.sender][index]
    assert not said.revoked, "identity: already revoked"
    self.feedback[agent][msg.sender][index].revoked = True
    self.tallies[agent][msg.sender].count -= 1
    self.tallies[agent][msg.sender].total -= convert(said.score, uint256)
    log FeedbackRevoked(agent=agent, client=msg.sender, index=index)


@external
@view
def readFeedback(agent: uint256, client: address, index: uint64) -> Feedback:
    """
    @notice Give one thing that was said.
    """
    assert index != 0 and index <= self.last_index[agent][client], "identity: no such feedback"
    return self.feedback[agent][client][index]


@external
@view
def getSummary(agent: uint256, clients: DynArray[address, MOST]) -> Tally:
    """
    @notice Count and add up the scores that up to 64 clients gave; one named twice counts twice.
    """
    summary: Tally = empty(Tally)
    for client: address in clients:
        summary.count += self.tallies[agent][client].count
        summary.total += self.tallies[agent][client].total
    return summary
