"""Types and shapes are checked in a share of calls: in every call, that costs half the test run.

What pytest's ``--jaxtyping-packages`` writes above every function is ``@jaxtyping.jaxtyped(…)``,
looked up as the module loads. ``install`` puts ``jaxtyped`` below in that place.
"""

import dataclasses
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from types import FunctionType
from typing import Any

import jaxtyping
import torch

FIRST, EVERY = 10, 50
"""In each test a function's first calls are checked, and from then on every so manieth."""

Function = Callable[..., Any]
_whole = jaxtyping.jaxtyped
_asked: ContextVar[Function] = ContextVar("asked")


@dataclasses.dataclass
class _Counted:
    """A function where it stands in a file, however often the one around it makes it anew."""

    checked: Function | None = None
    """Checks what it is given, calls what ``_asked`` says, and checks what that returns."""
    calls: int = 0


_counted: dict[object, _Counted] = {}


def install() -> None:
    """Check a share of the calls of what is imported from here on."""
    jaxtyping.jaxtyped = jaxtyped


def begin() -> None:
    """Count calls anew, so that what is checked in a test is the same whatever ran before it."""
    for one in _counted.values():
        one.calls = 0


def jaxtyped(*, typechecker: Function) -> Function:
    """Do what ``jaxtyping.jaxtyped`` does in a share of calls; others are as if undecorated."""
    return partial(_sampled, _whole(typechecker=typechecker))


def _sampled(check: Function, part: Any) -> Any:
    if inspect.isclass(part):
        if dataclasses.is_dataclass(part) and not hasattr(part.__init__, "__wrapped__"):
            part.__init__ = _sampled(check, part.__init__)
        return part
    one = _counted.setdefault((part.__module__, part.__qualname__, part.__code__), _Counted())

    @wraps(part)
    def sampled(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if torch.compiler.is_compiling():  # it would compile anew whenever the count changes
            return part(*args, **kwargs)
        one.calls += 1
        if one.calls > FIRST and one.calls % EVERY:
            return part(*args, **kwargs)
        one.checked = one.checked or check(_stand_in(part))
        before = _asked.set(part)
        try:
            return one.checked(*args, **kwargs)
        finally:
            _asked.reset(before)

    return sampled


def _stand_in(part: Any) -> Function:
    """A checker takes milliseconds to make: one serves all functions made in the same place."""
    asked = _asked.get

    def forward(*args: Any, **kwargs: Any) -> Any:
        return asked()(*args, **kwargs)

    found: Any = FunctionType(
        forward.__code__, part.__globals__, part.__name__, closure=forward.__closure__
    )
    found.__module__, found.__qualname__ = part.__module__, part.__qualname__
    found.__signature__ = inspect.signature(part)
    return found
