"""Keccak-256, as chains hash, and what is recovered from a signature.

No dependency of ours has Keccak-256 by itself, but an EVM does: one is asked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyrevm

ASKS = "0x" + "11" * 20
RECOVER = f"0x{1:040x}"
"""Where every EVM has ``ecrecover``."""


@cache
def machine() -> tuple[pyrevm.EVM, str]:
    """Start an EVM with a contract that hashes what it is called with."""
    import pyrevm

    evm = pyrevm.EVM(spec_id="CANCUN")
    # Copy the call to memory, hash it, give the hash; before it, what puts these bytes in place.
    hashes = bytes.fromhex("365f5f37365f205f5260205ff3")
    return evm, evm.deploy(ASKS, bytes.fromhex(f"60{len(hashes):02x}8060095f395ff3") + hashes)


def keccak(data: bytes) -> bytes:
    """Hash as Ethereum does.

    Source: FIPS 202 is the same but for one byte of padding; Ethereum Yellow Paper, section 2.
    """
    evm, where = machine()
    return bytes(evm.message_call(ASKS, where, data))


def recovered(digest: bytes, signature: bytes) -> str | None:
    """Say whose signature this is, as a contract would; nothing where it is nobody's."""
    call = digest + bytes(31) + signature[64:] + signature[:64]
    found = bytes(machine()[0].message_call(ASKS, RECOVER, call))
    return "0x" + found[12:].hex() if found else None
