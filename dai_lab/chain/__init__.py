"""Contracts on a chain: one inside the process, or a node that is asked over HTTP."""

from dai_lab.chain.embedded import embedded
from dai_lab.chain.payouts import payout_proofs, payout_root
from dai_lab.chain.port import Chain, Contract, Log, Receipt, Reverted, none
from dai_lab.chain.rpc import reader, rpc
from dai_lab.chain.typed import authorization, voucher

__all__ = [
    "Chain",
    "Contract",
    "Log",
    "Receipt",
    "Reverted",
    "authorization",
    "embedded",
    "none",
    "payout_proofs",
    "payout_root",
    "reader",
    "rpc",
    "voucher",
]
