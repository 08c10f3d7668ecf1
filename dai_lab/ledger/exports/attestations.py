"""An attestation of where a model comes from, as supply chains of software have them."""

from __future__ import annotations

import hashlib
from typing import Any

from dai_lab.ledger.exports.finished import MODEL, Finished

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"

BUILD = "urn:dai-lab:run:1"
"""How to read the parameters: the settings in ``config.yaml`` say everything, and
``dai-lab`` computes the same from them with the code and the data listed."""

TREE = "rfc6962Sha256"
"""The name of a digest that is the root of a Merkle tree."""


def statement(run: Finished, model_key: bytes) -> dict[str, Any]:
    """State what the last model is, and what it was made of.

    Args:
        run: A run that was checked.
        model_key: PEM of the key by which the lab signs models for others; whoever trusts this
            statement knows that one too.

    Returns:
        A statement of in-toto about ``model.safetensors`` and ``checkpoint.safetensors``, with
        SLSA provenance.

    Source:
        in-toto attestation framework, Statement v1; SLSA 1.0, provenance.
    """
    start, us = run.start.body, run.history
    key = {"name": "lab.pub", "digest": {"sha256": hashlib.sha256(model_key).hexdigest()}}
    along = ("environment.json", "records.jsonl", "summary.json")
    model = {
        "name": MODEL,
        "uri": f"ipfs://{run.last['cid']}",
        "digest": {"sha256": run.model.sha256.hex()},
    }
    return {
        "_type": STATEMENT,
        "subject": [model, _file(run, "checkpoint.safetensors")],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"config": {"sha256": start["config"].hex()}},
                "internalParameters": {"rounds": len(us.rounds), "sessions": us.sessions},
                "resolvedDependencies": [_file(run, "config.yaml"), *_code(run), *_data(run)],
            },
            "runDetails": {
                "builder": {
                    "id": f"urn:dai-lab:key:{run.lab.hex()}",
                    "version": dict(run.environment["versions"]),
                    "builderDependencies": [key],
                },
                "metadata": {"invocationId": run.name},
                "byproducts": [_log(run), *(_file(run, one) for one in along)],
            },
        },
    }


def _file(run: Finished, name: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": run.files[name].sha256.hex()}}


def _code(run: Finished) -> list[dict[str, Any]]:
    """List the commits it was run with; an installed copy knows none."""
    return [
        {
            "name": "dai_lab",
            "digest": {"gitCommit": one["commit"]},
            "annotations": {"dirty": one["dirty"], "fromRound": one["from_round"]},
        }
        for one in run.sessions
        if one["commit"] is not None
    ]


def _data(run: Finished) -> list[dict[str, Any]]:
    """List what owners registered."""
    return [
        {
            "name": owner,
            "digest": {TREE: event.body["root"].hex()},
            "annotations": {"examples": event.body["size"], "license": event.body["license"]},
        }
        for owner, event in sorted(run.history.owners.items())
    ]


def _log(run: Finished) -> dict[str, Any]:
    """Name the log, as a file and as a tree, and where it is anchored."""
    about: dict[str, Any] = {"events": run.size}
    if run.history.anchors:
        last = run.history.anchors[-1].body
        named = ("round", "size", "chain", "contract", "transaction", "block")
        about["anchor"] = {one: last[one] for one in named}
    found = _file(run, "ledger.sqlite")
    return {**found, "digest": {**found["digest"], TREE: run.root.hex()}, "annotations": about}
