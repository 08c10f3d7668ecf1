"""A secure sum here and with Flower's own SecAgg+ functions, and the masks beside OpenSSL.

    python benchmarks/secagg.py [--clients 100] [--width 1000000] [--lost 0.1] [--neighbors 99]

Ours is the whole protocol, every client and the server, with every message encoded and decoded;
the sum is checked. Flower's client is its functions in the order of its mod, for one client; its
server those of its workflow, for three survivors and one that dropped out, times how many there
are. CPU seconds of one thread, in one run; what is compared is their ratio.

Masks are those of a client: made and added to its vector, in bytes a second beside what
``openssl speed`` says of the same cipher and mode on blocks of 16 KiB, where it is installed. The
simulated round is the part as a run uses it, from rows to their mean.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dai_lab.core import Key
from dai_lab.experiment.machine import keep_memory
from dai_lab.secagg import Client, Server, Terms, keys
from dai_lab.secagg.finder import ring
from dai_lab.secagg.levels import quantize
from dai_lab.secagg.masks import add_masks
from dai_lab.secagg.sums import masked

BITS, MODULUS = 16, 32


def clocked(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and its CPU seconds."""
    began = time.process_time()
    found = call()
    return found, time.process_time() - began


def ours(count: int, width: int, near: int, lost: int, seed: int) -> tuple[float, float]:
    """Play a session; return CPU seconds of a client and of the server."""
    threshold = (2 * (near + 1)) // 3 + 1
    terms = Terms(f"bench {seed}".encode(), width, MODULUS, threshold)
    signers = {one: keys.identity(keys.simulated(Key(seed) / one)(32)) for one in range(count)}
    roster = {one: signer.public_key() for one, signer in signers.items()}
    order = np.random.default_rng(seed).permutation(count).tolist()
    graph = dict(enumerate(ring(count, near, order=order)))
    server = Server(terms, roster=roster, neighbors=lambda there: graph)
    clients = [Client(one, terms, identity=signers[one], roster=roster) for one in range(count)]
    row = np.random.default_rng(seed).standard_normal(width).astype(np.float32) / 4
    spent = {"client": 0.0, "server": 0.0}

    def timed(who: str, call: Callable[[], Any]) -> Any:
        found, seconds = clocked(call)
        spent[who] += seconds
        return found

    sent = {one.number: timed("client", one.advertise) for one in clients}
    told = timed("server", lambda: server.introduce(sent))
    sent = {one: timed("client", lambda one=one: clients[one].share(told[one])) for one in told}
    told = timed("server", lambda: server.route(sent))
    sent, expected = {}, np.zeros(width, np.uint32)
    for one in range(lost, count):

        def mask(one: int = one) -> tuple[bytes, Any]:
            levels = quantize(row, clip=1.0, bits=BITS, key=one.to_bytes(16, "little"))
            return clients[one].mask(told[one], levels), levels

        sent[one], levels = timed("client", mask)
        expected += levels
    told = timed("server", lambda: server.gather(sent))
    sent = {one: timed("client", lambda one=one: clients[one].unmask(told[one])) for one in told}
    found = timed("server", lambda: server.total(sent))
    assert (found.values == expected).all(), "the sum is wrong"
    return spent["client"] / count, spent["server"]


def expansion(width: int) -> float:
    """Return how many bytes of masks a second are made and added."""
    total, keys = np.zeros(width, np.uint32), [one.to_bytes(16, "big") for one in range(96)]
    times = [clocked(lambda: add_masks(total, keys, [1, -1] * 48))[1] for _ in range(5)]
    return len(keys) * total.nbytes / min(times)


def openssl() -> float | None:
    """Return how many bytes a second OpenSSL encrypts in counter mode, where it is installed."""
    if shutil.which("openssl") is None:
        return None
    asked = ["openssl", "speed", "-mr", "-seconds", "3", "-bytes", "16384", "-evp", "aes-128-ctr"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return float(next(line for line in said.splitlines() if line.startswith("+F")).split(":")[-1])


def simulated(count: int, width: int, near: int, lost: float) -> float:
    """Return the CPU seconds of a round as a run plays it."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(0)) / 4

    def play() -> None:
        masked(
            rows, torch.ones(count), clients=tuple(range(count)), key=Key(0), dropping=lost,
            neighbors="all" if near == count - 1 else near,
        )  # fmt: skip

    return clocked(play)[1]


def flower(count: int, width: int, near: int, lost: int) -> tuple[float, float]:
    """Time Flower's functions; return CPU seconds of a client and of the server."""
    from flwr.common.secure_aggregation.crypto import shamir
    from flwr.common.secure_aggregation.crypto import symmetric_encryption as sealing
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_combine,
        parameters_addition,
        parameters_mod,
        parameters_multiply,
        parameters_subtraction,
    )  # fmt: skip
    from flwr.common.secure_aggregation.quantization import quantize as levels_of
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
        share_keys_plaintext_separate,
    )  # fmt: skip
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )  # fmt: skip

    size, threshold = near + 1, (2 * (near + 1)) // 3 + 1
    row = np.random.default_rng(0).standard_normal(width).astype(np.float32) / 4
    pairs = [generate_key_pairs() for _ in range(size)]
    public = [public_key_to_bytes(one[1]) for one in pairs]
    own = private_key_to_bytes(pairs[0][0])
    modulus, target = 2**MODULUS, 2**BITS

    def client() -> tuple[list[bytes], list[bytes]]:
        for _ in range(2):
            generate_key_pairs()
        first = shamir.create_shares(bytes(32), threshold, size)
        second = shamir.create_shares(own, threshold, size)
        sealed = []
        for one in range(1, size):
            agreed = sealing.generate_shared_key(
                bytes_to_private_key(own), bytes_to_public_key(public[one])
            )
            text = share_keys_plaintext_concat(0, one, first[one], second[one])
            sealed.append((agreed, sealing.encrypt(agreed, text)))
        for agreed, text in sealed:
            share_keys_plaintext_separate(sealing.decrypt(agreed, text))
        ratio = round(1.0 * target)
        vector = factor_combine(
            ratio, levels_of(parameters_multiply([row], ratio / target), 1.0, target)
        )
        shapes = [each.shape for each in vector]
        vector = parameters_addition(vector, pseudo_rand_gen(bytes(32), modulus, shapes))
        for one in range(1, size):
            agreed = sealing.generate_shared_key(
                bytes_to_private_key(own), bytes_to_public_key(public[one])
            )
            mask = pseudo_rand_gen(agreed, modulus, shapes)
            vector = (parameters_addition if one % 2 else parameters_subtraction)(vector, mask)
        parameters_mod(vector, modulus)
        return first, second

    (first, second), each = clocked(client)
    shapes = [(), (width,)]
    total = [np.zeros((), np.int64), np.zeros(width, np.int64)]

    def survivor() -> None:
        seed = shamir.combine_shares(first[:threshold])
        parameters_subtraction(total, pseudo_rand_gen(seed, modulus, shapes))

    def dropped() -> None:
        key = shamir.combine_shares(second[:threshold])
        for one in range(1, size):
            agreed = sealing.generate_shared_key(
                bytes_to_private_key(key), bytes_to_public_key(public[one])
            )
            parameters_addition(total, pseudo_rand_gen(agreed, modulus, shapes))

    _, alive = clocked(lambda: [survivor() for _ in range(3)])
    gone = clocked(dropped)[1] if lost else 0.0
    return each, alive / 3 * (count - lost) + gone * lost


def main() -> None:
    """Print CPU seconds here and there, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--width", type=int, default=1_000_000)
    parser.add_argument("--lost", type=float, default=0.1)
    parser.add_argument("--neighbors", type=int, default=99)
    parser.add_argument("--alone", action="store_true", help="without Flower")
    asked = parser.parse_args()
    lost = round(asked.lost * asked.clients)
    keep_memory()  # as every run does
    ours(4, 1000, 3, 1, 1)  # code is compiled before anything is timed
    each, server = ours(asked.clients, asked.width, asked.neighbors, lost, 0)
    print(
        f"{asked.clients} clients, {asked.neighbors} neighbors, {asked.width} entries, {lost} lost"
    )
    print(f"here: a client {each * 1e3:.1f} ms, the server {server * 1e3:.0f} ms, ", end="")
    print(f"the whole round {each * asked.clients + server:.2f} s of CPU")
    seconds = simulated(asked.clients, asked.width, asked.neighbors, asked.lost)
    print(f"a simulated round, from rows to their mean: {seconds:.2f} s of CPU")
    speed, other = expansion(asked.width), openssl()
    beside = f"{speed / other:.2f} of openssl speed (wanted .8)" if other else "no openssl here"
    print(f"masks made and added: {speed / 1e9:.1f} GB/s, {beside}")
    if not asked.alone:
        client, other = flower(asked.clients, asked.width, asked.neighbors, lost)
        print(f"Flower: a client {client * 1e3:.0f} ms, the server {other * 1e3:.0f} ms")
        print(
            f"times faster: client {client / each:.1f} (wanted 20), server {other / server:.0f} ",
            end="",
        )
        print("(wanted 200)")


if __name__ == "__main__":
    main()
