"""What is promised and what an audit shows of it, mechanism by mechanism; and LiRA against epsilon.

    python benchmarks/audits.py [--only audit lira] [--seeds 0 1 2 3 4]

Runs are written to ``experiments/audit/audit.csv`` one by one, shadow models to ``lira.csv`` and
``curves.npz``: what is there is not run again. The tables and figures of the study's README are
made from those files.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab import data
from dai_lab.config import load
from dai_lab.core import Compute, Examples, Key, LocalTraining
from dai_lab.experiment import simulate
from dai_lab.learning import dp_sgd, sgd
from dai_lab.metrics import estimate
from dai_lab.models import create, mlp
from dai_lab.privacy import noise_for
from dai_lab.privacy.audits import Roc, auc, confidences, draw_roc, leave_one_out, roc, tprs_at
from dai_lab.privacy.audits.shadows import shadows
from dai_lab.report.figures import ON_DARK, ON_LIGHT, rendered, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    DataFrame = Figure = Any

PLACE = Path(__file__).parent.parent / "experiments" / "audit"
COLUMNS = ("level", "run", "seed", "upper", "lower", "accuracy")
LIRA_COLUMNS = ("training", "target", "tpr", "auc", "accuracy")

CLIENT = (
    "data=mnist10k", "model=logistic", "federation.clients=10", "federation.holdout=0",
    "audit.clients=1000", "rounds=4", "evaluation.every=1000",
)  # fmt: skip
RECORD = (
    "data=digits", "frame=centralized", "model=mlp", "federation.holdout=0",
    "audit.records=1000", "local.epochs=5", "local.batch_size=64", "rounds=12",
    "evaluation.every=1000",
)  # fmt: skip
SUMMED = ("secagg=ideal", "privacy.clients=500")
"""Half of the planted clients are there, give or take."""

SOUND, BROKEN, HALF = "sound", "broken", "half"


@dataclass(frozen=True)
class Cell:
    """A run that is audited, and whether its promise is true."""

    level: str
    settings: tuple[str, ...]
    kind: str = SOUND


def private(level: str, *settings: str) -> Cell:
    return Cell(level, (*(CLIENT if level == "client" else RECORD), *settings))


def untrue(kind: str, *settings: str) -> Cell:
    return Cell("client", (*CLIENT, *settings), kind)


CELLS: Mapping[str, Cell] = {
    "central, noise 0.5": private("client", "privacy=central", "privacy.noise=0.5"),
    "central, noise 1": private("client", "privacy=central", "privacy.noise=1"),
    "central, noise 2": private("client", "privacy=central", "privacy.noise=2"),
    "adaptive, noise 1": private(
        "client", "privacy=adaptive", "privacy.noise=1", "privacy.blur=10"
    ),
    "distributed_gaussian, noise 1": private("client", "privacy=distributed_gaussian", *SUMMED),
    "skellam, noise 1": private("client", "privacy=skellam", *SUMMED),
    "local_gaussian, noise 1": private("client", "privacy=local_gaussian"),
    "private_unit, epsilon 4 a round": private("client", "privacy=private_unit"),
    "all noise left out": untrue(BROKEN, "privacy=unsound", "privacy.of.noise=6"),
    "sampling only claimed": untrue(
        BROKEN, "privacy=central", "cohort=uniform", "accounting.claimed=0.01"
    ),
    "half the noise left out": untrue(
        HALF, "privacy=unsound", "privacy.of.noise=2", "privacy.share=0.5"
    ),
    "sgd": private("record", "local=sgd", "local.rate=0.3"),
    "dp_sgd, noise 0.7": private("record", "local=dp_sgd", "local.rate=1", "local.noise=0.7"),
    "dp_sgd, noise 1.5": private("record", "local=dp_sgd", "local.rate=1", "local.noise=1.5"),
}

MODELS, POOL, BATCH, EPOCHS, DELTA = 32, 2000, 100, 20, 1e-5
FPR = 0.001
ALARMS = (*range(10), *np.unique(np.geomspace(10, POOL // 2, 40).round().astype(int)).tolist())
"""Numbers of false alarms at which curves are kept."""


def audited(name: str, seed: int) -> dict[str, float]:
    """Run a cell and return what was promised, what an audit refutes, and the accuracy."""
    cell = CELLS[name]
    with TemporaryDirectory() as place:
        cfg = load(*cell.settings, f"seed={seed}", f"results={place}")
        found = simulate(cfg, progress=False).summary
    upper = found.get(f"privacy/{cell.level}_epsilon")
    return {
        "upper": math.inf if upper is None else float(upper),
        "lower": float(found[f"audit/{cell.level}_epsilon"]),
        "accuracy": float(found["test_accuracy"]),
    }


def trainings() -> dict[str, LocalTraining]:
    """Give what shadow models are trained by, from no privacy to much."""
    held = POOL // 2
    bounded = partial(dp_sgd, rate=0.5, batch_size=BATCH, epochs=EPOCHS, norm=1.0)
    steps = EPOCHS * held // BATCH
    found: dict[str, LocalTraining] = {
        "sgd": partial(sgd, rate=0.2, batch_size=BATCH, epochs=2 * EPOCHS),
        "dp_sgd, no noise": partial(bounded, noise=0.0),
    }
    for epsilon in (8.0, 1.0):
        noise = noise_for(epsilon, delta=DELTA, rate=BATCH / held, times=steps)
        found[f"dp_sgd, ε = {epsilon:g}"] = partial(bounded, noise=noise)
    return found


def attacked(local: LocalTraining) -> tuple[list[dict[str, float]], list[list[int]]]:
    """Attack each shadow model by the others; return its numbers, and hits by false alarms."""
    digits, key = data.mnist10k(), Key(0) / "lira"
    places = torch.randperm(len(digits.train), generator=(key / "pool").stream())[:POOL]
    pool = Examples(digits.train.inputs[places], digits.train.targets[places])
    model = create(
        partial(mlp, hidden=[50]), shape=digits.shape, classes=10, key=key / "model"
    )  # fmt: skip
    trained = shadows(
        local, model, pool, count=MODELS, key=key / "shadows", compute=Compute()
    )  # fmt: skip
    members = trained.members.numpy()
    scores = leave_one_out(confidences(model, trained.rows, pool).numpy(), members)
    found = tprs_at(scores, members, fpr=FPR)
    numbers, curves = [], []
    for at, row in enumerate(trained.rows):
        right = model(row, digits.test.inputs).argmax(1) == digits.test.targets
        numbers.append({
            "tpr": float(found[at]), "auc": auc(scores[at], members[at]),
            "accuracy": float(right.float().mean()),
        })  # fmt: skip
        points = roc(scores[at], members[at])
        alarms = np.rint(points.fpr * (~members[at]).sum())
        last = np.searchsorted(alarms, ALARMS, side="right") - 1
        curves.append(np.rint(points.tpr[last] * members[at].sum()).astype(int).tolist())
    return numbers, curves


def cells(seeds: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """List what there is to run, seed by seed."""
    for seed in seeds:
        for name, cell in CELLS.items():
            yield cell.level, name, seed


def kept(name: str) -> DataFrame:
    """Return what has been measured, in the order of the tables."""
    from pandas import DataFrame, read_csv

    path, columns = PLACE / f"{name}.csv", COLUMNS if name == "audit" else LIRA_COLUMNS
    if not path.exists():
        return DataFrame(columns=[*columns])
    found = read_csv(path)
    if name == "audit":
        order = {run: at for at, run in enumerate(CELLS)}
        found = found.assign(order=found["run"].map(order))
        found = found.sort_values(["order", "seed"], ignore_index=True).drop(columns="order")
        found = found.assign(caught=found["lower"] > found["upper"])
    return found


def table(name: str) -> str:
    """Write what came out as a Markdown table."""
    frame = kept("lira" if name == "lira" else "audit")
    if name == "lira":
        lines = ["| training | found at 0.1 % | AUC | test accuracy |", "|" + " --- |" * 4]
        for training, some in frame.groupby("training", sort=False):
            parts = [f"{estimate(list(some[one])):.3f}" for one in ("tpr", "auc", "accuracy")]
            lines.append(f"| {training} | {' | '.join(parts)} |")
        return "\n".join(lines)
    lines = ["| run | promised ε | shown ε | caught |", "|" + " --- |" * 4]
    for run, some in frame[frame["level"] == name].groupby("run", sort=False):
        marked = {SOUND: "", BROKEN: "**untrue:** ", HALF: "**untrue:** "}[CELLS[str(run)].kind]
        # Who promises nothing cannot be caught.
        finite = math.isfinite(max(some["upper"]))
        caught = f"{int(some['caught'].sum())} of {len(some)}" if finite else ""
        lower = f"{estimate(list(some['lower'])):.2f}"
        lines.append(f"| {marked}{run} | {promised(list(some['upper']))} | {lower} | {caught} |")
    return "\n".join(lines)


def promised(uppers: Sequence[float]) -> str:
    """Write an upper bound, with its range where it depends on who was there."""
    low, high = f"{min(uppers):.2f}", f"{max(uppers):.2f}"
    if low == "inf":
        return "nothing"
    return low if low == high else f"{low} to {high}"


BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Put the tables into a README, between their comments."""
    return BLOCK.sub(lambda found: f"{found[1]}{table(found[2])}\n{found[4]}", text)


def draw(frame: DataFrame, *, dark: bool = False) -> Figure:
    """Draw what is promised beside what is shown, a line a run."""
    from matplotlib.figure import Figure as Canvas

    blue, orange, green = (ON_DARK if dark else ON_LIGHT)[:3]
    with theme(dark=dark):
        figure = Canvas(figsize=(8, 5.2), layout="constrained")
        axes = figure.subplots()
        names = [run for run in CELLS if (frame["run"] == run).any()]
        for at, run in enumerate(names):
            some = frame[frame["run"] == run]
            upper, lower = list(some["upper"]), estimate(list(some["lower"]))
            true = CELLS[run].kind == SOUND
            color = blue if true else orange
            first = LEAST if lower.low <= LEAST else lower.low
            axes.plot([first, max(lower.high, LEAST)], [at, at], color=color, lw=5, alpha=0.35)
            # What is not above 0 stands at the left border, as an arrow that points out.
            beyond = lower.value <= LEAST
            axes.plot(max(lower.value, LEAST), at, "<" if beyond else "o", color=color, ms=6)
            if math.isfinite(max(upper)):
                axes.plot(float(np.median(upper)), at, "|", color=green, ms=16, mew=2.5)
        for mark, color, label in (
            ("o", blue, "shown by the audit"), ("o", orange, "shown, where the promise is untrue"),
            ("|", green, "promised"),
        ):  # fmt: skip
            axes.plot([], [], mark, color=color, ms=8, mew=2, label=label)
        axes.set(xscale="log", xlim=(LEAST * 0.9, 60), xlabel="ε at δ = 1e-5")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=3)
    return figure


LEAST = 0.1
"""Smallest epsilon that is drawn."""


def draw_curves(*, dark: bool = False) -> Figure:
    """Draw LiRA's curves, each the mean over targets with their middle 80 %."""
    with np.load(PLACE / "curves.npz", allow_pickle=False) as found:
        half = POOL // 2
        fpr = np.array(ALARMS) / half
        curves = {
            str(name): [Roc(fpr, row / half, np.full(len(row), np.nan)) for row in rows]
            for name, rows in zip(found["trainings"], found["hits"], strict=True)
        }
    return draw_roc(curves, least=5e-4, dark=dark)


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Add rows to a table, and its heading to a new one."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([*([columns] if new else []), *rows])


def main() -> None:
    """Run what is left, then write the README's tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=["audit", "lira"], default=["audit", "lira"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    frame = kept("audit")
    done = {*zip(frame["run"], frame["seed"], strict=True)}
    for level, name, seed in cells(asked.seeds) if "audit" in asked.only else ():
        if (name, seed) not in done:
            found = [f"{one:.4g}" for one in audited(name, seed).values()]
            write(PLACE / "audit.csv", COLUMNS, [[level, name, seed, *found]])
            print(level, name, seed, *found, flush=True)
    if "lira" in asked.only and not (PLACE / "curves.npz").exists():
        rows, hits = [], []
        for name, local in trainings().items():
            numbers, curves = attacked(local)
            hits.append(curves)
            for at, one in enumerate(numbers):
                rows.append([name, at, *(f"{number:.4g}" for number in one.values())])
            print(name, *(estimate([one[what] for one in numbers]) for what in ("tpr", "auc")))
        write(PLACE / "lira.csv", LIRA_COLUMNS, rows)
        np.savez_compressed(
            PLACE / "curves.npz", trainings=[*trainings()], hits=np.array(hits, dtype=np.uint16)
        )
    readme, frame = PLACE / "README.md", kept("audit")
    readme.write_text(filled(readme.read_text()))
    for suffix, dark in (("", False), ("-dark", True)):
        figures = {"audit": draw(frame, dark=dark), "roc": draw_curves(dark=dark)}
        for name, figure in figures.items():
            (PLACE / f"{name}{suffix}.svg").write_bytes(rendered(figure, "svg", dark=dark))


if __name__ == "__main__":
    main()
