"""What is in the file is what happened, and whoever touches it is noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dai_lab.chain import Reverted, embedded
from dai_lab.chain.artifacts import artifact

RUN, ROOT, CID = b"r" * 32, b"\x01" * 32, b"c" * 36


def commit(number):
    return "commit_round", RUN, number, ROOT, 1, CID, ROOT


def played(path, rounds=3):
    """Play some rounds, with refusals and time between them."""
    chain = embedded(path)
    ann = chain.account("ann")
    ledger = chain.deploy("round_ledger", sender=ann)
    chain.send(ledger, "open_run", RUN, sender=ann)
    for number in range(1, rounds + 1):
        with pytest.raises(Reverted):
            chain.send(ledger, *commit(number + 1), sender=ann)
        with pytest.raises(Reverted):
            chain.deploy("stake", ann, ann, ann, 1, sender=ann)
        chain.send(ledger, *commit(number), sender=ann)
        chain.advance(100)
    return chain, ledger


def test_a_chain_that_is_opened_again_is_as_it_was_and_goes_on(tmp_path):
    chain, ledger = played(tmp_path / "chain.jsonl")
    said, now = chain.logs(ledger), chain.now()
    chain.settle()
    chain.close()
    again = embedded(tmp_path / "chain.jsonl", start=1)
    ann = again.account("ann")
    assert again.logs(ledger) == said
    assert again.now() == now
    receipt = again.send(ledger, *commit(4), sender=ann)
    (log,) = receipt.logs
    assert log.fields["round"] == 4
    assert again.call(ledger, "head", RUN) == 4
    # Also the addresses of what is deployed next do not depend on what was refused before.
    twin, _ = played(None)
    twin.send(ledger, *commit(4), sender=ann)
    assert again.deploy("identity", sender=ann) == twin.deploy("identity", sender=ann)
    again.close()


def test_the_same_play_is_the_same_file_to_the_byte(tmp_path):
    for name in ("one", "two"):
        played(tmp_path / name)[0].close()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_refused_transaction_leaves_nothing(tmp_path):
    chain, ledger = played(tmp_path / "chain.jsonl")
    before, now = (tmp_path / "chain.jsonl").read_bytes(), chain.now()
    with pytest.raises(Reverted, match="out of order"):
        chain.send(ledger, *commit(9), sender=chain.account("ann"))
    assert (tmp_path / "chain.jsonl").read_bytes() == before
    assert chain.now() == now
    chain.close()


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("place", [0, 1, 4, 8])
@pytest.mark.parametrize("how", ["edited", "left out", "moved", "garbage"])
def test_a_line_that_was_touched_is_named(tmp_path, place, how):
    path = tmp_path / "chain.jsonl"
    played(path)[0].close()
    lines = lines_of(path)
    assert len(lines) == 9
    if how == "edited":
        digit = b"7" if lines[place][20:21] != b"7" else b"8"
        lines[place] = lines[place][:20] + digit + lines[place][21:]
    elif how == "left out":
        del lines[place]
    elif how == "moved":
        lines[place], lines[place - 1] = lines[place - 1], lines[place]
    else:
        lines[place] = b"\xff" * 40 + b"\n"
    path.write_bytes(b"".join(lines))
    if how == "left out" and place == 8:
        # The end is missing, which nothing in the file can tell; who saw its hash can.
        assert embedded(path).now() < played(None)[0].now()
        return
    named = min(place, (place - 1) % 9) if how == "moved" else place
    with pytest.raises(ValueError, match=rf"chain\.path=.*line {named + 1} ") as refusal:
        embedded(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kept", [1, 60, -1])
def test_what_a_killed_process_left_of_a_line_is_cut_off(tmp_path, kept):
    path = tmp_path / "chain.jsonl"
    played(path)[0].close()
    whole = lines_of(path)
    path.write_bytes(b"".join(whole[:-1]) + whole[-1][:kept])
    chain = embedded(path)
    assert path.read_bytes() == b"".join(whole[:-1])
    chain.advance(100)
    chain.close()
    assert path.read_bytes() == b"".join(whole)


def test_what_the_contracts_refuse_is_in_no_file_they_wrote(tmp_path):
    path = tmp_path / "chain.jsonl"
    chain, ledger = played(path)
    function = artifact("round_ledger").function("commit_round", asks=False)
    data = function.encode(commit(1)[1:]).hex()
    ann = chain.account("ann")
    chain._journal.append(f'{{"from":"{ann}","to":"{ledger.address}","data":"{data}"')
    chain.close()
    with pytest.raises(ValueError, match="line 10 is refused by the contracts"):
        embedded(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "chain.jsonl"
    chain = embedded(path)
    chain._journal.append(json.dumps({"advance": 1})[:-1])
    chain.close()
    path.write_bytes(b"".join(lines_of(path)[1:]))
    with pytest.raises(ValueError, match="line 1 "):
        embedded(path)
    path.write_text("a text of somebody\n")
    with pytest.raises(ValueError, match="line 1 "):
        embedded(path)
    with pytest.raises(ValueError, match="does not open"):
        embedded(tmp_path)


def test_one_file_is_open_in_one_process_alone(tmp_path):
    path = tmp_path / "chain.jsonl"
    chain = embedded(path)
    code = f"from dai_lab.chain import embedded; embedded({str(path)!r})"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path.cwd())
    assert f"ValueError: chain.path={path} is in use by another process" in done.stderr
    chain.close()
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr


def test_nothing_is_written_to_a_file_that_was_let_go_of(tmp_path):
    chain, ledger = played(tmp_path / "chain.jsonl")
    chain.close()
    with pytest.raises(ValueError, match="closed"):
        chain.send(ledger, *commit(4), sender=chain.account("ann"))


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda c, k: c.send(k, "head", RUN, sender=c.account("ann")), "changes nothing: call it"),
        (lambda c, k: c.call(k, "open_run", RUN), "changes the chain: send it"),
        (lambda c, k: c.call(k, "tail", RUN), "has no function 'tail': one of open_run"),
        (lambda c, k: c.call(k, "head", 5), "head.*5 is no bytes32"),
        (lambda c, k: c.call(k, "head"), "head"),
        (lambda c, k: c.logs(k, "Nothing"), "no event 'Nothing': one of RunOpened"),
        (lambda c, k: c.deploy("nothing", sender=c.account("ann")), "no contract 'nothing': one"),
        (lambda c, k: c.send(k, "open_run", RUN, sender=k.address), "is no account of this chain"),
        (lambda c, k: c.advance(0), "time passes forward"),
        (lambda c, k: type(k)("token", "0x12"), "40 hexadecimal digits"),
        (lambda c, k: type(k)("token", "0x" + "AB" * 20), "lower case"),
        (lambda c, k: c.call(type(k)("token", "0x" + "00" * 20), "name"), "no contract is there"),
        (
            lambda c, k: c.send(
                type(k)("identity", "0x" + "00" * 20), "register", "", sender=c.account("ann")
            ),
            "there is no identity at 0x00",
        ),
        (lambda c, k: embedded(start=0), "chain.start=0"),
    ],
)
def test_what_one_can_do_wrong_is_said_in_one_line(does, says):
    chain = embedded()
    ledger = chain.deploy("round_ledger", sender=chain.account("ann"))
    with pytest.raises(ValueError, match=says) as refusal:
        does(chain, ledger)
    assert "\n" not in str(refusal.value)


def test_importing_the_room_loads_no_chain_and_no_network():
    code = "import sys, dai_lab.chain; print(*sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ})
    heavy = {"pyrevm", "web3", "torch", "eth_account", "requests", "vyper", "eth_abi"}
    assert not heavy & set(done.stdout.split())
