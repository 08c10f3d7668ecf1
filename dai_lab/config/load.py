"""Compose an experiment as the command line would, and say in one line what is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dai_lab.config.parts import did_you_mean

HERE = Path(__file__).parents[1]

MOST = 500
"""Compositions held at once."""


def conf_dir() -> str:
    """Return the checkout's ``conf`` if there is one, else the copy inside the wheel."""
    checkout, packaged = HERE.parent / "conf", HERE / "conf"
    return str(checkout if (checkout / "config.yaml").is_file() else packaged)


def load(*overrides: str, conf_dir: str | Path | None = None) -> DictConfig:
    """Compose an experiment as the command line would, for use in a notebook.

    Args:
        overrides: As on the command line: ``"attack=alie"``, ``"rounds=3"``.
        conf_dir: A folder of your own YAMLs to look in first (``--config-dir``).

    Raises:
        ValueError: One line that names the setting at fault.
    """
    try:
        return _compose(overrides, conf_dir)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(explain(error, overrides)) from None


def explain(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """Say in one line what is wrong, naming the setting as written on the command line."""
    text = str(error)
    if found := re.search(r"Could not (?:find|load) '(.+?)'\.?\s*(?:\n|$)", text):
        return _unknown_choice(found[1], text)
    if found := re.search(r"Could not override '(.+?)'", text):
        return _unknown_knob(found[1], overrides)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, OmegaConfBaseException):
        return _unfit(cause)
    if found := re.search(r"Error parsing override '(.+?)'\n(.*)", text):
        return f"cannot read {found[1]!r}: write knob=value ({found[2]})"
    if found := re.search(r"Ambiguous value for argument '(.+?)'", text):
        return f"{found[1]}: add -m to sweep over several values"
    if isinstance(error, OverrideParseException):
        return f"cannot read {' '.join(overrides)}: write knob=value ({text.splitlines()[0]})"
    if "Config group override must be" in text:
        return "a part cannot be null: choose one, such as attack=none"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _compose(overrides: Sequence[str], folder: str | Path | None) -> DictConfig:
    search = []
    if folder is not None:
        if not Path(folder).is_dir():
            raise ValueError(f"conf_dir: there is no folder {folder}")
        search = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"]
    place = globals()["conf_dir"]()
    with initialize_config_dir(place, version_base="1.3"):
        knobs = _knobs([*search, *overrides])
        if knobs is None:
            cfg = compose("config", [*search, *overrides])
        else:
            said = {one.input_line for one in knobs}
            cfg = _Known.composed(place, [one for one in overrides if one not in said])
            ConfigLoaderImpl._apply_overrides_to_config(knobs, cfg)
    for node in cfg.values():
        if isinstance(node, DictConfig) and "_target_" in node:
            # In a notebook a part may be given any knob; ``build`` refuses what it does not take.
            OmegaConf.set_struct(node, False)
    return cfg


def _knobs(overrides: Sequence[str]) -> list[Override] | None:
    """Return the overrides that give values and choose no part; ``None`` if Hydra is to see all."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return None
    if any(
        one.is_sweep_override() or one.is_hydra_override() or one.key_or_group == "hydra"
        for one in parsed
    ):
        return None
    loader: Any = GlobalHydra.instance().config_loader()
    known = loader.repository.group_exists
    return [one for one in parsed if isinstance(one.value(), dict) or not known(one.key_or_group)]


class _Known:
    """Compositions of choices: Hydra takes as long for one as many a run does, and grids ask often.

    What was read is forgotten when any file under ``conf`` changes, or what programs add.
    """

    read: tuple[Any, ...] = ()
    found: ClassVar[dict[tuple[str, ...], DictConfig]] = {}

    @classmethod
    def composed(cls, place: str, choices: Sequence[str]) -> DictConfig:
        folders = os.walk(place, followlinks=True)
        files = sorted(os.path.join(at, one) for at, _, names in folders for one in names)
        stats = [(one, (at := os.stat(one)).st_mtime_ns, at.st_size) for one in files]
        read = (*stats, *_stored(ConfigStore.instance().repo))
        if read != cls.read or len(cls.found) > MOST:
            cls.read = read
            cls.found.clear()
        if tuple(choices) in cls.found:
            return deepcopy(cls.found[tuple(choices)])
        cfg = compose("config", list(choices), return_hydra_config=True)
        elsewhere = bool(cfg.hydra.searchpath)
        with open_dict(cfg):
            del cfg["hydra"]
        if elsewhere:  # where files may change unseen
            return cfg
        cls.found[tuple(choices)] = cfg
        return deepcopy(cfg)


def _stored(folder: Mapping[str, Any]) -> Iterator[Any]:
    for one in folder.values():
        if isinstance(one, Mapping):
            yield from _stored(one)
        else:
            # Written out: a node may be changed in place, and 1 is not 1.0.
            kind = OmegaConf.get_type(one.node)
            yield one.group, one.name, one.package, one.provider, repr(one.node), kind


def _unknown_choice(path: str, text: str) -> str:
    group, _, choice = path.rpartition("/")
    listed = re.search(r"Available options in '.*?':\n((?:\t.*(?:\n|$))+)", text)
    options = [line.strip() for line in listed[1].splitlines()] if listed else []
    if not options:
        return f"there is no {path}: see dai-lab --help for the parts there are"
    return (
        f"there is no {group} {choice!r}: choose from {', '.join(options)}"
        f"{did_you_mean(choice, options)}"
    )


def _unknown_knob(knob: str, overrides: Sequence[str]) -> str:
    if (Path(conf_dir()) / knob).is_dir():  # a group without a default, such as experiment
        return f"{knob} has no default to replace: write +{knob}=..."
    others = [one for one in overrides if not one.lstrip("+~").startswith(knob)]
    try:
        known = list(_leaves(_compose(others, None)))
    except (HydraException, OmegaConfBaseException, ValueError):
        known = list(_leaves(_compose((), None)))
    group = knob.rpartition(".")[0]
    siblings = [one for one in known if group and one.startswith(f"{group}.")]
    listed = f": {group} has {', '.join(siblings)}" if siblings else ""
    return f"there is no {knob}{listed}{did_you_mean(knob, siblings or known)}"


def _leaves(node: Any, at: str = "") -> Iterator[str]:
    for key, value in node.items():
        here = f"{at}.{key}" if at else str(key)
        if key != "_target_":
            yield here
        if isinstance(value, Mapping):
            yield from _leaves(value, here)


def _unfit(error: OmegaConfBaseException) -> str:
    text, knob = str(error), getattr(error, "full_key", None) or "a setting"
    kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
    if found := re.search(r"Value '(.*?)' .*could not be converted to (\w+)", text):
        return f"{knob} must be {kinds.get(found[2], found[2])}, got {found[1]!r}"
    if found := re.search(r"Invalid value '(.*?)', expected one of \[(.*?)\]", text):
        return f"{knob} must be one of {found[2]}, got {found[1]!r}"
    if "is not Optional" in text:
        return f"{knob} must have a value, got null"
    if "is not a subclass of" in text or "Cannot merge" in text:
        return f"{knob} holds settings of its own and cannot be replaced by one value"
    first = text.splitlines()[0].rpartition("raised while resolving interpolation: ")[2]
    return first if first != text.splitlines()[0] else f"{knob}: {first}"
