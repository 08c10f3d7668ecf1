"""Runs that differ only by seed belong together; what differs otherwise names them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dai_lab.report.runs import Run

ASIDE = ("seed", "hydra", "name", "tracker", "engine", "compute", "results")
"""Settings that do not change what is computed, or that intervals are taken over."""

TARGET = "_target_"


@dataclass(frozen=True)
class Group:
    """Finished runs of one setting, one for each seed."""

    label: str
    """The settings that set it apart, as typed on the command line, or what its name says."""
    runs: tuple[Run, ...]
    knobs: Mapping[str, Any]
    """Every setting of the group, flattened to ``attack.z``."""
    world: str = ""
    """Where a method was tried, if the runs were named ``<study>,<world>,<algorithm>``."""
    algorithm: str = ""
    """Which method that was, with the settings that tell it from others of this name."""
    attack: str = ""
    """What it was tried against, if runs were named ``<study>,<world>,<attack>,<algorithm>``."""


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten nested settings: ``{"attack": {"z": 1}}`` becomes ``{"attack.z": 1}``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{name}."))
        else:
            found[name] = value
    return found


def grouped(found: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Put finished runs that differ only by seed together, in the order of what varies.

    A seed that was run twice counts once: otherwise a copied folder would narrow the interval.
    Runs that were all named ``<study>,<world>,<algorithm>``, or with an attack before the
    algorithm, go by these words, and by settings only where those of one name differ.

    Returns:
        The groups, and a note for every run that was left out as a repetition.
    """
    whole = [run for run in found if run.problem is None]
    by_name = {len(_words(run)) for run in whole} in ({3}, {4})
    sorts: dict[str, dict[str, Any]] = {}
    words: dict[str, tuple[str, ...]] = {}
    members: dict[str, dict[str, Run]] = {}
    notes: list[str] = []
    for run in whole:
        knobs = flat({key: run.config[key] for key in run.config if key not in ASIDE})
        said = _words(run) if by_name else ()
        # An algorithm with its own knob off may be another one: names keep them apart.
        sort = json.dumps([said, knobs], sort_keys=True, default=str)
        sorts.setdefault(sort, knobs)
        words[sort] = said
        seeds = members.setdefault(sort, {})
        seed = str(run.config.get("seed"))
        if seed in seeds:
            notes.append(
                f"{run.folder.name}: same settings and seed as {seeds[seed].folder.name}, "
                "counted once"
            )
        else:
            seeds[seed] = run
    # Folders are named by digests, so their order means nothing to a reader.
    told = varying(list(sorts.values()))
    order = sorted(sorts, key=lambda sort: (by_size(words[sort]), _rank(told, sorts[sort])))
    everything = [(words[sort], sorts[sort], _by_seed(members[sort])) for sort in order]
    if by_name:
        return _named(everything), notes
    labels = _labels([knobs for _, knobs, _ in everything])
    both = zip(labels, everything, strict=True)
    groups = [Group(label, runs, knobs) for label, (_, knobs, runs) in both]
    # A lone group has nothing to be told apart by, so it goes by the name it was given.
    if len(groups) == 1:
        only = groups[0]
        groups = [Group(str(only.runs[0].config.get("name", "all runs")), only.runs, only.knobs)]
    return groups, notes


def _words(run: Run) -> tuple[str, ...]:
    return tuple(str(run.config.get("name", "")).split(","))


def by_size(words: Sequence[str]) -> list[list[tuple[float, str]]]:
    """Sort ``clients9`` before ``clients10``."""
    pieces = [re.split(r"(\d+(?:\.\d+)?)", word) for word in words]
    return [
        [(float(one), "") if at % 2 else (0.0, one) for at, one in enumerate(each)]
        for each in pieces
    ]


def _named(
    everything: Sequence[tuple[tuple[str, ...], dict[str, Any], tuple[Run, ...]]],
) -> list[Group]:
    """Label groups by the words of their names, without those that all of them share."""
    before = range(len(everything[0][0]) - 1)
    telling = [len({words[place] for words, _, _ in everything}) > 1 for place in before]
    groups = []
    for words, knobs, runs in everything:
        alike = [other for said, other, _ in everything if said == words]
        turned = f", {_labels(alike)[alike.index(knobs)]}" if len(alike) > 1 else ""
        algorithm = f"{words[-1]}{turned}"
        shown = [word for word, tells in zip(words, telling, strict=False) if tells]
        label = ", ".join([*shown, algorithm])
        attack = words[2] if len(words) == 4 else ""
        groups.append(Group(label, runs, knobs, words[1], algorithm, attack))
    return groups


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the settings worth telling apart.

    A knob of a part counts only if it varies among groups with that same part: after
    ``attack=alie`` nobody needs to read that other attacks have no ``attack.z``.
    """
    names = list(dict.fromkeys(name for knobs in settings for name in knobs))
    return [name for name in names if _varies(name, settings)]


def common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all groups share."""
    first = settings[0] if settings else {}
    return {
        name: value
        for name, value in first.items()
        if all(name in knobs and knobs[name] == value for knobs in settings)
    }


def _by_seed(seeds: Mapping[str, Run]) -> tuple[Run, ...]:
    return tuple(seeds[seed] for seed in sorted(seeds, key=lambda seed: (len(seed), seed)))


def _rank(names: Sequence[str], knobs: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    """Sort numbers by size, before words by letter."""
    values = [knobs.get(name) for name in names]
    return [
        (False, float(value), "") if isinstance(value, (int, float)) else (True, 0.0, str(value))
        for value in values
    ]


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = varying(settings)
    # Two parts of the same short name need their full ones.
    longs = {name: {str(knobs[name]) for knobs in settings if name in knobs} for name in names}
    clash = {name for name in names if len({_leaf(one) for one in longs[name]}) < len(longs[name])}
    return [
        ", ".join(_word(name, knobs[name], name in clash) for name in names if name in knobs)
        or "plain"
        for knobs in settings
    ]


def _word(name: str, value: Any, long: bool) -> str:
    if name == TARGET or name.endswith(f".{TARGET}"):
        return f"{name[: -len(TARGET) - 1]}={value if long else _leaf(str(value))}"
    return f"{name}={json.dumps(value) if isinstance(value, (list, bool)) else _plain(value)}"


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)


def _leaf(target: str) -> str:
    return target.rpartition(".")[2]


def _varies(name: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    seen: dict[str, set[str]] = {}
    for knobs in settings:
        parts = _parts_above(name, knobs)
        seen.setdefault(parts, set()).add(json.dumps(knobs.get(name, ...), default=str))
    return any(len(values) > 1 for values in seen.values())


def _parts_above(name: str, knobs: Mapping[str, Any]) -> str:
    pieces = name.split(".")
    above = [".".join([*pieces[:depth], TARGET]) for depth in range(1, len(pieces))]
    return json.dumps([knobs.get(part) for part in above if part != name], default=str)
