"""The log: what was acknowledged is there, whatever happens to the process."""

import os
import signal
import sqlite3

import pytest

from dai_lab.ledger import Damaged, Log, Tree, bundle, keyring, leaf_hash, opened, signed
from dai_lab.ledger.notes import Checkpoint, checkpoint

LAB = keyring().signer("lab")


def write_until_killed(path, out):
    log = Log(path)
    while True:
        size = log.append([b"%d" % (len(log) + one) for one in range(7)])
        os.write(out, b"%d\n" % size)


def test_a_log_keeps_events_in_their_order_and_proves_them(tmp_path):
    log = Log(tmp_path / "log")
    assert log.append([b"a", b"b"]) == 2 and log.append([b"c"]) == 3
    log.note(3, "three")
    again = Log(tmp_path / "log", readonly=True)
    assert list(again.events()) == [b"a", b"b", b"c"] and again.event(1) == b"b"
    assert again.tree.root() == Tree(map(leaf_hash, [b"a", b"b", b"c"])).root()
    assert again.notes() == [(3, "three")]


@pytest.mark.parametrize("wait", [1, 3, 10, 30, 60])
def test_a_killed_writer_loses_nothing_it_said_it_had(tmp_path, wait):
    path = tmp_path / "log"
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        try:
            write_until_killed(path, sink)
        finally:
            os._exit(1)
    os.close(sink)
    with os.fdopen(source, "rb") as heard:
        for _ in range(wait):
            heard.readline()
        os.kill(child, signal.SIGKILL)
        rest = heard.read().splitlines(keepends=True)  # it may have said more before it died
    os.waitpid(child, 0)
    whole = [one for one in rest if one.endswith(b"\n")]
    said = int(whole[-1]) if whole else 7 * wait
    log = Log(path)
    assert len(log) >= said and len(log) % 7 == 0  # all or none of what was appended together
    assert list(log.events()) == [b"%d" % one for one in range(len(log))]
    before = log.tree.root()
    log.append([b"and on"])
    assert log.tree.root(len(log) - 1) == before


def test_what_is_no_log_or_lacks_an_event_is_refused_in_one_line(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to be looked at " * 40)
    with pytest.raises(Damaged, match="cannot be used"):
        Log(tmp_path / "text")
    with pytest.raises(Damaged, match="there is no"):
        Log(tmp_path / "none", readonly=True)
    log = Log(tmp_path / "log")
    log.append([b"a", b"b", b"c"])
    log.close(whole=True)
    with sqlite3.connect(tmp_path / "log") as base:
        base.execute("DELETE FROM event WHERE place = 1")
    base.close()
    with pytest.raises(Damaged, match="has no event 1"):
        Log(tmp_path / "log")


@pytest.fixture
def told(tmp_path):
    """A log of a start, an owner, an update, an anchor, and some more."""
    log, client, server = Log(tmp_path / "log"), keyring().signer("client", "r", 5), keyring()
    start = {
        "run": "r", "nonce": bytes(32), "server": server.signer("server", "r").public,
        "config": bytes(32), "commit": None, "environment": bytes(32),
    }  # fmt: skip
    anchored = {
        "round": 1, "size": 3, "chain": 1, "contract": "0x", "run": bytes(32),
        "transaction": "0x", "block": 1,
    }  # fmt: skip
    data = {"owner": "client/5", "root": bytes(32), "size": 3, "license": "CC0"}
    update = {"round": 1, "client": 5, "commitment": bytes(32), "weight": 3.0}
    log.append([
        signed("started", start, LAB), signed("dataset", data, client),
        signed("update", update, client), signed("anchored", anchored, LAB),
        *(signed("resumed", {"run": "r", "round": at, "environment": bytes(32)}, LAB)
          for at in range(9)),
    ])  # fmt: skip
    log.note(len(log), checkpoint(Checkpoint("dai_lab/r", len(log), log.tree.root()), LAB))
    return log


def test_a_bundle_proves_an_event_to_who_has_nothing_else(told):
    found = opened(bundle(told, 2))
    assert (found.event.kind, found.place, found.at.size) == ("update", 2, 13)
    assert found.registration.body["owner"] == "client/5" and found.anchor.kind == "anchored"
    assert len(bundle(told, 2)) < 3000
    with pytest.raises(ValueError, match="and no 13"):
        bundle(told, 13)


def test_no_byte_of_a_bundle_can_be_changed(told):
    raw = bundle(told, 2)
    for at in range(len(raw)):
        bad = bytearray(raw)
        bad[at] ^= (1, 0x20, 0x80)[at % 3]
        with pytest.raises(ValueError, match=r"."):
            opened(bytes(bad))
    for cut in (0, 1, len(raw) - 1):
        with pytest.raises(ValueError, match=r"."):
            opened(raw[:cut])
    with pytest.raises(ValueError, match=r"canonical|DAG-CBOR"):
        opened(raw + b"\0")


def test_nobody_says_in_a_bundle_what_is_for_another_to_say(told):
    update = {"round": 2, "client": 5, "commitment": bytes(32), "weight": 3.0}
    told.append([signed("update", update, LAB)])
    told.note(len(told), checkpoint(Checkpoint("dai_lab/r", len(told), told.tree.root()), LAB))
    with pytest.raises(ValueError, match="may say this"):
        opened(bundle(told, 13))
