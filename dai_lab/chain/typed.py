"""What is signed away from the chain: payments of a token and vouchers of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dai_lab.chain.abi import codec, joined
from dai_lab.chain.hashing import keccak
from dai_lab.chain.port import Chain, Contract

DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
AUTHORIZATION = (
    "WithAuthorization(address from,address to,uint256 value,"
    "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)


def hashed(kind: str, values: Sequence[Any]) -> bytes:
    """Hash a structure of which every part takes one word.

    Source: EIP-712, "Definition of hashStruct".
    """
    names = [one.split()[0] for one in kind[kind.index("(") + 1 : -1].split(",")]
    # Text is in it as its hash.
    parts = joined([codec("bytes32" if one == "string" else one) for one in names])
    return keccak(keccak(kind.encode()) + parts.encode(tuple(values)))


def digest(chain: Chain, contract: Contract, name: str, kind: str, values: Sequence[Any]) -> bytes:
    """Hash a structure together with the chain and the contract it is for.

    Everything is computed here: a node that could choose what is signed could take all there is.

    Source: EIP-712, "Definition of domainSeparator".
    """
    said = keccak(name.encode()), keccak(b"1"), chain.chain_id, contract.address
    return keccak(b"\x19\x01" + hashed(DOMAIN, said) + hashed(kind, values))


def voucher(chain: Chain, contract: Contract, *, channel: int, amount: int) -> bytes:
    """Give what the payer of a channel signs: that the payee may fetch so much in all.

    Args:
        chain: Where the channel is.
        contract: The ``channel`` contract.
        channel: Its number.
        amount: All that is owed so far, not what is owed anew.
    """
    kind = "Voucher(uint256 channel,uint256 amount)"
    return digest(chain, contract, "dai_lab channel", kind, (channel, amount))


def authorization(
    chain: Chain,
    contract: Contract,
    *,
    payer: str,
    payee: str,
    amount: int,
    nonce: bytes,
    valid_after: int = 0,
    valid_before: int = (1 << 256) - 1,
    received: bool = False,
) -> bytes:
    """Give what a payer signs so that anybody can carry the payment out.

    Args:
        chain: Where the token is.
        contract: The ``token``.
        payer: Whose money it is, and who signs.
        payee: Who gets it.
        amount: How much, in the token's smallest unit.
        nonce: 32 bytes, drawn at random: good once.
        valid_after: It is good later than this second,
        valid_before: and earlier than this one.
        received: Only the payee can carry it out, with ``receiveWithAuthorization``.

    Source: EIP-3009.
    """
    kind = ("Receive" if received else "Transfer") + AUTHORIZATION
    values = payer, payee, amount, valid_after, valid_before, nonce
    return digest(chain, contract, chain.call(contract, "name"), kind, values)
