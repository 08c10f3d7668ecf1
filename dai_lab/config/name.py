"""A run's name: a digest of what it computes."""

from __future__ import annotations

import hashlib
import inspect
import json
import marshal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dai_lab.config.parts import TRUSTED, locate, trusted
from dai_lab.config.schema import FOLDER, is_folder

BESIDES = ("chain", "compute", "engine", "hydra", "ledger", "name", "results", "tracker")
"""Settings that change where a run happens or who watches, but nothing it computes."""

FILES = ("cohort", "data", "devices")
"""Groups whose part may read a user's own file, named by ``path``."""


def digest(cfg: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """Name a run by what it computes, not by where or how it is watched.

    Equal numbers are one setting: ``1`` and ``1.0`` give the same name (and :func:`build` hands
    a part the kind of number it asks for). A part from outside the lab counts with its source
    and that of its neighbors it calls, so an edited notebook cell names a new run; the lab's
    own code is recorded with each run instead. A user's file counts by what is in it, wherever it
    lies.

    Args:
        cfg: A composed experiment, as a ``DictConfig`` or plain dictionaries.
        without: Settings to leave out: ``("seed",)`` names what runs that differ
            only by seed have in common.
    """
    plain = OmegaConf.create(dict(cfg)) if not isinstance(cfg, DictConfig) else cfg
    left_out = {*BESIDES, *without}
    science = OmegaConf.masked_copy(plain, [str(key) for key in plain if key not in left_out])
    science._set_parent(plain)  # so that references to what is left out still resolve
    settings = OmegaConf.to_container(science, resolve=True, enum_to_str=True)
    for group in FILES:
        if isinstance(settings, dict) and isinstance(settings.get(group), dict):
            settings[group] = by_content(settings[group], ("root",) if group == "data" else ())
    precision = (plain.get("compute") or {}).get("precision", "float32")
    if isinstance(settings, dict) and precision != "float32":
        settings["precision"] = precision  # not how, but what is computed
    named = json.dumps(_plain(settings), sort_keys=True, allow_nan=True)
    foreign = "".join(piece for target in sorted(set(targets(settings))) for piece in code(target))
    return hashlib.sha256((named + foreign).encode()).hexdigest()[:10]


def by_content(part: Mapping[str, Any], besides: Iterable[str] = ("root",)) -> dict[str, Any]:
    """Name a file by what is in it, not by where it lies: a user's own may change."""
    named = {
        knob: by_content(value, besides) if isinstance(value, Mapping) else value
        for knob, value in part.items()
        if knob not in besides
    }
    path = Path(str(named.get("path") or "")).expanduser()
    if path.is_file():
        with path.open("rb") as file:
            named["path"] = hashlib.file_digest(file, "sha256").hexdigest()
    return named


def code(target: str) -> Iterator[str]:
    """Give the source behind a part that is not the lab's, and of the neighbors it uses."""
    if not target.startswith(trusted()) or target.startswith(TRUSTED):
        return
    try:
        start = locate(target)
    except ValueError:
        return  # build refuses it with a better error
    waiting: list[tuple[str, Any]] = [(target, start)]
    seen: set[int] = set()
    while waiting:
        name, thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, type):
            waiting += [(f"{name}.{key}", value) for key, value in sorted(vars(thing).items())]
            continue
        function = inspect.unwrap(getattr(thing, "__func__", thing)) if callable(thing) else thing
        if not isinstance(function, FunctionType):
            if isinstance(thing, bool | int | float | str | bytes | None):
                yield f"\n{name} = {thing!r}"
            continue
        yield f"\n{name}\n{_source(function)}"
        near = function.__globals__
        used = sorted(set(_names(function.__code__)) & near.keys())
        waiting += [(one, near[one]) for one in used if _neighbor(near[one], function.__module__)]
        waiting += [
            (f"{name}.{one}", cell.cell_contents)
            for one, cell in zip(
                function.__code__.co_freevars, function.__closure__ or (), strict=True
            )
            if _neighbor(cell.cell_contents, function.__module__)
        ]


def _neighbor(thing: Any, module: str) -> bool:
    constant = isinstance(thing, bool | int | float | str | bytes)
    return constant or (callable(thing) and getattr(thing, "__module__", None) == module)


def _names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if hasattr(inner, "co_names"):
            yield from _names(inner)


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except OSError:  # typed into a prompt: there is no text, only what Python made of it
        return marshal.dumps(function.__code__).hex()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def targets(value: Any) -> Iterator[str]:
    """List the functions that settings name, however deep."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield str(value["_target_"])
        for inner in value.values():
            yield from targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from targets(inner)


def _of_root(_root_: Any) -> str:
    if not is_folder(_root_.name):  # before Hydra makes it
        raise ValueError(f"name must be {FOLDER}, got {_root_.name!r}")
    return digest(_root_)


OmegaConf.register_new_resolver("digest", _of_root, replace=True)
