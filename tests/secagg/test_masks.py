"""Masks are AES in counter mode, whatever the segments and the order of the keys."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.secagg import masks

WORDS = st.sampled_from([np.uint32, np.uint64])


def keys(seed, count):
    stream = np.random.default_rng(seed)
    return [stream.bytes(16) for _ in range(count)]


def test_masks_are_counter_mode_from_the_block_that_gcm_begins_at():
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    blocks = b"".join(number.to_bytes(16, "big") for number in range(2, 2**16 + 2))
    expected = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)
    assert masks.stream(key, 2**18).tobytes() == expected


def test_both_ways_to_a_mask_give_the_same_one():
    key, zeros = keys(0, 1)[0], bytes(1_000_003)
    found = {mode: start(key).update(zeros) for mode, start in masks.WAYS.items()}
    assert len(found) == 2 and len(set(found.values())) == 1


@settings(max_examples=40)
@given(seed=st.integers(0, 99), words=WORDS, size=st.integers(1, 5000), data=st.data())
def test_masks_are_the_keystreams_with_their_signs(seed, words, size, data):
    some = keys(seed, data.draw(st.integers(0, 5)))
    signs = [data.draw(st.sampled_from([1, -1])) for _ in some]
    total = np.random.default_rng(seed).integers(0, 2**30, size, dtype=words)
    expected = total.copy()
    for key, sign in zip(some, signs, strict=True):
        text = Cipher(algorithms.AES(key), modes.CTR(masks.FIRST)).encryptor()
        mask = np.frombuffer(text.update(bytes(expected.nbytes)), words)
        expected = expected + mask if sign > 0 else expected - mask
    masks.add_masks(total, some, signs)
    assert (total == expected).all()


@pytest.mark.parametrize("words", [np.uint32, np.uint64])
def test_a_mask_added_and_taken_away_leaves_a_long_vector(words):
    before = np.random.default_rng(0).integers(0, 2**32, 100_003, dtype=words)
    some, signs = keys(1, 300), [1, -1] * 150
    total = before.copy()
    masks.add_masks(total, some, signs)
    assert (total != before).mean() > 0.99
    masks.add_masks(total, some, [-sign for sign in signs])
    assert (total == before).all()


def test_two_keys_share_no_block():
    blocks = []
    for key in keys(0, 2):
        text = masks.stream(key, 40_000).tobytes()
        blocks.append({text[at : at + 16] for at in range(0, len(text), 16)})
    assert not blocks[0] & blocks[1] and len(blocks[0]) == len(blocks[1]) == 10_000


@pytest.mark.parametrize(
    ("total", "some", "signs", "complaint"),
    [
        (np.zeros(4), [bytes(16)], [1], "contiguous words of 32 or 64 bits"),
        (np.zeros(8, np.uint32)[::2], [bytes(16)], [1], "contiguous words"),
        (np.zeros((2, 2), np.uint32), [bytes(16)], [1], "contiguous words"),
        (np.zeros(4, np.uint32), [bytes(15)], [1], "a key must be 16 bytes"),
        (np.zeros(4, np.uint32), [bytes(16)], [0], "every key needs a sign"),
        (np.zeros(4, np.uint32), [bytes(16)], [], "every key needs a sign"),
    ],
)
def test_what_is_no_vector_key_or_sign_is_refused(total, some, signs, complaint):
    with pytest.raises(ValueError, match=complaint):
        masks.add_masks(total, some, signs)
