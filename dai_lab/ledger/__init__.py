"""Signed events in a log that only grows: what anyone can check about a run, without its lab."""

from dai_lab.ledger.bundles import Proven, bundle, opened
from dai_lab.ledger.commitments import committed, examples_root, salt, tensors_digest
from dai_lab.ledger.events import Event, Forged, signed, verify
from dai_lab.ledger.history import History, told
from dai_lab.ledger.keys import Keyring, Signer, keyring
from dai_lab.ledger.log import Damaged, Log
from dai_lab.ledger.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion
from dai_lab.ledger.notes import Checkpoint, checkpoint, known, read_checkpoint, verifier
from dai_lab.ledger.scribe import Scribe, local, none
from dai_lab.ledger.seals import digests, read_seal, seal

__all__ = [
    "Checkpoint",
    "Damaged",
    "Event",
    "Forged",
    "History",
    "Keyring",
    "Log",
    "Proven",
    "Scribe",
    "Signer",
    "Tree",
    "bundle",
    "checkpoint",
    "committed",
    "digests",
    "examples_root",
    "keyring",
    "known",
    "leaf_hash",
    "local",
    "none",
    "opened",
    "read_checkpoint",
    "read_seal",
    "salt",
    "seal",
    "signed",
    "tensors_digest",
    "told",
    "verifier",
    "verify",
    "verify_consistency",
    "verify_inclusion",
]
