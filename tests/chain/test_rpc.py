"""Keys and addresses of nodes stay here; what a node answers is told in one line."""

import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from eth_account import Account

from dai_lab.chain import Contract, Reverted, reader, rpc
from dai_lab.chain.abi import codec

SECRET = "5e" * 31 + "c1"
HIDDEN = "v3/my-secret-project"


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("DAI_LAB_CHAIN_KEY", SECRET)


@pytest.fixture
def node():
    """Serve answers of our own making, and remember what was asked."""
    asked, answers = [], {"eth_chainId": {"result": "0x7a"}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(question)
            answer = answers.get(question["method"], {"error": {"code": 1, "message": "no"}})
            raw = answer if isinstance(answer, bytes) else json.dumps({"id": 1} | answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{HIDDEN}", asked, answers
    server.shutdown()
    server.server_close()


def shown(does):
    """Give all that an error shows, and check that it is one line of ours."""
    with pytest.raises(ValueError) as refusal:
        does()
    assert "\n" not in str(refusal.value)
    return "".join(traceback.format_exception(refusal.value))


def test_neither_key_nor_address_is_ever_shown(key, node, caplog):
    url, asked, _ = node
    caplog.set_level(logging.DEBUG)
    chain = rpc(url)
    shy = [repr(chain), str(chain), repr(chain._node), repr(chain._main), caplog.text]
    shy += [
        shown(chain.now),
        shown(lambda: chain.call(Contract("token", "0x" + "12" * 20), "name")),
    ]
    ann = chain.account("ann")
    book = Contract("identity", "0x" + "12" * 20)
    shy.append(shown(lambda: chain.send(book, "register", "", sender=ann)))
    shy += [json.dumps(asked), caplog.text]
    for text in shy:
        assert SECRET not in text and str(int(SECRET, 16)) not in text
        assert bytes.fromhex(SECRET).hex(" ") not in text
        assert HIDDEN not in text
    assert "chain.url=http://127.0.0.1:" in shy[-3]


@pytest.mark.parametrize("bad", ["", "12", "zz" * 32, "00" * 32, "ff" * 32, SECRET + "00"])
def test_a_key_that_is_none_is_refused_and_not_shown(monkeypatch, bad):
    monkeypatch.setenv("DAI_LAB_CHAIN_KEY", bad)
    told = shown(lambda: rpc("http://127.0.0.1:1"))
    assert "DAI_LAB_CHAIN_KEY" in told
    assert not bad or bad not in told.splitlines()[-1]


def test_a_keystore_opens_with_its_password_and_no_other(monkeypatch, tmp_path, node):
    url, *_ = node
    file = tmp_path / "keystore.json"
    file.write_text(json.dumps(Account.encrypt("0x" + SECRET, "open sesame", iterations=2)))
    monkeypatch.delenv("DAI_LAB_CHAIN_KEY", raising=False)
    monkeypatch.delenv("DAI_LAB_CHAIN_PASSWORD", raising=False)
    assert "set DAI_LAB_CHAIN_PASSWORD" in shown(lambda: rpc(url, keystore=file))
    monkeypatch.setenv("DAI_LAB_CHAIN_PASSWORD", "open barley")
    told = shown(lambda: rpc(url, keystore=file))
    assert "is no keystore, or" in told and "barley" not in told.splitlines()[-1]
    monkeypatch.setenv("DAI_LAB_CHAIN_PASSWORD", "open sesame")
    owner = Account.from_key(SECRET).address.lower()
    assert rpc(url, keystore=file).account("main") == owner
    assert "No such file" in shown(lambda: rpc(url, keystore=tmp_path / "none"))
    file.write_text("{}")
    assert "is no keystore" in shown(lambda: rpc(url, keystore=file))
    written = Account.encrypt("0x" + SECRET, "open sesame", kdf="pbkdf2", iterations=2)
    written["crypto"]["kdfparams"]["prf"] = "none"
    for content in ("[]", "3", '"x"', "null", json.dumps(written)):
        file.write_text(content)
        assert "is no keystore" in shown(lambda: rpc(url, keystore=file))
    file.write_text('{"version": 1, "crypto": {}}')
    assert "of a kind that eth-keyfile does not read" in shown(lambda: rpc(url, keystore=file))


def test_accounts_follow_from_the_key_and_from_nothing_else(key, node, monkeypatch):
    url, *_ = node
    one, two = rpc(url), rpc(url)
    names = ["main", "ann", "bob", ""]
    found = [one.account(name) for name in names]
    assert found == [two.account(name) for name in names]
    assert len(set(found)) == 4
    monkeypatch.setenv("DAI_LAB_CHAIN_KEY", "77" * 32)
    assert not set(found) & {rpc(url).account(name) for name in names}
    signature = one.sign(found[1], b"d" * 32)
    assert Account._recover_hash(b"d" * 32, signature=signature).lower() == found[1]
    assert "no account of this chain" in shown(lambda: rpc(url).sign(found[1], b"d" * 32))


@pytest.mark.parametrize(
    "url", ["ftp://node", "file:///etc/passwd", "node:8545", "http://", "ws://n"]
)
def test_only_http_and_https_are_taken(key, url):
    assert "chain.url: give one that begins with http" in shown(lambda: rpc(url))


def test_a_node_that_is_none_or_silent_is_said_to_be(key, node):
    url, _, answers = node
    assert "gives no answer (ConnectionError)" in shown(lambda: rpc(f"http://127.0.0.1:1/{HIDDEN}"))
    answers["eth_chainId"] = b"<html>welcome"
    assert "is no node: it answers no JSON" in shown(lambda: rpc(url))
    for answer in (b"[]", b"3", b"null"):
        answers["eth_chainId"] = answer
        assert "is no node" in shown(lambda: rpc(url))


def test_brackets_within_brackets_are_an_error_and_not_the_end_of_the_process(key, node, tmp_path):
    """In a process of its own: here the limit of recursion was raised by what tests import."""
    url, _, answers = node
    answers["eth_chainId"] = b"[" * 100_000
    file = tmp_path / "keystore.json"
    file.write_text("[" * 100_000)
    script = """
import sys
from dai_lab.chain import rpc
limit = sys.getrecursionlimit()
for keystore in (None, sys.argv[2]):
    try:
        rpc(sys.argv[1], keystore=keystore)
    except ValueError as error:
        print(error)
assert sys.getrecursionlimit() == limit
"""
    words = [sys.executable, "-c", script, url, str(file)]
    secret = {**os.environ, "DAI_LAB_CHAIN_PASSWORD": "open sesame"}
    done = subprocess.run(words, capture_output=True, text=True, env=secret)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    assert "is no node: it answers no JSON" in first and "is no keystore" in second
    answers["eth_chainId"] = {}
    assert "answers eth_chainId with neither" in shown(lambda: rpc(url))
    answers["eth_chainId"] = {"error": {"message": "over\nquota " + "x" * 999}}
    told = shown(lambda: rpc(url)).splitlines()[-1]
    assert "over quota" in told and len(told) < 400
    assert "chain.timeout=0" in shown(lambda: rpc(url, timeout=0.0))


def test_a_refusal_of_a_contract_is_told_from_one_of_the_node(key, node):
    url, _, answers = node
    chain, coin = rpc(url), Contract("token", "0x" + "12" * 20)
    reason = "0x08c379a0" + codec("(string)").encode(("why?",)).hex()
    for data in (reason, {"data": reason}):
        answers["eth_call"] = {"error": {"message": "execution reverted", "data": data}}
        with pytest.raises(Reverted, match="why"):
            chain.call(coin, "name")
    answers["eth_call"] = {"error": {"message": "execution reverted"}}
    with pytest.raises(Reverted, match=r"token\.name: no reason given"):
        chain.call(coin, "name")
    answers["eth_call"] = {"error": {"message": "limit exceeded"}}
    with pytest.raises(ValueError, match="limit exceeded") as refusal:
        chain.call(coin, "name")
    assert not isinstance(refusal.value, Reverted)
    answers["eth_call"] = {"result": "0x"}
    assert "no contract is there" in shown(lambda: chain.call(coin, "name"))
    answers["eth_call"] = {"result": "0x" + "ff" * 64}
    assert "a length or an offset" in shown(lambda: chain.call(coin, "name"))
    assert "lets no time pass" in shown(lambda: chain.advance(5))


def test_a_transaction_that_is_in_no_block_in_time_is_said_to_be(key, node):
    url, asked, answers = node
    answers |= {
        "eth_getCode": {"result": "0x60"},
        "eth_estimateGas": {"result": "0x5208"},
        "eth_getBlockByNumber": {"result": {"baseFeePerGas": "0x1", "timestamp": "0x1"}},
        "eth_maxPriorityFeePerGas": {"result": "0x1"},
        "eth_getTransactionCount": {"result": "0x0"},
        "eth_sendRawTransaction": {"result": "0x00"},
        "eth_getTransactionReceipt": {"result": None},
    }
    chain, book = rpc(url, timeout=0.05), Contract("identity", "0x" + "12" * 20)
    main = chain.account("main")
    told = shown(lambda: chain.send(book, "register", "", sender=main))
    assert "chain.timeout=0.05: 0x" in told and "in no block so far" in told
    # It may have arrived although the answer was an error: then its receipt is waited for.
    answers["eth_sendRawTransaction"] = {"error": {"message": "already known"}}
    answers["eth_getTransactionByHash"] = {"result": {"nonce": "0x0"}}
    assert "in no block so far" in shown(lambda: chain.send(book, "register", "", sender=main))
    answers["eth_getTransactionByHash"] = {"result": None}
    assert "already known" in shown(lambda: chain.send(book, "register", "", sender=main))
    (raw,) = {one["params"][0] for one in asked if one["method"] == "eth_sendRawTransaction"}
    assert Account.recover_transaction(raw).lower() == main


def test_a_node_carries_out_many_accounts_transactions_in_order(anvil):
    book = anvil.deploy("identity", sender=anvil.account("main"))
    people = [anvil.account(one) for one in ("ann", "bob")]
    for turn in range(4):
        receipt = anvil.send(book, "register", f"{turn}", sender=people[turn % 2])
        assert receipt.gas and receipt.gas > 21_000
        assert receipt.logs[-1].fields["agent"] == turn + 1
    assert [one.fields["uri"] for one in anvil.logs(book, "Registered")] == list("0123")
    assert "no contract is there" in shown(
        lambda: anvil.send(Contract("identity", "0x" + "12" * 20), "register", "", sender=people[0])
    )


def test_who_only_asks_needs_no_key_and_can_do_nothing(anvil, anvil_url, monkeypatch):
    main = anvil.account("main")
    book = anvil.deploy("identity", sender=main)
    anvil.send(book, "register", "card", sender=main)
    monkeypatch.delenv("DAI_LAB_CHAIN_KEY")
    asks = reader(anvil_url)
    assert asks.call(book, "ownerOf", 1) == main
    assert asks.logs(book) == anvil.logs(book)
    assert asks.chain_id == anvil.chain_id
    assert "without a key" in shown(lambda: asks.account("main"))
    assert "no account" in shown(lambda: asks.send(book, "register", "", sender=main))
    assert "set DAI_LAB_CHAIN_KEY" in shown(lambda: rpc(anvil_url))
