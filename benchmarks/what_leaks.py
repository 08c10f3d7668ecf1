"""What a curious server reads in an update: pictures, behind sums of more and more clients.

    python benchmarks/what_leaks.py [--only mnist10k] [--seeds 0 1 2 3 4]

Every client holds one picture and sends one gradient; behind more than one client it goes through
a real secure sum. Cells are written to ``experiments/what_leaks/leaks.csv`` one by one: what is
there is not attacked again. The tables and figures of the study's README are made from that file,
and from the pictures of the first seed, which are kept beside it.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab import data
from dai_lab.config import build, load
from dai_lab.core import Dataset, Key, Model, Rows, Vector
from dai_lab.metrics import estimate
from dai_lab.models import create, mlp
from dai_lab.privacy import shortened
from dai_lab.privacy.audits import inversion, labels, pictures
from dai_lab.report.figures import legend, rendered, styles, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    DataFrame = Figure = Any

PLACE = Path(__file__).parent.parent / "experiments" / "what_leaks"
COLUMNS = ("data", "attack", "clients", "guard", "seed", "psnr", "ssim", "labels", "distance")
NORM = 1.0
GUARDS = {
    "none": (math.inf, 0.0), "clip": (NORM, 0.0), "noise 0.1": (NORM, 0.1),
    "noise 1": (NORM, 1.0),
}  # fmt: skip
"""Length to which a client shortens its gradient; noise in the sum over that length."""

CELLS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "mnist10k": ((1, 2, 5, 20), tuple(GUARDS)),
    "fashion_mnist": ((1, 20), ("none", "noise 1")),
}
"""How many clients are summed, and what guards them."""

ATTACKS = ("deep_leakage", "cosine", "analytic", "mean picture")
STEPS = {"deep_leakage": 100, "cosine": 200}
SHOWN = 3
"""Pictures of a sum that are kept."""


def lenet(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Build the network of Zhu et al. 2019 (strides, no pooling), with tanh for its sigmoid."""
    side = -(-shape[1] // 4)
    return nn.Sequential(
        nn.Conv2d(shape[0], 12, 5, stride=2, padding=2), nn.Tanh(),
        nn.Conv2d(12, 12, 5, stride=2, padding=2), nn.Tanh(),
        nn.Conv2d(12, 12, 5, padding=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(12 * side * side, classes),
    )  # fmt: skip


@cache
def dataset(name: str) -> Dataset:
    found: Dataset = {"mnist10k": data.mnist10k, "fashion_mnist": data.fashion_mnist}[name]()
    return found


def sent(model: Model, inputs: Tensor, targets: Tensor, norm: float) -> Rows:
    """Compute what clients send that hold one picture each, as clients do: one by one."""
    rows = []
    for one in range(len(inputs)):
        point = model.initial.clone().requires_grad_()
        loss = model.loss(model(point, inputs[one : one + 1]), targets[one : one + 1]).mean()
        rows.append(torch.autograd.grad(loss, point)[0])
    return shortened(torch.stack(rows), norm)


def arrived(rows: Rows, noise: float, norm: float, key: Key) -> Vector:
    """Give what the server sees: the mean behind a secure sum, with noise that was in the sum."""
    count = len(rows)
    if count == 1:
        seen = rows[0]
    else:
        # Entries of a gradient that nobody shortened may be longer than the usual 1.
        clip = max(1.0, float(rows.abs().max()))
        settings = load("secagg=pairwise", f"secagg.clip={clip}").secagg
        visible = build(settings, at="secagg")(
            rows, torch.ones(count), clients=tuple(range(count)), key=key / "secagg"
        )
        assert visible.count == 1
        seen = visible.rows[0]
    if noise:
        drawn = torch.randn(len(seen), generator=(key / "noise").stream())
        seen = seen + noise * norm / count * drawn
    return seen


def attacked(
    name: str, attack: str, clients: int, guard: str, seed: int
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Play a cell; return its numbers, the originals, and what was made of each of them."""
    from_whom, key = dataset(name), Key(seed) / "what_leaks"
    norm, noise = GUARDS[guard]
    held = torch.randperm(len(from_whom.train), generator=(key / "held").stream())[:clients]
    real, targets = from_whom.train.inputs[held], from_whom.train.targets[held]
    shape, (low, high) = from_whom.shape, _range(name)
    network = mlp if attack == "analytic" else lenet
    model = create(network, shape=shape, classes=10, key=key / "model")
    place = key / clients / guard
    seen = arrived(sent(model, real, targets, norm), noise, norm, place)
    known = {"shape": shape, "key": place / "attack"}
    read = labels.labels(
        labels.counts(
            model, model.initial, seen, examples=clients, clipped=norm < math.inf, **known
        )
    )
    distance = math.nan
    if attack == "mean picture":
        found = from_whom.test.inputs.mean(0).expand_as(real)
    elif attack == "analytic":
        found = inversion.analytic(model, seen, shape=shape).expand_as(real)
    else:
        search: Callable[..., inversion.Recovered] = {
            "deep_leakage": partial(inversion.deep_leakage, examples=clients, norm=norm),
            # A direction says little about lengths: cosine is left without them, which is faster.
            "cosine": partial(inversion.cosine, labels=read, low=low, high=high),
        }[attack]
        ended = search(
            model, model.initial, seen, clients=clients, iterations=STEPS[attack], **known
        )
        found, read, distance = ended.inputs, ended.labels, ended.distance
    real, found = (pictures.scaled(one, low=low, high=high) for one in (real, found))
    here, there = pictures.matched(found, real)
    pairs = found[here], real[there]
    numbers = {
        "psnr": float(pictures.psnr(*pairs).mean()),
        "ssim": float(pictures.ssim(*pairs).mean()),
        "labels": labels.label_accuracy(read, targets),
        "distance": distance,
    }
    return numbers, real[there], found[here]


@cache
def _range(name: str) -> tuple[float, float]:
    inputs = dataset(name).test.inputs
    return float(inputs.min()), float(inputs.max())


def cells(names: list[str], seeds: list[int]) -> Iterator[tuple[str, str, int, str, int]]:
    """List what there is to attack, seed by seed."""
    for seed in seeds:
        for name in names:
            for clients, guard, attack in product(*CELLS[name], ATTACKS):
                if attack != "mean picture" or guard == "none":  # it does not look
                    yield name, attack, clients, guard, seed


def kept() -> list[dict[str, str]]:
    """Return what has been attacked."""
    path = PLACE / "leaks.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def table(name: str, frame: DataFrame) -> str:
    """Write what came out for a data set as a Markdown table."""
    here = frame[frame["data"] == name]
    lines = ["| clients | guard | attack | PSNR, dB | SSIM | labels found |", "|" + " --- |" * 6]
    for (clients, guard, attack), cell in here.groupby(["clients", "guard", "attack"], sort=False):
        blind = attack == "mean picture"
        parts = [f"{estimate(list(cell['psnr'])):.1f}", f"{estimate(list(cell['ssim'])):.2f}"]
        parts.append("" if blind else f"{estimate(list(cell['labels'])):.2f}")
        named = "the mean picture, without a look" if blind else f"`{attack}`"
        lines.append(f"| {clients} | {'' if blind else guard} | {named} | {' | '.join(parts)} |")
    return "\n".join(lines)


BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, frame: DataFrame) -> str:
    """Put the tables into a README, between their comments."""
    return BLOCK.sub(lambda found: f"{found[1]}{table(found[2], frame)}\n{found[4]}", text)


def leaks() -> DataFrame:
    """Return what has been measured, as numbers."""
    from pandas import read_csv

    order = [*map(tuple, cells(list(CELLS), [0]))]
    found = read_csv(PLACE / "leaks.csv", keep_default_na=False, na_values={"distance": ["nan"]})
    place = {one[:4]: at for at, one in enumerate(order)}
    keys = [
        place[one] for one in zip(*(found[name] for name in COLUMNS[:4]), strict=True)
    ]  # fmt: skip
    return found.assign(order=keys).sort_values(["order", "seed"], ignore_index=True)


def draw(frame: DataFrame, *, dark: bool = False) -> Figure:
    """Draw how close pictures came against the clients in a sum, a panel per attack."""
    from matplotlib.figure import Figure as Canvas

    here = frame[frame["data"] == "mnist10k"]
    sums = CELLS["mnist10k"][0]
    looks = dict(zip(GUARDS, styles(len(GUARDS), dark=dark), strict=True))
    blind = here[here["attack"] == "mean picture"].groupby("clients")["psnr"]
    with theme(dark=dark):
        figure = Canvas(figsize=(11, 3.7), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, attack in zip(panels, ATTACKS[:3], strict=True):
            for guard, look in looks.items():
                some = here[(here["attack"] == attack) & (here["guard"] == guard)]
                found = [(at, estimate(list(one))) for at, one in some.groupby("clients")["psnr"]]
                places = [at for at, _ in found]
                axes.plot(places, [one.value for _, one in found], label=guard, **look)
                axes.fill_between(
                    places, [one.low for _, one in found], [one.high for _, one in found],
                    color=look["color"], alpha=0.2, linewidth=0,
                )  # fmt: skip
            guess = [(at, estimate(list(one)).value) for at, one in blind]
            axes.plot(*zip(*guess, strict=True), color="#888888", ls=":", label="mean picture")
            axes.set(xscale="log", xlabel="clients in the sum")
            axes.set_xticks(sums, [str(one) for one in sums])
            axes.set_xticks([], minor=True)
            axes.set_title(attack, loc="left")
        # A picture that is exact to rounding is at 150, which would flatten all the others.
        panels[0].set(ylabel="PSNR, dB", ylim=(0, 70))
        legend(figure, {one: one for one in (*GUARDS, "mean picture")}, 11)
    return figure


def look(kept_pictures: Mapping[str, Any], frame: DataFrame, name: str, *, dark: bool) -> Figure:
    """Draw the first seed's pictures beside what the cosine attack made of them."""
    panels: dict[str, dict[str, Tensor]] = {}
    notes = {}
    for clients in CELLS[name][0]:
        title = "one client" if clients == 1 else f"{clients} clients in the sum"
        rows = {}
        for guard in CELLS[name][1]:
            place = f"{name}/cosine/{clients}/{guard}"
            for row, what in {"original": "real", guard: "found"}.items():
                rows[row] = torch.from_numpy(kept_pictures[f"{place}/{what}"]).float() / 255
            cell = frame[
                (frame["data"] == name) & (frame["attack"] == "cosine") & (frame["seed"] == 0)
                & (frame["clients"] == clients) & (frame["guard"] == guard)
            ]  # fmt: skip
            notes[title, guard] = f"{cell['psnr'].iloc[0]:.1f} dB"
        panels[title] = {"original": rows.pop("original"), **rows}
    return pictures.beside(panels, notes=notes, dark=dark)


def main() -> None:
    """Attack what is left, then write the README's tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done = {tuple(one[name] for name in COLUMNS[:5]) for one in kept()}
    table_at, pictures_at = PLACE / "leaks.csv", PLACE / "pictures.npz"
    seen = dict(np.load(pictures_at, allow_pickle=False)) if pictures_at.exists() else {}
    for cell in cells(asked.only, asked.seeds):
        if tuple(map(str, cell)) in done:
            continue
        numbers, real, found = attacked(*cell)
        if cell[-1] == 0 and cell[1] == "cosine":
            for what, some in {"real": real, "found": found}.items():
                whole = (some[:SHOWN] * 255).round().byte().numpy()
                seen["/".join(map(str, (*cell[:4], what)))] = whole
            np.savez_compressed(pictures_at, **seen)
        new = not table_at.exists()
        with table_at.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow([*cell, *(f"{one:.4g}" for one in numbers.values())])
        print(*cell, *(f"{name} {one:.3g}" for name, one in numbers.items()), flush=True)
    done = {tuple(one[name] for name in COLUMNS[:5]) for one in kept()}
    if any(tuple(map(str, cell)) not in done for cell in cells(list(CELLS), asked.seeds)):
        return print("some cells are left: no table yet")
    frame, readme = leaks(), PLACE / "README.md"
    readme.write_text(filled(readme.read_text(), frame))
    for suffix, dark in (("", False), ("-dark", True)):
        figures = {"leaks": draw(frame, dark=dark)}
        figures |= {f"pictures-{one}": look(seen, frame, one, dark=dark) for one in CELLS}
        for name, figure in figures.items():
            (PLACE / f"{name}{suffix}.svg").write_bytes(rendered(figure, "svg", dark=dark))


if __name__ == "__main__":
    main()
