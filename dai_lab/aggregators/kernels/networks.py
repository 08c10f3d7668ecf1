"""Sorting networks, cut down to what is asked of them.

A network is a list of compare-exchanges that never looks at the values, so every one of them is a
minimum and a maximum of whole vectors of columns. One is generated for each number of rows, in an
order that finishes small groups first so that few values are in hand at a time, and is then cut
back: what nobody reads is not computed, and values that are only summed need not be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

Exchange: TypeAlias = tuple[int, int, bool, bool]
"""Two places, and whether the first gets the smaller and the second the larger value."""

DEAD, SUMMED, READ = range(3)


@dataclass(frozen=True)
class Network:
    """Exchanges to carry out in order, then places of the values wanted."""

    exchanges: tuple[Exchange, ...]
    places: tuple[int, ...]
    """Of the values between two ranks, in no order; or of all of them, from the smallest."""


@cache
def sorting(count: int) -> Network:
    """Sort all values.

    Source:
        Batcher 1968, odd-even merging; Knuth, The Art of Computer Programming 3, 5.3.4.
    """
    pairs: list[tuple[int, int]] = []
    places = _sorted(range(count), pairs)
    return Network(tuple((a, b, True, True) for a, b in pairs), tuple(places))


@cache
def selecting(count: int, low: int, high: int) -> Network:
    """Find the values from rank ``low`` up to, without, ``high``, in no order.

    Two sorted halves tell which ``k`` values are the smallest by ``k`` comparisons, with nothing
    merged; so where the ranks to drop below and above do not meet within a half, a network ends
    there. It is compared with cutting back a whole merge, and the shorter one is taken.
    """
    whole = sorting(count)
    wanted = tuple(whole.places[low:high])
    found = [Network(_cut(whole.exchanges, wanted, count), wanted)]
    found += _halves(count, low, count - high)
    return min(found, key=lambda one: sum(a + b for _, _, a, b in one.exchanges))


def _sorted(places: Sequence[int], pairs: list[tuple[int, int]]) -> list[int]:
    if len(places) < 2:
        return list(places)
    half = len(places) // 2
    return _merged(_sorted(places[:half], pairs), _sorted(places[half:], pairs), pairs)


def _merged(first: list[int], second: list[int], pairs: list[tuple[int, int]]) -> list[int]:
    """Merge two sorted groups of any sizes."""
    if not first or not second:
        return first + second
    if len(first) == len(second) == 1:
        pairs.append((first[0], second[0]))
        return [first[0], second[0]]
    odd = _merged(first[::2], second[::2], pairs)
    even = _merged(first[1::2], second[1::2], pairs)
    merged = [odd[0]]
    for at in range(max(len(even), len(odd) - 1)):
        if at < len(even) and at + 1 < len(odd):
            pairs.append((even[at], odd[at + 1]))
            merged += [even[at], odd[at + 1]]
        else:
            merged += even[at : at + 1] or odd[at + 1 : at + 2]
    return merged


def _halves(count: int, below: int, above: int) -> Iterator[Network]:
    """Drop the ``below`` smallest and ``above`` largest values of two sorted halves."""
    half = count // 2
    if below + above > half:
        return
    pairs: list[tuple[int, int]] = []
    first, second = _sorted(range(half), pairs), _sorted(range(half, count), pairs)
    exchanges = [(a, b, True, True) for a, b in pairs]
    dropped = set()
    for at in range(below):
        small, large = first[at], second[below - 1 - at]
        exchanges.append((small, large, True, True))
        dropped.add(small)
    for at in range(above):
        small, large = first[-1 - at], second[at - above]
        exchanges.append((small, large, True, True))
        dropped.add(large)
    kept = tuple(place for place in range(count) if place not in dropped)
    yield Network(_cut(exchanges, kept, count), kept)


def _cut(exchanges: Sequence[Exchange], wanted: Sequence[int], count: int) -> tuple[Exchange, ...]:
    """Leave out whatever does not change the set of wanted values."""
    use = [DEAD] * count
    for place in wanted:
        use[place] = SUMMED if len(wanted) > 1 else READ
    kept: list[Exchange] = []
    for a, b, *_ in reversed(exchanges):
        if use[a] == use[b] != READ:
            continue
        kept.append((a, b, use[a] != DEAD, use[b] != DEAD))
        use[a] = use[b] = READ
    return tuple(reversed(kept))
