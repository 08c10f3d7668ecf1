# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Channel
@notice Many small payments to one payee, with two transactions in all: money is put in, vouchers
        are signed away from the chain, each above the last, and the payee fetches the highest.
@dev Holds: a channel pays what it was opened with, to the last unit and once; the payee gets what
     a voucher says, never more than is in; a voucher is good for one channel of one contract on
     one chain; after the expiry all returns to the payer.
"""

from ethereum.ercs import IERC20

event ChannelOpened:
    channel: indexed(uint256)
    payer: indexed(address)
    payee: indexed(address)
    amount: uint256
    expiry: uint256

event ChannelClaimed:
    channel: indexed(uint256)
    amount: uint256
    refund: uint256

event ChannelRefunded:
    channel: indexed(uint256)
    amount: uint256

struct Channel:
    payer: address
    payee: address
    amount: uint256
    expiry: uint256

DOMAIN: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
VOUCHER: constant(bytes32) = keccak256("Voucher(uint256 channel,uint256 amount)")
# Half the order of secp256k1: of the two signatures of one message, the lower is the only one.
LOW: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

token: public(immutable(IERC20))
count: public(uint256)
channel: public(HashMap[uint256, Channel])


@deploy
def __init__(money: IERC20):
    """
    @param money What is paid.
    """
    token = money


@external
@nonreentrant
def open(payee: address, amount: uint256, expiry: uint256):
    """
    @notice Open a channel with money in it; its number is in the event, the first is 1.
    @param expiry The second from which on nothing can be claimed.
    """
    assert payee != empty(address), "channel: zero address"
    assert amount != 0, "channel: nothing"
    assert expiry > block.timestamp, "channel: expiry has passed"
    self.count += 1
    channel: uint256 = self.count
    self.channel[channel] = Channel(
        payer=msg.sender, payee=payee, amount=amount, expiry=expiry
    )
    log ChannelOpened(
        channel=channel, payer=msg.sender, payee=payee, amount=amount, expiry=expiry
    )
    assert extcall token.transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "channel: payment failed"


@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    """
    @notice Give what every voucher of this contract holds (EIP-712).
    """
    return self._domain()


@internal
@view
def _domain() -> bytes32:
    return keccak256(
        abi_encode(DOMAIN, keccak256("dai_lab channel"), keccak256("1"), chain.id, self)
    )


@external
@nonreentrant
def claim(channel: uint256, amount: uint256, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Fetch what a voucher says, as the payee; the rest returns, and the channel is closed.
    """
    one: Channel = self.channel[channel]
    assert one.amount != 0, "channel: closed"
    assert msg.sender == one.payee, "channel: not the payee"
    assert block.timestamp < one.expiry, "channel: expired"
    assert amount <= one.amount, "channel: more than is in"
    assert convert(s, uint256) <= LOW, "channel: bad signature"
    digest: bytes32 = keccak256(
        concat(b"\x19\x01", self._domain(), keccak256(abi_encode(VOUCHER, channel, amount)))
    )
    signer: address = ecrecover(digest, v, r, s)
    assert signer != empty(address) and signer == one.payer, "channel: bad signature"
    self.channel[channel].amount = 0
    refund: uint256 = one.amount - amount
    log ChannelClaimed(channel=channel, amount=amount, refund=refund)
    if amount != 0:
        assert extcall token.transfer(
            one.payee, amount, default_return_value=True
        ), "channel: payment failed"
    if refund != 0:
        assert extcall token.transfer(
            one.payer, refund, default_return_value=True
        ), "channel: payment failed"


@external
@nonreentrant
def refund(channel: uint256):
    """
    @notice Give the payer all of it back after the expiry, whoever asks.
    """
    one: Channel = self.channel[channel]
    assert one.amount != 0, "channel: closed"
    assert block.timestamp >= one.expiry, "channel: too early"
    self.channel[channel].amount = 0
    log ChannelRefunded(channel=channel, amount=one.amount)
    assert extcall token.transfer(
        one.payer, one.amount, default_return_value=True
    ), "channel: payment failed"
