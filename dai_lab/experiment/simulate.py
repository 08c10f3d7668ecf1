"""Run one experiment into its folder."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dai_lab.config import build, build_named, check, digest
from dai_lab.experiment import files
from dai_lab.experiment.environment import environment
from dai_lab.experiment.machine import bar_of, computer, keep_memory, one_setting_of_threads
from dai_lab.experiment.provenance import provenance

if TYPE_CHECKING:
    from dai_lab.core import Compute, Engine, State
    from dai_lab.federation import Federation

BUILT = (
    "data",
    "partition",
    "model",
    "local",
    "cohort",
    "devices",
    "pace",
    "privacy",
    "attack",
    "poison",
    "compression",
    "secagg",
    "aggregator",
    "server",
    "decision",
    "personal",
    "engine",
)


PATIENCE = 20
"""The next checkpoint waits this many times as long as the last took to write, so that at most
a twentieth of a run is spent on them. When they are written changes nothing that is computed."""

FOUNDING = threading.Lock()
"""First weights are drawn from torch's only global generator, one federation at a time."""

Loader = Callable[[Mapping[str, Any], Callable[[], Any]], Any]
"""From the settings of a data part and the part to its data set."""


@dataclass(frozen=True)
class Result:
    """Where a run's files are and what came out."""

    folder: Path
    summary: Mapping[str, Any]
    skipped: bool = False
    """The folder held the finished run already."""


def simulate(
    cfg: Mapping[str, Any], folder: str | Path | None = None, *, progress: bool = True
) -> Result:
    """Run one experiment into its folder, or go on with it, or return it if it is finished.

    Args:
        cfg: A composed experiment, from :func:`dai_lab.config.load` or the command line.
        folder: Where its files go; ``<results>/<name>/<digest>`` unless given.
        progress: Show a progress bar where there is a terminal or notebook to show it on.

    Raises:
        ValueError: One line that names the setting, or the file, at fault.
    """
    with one_setting_of_threads():
        return placed(cfg, folder, progress=progress)


def placed(
    cfg: Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    progress: bool,
    data: Loader | None = None,
    stop: threading.Event | None = None,
    engine: Engine | None = None,
) -> Result:
    """Find a run's folder, lock it, and play what is left to play.

    Args:
        cfg: A composed experiment.
        folder: Where its files go; ``<results>/<name>/<digest>`` unless given.
        progress: Show a progress bar where there is a terminal or notebook to show it on.
        data: Loads a data set in place of the data part, such as one that others use too.
        stop: Ends the run after the round in which it is set, as Ctrl-C does.
        engine: Trains in place of the engine part, such as one that others use too.
    """
    whole = OmegaConf.create(dict(cfg)) if not OmegaConf.is_config(cfg) else cfg
    if gaps := sorted(OmegaConf.missing_keys(whole)):
        raise ValueError(f"{gaps[0]} is missing: give it a value")
    settings: dict[str, Any] = OmegaConf.to_container(whole, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    check(settings)
    name = digest(whole)
    place = Path(folder or Path(settings["results"], settings["name"], name))
    if done := finished(place, name):
        return done
    with files.locked(place):
        if done := finished(place, name):  # by whoever held the lock a moment ago
            return done
        match_or_refuse(place, name)
        try:
            with contextlib.ExitStack() as stack:
                return run(
                    whole, settings, place, name, progress=progress, stack=stack, data=data,
                    stop=stop, engine=engine,
                )  # fmt: skip
        except KeyboardInterrupt:
            if stop is None:
                print(f"\nstopped; the same command goes on from {place}", file=sys.stderr)
            raise


def run(
    whole: Any,
    settings: dict[str, Any],
    place: Path,
    name: str,
    *,
    progress: bool,
    stack: contextlib.ExitStack,
    data: Loader | None,
    stop: threading.Event | None,
    engine: Engine | None,
) -> Result:
    """Play the rounds that are not yet on disk, then write the summary."""
    from dai_lab.core import Key
    from dai_lab.federation import choice, play

    checkpoint, about = place / "checkpoint.safetensors", place / "environment.json"
    state, done = files.restore(checkpoint) if checkpoint.exists() else (None, 0)
    before = files.read(about) if about.exists() else {}
    compute = computer(settings["compute"], before.get("compute", {}) if done else {})
    keep_memory()
    key, rounds = Key(settings["seed"]), settings["rounds"]
    us = founded(settings, compute, data=data)
    us = us if engine is None else replace(us, engine=engine)
    tracker = build(settings["tracker"], at="tracker")
    kept = stack.enter_context(provenance(settings, place, name))
    if kept is not None:
        us = replace(us, ledger=kept.scribe)
    lines, timings, due = place / "records.jsonl", place / "timings.jsonl", 0.0
    records = files.keep(lines, done)
    files.keep(timings, done)
    bar = stack.enter_context(bar_of(settings["name"], total=rounds, done=done, shown=progress))
    if state is not None:
        state = moved(state, compute.device)
    diverged = state is not None and not sound(state)
    played = play(us, key, rounds=rounds, state=state, done=done) if not diverged else iter(())
    # A part may refuse a knob only when it is called: nothing is written before the first round.
    first = list(itertools.islice(played, 1))
    identity = {"digest": name, "group": digest(whole, without=("seed",))}
    track = stack.enter_context(tracker(place, {**settings, **identity}))
    if first:
        where = {"device": compute.device, "threads": compute.threads, **choice(us)}
        where |= {"compile": True} if compute.compile else {}
        where |= {} if engine is None else {"in_step": True}
        ran = sessions(before, environment(compute.threads), done)
        about_it, config = {"digest": name, **ran, "compute": where}, readable(whole).encode()
        files.write(about, files.text(about_it))
        if kept is not None and done:
            config = (place / "config.yaml").read_bytes()  # as it stands in the log
        files.write(place / "config.yaml", config)
        if kept is not None:
            kept.began(us, config=config, environment=about_it, done=done, rounds=rounds)
    elif kept is not None:  # nothing is left to play, and the end is not written down yet
        config = (place / "config.yaml").read_bytes()
        kept.began(us, config=config, environment=before, done=done, rounds=rounds)
    for record in records:
        # Once more: whoever died may have kept the last ones to himself.
        track(record)
    if isinstance(played, Generator):
        stack.callback(played.close)
    for one in itertools.chain(first, played):
        done += 1
        record = files.finite(one.record)
        files.append(lines, record)
        sane = sound(one.state)
        if kept is not None:
            kept.ended(done, files.line(record).encode(), one.state, last=one.last or not sane)
        files.append(timings, {"round": done, **one.seconds})
        # Rounds after the last checkpoint are played again: a costly one may be rare.
        if one.last or not sane or time.perf_counter() >= due:
            began = time.perf_counter()
            files.settle(lines, timings)  # a checkpoint is of rounds that are recorded
            if kept is not None:
                kept.settle()
            files.save(checkpoint, one.state, done)
            due = time.perf_counter() + PATIENCE * (time.perf_counter() - began)
        records.append(record)
        track(record)
        bar(record)
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        if not sane:
            # Under attack a model that explodes is a result, not an accident.
            diverged = True
            break
    summary = summarized(records, settings, name, diverged=diverged)
    written = files.text(summary)
    if kept is not None:
        kept.finished(len(records), written)
    files.write(place / "summary.json", written)
    return Result(place, summary)


def founded(
    settings: Mapping[str, Any], compute: Compute, *, data: Loader | None = None
) -> Federation:
    """Build the federation that settings describe, as it is before its first round."""
    from dai_lab.core import Key
    from dai_lab.federation import Accounting, Audit, found

    with FOUNDING:
        parts: dict[str, Any] = {group: build(settings[group], at=group) for group in BUILT}
        if data is not None:
            parts["data"] = partial(data, settings["data"], parts["data"])
        return found(
            **parts,
            watch=build_named(settings["watch"], at="watch"),
            frame=settings["frame"],
            **settings["federation"],
            every=settings["evaluation"]["every"],
            accounting=Accounting(**settings["accounting"]),
            audit=Audit(**settings["audit"]),
            fairness=settings["fairness"],
            compute=compute,
            key=Key(settings["seed"]),
        )


def sessions(before: Mapping[str, Any], now: Mapping[str, Any], done: int) -> dict[str, Any]:
    """Describe what a run goes on with after round ``done``, and what it ran on ``earlier``.

    Going on with the same code, packages and machine is the same session; a session that died
    before its first round was recorded never was.
    """
    latest = {one: value for one, value in before.items() if one in now}
    latest |= {"from_round": before.get("from_round", 1)}
    known = [*before.get("earlier", []), latest] if before else []
    known = [one for one in known if one["from_round"] <= done]
    if known and {**known[-1], "from_round": None} == {**now, "from_round": None}:
        return {**known[-1], "earlier": known[:-1]}
    return {**now, "from_round": done + 1, "earlier": known}


def summarized(
    records: list[dict[str, Any]], settings: Mapping[str, Any], name: str, *, diverged: bool
) -> dict[str, Any]:
    """Put a run in one record: how it ended, its best, and when it was good enough."""
    from dai_lab.metrics import peak, rounds_to

    target, metric = (settings["evaluation"][knob] for knob in ("target", "metric"))
    bests: dict[str, Any] = {"peak_test_accuracy": peak(records, "test_accuracy")}
    if target is not None:
        bests["rounds_to_target"] = rounds_to(records, metric, target)
    ends = {"rounds": len(records), "diverged": diverged, "finished": True}
    return {**records[-1], **bests, "name": settings["name"], "digest": name, **ends}


def finished(place: Path, name: str) -> Result | None:
    """Return the finished run in a folder, if there is one.

    Raises:
        ValueError: It is another experiment's.
    """
    if not (place / "summary.json").exists():
        return None
    summary = files.read(place / "summary.json")
    if summary.get("digest") != name:
        raise another(place, name, summary.get("digest"))
    return Result(place, summary, skipped=True)


def match_or_refuse(place: Path, name: str) -> None:
    """See that a folder's files, if any, are this experiment's.

    Raises:
        ValueError: They are another's.
    """
    config, about = place / "config.yaml", place / "environment.json"
    if about.exists() and (was := files.read(about).get("digest")) != name:
        raise another(place, name, was)
    if config.exists() and (was := digest(OmegaConf.load(config))) != name:  # type: ignore[arg-type]
        raise another(place, name, was)


def another(place: Path, name: str, was: Any) -> ValueError:
    """Say that a folder is taken."""
    return ValueError(
        f"results: {place} holds another experiment ({was}, this one is {name}): "
        "choose another folder, or delete it"
    )


def readable(whole: Any) -> str:
    """Write the settings as YAML, references resolved except the tracker's.

    A tracker may refer to a secret in the environment, which must not reach the disk.
    """
    settings = OmegaConf.to_container(whole, resolve=True, enum_to_str=True)
    tracker = OmegaConf.to_container(whole.tracker, resolve=False)
    return OmegaConf.to_yaml({**settings, "tracker": tracker})  # type: ignore[dict-item]


def sound(state: State) -> bool:
    """Tell whether every parameter is a number, the server's and those clients keep alone."""
    models = (state.params, state.memory.get("local/params", state.params[:0]))
    return all(math.isfinite(float(one.sum())) or bool(one.isfinite().all()) for one in models)


def moved(state: State, device: str) -> State:
    """Put a state where the run computes."""
    from dai_lab.core import State

    memory = {name: one.to(device) for name, one in state.memory.items()}
    return State(state.params.to(device), memory)
