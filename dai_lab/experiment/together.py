"""Many small runs in one process: they share what they load, and every core is at work."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from omegaconf import OmegaConf

from dai_lab.config import by_content, targets
from dai_lab.experiment.machine import one_setting_of_threads
from dai_lab.experiment.simulate import Result, placed

ALONE = ("wandb",)
"""Trackers that know only one run at a time in a process."""


def simulate_together(
    cfgs: Sequence[Mapping[str, Any]], *, threads: int = 0, progress: bool = True
) -> list[Result | Exception]:
    """Run many experiments, each into its own folder, with the results it would have alone.

    Whatever they have in common is loaded once: the packages, the compiled code, the data. Runs
    of one compute thread on a CPU go side by side, for compiled training needs no Python; the
    others follow one by one.

    Args:
        cfgs: Composed experiments, from :func:`dai_lab.config.load` or the command line.
        threads: Runs side by side at most; 0 is one a core.
        progress: Show how many are done, where there is a terminal or notebook to show it on.

    Returns:
        For each experiment its result, or the exception that ended it.

    Raises:
        ValueError: A negative number of threads.
    """
    if threads < 0:
        raise ValueError(f"threads must be 0 (one a core) or more, got {threads}")
    ends: dict[int, Result | Exception] = {}
    stop, shared = threading.Event(), Shared()

    def one(at: int) -> None:
        try:
            ends[at] = placed(cfgs[at], progress=False, data=shared, stop=stop)
        except Exception as error:
            ends[at] = error

    beside = [at for at, cfg in enumerate(cfgs) if _fits_beside_others(cfg)]
    after = [at for at in range(len(cfgs)) if at not in set(beside)]
    with one_setting_of_threads(), _bar(len(cfgs), progress) as tick:
        with _pool(threads or os.cpu_count() or 1, stop) as pool:
            for done in as_completed([pool.submit(one, at) for at in beside]):
                done.result()
                tick()
        for at in after:
            one(at)
            tick()
    return [ends[at] for at in range(len(cfgs))]


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
def _pool(threads: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Lend threads; whatever interrupts us ends what they do after the round they are in."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException:
        stop.set()
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
