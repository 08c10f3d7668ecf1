"""Keys, events, notes: who said what, so that nobody can say it for them."""

import os
import stat

import dag_cbor
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.ledger import Forged, keyring, known, read_checkpoint, signed, verifier, verify
from dai_lab.ledger.events import KINDS, LOOKS, SIGNATURE
from dai_lab.ledger.notes import Checkpoint, checkpoint, open_note, sign_note

LAB = keyring().signer("lab")
UPDATE = {"round": 3, "client": 5, "commitment": bytes(32), "weight": 80.0}

VALUES = {
    "32 bytes": st.binary(min_size=32, max_size=32),
    "text": st.text(max_size=30),
    "text or null": st.none() | st.text(max_size=30),
    "a number of 0 or more": st.integers(0, 2**63 - 1),
    "a finite number": st.floats(allow_nan=False, allow_infinity=False),
}
BODIES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.fixed_dictionaries({n: VALUES[w] for n, w in KINDS[kind].items()})
    )
)


@given(BODIES)
def test_what_was_signed_is_what_one_reads(said):
    kind, body = said
    raw = signed(kind, body, LAB)
    event = verify(raw)
    assert (event.kind, event.author, event.body) == (kind, LAB.public, body)
    # DAG-CBOR as the package of that name writes it.
    assert raw[:-SIGNATURE] == dag_cbor.encode({"kind": kind, "by": LAB.public, **body})


@given(at=st.integers(0, 1000), change=st.integers(1, 255))
def test_no_byte_of_an_event_can_be_changed(at, change):
    raw = bytearray(signed("update", UPDATE, LAB))
    raw[at % len(raw)] ^= change
    with pytest.raises(Forged):
        verify(bytes(raw))


@given(st.binary(max_size=200))
def test_no_bytes_are_an_event_by_accident(raw):
    with pytest.raises(Forged) as caught:
        verify(raw)
    assert "\n" not in str(caught.value)


def test_the_same_said_in_another_way_is_no_event():
    # 80.0 as a float of 16 bits, which CBOR allows and DAG-CBOR does not.
    said = dag_cbor.encode({"kind": "update", "by": LAB.public, **UPDATE})
    other = said.replace(b"\xfb\x40\x54\x00\x00\x00\x00\x00\x00", b"\xf9\x55\x00")
    assert other != said
    key = b"\x65round\x03"
    moved = said.replace(key, b"") + key  # keys in another order
    assert len(moved) == len(said)
    for one in (other, moved):
        with pytest.raises(Forged, match="DAG-CBOR"):
            verify(one + LAB.sign(b"dai_lab event 1\n" + one))


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        ("gossip", {}, "there is no event 'gossip'"),
        ("update", {"round": 1}, "update has the entries round, client"),
        ("update", {**UPDATE, "more": 1}, "look at more"),
        ("update", {**UPDATE, "round": -1}, r"update\.round must be a number of 0 or more"),
        ("update", {**UPDATE, "round": True}, r"update\.round must be a number"),
        ("update", {**UPDATE, "commitment": b"short"}, r"update\.commitment must be 32 bytes"),
        ("update", {**UPDATE, "weight": float("nan")}, r"update\.weight must be a finite number"),
    ],
)
def test_what_an_event_must_say_is_named(kind, body, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        signed(kind, body, LAB)
    assert "\n" not in str(caught.value)
    assert set(LOOKS) == set(VALUES)


def test_keys_come_from_one_secret_that_its_owner_alone_can_read(tmp_path, monkeypatch):
    keys = keyring(tmp_path)
    assert stat.S_IMODE(os.stat(tmp_path / "lab.pem").st_mode) == 0o600
    again = keyring(tmp_path)
    assert again.signer("client", "run", 3).public == keys.signer("client", "run", 3).public
    others = {keys.signer(*path).public for path in [("client", "run", 3), ("client", "run", 31),
              ("client", "run3"), ("server", "run"), ("lab",)]}  # fmt: skip
    assert len(others) == 5
    assert keyring(tmp_path / "other").signer("lab").public != keys.signer("lab").public
    for shown in (repr(keys), repr(keys.signer("lab"))):
        assert "private" not in shown and "secret" not in shown


def test_a_password_closes_the_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("DAI_LAB_KEYS_PASSWORD", "correct horse")
    public = keyring(tmp_path).signer("lab").public
    assert b"ENCRYPTED" in (tmp_path / "lab.pem").read_bytes()
    assert keyring(tmp_path).signer("lab").public == public
    for wrong in ("battery staple", ""):
        monkeypatch.setenv("DAI_LAB_KEYS_PASSWORD", wrong)
        with pytest.raises(ValueError, match="DAI_LAB_KEYS_PASSWORD is missing or wrong") as caught:
            keyring(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_secret_that_others_can_read_is_refused(tmp_path, monkeypatch):
    keyring(tmp_path)
    monkeypatch.setenv("DAI_LAB_KEYS_PASSWORD", "a password")
    with pytest.raises(ValueError, match="is not encrypted"):
        keyring(tmp_path)
    (tmp_path / "lab.pem").chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        keyring(tmp_path)


def test_keys_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    (tmp_path / "lab.pem").write_text("nonsense")
    (tmp_path / "lab.pem").chmod(0o600)
    with pytest.raises(ValueError, match=r"lab\.pem cannot be opened"):
        keyring(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="set DAI_LAB_KEYS to a folder"):
        keyring(tmp_path / "file")


def test_sigstore_reads_our_checkpoints():
    from sigstore._internal.rekor.checkpoint import LogCheckpoint, SignedNote

    note = checkpoint(Checkpoint("dai_lab/abc", 17, bytes(range(32))), LAB)
    read = SignedNote.from_text(note)
    assert read.signatures[0].name == "lab"
    found = LogCheckpoint.from_text(read.note)
    assert (found.origin, found.log_size) == ("dai_lab/abc", 17)
    assert bytes.fromhex(found.log_hash) == bytes(range(32))


@given(at=st.integers(0, 1000), change=st.integers(1, 255))
def test_no_byte_of_a_checkpoint_can_be_changed(at, change):
    note = bytearray(checkpoint(Checkpoint("dai_lab/abc", 17, bytes(range(32))), LAB).encode())
    note[at % len(note)] ^= change
    text = bytes(note).decode(errors="replace")
    assert read_checkpoint(text, LAB.name, LAB.public) is None


def test_a_note_is_believed_from_its_signer_alone():
    note = sign_note("some lines\nof text\n", LAB)
    other = keyring().signer("server", "x")
    assert open_note(note, LAB.name, LAB.public) == "some lines\nof text\n"
    assert open_note(note, other.name, other.public) is None
    assert open_note(note.replace("of", "by"), LAB.name, LAB.public) is None
    assert known(verifier("lab", LAB.public)) == ("lab", LAB.public)
    for bad in ("", "lab", "lab+00000000+", verifier("lab", LAB.public).replace("lab", "mal")):
        with pytest.raises(ValueError, match="is not a key"):
            known(bad)
