"""Many small runs in one process: they share what they load, and every core is at work."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dai_lab.config import by_content, digest, targets
from dai_lab.experiment.machine import one_setting_of_threads
from dai_lab.experiment.simulate import Result, placed

if TYPE_CHECKING:
    from dai_lab.engines.abreast import Abreast

ALONE = ("wandb",)
"""Trackers that know only one run at a time in a process."""

TRAIN_ALIKE = ("learning.sgd", "learning.distributed_sgd")
"""What clients do that several runs can do as one: it needs nothing of a run but its clients."""

TRAINING = ("data", "model", "local", "compute", "frame", "fairness")
"""Settings in which such runs are the same."""


def simulate_together(
    cfgs: Sequence[Mapping[str, Any]],
    *,
    threads: int = 0,
    abreast: int = 1,
    progress: bool = True,
) -> list[Result | Exception]:
    """Run many experiments, each into its own folder, with the results it would have alone.

    Whatever they have in common is loaded once: the packages, the compiled code, the data. Runs
    of one compute thread on a CPU go side by side, for compiled training needs no Python; the
    others follow one by one.

    Args:
        cfgs: Composed experiments, from :func:`dai_lab.config.load` or the command line.
        threads: Runs side by side at most; 0 is one a core.
        abreast: Runs at most that take their rounds in step, their clients trained in one batch,
            where they differ in nothing that training needs (other seeds, attacks, aggregators)
            and ``local`` is ``sgd`` or ``distributed_sgd``; 1 is none. Meant for a GPU and small
            networks; the larger batch is rounded otherwise than a run alone, and on a CPU it is
            seldom quicker. Runs that keep a log, whose rounds others play again, stay alone.
        progress: Show how many are done, where there is a terminal or notebook to show it on.

    Returns:
        For each experiment its result, or the exception that ended it.

    Raises:
        ValueError: A negative number of threads, or less than one run abreast.
    """
    if threads < 0:
        raise ValueError(f"threads must be 0 (one a core) or more, got {threads}")
    if abreast < 1:
        raise ValueError(f"abreast must be 1 (every run alone) or more, got {abreast}")
    ends: dict[int, Result | Exception] = {}
    stop, shared = threading.Event(), Shared()

    def one(at: int, club: Abreast | None = None) -> None:
        engine = None if club is None else club.engine(at)
        try:
            ends[at] = placed(cfgs[at], progress=False, data=shared, stop=stop, engine=engine)
        except Exception as error:
            ends[at] = error
        finally:
            if club is not None:
                club.leave()

    in_step = _in_step(cfgs, abreast) if abreast > 1 else []
    busy = {at for some in in_step for at in some}
    alone = [at for at in range(len(cfgs)) if at not in busy]
    beside = [at for at in alone if _fits_beside_others(cfgs[at])]
    after = [at for at in alone if at not in set(beside)]
    with one_setting_of_threads(), _bar(len(cfgs), progress) as tick:
        for some in in_step:
            from dai_lab.engines.abreast import Abreast

            club = Abreast(len(some))
            with _pool(len(some), stop, club.end) as pool:
                for done in as_completed([pool.submit(one, at, club) for at in some]):
                    done.result()
                    tick()
        with _pool(threads or os.cpu_count() or 1, stop) as pool:
            for done in as_completed([pool.submit(one, at) for at in beside]):
                done.result()
                tick()
        for at in after:
            one(at)
            tick()
    return [ends[at] for at in range(len(cfgs))]


def _in_step(cfgs: Sequence[Mapping[str, Any]], most: int) -> list[list[int]]:
    """Deal runs that train alike to groups of two to ``most``."""
    families: dict[str, list[int]] = {}
    known = set()
    for at, cfg in enumerate(cfgs):
        with contextlib.suppress(Exception):  # it will say itself what is wrong with it
            whole = OmegaConf.create(dict(cfg)) if not OmegaConf.is_config(cfg) else cfg
            settings: Any = OmegaConf.to_container(whole, resolve=True, enum_to_str=True)
            trains, engine, tracker, ledger = (
                str(settings[part]["_target_"]).removeprefix("dai_lab.")
                for part in ("local", "engine", "tracker", "ledger")
            )
            alike = trains in TRAIN_ALIKE and engine == "engines.local"
            name = (settings["results"], settings["name"], digest(whole))
            once = name not in known and not settings["compute"]["compile"]
            known.add(name)
            apart = ledger != "ledger.none" or tracker.rpartition(".")[2] in ALONE
            if alike and once and not apart:
                training = json.dumps([settings[one] for one in TRAINING], sort_keys=True)
                families.setdefault(training, []).append(at)
    groups = [one[at : at + most] for one in families.values() for at in range(0, len(one), most)]
    return [one for one in groups if len(one) > 1]


class Shared:
    """Data sets that several runs read, loaded once; the last few are kept."""

    kept = 2

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def __call__(self, settings: Mapping[str, Any], load: Callable[[], Any]) -> Any:
        """Return the data set of these settings; one thread at a time asks."""
        if not all(one.startswith("dai_lab.") for one in targets(settings)):
            return load()  # a user's own function may give something else each time
        name = json.dumps([by_content(settings), settings.get("root")], sort_keys=True)
        if name not in self.loaded:
            while len(self.loaded) >= self.kept:
                del self.loaded[next(iter(self.loaded))]
            self.loaded[name] = load()
        return self.loaded[name]


def _fits_beside_others(cfg: Mapping[str, Any]) -> bool:
    """Tell whether a run shares a process with others without being changed or slowed."""
    whole = OmegaConf.create(dict(cfg)) if not OmegaConf.is_config(cfg) else cfg
    try:
        compute, engine, tracker = whole["compute"], whole["engine"], whole["tracker"]
        device = str(compute["device"])
        if device == "auto":
            import torch

            here = torch.cuda.is_available() or torch.backends.mps.is_available()
            device = "gpu" if here else "cpu"
        targets = str(engine["_target_"]), str(tracker["_target_"])
        local = targets[0] == "dai_lab.engines.local"
        return (
            device == "cpu"
            and compute["threads"] == 1
            and local
            and targets[1].rpartition(".")[2] not in ALONE
        )
    except Exception:
        return False  # it will say itself what is wrong with it


@contextlib.contextmanager
def _pool(
    threads: int, stop: threading.Event, part: Callable[[], None] | None = None
) -> Iterator[ThreadPoolExecutor]:
    """Lend threads; whatever interrupts us ends what they do after the round they are in.

    Args:
        threads: How many.
        stop: Set when we are interrupted.
        part: Keeps threads from waiting for others that will never come.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException:
        stop.set()
        if part is not None:
            part()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], Any]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm

    with tqdm(total=total, unit="run", leave=False, disable=not shown or None) as bar:
        yield bar.update
