"""A finished run in others' formats, read and checked by the libraries of those who made them."""

import base64
import copy
import hashlib
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import networkx
import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message
from model_signing import signing, verifying
from prov.model import (
    ProvAgent,
    ProvAttribution,
    ProvDelegation,
    ProvDerivation,
    ProvDocument,
)
from rocrate.rocrate import ROCrate
from safetensors.torch import load_file
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from dai_lab.config import load
from dai_lab.experiment import check, restore, simulate
from dai_lab.experiment.export import KINDS, export
from dai_lab.ledger import Event, History, Keyring, Log, keyring, read_seal, verify
from dai_lab.ledger.exports import (
    File,
    Finished,
    canonical,
    envelope,
    graph,
    key_id,
    model_bundle,
    model_statement,
)
from dai_lab.ledger.history import Round
from dai_lab.storage import cid_of

RUN = (
    "data=digits",
    "model=logistic",
    "federation.clients=6",
    "cohort.fraction=0.34",
    "rounds=3",
    "compute.method=vmap",
    "ledger=local",
)


def played(place, *more):
    """Play a run whose keys lie beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAI_LAB_KEYS", str(place / "keys"))
        return simulate(load(*RUN, *more), place / "run", progress=False).folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    place = tmp_path_factory.mktemp("lab")
    played(place)
    return place


@pytest.fixture
def folder(home, monkeypatch):
    monkeypatch.setenv("DAI_LAB_KEYS", str(home / "keys"))
    return home / "run"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(place):
    """Give every file of an export, which may be one, by its path."""
    paths = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    return {str(one.relative_to(place)): one.read_bytes() for one in paths}


# Laws.


BASIC = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=4)
"""Names beyond these are in another order for those who count in UTF-16; none of ours is."""

JSON = st.recursive(
    st.text(max_size=8) | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(BASIC, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_is_that_of_the_standard(value):
    assert canonical(value) == rfc8785.dumps(value)


SOMEBODY = Keyring(b"a secret of nobody's: thirty-two.")
SIGNER = SOMEBODY.signer("lab")
KEY = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(SIGNER.public))


def opened(envelope):
    return Envelope.from_dict(copy.deepcopy(envelope))  # which changes what it is given


@given(st.binary(max_size=60))
def test_an_envelope_holds_for_its_key_by_the_name_others_give_that_key(payload):
    sent = envelope(payload, SIGNER, key_id(SIGNER.public))
    assert opened(sent).payload == payload
    assert set(opened(sent).verify([KEY], 1)) == {KEY.keyid}


@given(st.binary(min_size=1, max_size=60), st.data())
def test_no_bit_of_an_envelope_changes_unseen(payload, data):
    sent = envelope(payload, SIGNER, key_id(SIGNER.public))
    part = data.draw(st.sampled_from(["payload", "sig"]))
    where = sent if part == "payload" else sent["signatures"][0]
    raw = bytearray(base64.b64decode(where[part]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    where[part] = base64.b64encode(raw).decode()
    with pytest.raises(VerificationError):
        opened(sent).verify([KEY], 1)


@given(st.binary(max_size=60))
def test_a_signature_on_p256_is_the_same_each_time_and_of_its_key_alone(message):
    one, other = SOMEBODY.curve_signer("lab"), SOMEBODY.curve_signer("another")
    assert one.sign(message) == SOMEBODY.curve_signer("lab").sign(message)
    check_of = [load_pem_public_key(each.public).verify for each in (one, other)]
    check_of[0](one.sign(message), message, ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        check_of[1](one.sign(message), message, ECDSA(SHA256()))


def event(kind, **body):
    return Event(kind, bytes(32), body)


def told_of(rounds, others=()):
    """Make a run up, of whose rounds each has these clients, and came to something or not."""
    names = [*others, *(f"client/{one}" for one in set().union(*(who for who, _ in rounds)))]
    history = History(
        run="made up",
        start=event("started", server=bytes(32), config=bytes(32)),
        owners={one: event("dataset", root=bytes(32), size=1, license="MIT") for one in names},
    )
    for number, (who, comes) in enumerate(rounds, start=1):
        updates = {one: event("update", commitment=bytes(32), weight=0.5) for one in who}
        steps = {
            "model": event("model", cid="bafy", digest=bytes(32)),
            "evaluation": event("evaluation", record=bytes(32)),
        }
        if who and comes:
            steps["aggregate"] = event("aggregate", digest=bytes(32))
        history.rounds[number] = Round(updates, steps)
    empty = File(bytes(32), 0)
    sessions = {"commit": None, "dirty": None, "from_round": 1, "earlier": []}
    ended = datetime(2026, 1, 1, tzinfo=UTC)
    return Finished(history, bytes(32), 1, bytes(32), {}, sessions, empty, ended)


def parsed(run):
    return ProvDocument.deserialize(content=canonical(graph(run)).decode(), format="json")


def derived(document):
    """Draw an arrow from all that is derived to all it is derived from."""
    ends = [one.args[:2] for one in document.get_records(ProvDerivation)]
    return networkx.DiGraph((str(made), str(source)) for made, source in ends)


ROUNDS = st.lists(st.tuples(st.sets(st.integers(0, 5)), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=30)
@given(ROUNDS)
def test_a_model_derives_from_the_data_of_those_who_took_part_until_then_and_of_nobody_else(rounds):
    arrows, seen = derived(parsed(told_of(rounds))), set()
    for number, (who, comes) in enumerate(rounds, start=1):
        seen |= {f"run:data/client/{one}" for one in who if comes}
        reached = networkx.descendants(arrows, f"run:model/{number}")
        assert {one for one in reached if one.startswith("run:data/")} == seen


@settings(max_examples=30)
@given(ROUNDS, st.sets(st.text(min_size=1, max_size=6), max_size=3))
def test_a_graph_comes_back_whole_whatever_owners_call_themselves(rounds, others):
    document = parsed(told_of(rounds, others))
    again = ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document
    named = {str(one.identifier) for one in document.get_records() if one.is_element()}
    ends = {
        str(value)
        for one in document.get_records()
        if one.is_relation()
        for _, value in one.formal_attributes
        if value is not None
    }
    assert ends <= named
    labels = {
        str(label)
        for one in document.get_records(ProvAgent)
        for label in one.get_attribute("prov:label")
    }
    assert others <= labels


NAMES = st.from_regex(r"([xy]/)?[a-c]{1,2}(-d)?\\.bin", fullmatch=True)


@settings(max_examples=15)
@given(st.dictionaries(NAMES, st.binary(max_size=9), min_size=1, max_size=5))
def test_a_folder_is_signed_as_the_library_itself_would_sign_it(contents):
    signer = SOMEBODY.curve_signer("lab")
    with tempfile.TemporaryDirectory() as place:
        model, secret, theirs, ours, public = (Path(place, one) for one in "msteo")
        for name, raw in contents.items():
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_bytes(raw)
        secret.write_bytes(
            signer._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        public.write_bytes(signer.public)
        signing.Config().use_elliptic_key_signer(private_key=secret).sign(model, theirs)
        digests = {one: hashlib.sha256(raw).digest() for one, raw in contents.items()}
        said = model_statement(model.name, digests)
        ours.write_bytes(canonical(model_bundle(said, signer)))
        verified(model, ours, public)
        expected = json.loads(theirs.read_text())
        found = json.loads(ours.read_text())
        assert found["verificationMaterial"] == expected["verificationMaterial"]
        statements = [
            json.loads(base64.b64decode(one["dsseEnvelope"]["payload"]))
            for one in (found, expected)
        ]
    del statements[1]["predicate"]["serialization"]["ignore_paths"]  # git's, of which we have none
    for one in statements:
        one["predicate"]["resources"].sort(key=lambda each: each["name"])
    assert statements[0]["predicate"] == statements[1]["predicate"]


def verified(model, signature, public):
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, signature)


# A run, in each format.


def test_the_attestation_is_the_labs_and_names_the_files_there_are(folder):
    sent = json.loads(export(folder, "in-toto").read_bytes())
    public = Ed25519PublicKey.from_public_bytes(keyring().signer("lab").public)
    opened(sent).verify([SSlibKey.from_crypto(public)], 1)
    with pytest.raises(VerificationError):
        opened(sent).verify([KEY], 1)
    said = json_format.Parse(opened(sent).payload, Message())
    Statement.copy_from_pb(said).validate()
    model, checkpoint = said.subject
    exported = export(folder, "model-signing") / "model" / "model.safetensors"
    assert model.digest["sha256"] == sha256(exported)
    assert model.uri == f"ipfs://{cid_of(exported.read_bytes())}"
    assert checkpoint.digest["sha256"] == sha256(folder / "checkpoint.safetensors")


def test_the_attestation_says_what_the_model_was_made_of_and_where_that_is_written(folder):
    sent = json.loads(export(folder, "in-toto").read_bytes())
    # Strict: a field that the standard does not have is refused.
    made = json_format.ParseDict(json.loads(opened(sent).payload)["predicate"], Provenance())
    given = {one.name: one for one in made.build_definition.resolved_dependencies}
    assert given["config.yaml"].digest["sha256"] == sha256(folder / "config.yaml")
    environment = json.loads((folder / "environment.json").read_bytes())
    assert given["dai_lab"].digest["gitCommit"] == environment["commit"]
    log = Log(folder / "ledger.sqlite", readonly=True)
    events = [verify(raw) for raw in log.events()]
    log.close()
    owners = {one.body["owner"]: one.body for one in events if one.kind == "dataset"}
    assert given.keys() - {"config.yaml", "dai_lab"} == owners.keys()
    for owner, body in owners.items():
        assert given[owner].digest["rfc6962Sha256"] == body["root"].hex()
        assert given[owner].annotations["examples"] == body["size"]
    made_too = {one.name: one for one in made.run_details.byproducts}
    assert made_too["ledger.sqlite"].digest["rfc6962Sha256"] == log.tree.root().hex()
    assert made_too["ledger.sqlite"].annotations["events"] == len(log)
    for name in ("ledger.sqlite", "records.jsonl", "summary.json", "environment.json"):
        assert made_too[name].digest["sha256"] == sha256(folder / name)
    (key,) = made.run_details.builder.builder_dependencies
    assert key.digest["sha256"] == sha256(export(folder, "model-signing") / "lab.pub")


def test_the_last_model_derives_from_all_data_that_took_part_and_the_lab_answers_for_it(folder):
    document = ProvDocument.deserialize(str(export(folder, "prov")), format="json")
    assert document == ProvDocument.deserialize(
        content=document.serialize(format="json"), format="json"
    )
    reached = networkx.descendants(derived(document), "run:model/3")
    took_part = {
        f"run:data/client/{one}"
        for line in (folder / "records.jsonl").read_text().splitlines()
        for one in json.loads(line)["clients_seen"].split(",")
    }
    assert {one for one in reached if one.startswith("run:data/")} == took_part
    assert len(took_part) < 6  # the others never came, and nothing is said of them
    assert "run:model/0" in reached
    whose = {str(one): str(other) for one, other in bonds(document, ProvAttribution)}
    assert whose["run:model/3"] == "run:server"
    assert all(whose[one] == one.replace("data", "owner") for one in took_part)
    assert [tuple(map(str, one)) for one in bonds(document, ProvDelegation)] == [
        ("run:server", "run:lab")
    ]


def bonds(document, kind):
    return [one.args[:2] for one in document.get_records(kind)]


def test_a_crate_holds_the_runs_files_their_sizes_and_hashes_and_the_terms_of_the_data(folder):
    place = export(folder, "ro-crate")
    crate = ROCrate(place)
    listed = {one.id: one for one in crate.data_entities}
    assert {unquote(one) for one in listed} == files_of(place).keys() - {"ro-crate-metadata.json"}
    for path, about in listed.items():
        assert about["sha256"] == sha256(folder / unquote(path))
        assert int(about["contentSize"]) == (folder / unquote(path)).stat().st_size
    needed = {"config.yaml", "records.jsonl", "summary.json", "ledger.sqlite", "seal"}
    assert needed | {"checkpoint.safetensors", "environment.json"} <= listed.keys()
    root, action = crate.root_dataset, crate.get("#run")
    assert crate.metadata["conformsTo"] == "https://w3id.org/ro/crate/1.2"
    assert root["conformsTo"].type == ["CreativeWork", "Profile"]
    assert [one["name"] for one in root["license"]] == ["CC BY 4.0"]
    assert {"name", "description", "datePublished"} <= root.properties().keys()
    assert root["mentions"] is action and action.type == "CreateAction"
    assert action["instrument"].type == "SoftwareApplication"
    assert action["agent"].type == "Organization"
    consumed = [one.id for one in action["object"]]
    assert consumed[0] == "config.yaml" and len(consumed) > 1
    assert all(crate.get(one)["license"]["name"] == "CC BY 4.0" for one in consumed[1:])
    assert {one.id for one in action["result"]} == listed.keys() - {"config.yaml"}


def test_a_crate_is_a_run_that_anyone_can_verify_and_a_change_in_it_is_found(folder, tmp_path):
    place = export(folder, "ro-crate", tmp_path / "crate")
    assert check(place).holds
    with (place / "records.jsonl").open("ab") as file:
        file.write(b"\n")
    assert not check(place).holds
    about = ROCrate(place).get("records.jsonl")
    assert about["sha256"] != sha256(place / "records.jsonl")


def test_a_crate_leaves_out_what_clients_sent_and_what_opens_it(tmp_path, monkeypatch):
    folder = played(tmp_path, "rounds=1", "ledger.rows=true")
    monkeypatch.setenv("DAI_LAB_KEYS", str(tmp_path / "keys"))
    assert (folder / "rows" / "1.safetensors").exists() and (folder / "opening").exists()
    names = files_of(export(folder, "ro-crate"))
    assert "seal" in names
    assert not any(one.startswith("rows") or one == "opening" for one in names)


def test_a_seal_that_lists_what_lies_elsewhere_is_not_believed(folder, tmp_path):
    from dai_lab.ledger.notes import sign_note

    run = tmp_path / "run"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("exports"))
    (tmp_path / "private.txt").write_text("mine")
    lab, note = keyring().signer("lab"), (run / "seal").read_text()
    digest = json.loads((run / "environment.json").read_bytes())["digest"]
    listed = read_seal(note, digest, "lab", lab.public)
    listed |= dict.fromkeys(
        ["../private.txt", "store/../../private.txt"], hashlib.sha256(b"mine").digest()
    )
    lines = "".join(f"{one.hex()}  {name}\n" for name, one in sorted(listed.items()))
    (run / "seal").write_text(sign_note(f"dai_lab/{digest}/seal\n{lines}", lab))
    assert not check(run).holds
    with pytest.raises(ValueError, match="seal"):
        export(run, "ro-crate", tmp_path / "there" / "crate")
    assert not (tmp_path / "there").exists() or not files_of(tmp_path / "there")


def changed_model(place):
    flipped(place / "model" / "model.safetensors", -1)


def more_files(place):
    (place / "model" / "more.bin").write_bytes(b"")


def changed_statement(place):
    bundle = json.loads((place / "model.sig").read_bytes())
    said = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"false", b"true")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(said).decode()
    (place / "model.sig").write_text(json.dumps(bundle))


def another_key(place):
    (place / "lab.pub").write_bytes(SOMEBODY.curve_signer("lab").public)


def flipped(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_the_model_bears_a_signature_that_others_check(folder):
    place = export(folder, "model-signing")
    verified(place / "model", place / "model.sig", place / "lab.pub")
    state, _ = restore(folder / "checkpoint.safetensors")
    assert load_file(place / "model" / "model.safetensors")["params"].equal(state.params)


@pytest.mark.parametrize("change", [changed_model, more_files, changed_statement, another_key])
def test_whatever_is_changed_about_a_signed_model_is_found(folder, tmp_path, change):
    place = export(folder, "model-signing", tmp_path / "model")
    change(place)
    with pytest.raises((ValueError, InvalidSignature)):
        verified(place / "model", place / "model.sig", place / "lab.pub")


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_same_to_the_byte_each_time_and_from_a_copy(folder, tmp_path, kind):
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("exports"))
    once = files_of(export(folder, kind, tmp_path / "once"))
    assert files_of(export(folder, kind, tmp_path / "once")) == once
    assert files_of(export(tmp_path / "copy", kind)) == once


@pytest.mark.parametrize("kind", KINDS)
def test_no_export_holds_a_secret(home, folder, kind):
    keys = keyring()
    private = keys.curve_signer("lab")._private.private_numbers().private_value.to_bytes(32, "big")
    secrets = [
        keys._secret,
        private,
        keys.signer("lab")._private.private_bytes_raw(),
        bytes.fromhex((folder / "opening").read_text()),
    ]
    forms = [form for one in secrets for form in (one, one.hex().encode(), base64.b64encode(one))]
    pem = (home / "keys" / "lab.pem").read_bytes().splitlines()[1]
    for raw in files_of(export(folder, kind)).values():
        assert not any(one in raw for one in (*forms, pem, b"PRIVATE KEY"))


# What is refused, in one line.


def refused(match, *call):
    with pytest.raises(ValueError, match=match) as caught:
        export(*call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_doubt_is_not_exported(folder, tmp_path, kind):
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    flipped(tmp_path / "run" / "summary.json", 10)
    refused("in doubt .seal: summary.json was changed", tmp_path / "run", kind)
    assert not (tmp_path / "run" / "exports").exists()


@pytest.mark.parametrize("kind", ["in-toto", "model-signing"])
def test_nobody_signs_for_another_lab(folder, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("DAI_LAB_KEYS", str(tmp_path / "mine"))
    refused("DAI_LAB_KEYS", folder, kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["prov", "ro-crate"])
def test_what_bears_no_signature_needs_no_key(folder, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("DAI_LAB_KEYS", str(tmp_path / "none"))
    assert export(folder, kind, tmp_path / "out").exists()
    assert not (tmp_path / "none").exists()


def test_a_run_and_what_else_is_there_are_never_written_over(folder, tmp_path):
    refused("kind must be one of in-toto, prov", folder, "spdx")
    refused("there is no folder", tmp_path / "nowhere", "prov")
    refused("among the run's own files", folder, "prov", folder / "summary.json")
    refused("among the run's own files", folder, "ro-crate", folder)
    (tmp_path / "mine.txt").write_text("dear")
    refused("holds mine.txt", folder, "ro-crate", tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]
    assert check(folder).holds
