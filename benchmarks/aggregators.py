"""Every aggregator against peers, one-liners and the time to read the matrix once.

    python benchmarks/aggregators.py               five sizes, on one and on two threads
    python benchmarks/aggregators.py --sizes 10x100000 --rules krum,median --repeats 3
    python benchmarks/aggregators.py --byzpy PYTHON     with ByzPy, from where it is installed
    python benchmarks/aggregators.py --device cuda      beside the memory's bandwidth and torch

Times are multiples of the fastest way to read the same matrix, on as many threads, in the same
run. Everybody takes turns; a figure is the least time of several: of the processor with one thread,
as others may use the machine, and on the wall with two. What takes longer than ``--slow`` seconds
is timed once. Memory is the most that a process of its own holds while a rule runs, beside what it
held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import PEERS, Call, Calls, clocked, limited, on_gpu, one_liners
from verdicts import Figures, gates, line

from dai_lab.config import build, conf_dir, load
from dai_lab.core import Context, Key, State, TooFew, Visible
from dai_lab.models import create, logistic

SIZES = "10x1000000,25x100000,50x1000000,100x100000,100x1000000"
KNOBS = {
    "geometric_median": "iterations=3 smoothing=0.1",
    "centered_clipping": "iterations=3 tau=10",
    "deepsight": "samples=100",
    "mean": "weighted=false",
    "monna": "pivot=0",
}
CHAINS = {"nnm": ["nnm", "nnm, krum"]}


@cache
def rules() -> list[str]:
    """List every rule that has a file, combinators with what may follow them."""
    files = sorted(one.stem for one in (Path(conf_dir()) / "aggregator").glob("*.yaml"))
    return [one for name in files for one in CHAINS.get(name, [name])]


def liars(count: int) -> int:
    return count // 5


def ours(rule: str, count: int) -> Any:
    """Build a rule as its file says, with as many liars as it takes."""
    name, _, then = rule.partition(", ")
    f = min(liars(count), (count - 3) // 4) if name == "bulyan" else liars(count)
    chosen = [f"aggregator={name}", *([f"aggregator@aggregator.then={then}"] if then else [])]
    node = load(*chosen).aggregator
    told = KNOBS.get(name, "").split()
    told += [f"{knob}={f}" for knob in ("f", "then.f") if has(node, knob)]
    return build(load(*chosen, *(f"aggregator.{one}" for one in told)).aggregator)


def has(node: Any, knob: str) -> bool:
    for piece in knob.split("."):
        if piece not in node:
            return False
        node = node[piece]
    return True


def sent(count: int, params: int) -> np.ndarray:
    """Draw rows around a way they all go, a fifth of them the other way."""
    rows = np.empty((count, params), np.float32)
    draw = np.random.default_rng(0)
    way = draw.standard_normal(params, np.float32)
    for place, row in enumerate(rows):
        draw.standard_normal(params, np.float32, out=row)
        row *= 0.5
        row += way if place >= liars(count) else -way
    return rows


def see(rows: torch.Tensor) -> Visible:
    members = tuple((one,) for one in range(len(rows)))
    return Visible(rows, members, torch.ones(len(rows), device=rows.device))


def server(params: int, device: str = "cpu") -> Context:
    """Let rules that need it have a model, and examples that cost nothing to look at."""
    model = None
    if params % 10 == 0:
        model = create(logistic, shape=(params // 10 - 1,), classes=10, key=Key(0))
    state = State(torch.ones(params, device=device))

    def judge(models: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses = models[:, :100].square().mean(1)
        return losses, losses / (1 + losses)

    return Context(Key(0), state, model, lambda: torch.ones(params, device=device), judge)


def readers(rows: torch.Tensor) -> list[Call]:
    """List good ways to read a matrix once."""
    flat, ones = rows.view(-1), torch.ones(rows.shape[1], device=rows.device)
    few = torch.ones(len(rows), device=rows.device)
    return [flat.sum, lambda: rows @ ones, lambda: few @ rows, lambda: flat.max()]


class Served:
    """A peer in another interpreter, which times itself."""

    def __init__(self, python: str, peer: str, place: Path, f: int, threads: int) -> None:
        words = [python, str(Path(__file__).with_name("contenders.py")), peer, str(place)]
        self.process = subprocess.Popen(
            [*words, str(f), str(threads)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.rules = self._line().split(";")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __call__(self, rule: str) -> tuple[float, float]:
        """Ask for one more time; seconds on the wall and of processor time."""
        assert self.process.stdin is not None
        self.process.stdin.write(rule + "\n")
        self.process.stdin.flush()
        said = self._line()
        if not said or said.startswith("failed"):
            raise RuntimeError(said or "it died")
        wall, cpu = said.split()
        return float(wall), float(cpu)

    def close(self) -> None:
        """Let it end, and wait until it has."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(count: int, params: int, threads: int, asked: argparse.Namespace) -> Iterator[Figures]:
    """Time all rules at one size."""
    clock = 1 if threads == 1 and asked.device == "cpu" else 0
    numbers, f = sent(count, params), liars(count)
    rows = torch.from_numpy(numbers).to(asked.device)
    visible, context = see(rows), server(params, asked.device)
    with ExitStack() as stack:
        stack.enter_context(limited(threads))
        here: dict[str, dict[str, Calls]] = {"liners": {}, "peers": {}}
        away: dict[str, Served] = {}
        if asked.device == "cpu":
            here["liners"] = one_liners(numbers, f)
            for peer in asked.peers:
                if peer == "byzpy" and asked.byzpy:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    np.save(folder / "rows.npy", numbers)
                    away[peer] = Served(asked.byzpy, peer, folder / "rows.npy", f, threads)
                    stack.callback(away[peer].close)
                    continue
                try:
                    for rule, calls in PEERS[peer](numbers, f).items():
                        here["peers"].setdefault(rule, {}).update(calls)
                except ImportError as missing:
                    print(f"without {peer}: {missing}", file=sys.stderr)
        else:
            here["liners"] = on_gpu(rows, f)
        for rule in asked.rules:
            found = Figures(rule, count, params, threads, f)
            call = partial(ours(rule, count), visible, context)
            with suppress(TooFew):  # code for so many rows is compiled before anything is timed
                ours(rule, count)(see(rows[:, :1000]), server(1000, asked.device))
            contenders = {("ours", ""): partial(clocked, synced(call, asked.device))}
            for kind, calls in here.items():
                for label, one in calls.get(rule, {}).items():
                    contenders[kind, label] = partial(clocked, synced(one, asked.device))
            for peer, one in away.items():
                if rule in one.rules:
                    contenders["peers", peer] = partial(one, rule)
            readings = [synced(one, asked.device) for one in readers(rows)]
            take_turns(found, contenders, readings, clock, asked)
            yield found


def take_turns(
    found: Figures, contenders: Any, readings: list[Call], clock: int, asked: argparse.Namespace
) -> None:
    """Let everybody go once to warm up, then several times, one after another."""
    slow: set[tuple[str, str]] = set()
    for turn in range(asked.repeats + 1):
        # The least of as many tries as the others get is the time to read.
        tried = [clocked(one)[clock] for one in readings]
        if turn:
            found.reads.append(min(tried))
        for who, call in contenders.items():
            if who in slow:
                continue
            kind, label = who
            try:
                took = call()[clock]
            except Exception as failed:
                found.notes.append(f"{label or 'ours'}: {' '.join(str(failed).split())[:120]}")
                slow.add(who)
                continue
            times = found.ours if kind == "ours" else getattr(found, kind).setdefault(label, [])
            if turn:
                times.append(took)
            elif took > asked.slow:
                times.append(took)
                slow.add(who)


def synced(call: Call, device: str) -> Call:
    if device == "cpu":
        return call

    def whole() -> None:
        call()
        torch.cuda.synchronize()

    return whole


def held(rule: str, count: int, params: int) -> float:
    """Return the highest memory a rule takes beside its input, as a share of that."""
    from dai_lab.aggregators import kernels  # noqa: F401 (what it loads is no part of the rule)

    call, context = ours(rule, count), server(params)
    # Code is compiled and libraries are loaded before.
    call(see(torch.from_numpy(sent(count, 1000))), server(1000))
    visible = see(torch.from_numpy(sent(count, params)))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call(visible, context)
    return (status("VmHWM") - before) * 1024 / visible.base.nbytes


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith(f"{name}:"))


def beside(rule: str, count: int, params: int) -> float | None:
    """Measure memory in a process of its own."""
    words = [sys.executable, __file__, "--held", rule, "--sizes", f"{count}x{params}"]
    done = subprocess.run(words, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def main() -> None:
    """Measure, print as it comes, then say what is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--rules", help="between semicolons or commas; all by default")
    parser.add_argument("--peers", default="byzfl,flower,byzpy")
    parser.add_argument("--byzpy", help="a Python that has ByzPy")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow", type=float, default=3.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="where all times go")
    parser.add_argument("--held", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", "aggregator=")  # fewer rows than a proof takes
    sizes = [tuple(int(one) for one in size.split("x")) for size in asked.sizes.split(",")]
    if asked.held:
        torch.set_num_threads(1)
        print(held(asked.held, *sizes[0]))
        return
    if asked.device != "cpu":
        if not torch.cuda.is_available():
            sys.exit(
                "benchmarks/aggregators.py: there is no CUDA device here, so there is no figure"
            )
        print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}\n")
    asked.peers = asked.peers.split(",") if asked.peers else []
    wanted = set((asked.rules or "").replace(";", ",").split(","))
    asked.rules = [one for one in rules() if not asked.rules or one.split(",")[0] in wanted]
    figures: list[Figures] = []
    for count, params in sizes:
        for threads in [int(one) for one in asked.threads.split(",")]:
            print(f"\n**{count} x {params}, f = {liars(count)}, {threads} threads**\n")
            print("| rule | reads | best peer, reads | times faster | best one-liner, reads "
                  "| times faster | |\n|---|---|---|---|---|---|---|")  # fmt: skip
            for found in measure(count, params, threads, asked):
                figures.append(found)
                print(line(found), flush=True)
    memory: dict[str, float | None] = {}
    if not asked.no_memory and asked.device == "cpu":
        largest = max(sizes, key=lambda one: one[0] * one[1])
        memory = {rule: beside(rule, *largest) for rule in asked.rules}
        told = [f"{rule} {share:.2f}" for rule, share in memory.items() if share is not None]
        print(f"\nMemory beside the input at {largest}, as a share of it: {', '.join(told)}")
    print("", *gates(figures, memory), sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps([[asdict(one) for one in figures], memory], indent=1))


if __name__ == "__main__":
    main()
