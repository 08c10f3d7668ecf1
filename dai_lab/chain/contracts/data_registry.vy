# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Data registry
@notice Who owns which data set, and who may use it for what, until when, for how much.
@dev Holds: what was revoked, has expired or was never granted is used by nobody; every use is an
     event; an owner is paid, or the use did not happen. That data are what their root says, and
     that they are used as said, a chain cannot see.
"""

from ethereum.ercs import IERC20

event DatasetRegistered:
    dataset: indexed(bytes32)
    owner: indexed(address)
    root: bytes32
    size: uint64
    license: String[64]

event ConsentGranted:
    dataset: indexed(bytes32)
    user: indexed(address)
    purpose: String[64]
    expiry: uint256
    fee: uint256

event ConsentRevoked:
    dataset: indexed(bytes32)
    user: indexed(address)
    purpose: String[64]

event DataUsed:
    dataset: indexed(bytes32)
    user: indexed(address)
    run: indexed(bytes32)
    purpose: String[64]
    fee: uint256

struct Dataset:
    owner: address
    root: bytes32
    size: uint64
    license: String[64]

struct Consent:
    expiry: uint256
    fee: uint256

token: public(immutable(IERC20))
dataset: public(HashMap[bytes32, Dataset])
consent: public(HashMap[bytes32, HashMap[address, HashMap[String[64], Consent]]])


@deploy
def __init__(money: IERC20):
    """
    @param money What fees are paid in.
    """
    token = money


@internal
@pure
def _id(owner: address, root: bytes32) -> bytes32:
    # With the owner in it, nobody can take a name by seeing another's registration first.
    return keccak256(abi_encode(owner, root))


@external
@pure
def dataset_id(owner: address, root: bytes32) -> bytes32:
    """
    @notice Give the name that a data set has, or would have.
    """
    return self._id(owner, root)


@external
def register(root: bytes32, size: uint64, license: String[64]):
    """
    @notice Register a data set as one's own.
    @param root Merkle root of its records.
    @param size How many they are.
    """
    dataset: bytes32 = self._id(msg.sender, root)
    assert self.dataset[dataset].owner == empty(address), "data_registry: already registered"
    self.dataset[dataset] = Dataset(owner=msg.sender, root=root, size=size, license=license)
    log DatasetRegistered(
        dataset=dataset, owner=msg.sender, root=root, size=size, license=license
    )


@external
def grant(dataset: bytes32, user: address, purpose: String[64], expiry: uint256, fee: uint256):
    """
    @notice Let somebody use a data set; it replaces what was granted for this purpose before.
    @param expiry The second from which on it is no longer good.
    @param fee What each use costs.
    """
    assert self.dataset[dataset].owner == msg.sender, "data_registry: not the owner"
    assert expiry > block.timestamp, "data_registry: expiry has passed"
    self.consent[dataset][user][purpose] = Consent(expiry=expiry, fee=fee)
    log ConsentGranted(dataset=dataset, user=user, purpose=purpose, expiry=expiry, fee=fee)


@external
def revoke(dataset: bytes32, user: address, purpose: String[64]):
    """
    @notice Take consent back, at once.
    """
    assert self.dataset[dataset].owner == msg.sender, "data_registry: not the owner"
    assert self.consent[dataset][user][purpose].expiry != 0, "data_registry: no consent"
    self.consent[dataset][user][purpose] = empty(Consent)
    log ConsentRevoked(dataset=dataset, user=user, purpose=purpose)


@external
@view
def allowed(dataset: bytes32, user: address, purpose: String[64]) -> bool:
    """
    @notice Say whether a use would be good now.
    """
    return block.timestamp < self.consent[dataset][user][purpose].expiry


@external
@nonreentrant
def use(dataset: bytes32, purpose: String[64], run: bytes32, max_fee: uint256):
    """
    @notice Use a data set one has consent for, and pay what that costs.
    @param run What it is used in.
    @param max_fee What the user agrees to: the owner may just have raised the fee.
    """
    consent: Consent = self.consent[dataset][msg.sender][purpose]
    assert consent.expiry != 0, "data_registry: no consent"
    assert block.timestamp < consent.expiry, "data_registry: consent expired"
    assert consent.fee <= max_fee, "data_registry: fee too high"
    log DataUsed(
        dataset=dataset, user=msg.sender, run=run, purpose=purpose, fee=consent.fee
    )
    if consent.fee != 0:
        assert extcall token.transferFrom(
            msg.sender, self.dataset[dataset].owner, consent.fee, default_return_value=True
        ), "data_registry: payment failed"
