"""A run as a research object: its files, whose data are in it, and on what terms."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from dai_lab.ledger.exports.finished import Finished

METADATA = "ro-crate-metadata.json"
"""Where in a crate this lies."""

VERSION, PROFILE = "https://w3id.org/ro/crate/1.2", "https://w3id.org/ro/wfrun/process/0.5"

SETTINGS = "config.yaml"

ABOUT = {
    SETTINGS: "the settings of the run",
    "environment.json": "the code, the packages and the machine it ran on",
    "records.jsonl": "what was measured in each round",
    "summary.json": "what was measured in the end",
    "checkpoint.safetensors": "the last model, and the memories of the run's parts",
    "ledger.sqlite": "signed events of the run in a log (RFC 6962), with signed checkpoints of it",
    "chain.jsonl": "a chain of the lab's own, on which the log is anchored",
    "seal": "the signed list of the run's files",
}

FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".sqlite": "application/vnd.sqlite3",
    ".yaml": "application/yaml",
}

SPDX = {
    "BSD-3-Clause": "BSD-3-Clause",
    "CC BY 4.0": "CC-BY-4.0",
    "CC BY-SA 3.0": "CC-BY-SA-3.0",
    "MIT": "MIT",
}
"""Licenses that a list which everybody reads knows too."""


def crate(run: Finished, names: Iterable[str]) -> dict[str, Any]:
    """Describe a run and some of its files for archives of research.

    Args:
        run: A run that was checked.
        names: Paths of the files in the crate, as they are in the run's folder.

    Returns:
        What ``ro-crate-metadata.json`` holds.

    Source:
        RO-Crate 1.2; Process Run Crate 0.5 (w3id.org/ro/wfrun/process/0.5).
    """
    listed = sorted(names)
    licenses = {one.body["license"] for one in run.history.owners.values()}
    graph = [
        {
            "@id": METADATA, "@type": "CreativeWork",
            "about": {"@id": "./"}, "conformsTo": {"@id": VERSION},
        },
        _root(run, listed, sorted(licenses)),
        {
            "@id": PROFILE, "@type": ["CreativeWork", "Profile"],
            "name": "Process Run Crate", "version": "0.5",
        },
        _action(run, listed),
        {
            "@id": "#dai_lab", "@type": "SoftwareApplication", "name": "dai_lab",
            "softwareVersion": run.environment["versions"]["dai-lab"], "description": _code(run),
        },
        {
            "@id": "#lab", "@type": "Organization", "name": "the lab that signed the run's log",
            "identifier": f"urn:dai-lab:key:{run.lab.hex()}",
        },
        *(_file(run, one) for one in listed),
        *_data(run),
        *map(_license, sorted(licenses)),
    ]  # fmt: skip
    return {"@context": f"{VERSION}/context", "@graph": graph}


def _root(run: Finished, names: list[str], licenses: list[str]) -> dict[str, Any]:
    us = run.history
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"dai_lab run {us.run}",
        "description": (
            f"A model trained in {len(us.rounds)} rounds on data of {len(us.owners)} owners, "
            f"with the signed log of how it came about ({run.size} events)."
        ),
        "identifier": run.name,
        "datePublished": run.ended.date().isoformat(),
        "license": [{"@id": _license(one)["@id"]} for one in licenses] or "no data were used",
        "conformsTo": {"@id": PROFILE},
        "hasPart": [{"@id": quote(one)} for one in names],
        "mentions": {"@id": "#run"},
    }


def _action(run: Finished, names: list[str]) -> dict[str, Any]:
    given = [SETTINGS, *map(_data_id, sorted(run.history.owners))]
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"training of run {run.history.run}",
        "description": (
            f"{len(run.history.rounds)} rounds, settings in {SETTINGS}; "
            f"the last model has the content address {run.last['cid']}"
        ),
        "instrument": {"@id": "#dai_lab"},
        "agent": {"@id": "#lab"},
        "object": [{"@id": one} for one in given],
        "result": [{"@id": quote(one)} for one in names if one != SETTINGS],
        "endTime": run.ended.isoformat(timespec="seconds"),
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
    }


def _file(run: Finished, name: str) -> dict[str, Any]:
    about, plain = run.files[name], "text/plain" if name == "seal" else "application/octet-stream"
    return {
        "@id": quote(name),
        "@type": "File",
        "name": name,
        "description": ABOUT.get(name, "the state of the run after some round, or a block of it"),
        "contentSize": str(about.size),
        "sha256": about.sha256.hex(),
        "encodingFormat": FORMATS.get(PurePosixPath(name).suffix, plain),
    }


def _data(run: Finished) -> list[dict[str, Any]]:
    """Describe data that stayed with their owners: nothing of them is in the crate."""
    return [
        {
            "@id": _data_id(owner),
            "@type": "Dataset",
            "name": f"data of {owner}",
            "description": "Stayed with its owner; only the root of a Merkle tree is known.",
            "identifier": f"rfc6962Sha256:{event.body['root'].hex()}",
            "size": f"{event.body['size']} examples",
            "license": {"@id": _license(event.body["license"])["@id"]},
        }
        for owner, event in sorted(run.history.owners.items())
    ]


def _license(name: str) -> dict[str, Any]:
    known = SPDX.get(name)
    return {
        "@id": f"https://spdx.org/licenses/{known}" if known else f"#license/{quote(name)}",
        "@type": "CreativeWork",
        "name": name or "no license stated",
        "description": "Terms of data that the model was trained on, as their owners stated them.",
    }


def _data_id(owner: str) -> str:
    return f"#data/{quote(owner)}"


def _code(run: Finished) -> str:
    """Say with which code each session went on, and whether files differed from the commit."""
    return "; ".join(
        f"from round {one['from_round']} on, "
        + (f"commit {one['commit']}" if one["commit"] else "an installed copy")
        + (", with changes" if one["dirty"] else "")
        for one in run.sessions
    )
