"""What a log and its anchor add to a round, by number of clients, size of model, and chain.

    python benchmarks/provenance_cost.py [--seeds 0 1 2 3 4] [--anvil path/to/anvil]

Ratios are added to ``experiments/provenance_cost/cost.csv``, a line for each setting and seed: what
is there is not measured again. The table and the figure of the study's README are made from it.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["DAI_LAB_KEYS"] = tempfile.mkdtemp(prefix="dai-lab-keys-")

from benchmarks.chain import KEY, node
from benchmarks.ledger import rounds
from dai_lab.config import load
from dai_lab.core import Compute
from dai_lab.experiment.machine import keep_memory
from dai_lab.experiment.simulate import founded
from dai_lab.metrics import estimate
from dai_lab.report.figures import ON_DARK, ON_LIGHT, rendered, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    DataFrame = Figure = Any

PLACE = Path(__file__).parent.parent / "experiments" / "provenance_cost"
COLUMNS = ("model", "parameters", "clients", "chain", "seed", "time", "processor", "bytes")

CLIENTS = (10, 30, 100)
CELLS = [
    *((model, clients, "embedded") for model in ("logistic", "mlp") for clients in CLIENTS),
    ("small_cnn", 10, "embedded"),
    ("small_cnn", 30, "embedded"),
    ("mlp", 100, "anvil"),
    ("small_cnn", 10, "anvil"),
    ("mlp", 100, "none"),
]
"""Model, clients, and where the log is anchored."""

ROUNDS = {"small_cnn": 4}
"""Rounds that are played, the first of which does not count; 9 unless said."""


def cost(model: str, clients: int, chain: str, seed: int, url: str | None) -> list[float]:
    """Play rounds with a log and without in turn; return ratios, and the log's bytes a round."""
    count = ROUNDS.get(model, 9)
    settings = (f"model={model}", f"federation.clients={clients}", f"seed={seed}")
    anchored = {"embedded": (), "anvil": ("chain=rpc", f"chain.url={url}"), "none": ("chain=none",)}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        plays = {}
        for ledger, more in (("none", ()), ("local", anchored[chain])):
            folder = Path(place, ledger)
            folder.mkdir()
            plays[ledger] = rounds(
                (*settings, *more), count, ledger=ledger, folder=folder, stack=stack
            )
        spent = [{one: next(each) for one, each in plays.items()} for _ in range(count)]
        names = [*Path(place, "local").glob("ledger*"), *Path(place, "local").glob("chain.jsonl")]
        size = sum(one.stat().st_size for one in names)
    # The first round compiles, and registers everybody's data.
    ratios = [
        median(one["local"][which] for one in spent[1:])
        / median(one["none"][which] for one in spent[1:])
        for which in (0, 1)
    ]
    return [*ratios, size / count]


def measured() -> DataFrame:
    """Read what was measured."""
    from pandas import DataFrame, read_csv

    path = PLACE / "cost.csv"
    return read_csv(path) if path.exists() else DataFrame(columns=list(COLUMNS))


def percent(ratios: list[float]) -> str:
    """Write what is added, with its interval."""
    found = estimate([100 * (one - 1) for one in ratios])
    return f"{found.value:.1f} % [{found.low:.1f}, {found.high:.1f}]"


def table(frame: DataFrame) -> str:
    """Write what a log adds to a round."""
    lines = [
        "| model | clients | anchored | added to a round's time | to its processor time | "
        "bytes of log a round |",
        "|" + " --- |" * 6,
    ]
    for model, clients, chain in CELLS:
        some = frame[
            (frame["model"] == model) & (frame["clients"] == clients) & (frame["chain"] == chain)
        ]
        if len(some):
            size = f"{int(some['parameters'].iloc[0]):,}"
            added = [percent(list(some[one])) for one in ("time", "processor")]
            kept = f"{some['bytes'].median():,.0f}"
            lines.append(
                f"| {model}, {size} | {clients} | {chain} | {' | '.join(added)} | {kept} |"
            )
    return "\n".join(lines)


BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, frame: DataFrame) -> str:
    """Put the table into a README, between its comments."""
    return BLOCK.sub(lambda found: f"{found[1]}{table(frame)}\n{found[4]}", text)


def draw(frame: DataFrame, *, dark: bool = False) -> Figure:
    """Draw processor time that is added, by number of clients."""
    from matplotlib.figure import Figure as Canvas

    with theme(dark=dark):
        figure = Canvas(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        here = frame[frame["chain"] == "embedded"]
        for color, mark, (model, some) in zip(
            ON_DARK if dark else ON_LIGHT, "os^", here.groupby("model", sort=False), strict=False
        ):
            found = [
                (clients, estimate([100 * (one - 1) for one in each["processor"]]))
                for clients, each in some.groupby("clients")
            ]
            at, middle = [one for one, _ in found], [one.value for _, one in found]
            axes.plot(at, middle, f"{mark}-", color=color, label=model)
            low, high = [one.low for _, one in found], [one.high for _, one in found]
            axes.fill_between(at, low, high, color=color, alpha=0.2)
        axes.axhline(3, color="gray", ls=":", lw=1)
        axes.set(xscale="log", xlabel="clients a round", ylabel="added processor time (%)")
        axes.set_xticks(CLIENTS, [str(one) for one in CLIENTS])
        axes.legend()
    return figure


def main() -> None:
    """Measure what is left, then write the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--anvil", default=".venv/anvil/node_modules/.bin/anvil")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    frame, sizes = measured(), dict[str, int]()
    done = {*zip(*(frame[one] for one in COLUMNS[:1] + COLUMNS[2:5]), strict=True)}
    with ExitStack() as stack:
        url = None
        for seed in asked.seeds:
            for model, clients, chain in CELLS:
                if (model, clients, chain, seed) in done:
                    continue
                if chain == "anvil" and url is None:
                    os.environ["DAI_LAB_CHAIN_KEY"] = KEY
                    url = stack.enter_context(node(asked.anvil))
                if model not in sizes:
                    cfg = load("data=mnist10k", f"model={model}")
                    plain: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
                    sizes[model] = founded(plain, Compute()).task.model.params
                found = [f"{one:.5g}" for one in cost(model, clients, chain, seed, url)]
                path = PLACE / "cost.csv"
                new = not path.exists()
                with path.open("a", newline="") as file:
                    row = (model, sizes[model], clients, chain, seed, *found)
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerows([*([COLUMNS] if new else []), row])
                print(*row, flush=True)
    readme, frame = PLACE / "README.md", measured()
    readme.write_text(filled(readme.read_text(), frame))
    for suffix, dark in (("", False), ("-dark", True)):
        figure = draw(frame, dark=dark)
        (PLACE / f"cost{suffix}.svg").write_bytes(rendered(figure, "svg", dark=dark))


if __name__ == "__main__":
    main()
