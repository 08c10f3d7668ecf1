"""What a secure sum costs: CPU of a client and of the server, bytes, against everything that moves.

    python benchmarks/secagg_cost.py [--only bonawitz] [--seeds 0 1 2]

Whole sessions are played, every message encoded and decoded and the sum checked, and written to
``experiments/secagg_cost/cost.csv`` one by one: what is there is not measured again. Of the clients
twelve are timed; these check every signature themselves, the others each only once, as in a
simulation. The table and figures of the study's README are made from that file.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab.core import Key
from dai_lab.experiment.machine import keep_memory
from dai_lab.metrics import estimate
from dai_lab.report.figures import legend, rendered, styles, theme
from dai_lab.secagg import Client, Server, Terms, finder, keys
from dai_lab.secagg.coded import WIDTH, CodedClient, CodedServer
from dai_lab.secagg.levels import modulus, quantize
from dai_lab.secagg.sessions import Once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    Axes = DataFrame = Figure = Any

PLACE = Path(__file__).parent.parent / "experiments" / "secagg_cost"
COLUMNS = ("part", "protocol", "clients", "width", "lost", "seed", "neighbors", "threshold",
           "client_ms", "server_ms", "client_up", "client_down")  # fmt: skip
BITS, TIMED = 16, 12
PROTOCOLS = ("pairwise", "graph", "one_shot")
CELLS: dict[str, list[tuple[str, int, int, float]]] = {
    "clients": [
        (protocol, clients, 100_000, 0.1)
        for clients, protocol in product((10, 30, 100, 300, 1000), PROTOCOLS)
        if protocol != "one_shot" or clients <= 300
    ],
    "width": [(one, 100, width, 0.1) for width, one in product((10**4, 10**6), PROTOCOLS)],
    "lost": [(one, 100, 100_000, lost) for lost, one in product((0.0, 0.3), PROTOCOLS)],
    "bonawitz": [
        ("pairwise", clients, 100_000, lost)
        for clients, lost in product((500, 1000), (0.0, 0.1, 0.3))
    ],
}
"""Protocol, clients, entries of a row, share of the clients that vanish before they send it."""


def agreed(protocol: str, clients: int, width: int, lost: float, seed: int) -> tuple[Terms, int]:
    """Return what a cell's clients agree on, and how many neighbors each has."""
    place, near = f"cost {protocol} {seed}".encode(), clients - 1
    bits = modulus(BITS, clients)
    if protocol == "one_shot":
        least, corrupt = clients * 2 // 3 + 1, max(clients // 3, 1)
        return Terms(place, width, WIDTH, least, corrupt=corrupt), near
    if protocol == "graph" and clients > 64:
        found = finder.find(clients, corrupt=0.1, dropping=max(lost, 0.1))
        return Terms(place, width, bits, found.threshold, corrupt=found.corrupt), found.neighbors
    return Terms(place, width, bits, clients * 2 // 3 + 1), near


def measured(protocol: str, clients: int, width: int, lost: float, seed: int) -> dict[str, Any]:
    """Play a session; return what it took, in milliseconds of CPU and in bytes."""
    terms, near = agreed(protocol, clients, width, lost, seed)
    cast = (CodedClient, CodedServer) if protocol == "one_shot" else (Client, Server)
    signers = {one: keys.identity(keys.simulated(Key(seed) / one)(32)) for one in range(clients)}
    public = {one: signer.public_key() for one, signer in signers.items()}
    quick = {one: Once(key) for one, key in public.items()}
    random = np.random.default_rng(seed)
    graph = dict(enumerate(finder.ring(clients, near, order=random.permutation(clients).tolist())))
    gone = set(random.permutation(clients)[: round(lost * clients)].tolist())
    timed = [one for one in range(clients) if one not in gone][:TIMED]
    server = cast[1](terms, roster=public, neighbors=lambda there: graph)
    party = {
        one: cast[0](one, terms, identity=signers[one], roster=public if one in timed else quick)
        for one in range(clients)
    }
    row = (random.standard_normal(width) / 4).astype(np.float32)
    spent = {"client": 0.0, "server": 0.0}

    def serve(call: Callable[[Mapping[int, bytes]], Any], sent: Mapping[int, bytes]) -> Any:
        began = time.process_time()
        found = call(sent)
        spent["server"] += time.process_time() - began
        return found

    def answers(told: Any, call: Callable[[int], bytes]) -> dict[int, bytes]:
        found = {}
        for one in told:
            began = time.process_time()
            found[one] = call(one)
            spent["client"] += (time.process_time() - began) * (one in timed)
        return found

    expected = terms.zeros().astype(np.uint64)

    def masked(one: int) -> bytes:
        key = (seed * clients + one).to_bytes(16, "little")
        levels = quantize(row, clip=1.0, bits=BITS, key=key)
        vector = levels.astype(terms.words)
        # What is only there to check the sum is not the client's work.
        began = time.process_time()
        expected[:] += vector
        spent["client"] -= (time.process_time() - began) * (one in timed)
        return party[one].mask(told[one], vector)

    told = serve(server.introduce, answers(party, lambda one: party[one].advertise()))
    told = serve(server.route, answers(told, lambda one: party[one].share(told[one])))
    here = [one for one in told if one not in gone]
    told = serve(server.gather, answers(here, masked))
    found = serve(server.total, answers(told, lambda one: party[one].unmask(told[one])))
    if (found.values != expected).any():
        raise AssertionError(f"the sum is wrong: {protocol}, {clients} clients")
    return {
        "neighbors": near,
        "threshold": terms.threshold,
        "client_ms": 1e3 * spent["client"] / len(timed),
        "server_ms": 1e3 * spent["server"],
        "client_up": round(found.bytes_up / clients),
        "client_down": round(found.bytes_down / clients),
    }


def kept() -> list[dict[str, str]]:
    """Return what has been measured."""
    path = PLACE / "cost.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def left(parts: list[str], seeds: list[int]) -> Iterator[tuple[str, Any, int]]:
    """List what has not, cheapest seeds first."""
    done = {tuple(one[name] for name in COLUMNS[:6]) for one in kept()}
    for seed, part in product(seeds, parts):
        for cell in CELLS[part]:
            if (part, *map(str, cell), str(seed)) not in done:
                yield part, cell, seed


def table(part: str, frame: DataFrame) -> str:
    """Write what was measured of a part as a Markdown table."""
    here = frame[frame["part"] == part]
    if part == "bonawitz":
        return _beside(here)
    lines = ["| clients | entries | lost | protocol | neighbors | client, ms | server, ms "
             "| sent by a client | received by a client |", "|" + " --- |" * 9]  # fmt: skip
    order = ["clients", "width", "lost", "protocol"]
    for (clients, width, lost, protocol), cell in here.groupby(order, sort=False):
        row = 4 * width
        lines.append(
            f"| {clients} | {width:,} | {lost:.0%} | `{protocol}` | {cell['neighbors'].iloc[0]} "
            f"| {_ms(cell['client_ms'])} | {_ms(cell['server_ms'])} "
            f"| {cell['client_up'].mean() / row:.2f} | {cell['client_down'].mean() / row:.2f} |"
        )
    return "\n".join(lines)


def _beside(here: DataFrame) -> str:
    published = {
        (int(one["clients"]), float(one["lost"])): one
        for one in csv.DictReader((PLACE / "published.csv").open())
    }
    lines = ["| clients | lost | client: published, ms | here | times | server: published, ms "
             "| here | times |", "|" + " --- |" * 8]  # fmt: skip
    for (clients, lost), cell in here.groupby(["clients", "lost"], sort=True):
        one = published[int(clients), float(lost)]
        parts = [f"| {clients} | {lost:.0%}"]
        for who in ("client", "server"):
            ours = cell[f"{who}_ms"]
            if not one[f"{who}_ms"]:
                parts.append(f" | | {_ms(ours)} |")
                continue
            theirs = float(one[f"{who}_ms"])
            times = estimate([theirs / value for value in ours])
            parts.append(f" | {theirs:,.0f} | {_ms(ours)} | {times:.1f}")
        lines.append("".join(parts) + " |")
    return "\n".join(lines)


def _ms(values: Any) -> str:
    return f"{estimate(list(values)):.{0 if values.mean() > 100 else 1}f}"


def draw(frame: DataFrame, *, dark: bool = False) -> Figure:
    """Draw CPU and bytes against clients, entries and drop-outs."""
    from matplotlib.figure import Figure as Canvas

    looks = dict(zip(PROTOCOLS, styles(len(PROTOCOLS), dark=dark), strict=True))
    with theme(dark=dark):
        figure = Canvas(figsize=(11, 6.6), layout="constrained")
        axes = figure.subplots(2, 3, squeeze=False)
        sums = {"client_ms": "a client, ms of CPU", "server_ms": "the server, ms of CPU"}
        views = {"clients": "clients (100,000 entries, 10 % lost)",
                 "width": "entries (100 clients, 10 % lost)"}  # fmt: skip
        for column, (by, label) in enumerate(views.items()):
            for line, (what, name) in enumerate(sums.items()):
                _panel(axes[line, column], frame, by, what, looks)
                axes[line, column].set(xlabel=label, ylabel=name, xscale="log", yscale="log")
        _panel(axes[0, 2], frame, "clients", "rows_up", looks)
        axes[0, 2].set(xlabel=views["clients"], xscale="log", yscale="log")
        axes[0, 2].set_ylabel("sent by a client, in rows")
        _panel(axes[1, 2], frame, "lost", "server_ms", looks)
        axes[1, 2].set(xlabel="share lost (of 100 clients)", yscale="log")
        axes[1, 2].set_ylabel("the server, ms of CPU")
        legend(figure, {one: one for one in PROTOCOLS}, 11)
    return figure


def _panel(axes: Axes, frame: DataFrame, by: str, what: str, looks: Any) -> None:
    usual = {"clients": 100, "width": 100_000, "lost": 0.1}
    here = frame[frame["part"] != "bonawitz"]
    for name, value in usual.items():
        if name != by:
            here = here[here[name] == value]
    for protocol, look in looks.items():
        grouped = here[here["protocol"] == protocol].groupby(by)[what]
        found = [(at, estimate(list(one))) for at, one in grouped]
        places = [at for at, _ in found]
        axes.plot(places, [one.value for _, one in found], label=protocol, **look)
        axes.fill_between(
            places, [one.low for _, one in found], [one.high for _, one in found],
            color=look["color"], alpha=0.2, linewidth=0,
        )  # fmt: skip


def costs() -> DataFrame:
    """Return what has been measured, as numbers."""
    from pandas import read_csv

    found = read_csv(PLACE / "cost.csv")
    return found.assign(rows_up=found["client_up"] / (4 * found["width"]))


BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, frame: DataFrame) -> str:
    """Put the tables into a README, between their comments."""
    return BLOCK.sub(lambda found: f"{found[1]}{table(found[2], frame)}\n{found[4]}", text)


def main() -> None:
    """Measure what is left, then write the README's tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    keep_memory()  # as every run does
    for protocol in PROTOCOLS:  # code is compiled and memory laid out before anything is timed
        measured(protocol, 100, 100_000, 0.1, 0)
    path = PLACE / "cost.csv"
    for part, cell, seed in left(asked.only, asked.seeds):
        found = dict(zip(COLUMNS, (part, *cell, seed), strict=False)) | measured(*cell, seed)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({
                name: f"{value:.4g}" if name.endswith("_ms") else value
                for name, value in found.items()
            })  # fmt: skip
        protocol, clients, width, lost = cell
        print(
            f"{part}: {protocol}, {clients} clients, {width} entries, {lost:.0%} lost, seed "
            f"{seed}: client {found['client_ms']:.1f} ms, server {found['server_ms']:.0f} ms",
            flush=True,
        )
    if any(left(list(CELLS), [asked.seeds[0]])):
        return print("some cells are left: no table yet")
    frame = costs()
    readme = PLACE / "README.md"
    readme.write_text(filled(readme.read_text(), frame))
    for suffix, dark in (("", False), ("-dark", True)):
        figure = rendered(draw(frame, dark=dark), "svg", dark=dark)
        (PLACE / f"cost{suffix}.svg").write_bytes(figure)


if __name__ == "__main__":
    main()
