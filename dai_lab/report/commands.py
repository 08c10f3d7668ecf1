"""How to compute a run again: one line for a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from dai_lab.report.groups import TARGET, flat
from dai_lab.report.runs import Run

BESIDE = ("hydra", "tracker", "engine", "compute", "results")
"""Settings of the machine that ran it, left for the next machine to choose."""


def command(run: Run, *, seeds: Sequence[Any] = ()) -> str:
    """Give the command that computes ``run`` again, in terms of today's parts and defaults.

    Where no words would give exactly these settings (a part of the user's own, say), the line
    hands over the run's own ``config.yaml`` instead.

    Args:
        run: What to repeat.
        seeds: Repeat it with these seeds, as a sweep; its own seed alone unless given.
    """
    words = overrides({key: run.config[key] for key in run.config if key not in BESIDE})
    if words is not None and len(seeds) > 1:
        words = [word for word in words if not word.startswith("seed=")]
        words = ["-m", *words, f"seed={','.join(map(str, seeds))}"]
    if words is not None:
        return shlex.join(["python", "-m", "dai_lab.run", *words])
    script = (
        "import sys; from omegaconf import OmegaConf; from dai_lab.experiment import simulate; "
        "simulate(OmegaConf.load(sys.argv[1]), sys.argv[2])"
    )
    path = (run.folder / "config.yaml").as_posix()
    return shlex.join(["python", "-c", script, path, "again"])


def overrides(config: Mapping[str, Any]) -> list[str] | None:
    """Spell settings as differences from the defaults; ``None`` where no words reach them."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    wanted = flat(cast("dict[str, Any]", plain))
    try:
        usual = _composed()
        picks = [(group, _choice(group, wanted, usual)) for group in config]
        words = [f"{group}={choice}" for group, choice in picks if choice is not None]
        start = {
            name: value
            for name, value in _composed(*words).items()
            if name.partition(".")[0] in config
        }
    except ValueError:
        return None
    turned = {name: value for name, value in wanted.items() if start.get(name, ...) != value}
    # Words turn knobs that exist; they add none, take none away and name no part of one's own.
    if start.keys() != wanted.keys() or any(name.endswith(TARGET) for name in turned):
        return None
    return [*words, *(f"{name}={_spelled(value)}" for name, value in turned.items())]


@cache
def _composed(*words: str) -> dict[str, Any]:
    from dai_lab.config import load

    plain = OmegaConf.to_container(load(*words), resolve=True, enum_to_str=True)
    return flat(cast("dict[str, Any]", plain))


def _choice(group: str, wanted: Mapping[str, Any], usual: Mapping[str, Any]) -> str | None:
    """Find the YAML closest to a part; ``None`` if it is the default or there is none."""
    from dai_lab.config import conf_dir

    def own(knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in knobs.items() if name.startswith(f"{group}.")}

    def distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
        return sum(left.get(name, ...) != right.get(name, ...) for name in {*left, *right})

    target = f"{group}.{TARGET}"
    if target not in wanted or own(wanted) == own(usual):
        return None
    rivals = {}
    for path in sorted(Path(conf_dir(), group).glob("*.yaml")):
        found = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        knobs = flat({group: found})
        if knobs.get(target) == wanted[target]:
            rivals[path.stem] = distance(knobs, own(wanted))
    # The default part with a knob turned needs the knob alone.
    if usual.get(target) == wanted[target]:
        default = distance(own(usual), own(wanted))
        rivals = {name: far for name, far in rivals.items() if far < default}
    return min(rivals, key=lambda name: rivals[name], default=None)


def _spelled(value: Any) -> str:
    if isinstance(value, str) and value.replace("_", "").replace(".", "").isalnum():
        return value
    return json.dumps(value)
