"""A share of calls is checked, and those are checked as jaxtyping and beartype check them."""

from dataclasses import dataclass

import beartype
import jaxtyping
import pytest
import sampled
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from dai_lab.core import Key

checked = sampled.jaxtyped(typechecker=beartype.beartype)


@checked
def double(number: int) -> int:
    return 2 * number


@checked
def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner _"]) -> Tensor:
    return left @ right


@checked
def first(rows: Float[Tensor, "count size"]) -> Float[Tensor, " size"]:
    return rows[:, 0]


@checked
@dataclass(frozen=True)
class Named:
    name: str


def adder(by):
    @checked
    def add(number: int, *, times: int = by) -> int:
        return number + by * times

    return add


def refused(call):
    try:
        call()
    except TypeCheckError:
        return True
    return False


@given(calls=st.integers(0, 6 * sampled.EVERY))
def test_the_first_calls_are_checked_and_then_every_so_manieth(calls):
    sampled.begin()
    found = [refused(lambda: double("a")) for _ in range(calls)]
    due = [at <= sampled.FIRST or at % sampled.EVERY == 0 for at in range(1, calls + 1)]
    assert found == due


@given(numbers=st.lists(st.integers(), max_size=3 * sampled.EVERY))
def test_what_is_returned_is_the_same_checked_or_not(numbers):
    sampled.begin()
    assert [double(number) for number in numbers] == [2 * number for number in numbers]


def test_sizes_of_one_name_are_one_size_within_a_call_and_in_what_it_returns():
    assert not refused(lambda: product(torch.ones(2, 3), torch.ones(3, 4)))
    assert not refused(lambda: product(torch.ones(5, 6), torch.ones(6, 7)))
    assert refused(lambda: product(torch.ones(2, 3), torch.ones(2, 3)))
    assert not refused(lambda: first(torch.ones(3, 3)))
    assert refused(lambda: first(torch.ones(2, 3)))


def test_a_value_is_checked_as_it_is_made():
    assert Named("a").name == "a"
    assert refused(lambda: Named(1))


def test_functions_made_in_the_same_place_share_a_count_and_nothing_else():
    sampled.begin()
    made = [adder(by) for by in range(10 * sampled.EVERY)]
    assert [add(1) for add in made] == [1 + by * by for by in range(len(made))]
    sampled.begin()
    found = sum(refused(lambda add=add: add("a", times="b")) for add in made)
    assert found == sampled.FIRST + 10


@given(depth=st.integers(0, 3 * sampled.EVERY))
def test_a_function_that_calls_itself_is_called_with_what_it_was_called_with(depth):
    @checked
    def summed(number: int) -> int:
        return number + summed(number - 1) if number else 0

    sampled.begin()
    assert summed(depth) == depth * (depth + 1) // 2


def test_the_lab_itself_is_checked():
    assert jaxtyping.jaxtyped is sampled.jaxtyped
    sampled.begin()
    with pytest.raises(TypeCheckError):
        Key("zero")
