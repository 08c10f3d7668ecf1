"""Every format written to bytes and read back: as many as counted, and the same rows."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab import compression
from dai_lab.core import Key, State

SEEDS = st.integers(0, 999)
WIDTHS = st.sampled_from([1, 2, 3, 8, 17, 64, 100, 1025])
F32 = np.dtype("<f4")


def pack(numbers, bits):
    digits = np.asarray(numbers, np.int64)[:, None] >> np.arange(bits) & 1
    return np.packbits(digits.astype(np.uint8)).tobytes()


def unpack(message, count, bits):
    digits = np.unpackbits(np.frombuffer(message, np.uint8))[: count * bits]
    return digits.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


def bits_for(values):
    """Count by trying: the fewest bits that tell so many values apart."""
    return next(bits for bits in range(64) if 2**bits >= values)


def positions(seed, width, count):
    return torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:count].numpy()


class TopK:
    """Numbers, then packed positions."""

    part = staticmethod(partial(compression.top_k, share=0.3))

    def write(self, row, key):
        count, bits = max(1, round(0.3 * len(row))), bits_for(len(row))
        kept = np.argsort(-np.abs(row), kind="stable")[:count]
        return row[kept].tobytes() + pack(kept, bits)

    def read(self, message, width):
        count, bits = max(1, round(0.3 * width)), bits_for(width)
        row = np.zeros(width, F32)
        row[unpack(message[4 * count :], count, bits)] = np.frombuffer(message, F32, count)
        return row


class RandomK:
    """Numbers, then the seed of their positions."""

    def __init__(self, unbiased):
        self.unbiased = unbiased
        self.part = partial(compression.random_k, share=0.3, unbiased=unbiased)

    def write(self, row, key):
        count, seed = max(1, round(0.3 * len(row))), key.number()
        values = row[positions(seed, len(row), count)]
        return values.tobytes() + seed.to_bytes(8, "little")

    def read(self, message, width):
        count = max(1, round(0.3 * width))
        values, seed = np.frombuffer(message, F32, count), int.from_bytes(message[-8:], "little")
        row = np.zeros(width, F32)
        row[positions(seed, width, count)] = values * F32.type(
            width / count if self.unbiased else 1
        )
        return row


class Qsgd:
    """The norm, then packed levels counted from the lowest."""

    def __init__(self, levels):
        self.levels = levels
        self.part = partial(compression.qsgd, levels=levels)

    def write(self, row, key):
        norm = F32.type(np.sqrt((row.astype(np.float64) ** 2).sum()))
        places = np.abs(row) / norm * F32.type(self.levels) if norm else np.zeros_like(row)
        chances = torch.rand(len(row), generator=key.stream()).numpy()
        steps = np.minimum(np.floor(places) + (chances < places % 1), self.levels)
        signed = np.where(row < 0, -steps, steps).astype(np.int64)
        return norm.tobytes() + pack(signed + self.levels, bits_for(2 * self.levels + 1))

    def read(self, message, width):
        norm = np.frombuffer(message, F32, 1)[0]
        codes = unpack(message[4:], width, bits_for(2 * self.levels + 1))
        return (codes - self.levels).astype(F32) * (norm / F32.type(self.levels))


class Sign:
    """The scale, then a bit for each entry."""

    part = staticmethod(compression.sign)

    def write(self, row, key):
        scale = F32.type(np.abs(row.astype(np.float64)).mean())
        return scale.tobytes() + pack(row >= 0, 1)

    def read(self, message, width):
        scale = np.frombuffer(message, F32, 1)[0]
        return np.where(unpack(message[4:], width, 1) == 1, scale, -scale)


class BareSign:
    """A bit for each entry, and one that says whether the row is finite."""

    part = staticmethod(partial(compression.sign, scaled=False))

    def write(self, row, key):
        return pack([*(row >= 0), np.isfinite(row).all()], 1)

    def read(self, message, width):
        *signs, finite = unpack(message, width + 1, 1)
        return np.where(np.array(signs) == 1, 1.0, -1.0).astype(F32) * (1 if finite else np.nan)


class Dense:
    """The numbers."""

    part = staticmethod(compression.dense)

    def write(self, row, key):
        return row.tobytes()

    def read(self, message, width):
        return np.frombuffer(message, F32)


FORMATS = {
    "dense": Dense(),
    "top_k": TopK(),
    "random_k": RandomK(True),
    "random_k as it is": RandomK(False),
    "qsgd of 1 level": Qsgd(1),
    "qsgd of 7 levels": Qsgd(7),
    "qsgd of 127 levels": Qsgd(127),
    "qsgd of 128 levels": Qsgd(128),
    "sign": Sign(),
    "signs alone": BareSign(),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30)
@given(seed=SEEDS, width=WIDTHS, gaps=st.booleans(), lie=st.sampled_from([None, np.nan, np.inf]))
def test_what_is_written_is_as_long_as_counted_and_reads_as_what_arrived(
    name, seed, width, gaps, lie
):
    form, clients, key = FORMATS[name], (3, 14), Key(seed)
    meant = torch.randn(2, width, generator=key.stream())
    if gaps:
        meant *= torch.rand(2, width, generator=(key / "gaps").stream()) < 0.5
    state = State(torch.zeros(width))
    if lie is not None:
        meant[1] = lie
    sent = form.part(meant, clients=clients, state=state, shapes=((width,),), key=key)
    with np.errstate(invalid="ignore"):
        letters = [form.write(row.numpy(), key / c) for row, c in zip(meant, clients, strict=True)]
        read = np.stack([form.read(letter, width) for letter in letters])
    assert sum(map(len, letters)) == sent.bytes
    if lie is None:
        np.testing.assert_array_equal(sent.rows.numpy(), read)
    else:
        np.testing.assert_array_equal(sent.rows[0].numpy(), read[0])
        np.testing.assert_array_equal(sent.rows[1].isfinite().numpy(), np.isfinite(read[1]))


@settings(max_examples=20)
@given(seed=SEEDS, rank=st.integers(1, 6), beyond=st.sampled_from([-5, 0, 3]))
def test_factors_are_as_many_numbers_as_counted_and_multiply_to_what_arrived(seed, rank, beyond):
    shapes, width = ((4, 6), (4,), (5, 2, 2), ()), 24 + 4 + 20 + 1
    meant = torch.randn(2, width + beyond, generator=Key(seed).stream())
    part = partial(compression.power_sgd, rank=rank)
    state = State(torch.zeros(width))
    sent = part(meant, clients=(0, 1), state=state, shapes=shapes, key=Key(seed))
    # Where a row ends inside a tensor, that tensor goes as it is.
    matrices = [(0, 4, 6), (28, 5, 4)] if beyond >= 0 else [(0, 4, 6)]
    letters, read = [], meant.numpy().copy()
    for client, row in enumerate(meant.numpy()):
        drawn = torch.randn(
            sum(max(m, n) * min(rank, m, n) for _, m, n in matrices),
            generator=(Key(seed) / client).stream(),
        ).numpy()
        letter, plain = b"", np.ones(len(row), bool)
        for at, m, n in matrices:
            thin = min(rank, m, n)
            start, drawn = np.split(drawn, [max(m, n) * thin])
            matrix = row[at : at + m * n].reshape(m, n)
            short = matrix if m <= n else matrix.T
            basis = np.linalg.qr(short @ start.reshape(-1, thin))[0]
            factor = short.T @ basis
            letter += basis.tobytes() + factor.tobytes()
            product = basis @ factor.T
            read[client, at : at + m * n] = (product if m <= n else product.T).ravel()
            plain[at : at + m * n] = False
        letters.append(letter + row[plain].tobytes())
    assert sum(map(len, letters)) == sent.bytes
    np.testing.assert_allclose(sent.rows.numpy(), read, atol=2e-5)
