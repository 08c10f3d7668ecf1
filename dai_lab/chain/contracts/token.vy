# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Token
@notice Money of the lab: ERC-20, and payments that the payer signs and anybody carries (EIP-3009).
@dev Holds: balances add up to the supply, which is made once and is fixed; nobody is paid by a
     signature twice, after its time, or by its mirror image (a high s). There is no owner.
"""

from ethereum.ercs import IERC20

implements: IERC20

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

DOMAIN: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
TRANSFER: constant(bytes32) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE: constant(bytes32) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL: constant(bytes32) = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)")
# Half the order of secp256k1: of the two signatures of one message, the lower is the only one.
LOW: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

name: public(String[32])
symbol: public(String[8])
decimals: public(constant(uint8)) = 6
totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


@deploy
def __init__(name: String[32], symbol: String[8], supply: uint256):
    """
    @notice Make all there will ever be, and give it to who deploys.
    """
    self.name = name
    self.symbol = symbol
    self.totalSupply = supply
    self.balanceOf[msg.sender] = supply
    log IERC20.Transfer(sender=empty(address), receiver=msg.sender, value=supply)


@internal
def _transfer(payer: address, payee: address, amount: uint256):
    assert payee != empty(address), "token: zero address"
    balance: uint256 = self.balanceOf[payer]
    assert balance >= amount, "token: balance too low"
    self.balanceOf[payer] = unsafe_sub(balance, amount)
    # All balances together are the supply, which a number holds.
    self.balanceOf[payee] = unsafe_add(self.balanceOf[payee], amount)
    log IERC20.Transfer(sender=payer, receiver=payee, value=amount)


@external
def transfer(payee: address, amount: uint256) -> bool:
    """
    @notice Pay.
    """
    self._transfer(msg.sender, payee, amount)
    return True


@external
def transferFrom(payer: address, payee: address, amount: uint256) -> bool:
    """
    @notice Pay from the money of another, who approved it.
    """
    allowed: uint256 = self.allowance[payer][msg.sender]
    assert allowed >= amount, "token: allowance too low"
    if allowed != max_value(uint256):
        self.allowance[payer][msg.sender] = unsafe_sub(allowed, amount)
    self._transfer(payer, payee, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    """
    @notice Let another pay from one's money; it replaces what was approved before.
    """
    self.allowance[msg.sender][spender] = amount
    log IERC20.Approval(owner=msg.sender, spender=spender, value=amount)
    return True


@internal
@view
def _domain() -> bytes32:
    # With the chain's number as it is now: after a fork, a signature is good on one side only.
    return keccak256(
        abi_encode(DOMAIN, keccak256(self.name), keccak256("1"), chain.id, self)
    )


@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    """
    @notice Give what every signature for this contract holds (EIP-712).
    """
    return self._domain()


@internal
def _use(signer: address, nonce: bytes32, content: bytes32, v: uint8, r: bytes32, s: bytes32):
    assert not self.authorizationState[signer][nonce], "token: nonce used"
    assert convert(s, uint256) <= LOW, "token: bad signature"
    digest: bytes32 = keccak256(concat(b"\x19\x01", self._domain(), content))
    found: address = ecrecover(digest, v, r, s)
    assert found != empty(address) and found == signer, "token: bad signature"
    self.authorizationState[signer][nonce] = True


@internal
def _authorized(
    kind: bytes32,
    payer: address,
    payee: address,
    amount: uint256,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    assert block.timestamp > valid_after, "token: not yet valid"
    assert block.timestamp < valid_before, "token: expired"
    content: bytes32 = keccak256(
        abi_encode(kind, payer, payee, amount, valid_after, valid_before, nonce)
    )
    self._use(payer, nonce, content, v, r, s)
    log AuthorizationUsed(authorizer=payer, nonce=nonce)
    self._transfer(payer, payee, amount)


@external
def transferWithAuthorization(
    payer: address,
    payee: address,
    amount: uint256,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice Carry out a payment that its payer signed.
    @param valid_after It is good later than this second,
    @param valid_before and earlier than this one.
    @param nonce Drawn by the payer at random: good once.
    """
    self._authorized(
        TRANSFER, payer, payee, amount, valid_after, valid_before, nonce, v, r, s
    )


@external
def receiveWithAuthorization(
    payer: address,
    payee: address,
    amount: uint256,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice Take a payment that its payer signed; nobody but the payee can carry it out first.
    """
    assert payee == msg.sender, "token: not the payee"
    self._authorized(RECEIVE, payer, payee, amount, valid_after, valid_before, nonce, v, r, s)


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Use up a nonce without a payment.
    """
    self._use(authorizer, nonce, keccak256(abi_encode(CANCEL, authorizer, nonce)), v, r, s)
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)
