"""The Merkle tree against its definition and against public vectors."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dai_lab.ledger.merkle import (
    EMPTY,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "merkle_rfc6962.json"


def by_definition(leaves):
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return node_hash(by_definition(leaves[:split]), by_definition(leaves[split:]))


def some(count):
    return [leaf_hash(b"%d" % one) for one in range(count)]


@given(st.integers(0, 70))
def test_every_root_there_ever_was_is_still_known(count):
    tree = Tree(some(count))
    for size in range(count + 1):
        assert tree.root(size) == by_definition(some(size))


def test_every_leaf_proves_its_place_and_no_other():
    tree = Tree(some(19))
    for size in range(1, 20):
        root = tree.root(size)
        for index in range(size):
            proof = tree.inclusion(index, size)
            assert verify_inclusion(tree.leaf(index), index, size, proof, root)
            assert not verify_inclusion(leaf_hash(b"x"), index, size, proof, root)
            assert not verify_inclusion(tree.leaf(index), index, size, [*proof, root], root)
            other = (index + 1) % size
            moved = verify_inclusion(tree.leaf(index), other, size, proof, root)
            assert not moved or size == 1


@given(st.integers(0, 20))
def test_every_tree_proves_that_it_only_grew(count):
    tree = Tree(some(count))
    assert tree.consistency(0) == []
    for size1 in range(1, count + 1):
        proof = tree.consistency(size1)
        assert verify_consistency(size1, count, proof, tree.root(size1), tree.root())
        if size1 < count:
            other = Tree([leaf_hash(b"x"), *some(count)[1:]])
            assert not verify_consistency(size1, count, proof, other.root(size1), tree.root())
            assert not verify_consistency(size1, count, proof, tree.root(size1), other.root())


anything = st.one_of(
    st.none(), st.integers(), st.text(), st.binary(max_size=40), st.floats(), st.booleans(),
    st.lists(st.one_of(st.binary(min_size=32, max_size=32), st.binary(), st.none()), max_size=4),
)  # fmt: skip


@given(anything, anything, anything, anything, anything)
@example(b"", 0, 1, [], b"")
@example(-1, -1, [], EMPTY, EMPTY)
@example(3, 3, None, b"", b"")
@example(True, True, [], EMPTY, EMPTY)
def test_no_nonsense_is_believed_or_raises(a, b, c, d, e):
    assert verify_inclusion(a, b, c, d, e) is False
    assert verify_consistency(a, b, c, d, e) is False


@pytest.mark.skipif(not VECTORS.exists(), reason="../shared, which holds the vectors, is not here")
@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_public_vectors_are_judged_as_their_authors_say(kind):
    def raw(text):
        return base64.b64decode(text or "")

    cases = json.loads(VECTORS.read_text())[kind]
    assert len(cases) == 98
    for case in cases:
        proof = [raw(one) for one in case["proof"] or []]
        if kind == "inclusion":
            found = verify_inclusion(
                raw(case["leafHash"]), case["leafIdx"], case["treeSize"], proof, raw(case["root"])
            )
        else:
            found = verify_consistency(
                case["size1"], case["size2"], proof, raw(case["root1"]), raw(case["root2"])
            )
        assert found is not case["wantErr"], case["desc"]


def test_sizes_that_are_not_there_are_refused_in_one_line():
    tree = Tree(some(3))
    for call in (lambda: tree.inclusion(3), lambda: tree.root(4), lambda: tree.consistency(2, 5)):
        with pytest.raises(ValueError, match="must be in 0"):
            call()
