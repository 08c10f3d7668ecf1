"""A tenth of the Byzantine grid, drawn by lot, beside the same cells in ByzFL's own loop.

    python benchmarks/byzantine.py [--share 0.1] [--cells 6] [--steps 200]

Both train the same network from the same first weights on the same clients' examples, one compute
thread each, and take turns: one cell here, the same cell there. Ours is what a user gets, with
records, checkpoints and a summary on disk; ByzFL's writes nothing. The ratio is of total time.
Cells come in whole sets of seeds, so that accuracies have intervals: of the difference, paired by
seed. Attacks that ByzFL has not are no candidates; where its attack is another one, or so few cells
were asked for that there is one seed, the difference is shown and not judged.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.peers.byzfl_ import ATTACKS, ELSEWHERE, network, train  # noqa: E402
from dai_lab.config import build, load  # noqa: E402
from dai_lab.core import Key  # noqa: E402
from dai_lab.experiment import simulate  # noqa: E402
from dai_lab.experiment.plans import Cell, cells  # noqa: E402
from dai_lab.metrics import difference, estimate  # noqa: E402

ENOUGH = 0.02
"""Accuracies this close are the same, whatever the seeds say: both draw their own batches."""


def drawn(every: list[Cell], share: float, count: int | None, seed: int) -> list[Cell]:
    """Draw cells by lot, as whole sets of seeds where there are that many."""
    able = sorted((one for one in every if one.attack in ATTACKS), key=by_name)
    sets = [list(some) for _, some in groupby(able, key=by_name)]
    random.Random(seed).shuffle(sets)
    wanted = round(share * len(every)) if count is None else count
    found: list[Cell] = []
    for some in sets:
        if len(found) < wanted and known(some[0]):
            found += some
    return found[:wanted]


def by_name(cell: Cell) -> str:
    return cell.name


def known(cell: Cell) -> bool:
    """Tell whether the parts a cell names are there."""
    try:
        load(*cell.words)
    except Exception as gone:
        print(f"left out: {cell.name}: {' '.join(str(gone).split())[:80]}", file=sys.stderr)
        return False
    return True


def ours(cfg: Any) -> tuple[list[float], float, Path]:
    """Run a cell as a user does; return its accuracies, seconds and folder."""
    began = time.perf_counter()
    folder = simulate(cfg, progress=False).folder
    seconds = time.perf_counter() - began
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [row["test_accuracy"] for row in rows if "test_accuracy" in row], seconds, folder


def theirs(cfg: Any, cell: Cell, copied: int) -> tuple[list[float], float]:
    """Run the same cell in ByzFL, on the very examples our clients hold."""
    from dai_lab.models import create

    key = Key(cfg.seed)
    f = cfg.federation.hostile
    dealt = build(cfg.partition, at="partition")(
        build(cfg.data, at="data")(), clients=cfg.federation.clients - f, key=key / "partition"
    )
    data = dealt.data
    ours = create(
        build(cfg.model, at="model"), shape=data.shape, classes=data.classes, key=key / "model"
    )
    first = ours.views(ours.initial)
    sizes = [ours.shapes[0][1], *(shape[0] for shape in ours.shapes[::2])]
    name = network(sizes, first)
    inputs, targets = data.train.inputs, data.train.targets
    held = [dealt.shards[one] for one in range(len(dealt.shards))]
    ATTACKS["mimic"] = ("Mimic", {"epsilon": copied})
    return train(
        [(inputs[one], targets[one]) for one in held],
        (data.test.inputs, data.test.targets),
        model=name,
        attack=cell.attack,
        aggregator=cell.aggregator,
        f=f,
        steps=cfg.rounds,
        every=cfg.evaluation.every,
        rate=cfg.local.rate,
        momentum=cfg.local.momentum,
        batch=cfg.local.batch_size,
        seed=cfg.seed,
    )


def whom(folder: Path, cfg: Any) -> int:
    """Say which of the honest our mimics copied, so that ByzFL's copy the same."""
    from dai_lab.federation.founding import _hostile

    first = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
    us = cfg.federation
    liars = _hostile(us.who, us.hostile, us.clients, None, Key(cfg.seed) / "hostile")
    honest = [client for client in range(us.clients) if client not in liars]
    return honest.index(first.get("attack/copied", honest[0]))


def verdict(attack: str, mine: list[float], other: list[float]) -> str:
    """Compare final accuracies, paired by seed."""
    if len(mine) < 2:
        return f"{mine[0] - other[0]:+.3f} | one seed"
    gap = difference(mine, other)
    if gap.low <= 0 <= gap.high or abs(gap.value) <= ENOUGH:
        said = "same"
    else:
        said = "higher" if gap.value > 0 else "lower"
    return f"{gap:+.3f} | {'another attack' if attack in ELSEWHERE else said}"


def main() -> None:
    """Draw cells, play them in turns, print a row for each set of seeds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--cells", type=int, help="fewer than the share")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--draw", type=int, default=0, help="seed of the lot")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch

    grid = yaml.safe_load((ROOT / "experiments/byzantine/grid.yaml").read_text())
    grid["parts"] = {part: grid["parts"][part] for part in ("skewed", "mixed", "alike")}
    chosen = drawn(cells(grid), asked.share, asked.cells, asked.draw)
    spent = {"ours": 0.0, "theirs": 0.0}
    print("| cell | ours | ByzFL | difference | | seconds, ours | ByzFL | times faster |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        more = (f"rounds={asked.steps}", f"results={place}", "compute.device=cpu")
        for _, some in groupby(chosen, key=by_name):
            mine, other, took = [], [], [0.0, 0.0]
            for cell in some:
                cfg = load(*cell.words, *more)
                # Code is compiled and packages are loaded before anything is timed.
                if not spent["ours"]:
                    simulate(load(*cell.words, *more, "rounds=2"), progress=False)
                torch.set_num_threads(1)
                end, seconds, folder = ours(cfg)
                mine.append(end[-1])
                torch.set_num_threads(1)
                there, longer = theirs(cfg, cell, whom(folder, cfg))
                other.append(there[-1])
                took[0] += seconds
                took[1] += longer
                spent["ours"] += seconds
                spent["theirs"] += longer
            print(
                f"| {cell.world}, {cell.attack}, {cell.aggregator} | {estimate(mine)} | "
                f"{estimate(other)} | {verdict(cell.attack, mine, other)} | {took[0]:.1f} | "
                f"{took[1]:.1f} | {took[1] / took[0]:.1f} |",
                flush=True,
            )
    print(f"\n{len(chosen)} cells: {spent['ours']:.0f} s here, {spent['theirs']:.0f} s in ByzFL, ")
    print(f"{spent['theirs'] / spent['ours']:.1f} times as long (wanted: 5)")


if __name__ == "__main__":
    main()
