"""Server and clients as processes of their own, exchanging the same bytes over sockets."""

import asyncio
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from dai_lab.core import Key, TooFew
from dai_lab.secagg import Client, Refused, Server, Terms, keys, session, tcp

COUNT, WIDTH = 5, 1000
SIGNERS = {one: keys.identity(bytes([one] * 32)) for one in range(COUNT)}
ROSTER = {one: signer.public_key() for one, signer in SIGNERS.items()}


def agreed(active):
    return Terms(b"here", WIDTH, 24, 4, corrupt=1, active=active)


def everyone(there):
    return {one: [other for other in there if other != one] for one in there}


def server(active):
    return Server(agreed(active), roster=ROSTER, neighbors=everyone)


def vector(one):
    return np.random.default_rng(one).integers(0, 2**20, WIDTH, dtype=np.uint32)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile once, before processes fork that would all compile the same."""
    vectors = {one: vector(one) for one in ROSTER}
    session(agreed(True), vectors, key=Key(0), neighbors=everyone, lost={"mask": [2]})


def take_part(number, active, last, line):
    """Be a client in a process of its own, which says so and sleeps instead of step ``last``."""
    client = Client(number, agreed(active), identity=SIGNERS[number], roster=ROSTER)
    if last:
        setattr(client, last, lambda *words: (line.send("there"), time.sleep(600)))
    asyncio.run(tcp.join(client, vector(number), host="127.0.0.1", port=line.recv()))


@pytest.mark.parametrize(("active", "step"), [(False, "mask"), (True, "mask"), (True, "unmask")])
def test_processes_add_up_exactly_though_one_is_killed_in_the_middle(active, step):
    fork, lines, clients = multiprocessing.get_context("fork"), [], []
    for one in range(COUNT):
        ours, theirs = fork.Pipe()
        words = (one, active, step if one == 2 else "", theirs)
        lines.append(ours)
        clients.append(fork.Process(target=take_part, args=words))
        clients[-1].start()

    def kill():
        assert lines[2].recv() == "there"
        os.kill(clients[2].pid, signal.SIGKILL)

    async def play():
        killer = asyncio.get_running_loop().run_in_executor(None, kill)
        ready = lambda port: [line.send(port) for line in lines]  # noqa: E731
        found = await tcp.serve(server(active), clients=COUNT, patience=120, ready=ready)
        await killer
        return found

    try:
        found = asyncio.run(play())
        for one in clients:
            one.join(60)
        ends = [one.exitcode for one in clients]
    finally:
        for one in clients:
            one.kill()
    stay = [0, 1, 3, 4] if step == "mask" else list(range(COUNT))
    assert found.survivors == tuple(stay)
    assert (found.values == sum(vector(one) for one in stay)).all()
    assert ends == [0, 0, -signal.SIGKILL, 0, 0]


def test_strangers_and_liars_are_not_let_in():
    us = server(False)

    async def play():
        port = asyncio.get_running_loop().create_future()
        ended = asyncio.create_task(tcp.serve(us, clients=3, patience=2, ready=port.set_result))
        where = {"host": "127.0.0.1", "port": await port}
        nobody = keys.identity(bytes([9] * 32))
        for number in (9, 1):
            one = Client(number, us.terms, identity=nobody, roster=ROSTER)
            with pytest.raises((EOFError, ConnectionError)):
                await tcp.join(one, vector(1), **where)
        with pytest.raises(TooFew, match="0 clients are left, and the threshold is 4"):
            await ended

    asyncio.run(play())


def test_a_message_that_says_it_is_longer_than_any_is_not_waited_for():
    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(b"\xff\xff\xff\xff")
        await tcp.receive(reader, 100)

    with pytest.raises(Refused, match="4294967295 bytes, and there are none above 100"):
        asyncio.run(read())


def test_a_server_without_patience_is_refused():
    with pytest.raises(ValueError, match="patience must be above 0 seconds, got 0"):
        asyncio.run(tcp.serve(server(False), clients=1, patience=0))
