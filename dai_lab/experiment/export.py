"""A finished run, written down for the tools of others."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dai_lab.experiment import files
from dai_lab.experiment.provenance import OPENING, SEALED, STORE
from dai_lab.experiment.verify import DOUBT, LAB, check
from dai_lab.ledger import Keyring, Log, keyring, read_seal, told, verify
from dai_lab.ledger.exports import (
    File,
    Finished,
    canonical,
    crate,
    envelope,
    graph,
    key_id,
    model_bundle,
    model_statement,
    statement,
)
from dai_lab.ledger.exports.crates import METADATA
from dai_lab.ledger.exports.finished import MODEL
from dai_lab.storage import cid_of

EXPORTS = "exports"
"""Where in a run's folder exports lie."""

Content = Mapping[str, bytes | Path]
"""What to write, by its path in the export, which is empty where that is one file."""


def export(folder: str | Path, kind: str, out: str | Path | None = None) -> Path:
    """Write a run's provenance in a format that others read; return where.

    Args:
        folder: ``results/<name>/<digest>`` of a finished run with a log.
        kind: ``in-toto``, an attestation signed by the lab; ``prov``, a graph of the W3C;
            ``ro-crate``, a folder for archives of research, with a copy of the run's files, but
            without what opens clients' rows; ``model-signing``, a folder with the model, its
            signature and the lab's key for it.
        out: The file or folder to write; below ``exports`` in the run's folder unless given.

    Raises:
        ValueError: There is any doubt about the run, another key began its log than the one that
            is to sign, or ``out`` holds something else.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise ValueError(f"export: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not folder.is_dir():
        raise ValueError(f"export: there is no folder {folder}")
    name, written = KINDS[kind]
    place = Path(out) if out is not None else folder / EXPORTS / name
    run, to = folder.resolve(), place.resolve()
    if run in (to, *to.parents) and run / EXPORTS not in to.parents:
        raise ValueError(f"export: out must not be among the run's own files, got {out}")
    for mark, what, why in check(folder).lines:
        if mark == DOUBT:
            raise ValueError(f"export: {folder} is in doubt ({what}: {why})")
    _write(place, written(folder, _finished(folder)))
    return place


def _finished(folder: Path) -> Finished:
    """Read a run that was checked."""
    with tempfile.TemporaryDirectory() as place:
        # SQLite may write to a file it opens, and the run is sealed.
        log = Log(shutil.copyfile(folder / "ledger.sqlite", Path(place, "log")), readonly=True)
        events = [verify(raw) for raw in log.events()]
        log.close()
    history = told(events, log.tree.leaf(0))
    note = (folder / "seal").read_bytes()
    sealed = read_seal(note.decode(), history.run, LAB, events[0].author)
    assert sealed is not None, "the seal was checked"
    digests = {one: digest for one, digest in sealed.items() if (folder / one).exists()}
    digests["seal"] = hashlib.sha256(note).digest()
    model = _model(folder)
    run = Finished(
        history=history,
        identity=log.tree.leaf(0),
        size=len(log),
        root=log.tree.root(),
        files={name: File(one, (folder / name).stat().st_size) for name, one in digests.items()},
        environment=files.read(folder / "environment.json"),
        model=File(hashlib.sha256(model).digest(), len(model)),
        ended=datetime.fromtimestamp(int((folder / "summary.json").stat().st_mtime), UTC),
    )
    if cid_of(model) != run.last["cid"]:
        raise ValueError(
            f"export: the model of {folder} has another content address here than in the log: "
            "use the version of safetensors that environment.json names"
        )
    return run


def _model(folder: Path) -> bytes:
    """Write the last model alone, in the bytes whose address is in the log."""
    from safetensors.torch import save

    state, _ = files.restore(folder / "checkpoint.safetensors")
    return save({"params": state.params})


def _attestation(folder: Path, run: Finished) -> Content:
    keys = _keys(run)
    said = statement(run, keys.curve_signer(LAB).public)
    return {"": _line(envelope(canonical(said), keys.signer(LAB), key_id(run.lab)))}


def _graph(folder: Path, run: Finished) -> Content:
    return {"": _line(graph(run))}


def _crate(folder: Path, run: Finished) -> Content:
    """Take all files but kept rows and what opens clients' commitments.

    The states among them hold what parts remember, which may be clients' own.
    """
    # The seal is by whoever ran this, and may list anything: a path that leads elsewhere is left.
    public = {*SEALED, "seal"} - {OPENING}
    names = [one for one in run.files if one in public or str(Path(one).parent) == STORE]
    return {**{one: folder / one for one in names}, METADATA: _line(crate(run, names))}


def _signed_model(folder: Path, run: Finished) -> Content:
    signer = _keys(run).curve_signer(LAB)
    said = model_statement(run.history.run, {MODEL: run.model.sha256})
    return {
        f"model/{MODEL}": _model(folder),
        "model.sig": _line(model_bundle(said, signer)),
        "lab.pub": signer.public,
    }


KINDS: Mapping[str, tuple[str, Callable[[Path, Finished], Content]]] = {
    "in-toto": ("in-toto.jsonl", _attestation),
    "prov": ("prov.json", _graph),
    "ro-crate": ("ro-crate", _crate),
    "model-signing": ("model-signing", _signed_model),
}
"""Where below ``exports`` each lies, and what is in it."""


def _keys(run: Finished) -> Keyring:
    """Open the keys of the lab whose run it is; nobody else may sign for it."""
    keys = keyring()
    if keys.signer(LAB).public != run.lab:
        raise ValueError(
            "export: the run was begun with another key than that in DAI_LAB_KEYS: "
            "set DAI_LAB_KEYS to the folder of that one"
        )
    return keys


def _line(value: Any) -> bytes:
    return canonical(value) + b"\n"


def _write(place: Path, content: Content) -> None:
    there = [str(one.relative_to(place)) for one in place.rglob("*") if one.is_file()]
    if strange := sorted({*there} - content.keys()):
        raise ValueError(f"export: {place} holds {strange[0]}, which is none of this: change out")
    for name, what in content.items():
        path = place / name
        with files.writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(what, Path):
                shutil.copy2(what, path)  # with its time, which tells when the run ended
        if isinstance(what, bytes):
            files.write(path, what)
