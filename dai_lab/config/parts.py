"""From a node of settings to the function it names, with its knobs filled in."""

from __future__ import annotations

import collections.abc
import difflib
import functools
import importlib
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf

TRUSTED = ("dai_lab.", "torch.nn.", "torchvision.models.")
"""Packages a configuration may name functions from."""

NOT_PARTS = tuple(f"dai_lab.{one}" for one in ("config", "core", "experiment", "report", "run"))
"""Machinery: a configuration must not be able to call it, least of all to trust more."""

PROTOCOLS = {
    "partition": "Partitioner",
    "local": "LocalTraining",
    "cohort": "Cohort",
    "privacy": "Privacy",
    "attack": "Attack",
    "poison": "Poison",
    "secagg": "SecureAggregation",
    "aggregator": "Aggregator",
    "server": "Server",
    "engine": "Engine",
    "devices": "Devices",
    "pace": "Pace",
    "compression": "Compression",
    "personal": "Personal",
    "decision": "Decision",
    "watch": "Watcher",
}
"""What the part of a group is called with, by the protocol in ``dai_lab.core``."""

Call: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of what a part is called with: by position, and by keyword."""

GIVEN: Mapping[str, Call] = {
    "data": ((), ()),
    "model": (("shape", "classes"), ()),
    "tracker": (("folder", "config"), ()),
    "ledger": (("folder", "run"), ()),
    "chain": ((), ()),
}
"""What the part of a group without a protocol is called with."""


def trust(package: str) -> None:
    """Let configurations name functions of ``package``, in this process and those it starts.

    A configuration cannot do this itself; ``DAI_LAB_TRUST=package,other`` in the environment
    does the same.

    Args:
        package: An importable package or module, or ``__main__`` for a notebook's own cells.
    """
    if not all(piece.isidentifier() for piece in package.split(".")):
        raise ValueError(f"trust: {package!r} is not the name of a package")
    others = os.environ.get("DAI_LAB_TRUST", "").split(",")
    os.environ["DAI_LAB_TRUST"] = ",".join(dict.fromkeys([*filter(None, others), package]))


def trusted() -> tuple[str, ...]:
    """List the prefixes that may be named now."""
    more = os.environ.get("DAI_LAB_TRUST", "").split(",")
    return (*TRUSTED, *(f"{one.strip()}." for one in more if one.strip()))


def locate(name: str) -> Callable[..., Any]:
    """Find a function or class by its dotted name.

    Raises:
        ValueError: The name is private, unknown, or comes from a package nobody trusts.
    """
    module, _, leaf = str(name).rpartition(".")
    if not _allowed(f"{module}.") or leaf.startswith("_"):
        raise ValueError(
            f"will not build {name!r}: only public names in {', '.join(trusted())} "
            "(trust more with DAI_LAB_TRUST or dai_lab.config.trust)"
        )
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name and not f"{module}.".startswith(f"{missing.name}."):
            raise ValueError(f"{name!r} needs {missing.name}, which is not installed") from None
        raise ValueError(f"there is no module {module!r} to find {leaf!r} in") from None
    found = getattr(home, leaf, None)
    if not callable(found):
        public = [one for one in vars(home) if not one.startswith("_")]
        raise ValueError(f"there is no function {leaf!r} in {module}{did_you_mean(leaf, public)}")
    # A trusted module also holds what it imports, such as open or run; those are not its parts.
    if not _allowed(f"{getattr(found, '__module__', None) or ''}."):
        raise ValueError(f"will not build {name!r}: it is defined in {found.__module__}")
    return found  # type: ignore[no-any-return]


def build(node: Mapping[str, Any], *, at: str | None = None) -> Callable[..., Any]:
    """Turn a node into the function it names, with its knobs filled in.

    A knob that is itself a node, or a list of them, is built too, so parts nest.

    Args:
        node: ``_target_`` and knobs.
        at: Where the node is on the command line, for errors (``attack``); found out
            where ``node`` comes from :func:`load`.

    Raises:
        ValueError: A knob is unknown, missing or of the wrong type, or the function is no part
            of this group; it is named.
    """
    if isinstance(node, DictConfig):
        at = node._get_full_key(None) if at is None else at
        node = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    at = at or ""
    one_of_several = at.startswith("watch.") and at.count(".") == 1
    group = "watch" if one_of_several else at
    call = GIVEN.get(group)
    if protocol := PROTOCOLS.get(group):
        call = _arguments(getattr(importlib.import_module("dai_lab.core"), protocol))
    return _build(node, at, call)


def build_named(nodes: Mapping[str, Any], *, at: str) -> dict[str, Callable[..., Any]]:
    """Build any number of parts, each under its name.

    Args:
        nodes: From names to nodes; or one node, which is named by its function.
        at: Where they are on the command line (``watch``).

    Raises:
        ValueError: As :func:`build`.
    """
    if "_target_" in nodes:
        return {str(nodes["_target_"]).rpartition(".")[2]: build(nodes, at=at)}
    return {name: build(node, at=f"{at}.{name}") for name, node in nodes.items()}


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Suggest the nearest choice, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near and near[0] != word else ""


def _allowed(name: str) -> bool:
    pieces = name.replace("__main__", "main").split(".")
    machinery = name.startswith(tuple(f"{one}." for one in NOT_PARTS))
    private = any(piece.startswith("_") for piece in pieces)
    return name.startswith(trusted()) and not machinery and not private


def _arguments(protocol: Any) -> Call:
    takes = list(inspect.signature(protocol.__call__).parameters.values())[1:]
    named = tuple(one.name for one in takes if one.kind is one.KEYWORD_ONLY)
    return tuple(one.name for one in takes if one.name not in named), named


def _build(node: Mapping[str, Any], at: str, call: Call | None) -> Callable[..., Any]:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{at or 'a part'} must be a node with _target_, got {node!r}")
    function = locate(node["_target_"])
    where = f"{at}." if at else ""
    takes = inspect.signature(function).parameters
    given = {one for names in call or () for one in names}
    knobs = [one for one in takes if one not in given]
    hints = _hints(function)
    open_ended = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    settings = {}
    for knob, value in node.items():
        if knob == "_target_":
            continue
        if knob not in knobs and not (open_ended and knob not in takes):
            has = f"has {', '.join(knobs)}" if knobs else "has no knobs"
            meant = did_you_mean(str(knob), knobs)
            raise ValueError(f"there is no {where}{knob}: {node['_target_']} {has}{meant}")
        settings[knob] = _knob(value, hints.get(str(knob), Any), f"{where}{knob}")
    ours = str(node["_target_"]).startswith("dai_lab.")
    if call is not None and at != "model" and ours and not {*call[0], *call[1]} <= takes.keys():
        raise _no_part(str(node["_target_"]), at, takes, call)  # a missing knob is the least of it
    for knob, one in takes.items():
        required = one.kind is one.KEYWORD_ONLY and one.default is one.empty
        if call is not None and required and knob not in settings and knob not in given:
            raise ValueError(f"{where}{knob} is missing: {node['_target_']} needs it")
    part = functools.partial(function, **settings)
    if call is not None and at != "model":  # a model may take nothing; who calls it looks
        _try(part, str(node["_target_"]), at, call)
    return part


def _try(part: Callable[..., Any], target: str, at: str, call: Call) -> None:
    """Refuse what cannot be called as its group is; the lab's own parts also by their names."""
    positions, named = call
    signature = inspect.signature(part)
    try:
        bound = signature.bind(*positions, **dict.fromkeys(named))
    except TypeError:
        fits = False
    else:
        ours = target.startswith("dai_lab.")
        fits = not ours or set(bound.arguments) == {*positions, *named}
    if not fits:
        raise _no_part(target, at, signature.parameters, call)


def _no_part(target: str, at: str, takes: Iterable[str], call: Call) -> ValueError:
    return ValueError(
        f"{at}: {target} is no part for {at}, it takes ({', '.join(takes)}) "
        f"but would be called with ({', '.join([*call[0], *call[1]])})"
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):
        return {}  # names only a type checker sees; the part itself will complain


def _knob(value: Any, hint: Any, at: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        parts = [one for one in (hint, *typing.get_args(hint)) if getattr(one, "_is_protocol", 0)]
        return _build(value, at, _arguments(parts[0]) if parts else None)
    if isinstance(value, list) and any(isinstance(x, Mapping) and "_target_" in x for x in value):
        inner = next(iter(typing.get_args(hint)), Any)
        return [_knob(one, inner, f"{at}[{place}]") for place, one in enumerate(value)]
    if value == "???":
        raise ValueError(f"{at} is missing: give it a value")
    return fit(value, hint, at)


def fit(value: Any, hint: Any, at: str) -> Any:
    """Check a knob against its annotation; ``1`` and ``1.0`` fit both kinds of number.

    Raises:
        ValueError: The value is of another type.
    """
    either = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if either else (hint,)
    for kind in kinds:
        fits, fitted = _fits(value, kind)
        if fits:
            return fitted
    raise ValueError(f"{at} must be {' or '.join(map(_wanted, kinds))}, got {value!r}")


def _fits(value: Any, kind: Any) -> tuple[bool, Any]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float:
        return number, float(value) if number else value
    if kind is int:
        whole = number and float(value).is_integer()
        return whole, int(value) if whole else value
    if kind in (bool, str):
        return isinstance(value, kind), value
    if kind in (None, type(None)):
        return value is None, value
    if origin is typing.Literal:
        return value in inner, value
    if origin in (list, tuple, collections.abc.Sequence):
        if not isinstance(value, list | tuple):
            return False, value
        pairs = [_fits(one, inner[0]) for one in value]
        fitted = [one for _, one in pairs]
        return all(fits for fits, _ in pairs), tuple(fitted) if origin is tuple else fitted
    return True, value


def _wanted(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list of {_wanted(inner[0]).removeprefix('a ')}s"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    return "null" if kind in (None, type(None)) else names.get(kind, str(kind))
