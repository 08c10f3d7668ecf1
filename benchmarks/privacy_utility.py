"""Accuracy against epsilon: whom one trusts, and what that costs.

    python benchmarks/privacy_utility.py [--only fashion_mnist adult records opacus] [--seeds 0 1 2]

Runs go to ``results/privacy_utility`` and are written one by one to ``utility.csv`` and
``opacus.csv`` in ``experiments/privacy_utility``: what is there is not run again. The tables and
the figure of the study's README are made from those files.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab.config import load
from dai_lab.experiment import simulate
from dai_lab.metrics import estimate
from dai_lab.privacy import noise_for
from dai_lab.report.figures import legend, rendered, styles, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    DataFrame = Figure = Any

PLACE = Path(__file__).parent.parent / "experiments" / "privacy_utility"
COLUMNS = ("data", "trust", "target", "seed", "noise", "epsilon", "accuracy")
TARGETS = (1.0, 4.0)
DELTA = 1e-5

CLIENTS, RATE, ROUNDS, FEW = 500, 0.2, 50, 10
SILOS, BATCH = 20, 256

TRUST = {
    "none": "nobody promises anything",
    "central": "a server that sees every update",
    "distributed": "a protocol, and a server that is curious",
    "local": "nobody",
    "record": "the client itself",
}
"""Whom a client trusts with its update."""

COMMON = (
    "model=logistic", "federation.holdout=0", "evaluation.every=1000", f"accounting.delta={DELTA}",
)  # fmt: skip
HELD = {"fashion_mnist": 60_000, "adult": 30_162}

RECORDS = (
    "data=fashion_mnist", "model=tanh_cnn", "frame=centralized", "federation.clients=1",
    "federation.holdout=0", "local=dp_sgd", "local.batch_size=2048", "local.noise=2.17",
    "local.norm=0.1", "local.rate=4", "local.momentum=0.9", "local.keep=true", "rounds=40",
    "evaluation.every=5",
)  # fmt: skip
"""Everything in one place, as the paper that the study is held against."""

OPACUS = {
    7.1: (0.7, 0.25, 1.5, 45, 97.09),
    3.01: (1.1, 0.15, 1.0, 60, 96.78),
    1.19: (1.3, 0.25, 1.5, 15, 94.63),
}
"""From epsilon to noise, rate, norm, epochs and accuracy in %, as Opacus publishes them."""
SHARE, OPACUS_SEEDS = (8, 15), 3
"""Part of the published epochs that is run here, and how many seeds: ten minutes of one core."""


@cache
def noise(target: float, rate: float, times: int, by: str = "pld") -> float:
    """Return the noise multiplier for a budget, rounded up to three digits."""
    found = noise_for(target, delta=DELTA, rate=rate, times=times, by=by)
    return math.ceil(found * 1000) / 1000


def shorter(epochs: int) -> int:
    """Return how many of the published epochs are run."""
    return epochs * SHARE[0] // SHARE[1]


def settings(data: str, trust: str, target: float) -> tuple[tuple[str, ...], float]:
    """Return the overrides of a cell, and its noise."""
    if data == "records":
        return RECORDS, 2.17
    if data == "opacus":
        much, rate, norm, epochs, _ = OPACUS[target]
        return (
            "data=mnist10k", "model=tanh_cnn", "frame=centralized", "federation.clients=1",
            "federation.holdout=0", "evaluation.every=1000", f"accounting.delta={DELTA}",
            "local=dp_sgd", "local.batch_size=240", f"local.noise={much}", f"local.rate={rate}",
            f"local.norm={norm}", f"rounds={shorter(epochs)}",
        ), much  # fmt: skip
    here = (*COMMON, f"data={data}")
    many = (*here, f"federation.clients={CLIENTS}", "local.rate=0.05", "local.batch_size=16")
    joining = (*many, "cohort=poisson", f"cohort.rate={RATE}", f"rounds={ROUNDS}")
    if trust == "none":
        return joining, 0.0
    if trust == "central":
        much = noise(target, RATE, ROUNDS)
        return (*joining, "privacy=central", "privacy.norm=0.5", f"privacy.noise={much}"), much
    if trust == "distributed":
        much = noise(target, 1.0, FEW, "rdp")
        return (
            *many, f"rounds={FEW}", "secagg=ideal", "privacy=distributed_gaussian",
            "privacy.norm=0.5", f"privacy.noise={much}", "privacy.bits=20",
            f"privacy.clients={CLIENTS}",
        ), much  # fmt: skip
    if trust == "local":
        much = noise(target, 1.0, FEW)
        return (
            *many, f"rounds={FEW}", "privacy=local_gaussian", "privacy.norm=0.5",
            f"privacy.noise={much}",
        ), much  # fmt: skip
    held = HELD[data] // SILOS
    much = noise(target, BATCH / held, FEW * math.ceil(held / BATCH))
    return (
        *here, f"federation.clients={SILOS}", f"rounds={FEW}", "local=dp_sgd", "local.norm=0.5",
        f"local.batch_size={BATCH}", "local.rate=0.5", f"local.noise={much}",
    ), much  # fmt: skip


def cells(only: list[str], seeds: list[int]) -> Iterator[tuple[str, str, float, int]]:
    """Name every cell."""
    for data in only:
        for seed in seeds[:OPACUS_SEEDS] if data == "opacus" else seeds:
            if data == "opacus":
                for target in OPACUS:
                    yield data, "record", target, seed
                continue
            if data == "records":
                yield data, "record", 2.4, seed
                continue
            yield data, "none", math.inf, seed
            for trust in list(TRUST)[1:]:
                for target in TARGETS:
                    yield data, trust, target, seed


def file(data: str) -> Path:
    """Say where a part's runs are written."""
    return PLACE / ("opacus.csv" if data == "opacus" else "utility.csv")


def measured(data: str = "fashion_mnist") -> DataFrame:
    """Return what has been measured of a part, and of those that are written beside it."""
    from pandas import read_csv

    return read_csv(file(data))


def spelled(values: list[float], percent: bool = True) -> str:
    """Write numbers of several seeds as their interquartile mean and 95 % interval."""
    found = estimate(values)
    if percent:
        return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{found.value:.2f}"


def table(frame: DataFrame, data: str) -> str:
    """Write one data set's table."""
    here = frame[frame["data"] == data]
    if data == "records":
        rows = [
            "| | epsilon (PLD) | test accuracy, % | each seed, % |",
            "| --- | --- | --- | --- |",
        ]
        seeds = ", ".join(f"{100 * one:.2f}" for one in here.sort_values("seed")["accuracy"])
        rows.append(
            f"| tanh CNN, DP-SGD | {here['epsilon'].max():.3f} | {spelled(list(here['accuracy']))}"
            f"; mean {100 * here['accuracy'].mean():.2f} | {seeds} |"
        )
        return "\n".join(rows)
    if data == "opacus":
        rows = [
            "| noise | rate | norm | epochs, theirs | epsilon, theirs (RDP) | accuracy, theirs, % "
            "| epochs, ours | epsilon, ours (PLD) | accuracy, ours, % |",
            "|" + " --- |" * 9,
        ]
        for target, (*knobs, epochs, accuracy) in OPACUS.items():
            some = here[here["target"] == target]
            numbers = [*knobs, epochs, target, accuracy, shorter(epochs)]
            row = [f"{one:g}" for one in numbers]
            row += [f"{some['epsilon'].max():.2f}", spelled(list(some["accuracy"]))]
            rows.append("| " + " | ".join(row) + " |")
        return "\n".join(rows)
    top = "".join(f" epsilon {one:g} |" for one in TARGETS)
    rows = [f"| trusted |{top}", "| --- |" + " --- |" * len(TARGETS)]
    for trust in list(TRUST)[1:]:
        some = here[here["trust"] == trust]
        row = [trust]
        for target in TARGETS:
            cell = some[some["target"] == target]
            row.append(f"{spelled(list(cell['accuracy']))} (epsilon {cell['epsilon'].max():.2f})")
        rows.append("| " + " | ".join(row) + " |")
    free = spelled(list(here[here["trust"] == "none"]["accuracy"]))
    return "\n".join([*rows, "", f"Without any promise: {free}."])


def filled(text: str, frame: DataFrame) -> str:
    """Put every table in its place in the README."""
    for data in (*HELD, "records", "opacus"):
        body = table(measured(data) if data == "opacus" else frame, data)
        block = re.compile(rf"(<!-- measured: {data} -->\n).*?(<!-- end -->)", re.S)
        text = block.sub(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
    return text


def draw(frame: DataFrame, *, dark: bool = False) -> Figure:
    """Draw accuracy against epsilon, a panel per data set."""
    from matplotlib.figure import Figure as Canvas

    trusts = list(TRUST)[1:]
    looks = dict(zip(trusts, styles(len(trusts), dark=dark), strict=True))
    with theme(dark=dark):
        figure = Canvas(figsize=(10, 3.8), layout="constrained")
        for axes, data in zip(figure.subplots(1, 2), HELD, strict=True):
            here = frame[frame["data"] == data]
            for trust, look in looks.items():
                some = here[here["trust"] == trust].groupby("target")
                places = [float(one["epsilon"].max()) for _, one in some]
                found = [estimate(list(one)) for _, one in some["accuracy"]]
                axes.plot(places, [one.value for one in found], label=trust, **look)
                axes.fill_between(
                    places, [one.low for one in found], [one.high for one in found],
                    color=look["color"], alpha=0.2, linewidth=0,
                )  # fmt: skip
            free = here[here["trust"] == "none"]["accuracy"].mean()
            axes.axhline(free, color="#888888", ls=":", label="no promise")
            axes.set(xscale="log", xlabel="epsilon (delta 1e-5)", ylabel="test accuracy")
            axes.set_xticks(TARGETS, [f"{one:g}" for one in TARGETS])
            axes.set_xticks([], minor=True)
            axes.set_title(data.replace("_", "-"), loc="left")
        legend(figure, {one: one for one in (*trusts, "no promise")}, 10)
    return figure


def main() -> None:
    """Run what is left, then write the README's tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [*HELD, "records", "opacus"]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", default="results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    for at in {file(data) for data in everything}:
        if at.exists():
            with at.open(newline="") as kept:
                done |= {tuple(one[name] for name in COLUMNS[:4]) for one in csv.DictReader(kept)}
    for data, trust, target, seed in cells(asked.only, asked.seeds):
        cell = (data, trust, f"{target:g}", str(seed))
        if cell in done:
            continue
        overrides, much = settings(data, trust, target)
        cfg = load(*overrides, f"seed={seed}", "name=privacy_utility", f"results={asked.results}")
        summary = simulate(cfg, progress=False).summary
        unit = "record" if trust == "record" else "client"
        epsilon = summary.get(f"privacy/{unit}_epsilon", math.inf)
        at = file(data)
        new = not at.exists()
        with at.open("a", newline="") as kept:
            writer = csv.writer(kept, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            accuracy = summary["test_accuracy"]
            writer.writerow([*cell, much, f"{epsilon:.4f}", f"{accuracy:.4f}"])
        print(*cell, much, f"epsilon {epsilon:.3f} accuracy {accuracy:.4f}", flush=True)
        done.add(cell)
    whole = {(d, t, f"{e:g}", str(s)) for d, t, e, s in cells(everything, asked.seeds)}
    if whole - done:
        return print(f"{len(whole - done)} cells are left: no table yet")
    frame, readme = measured(), PLACE / "README.md"
    readme.write_text(filled(readme.read_text(), frame))
    for suffix, dark in (("", False), ("-dark", True)):
        figure = draw(frame, dark=dark)
        (PLACE / f"utility{suffix}.svg").write_bytes(rendered(figure, "svg", dark=dark))


if __name__ == "__main__":
    main()
