"""What aggregators are timed against: one-liners, ByzFL, Flower and ByzPy.

As a script it serves timings of one of them from an interpreter of its own, where the lab is not
installed; so nothing here imports it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[], Any]
Calls = dict[str, Call]
SUBSETS = 60_000
"""Subsets that a peer which tries them all is asked to try at most."""


def clocked(call: Call) -> tuple[float, float]:
    """Return seconds on the wall and of processor time, of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def limited(threads: int) -> Any:
    """Let every library here use that many threads."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    return threadpool_limits(threads)


def one_liners(rows: np.ndarray, f: int) -> dict[str, Calls]:
    """Write each rule as briefly as numpy or torch allow; a few lines where it takes a loop."""
    import torch

    x, t, n = rows, torch.from_numpy(rows), len(rows)

    def scores(square: Any) -> Any:
        own = square.diagonal()
        apart = own[:, None] + own - 2 * square
        return apart, np.sort(np.asarray(apart), 1)[:, 1 : n - f - 1].sum(1)

    def chosen(m: int) -> Call:
        return lambda: x[np.argsort(scores(x @ x.T)[1])[:m]].mean(0)

    def chosen_torch(m: int) -> Call:
        return lambda: t[torch.from_numpy(scores(t @ t.T)[1]).argsort()[:m]].mean(0)

    def trimmed(of: np.ndarray) -> np.ndarray:
        return np.partition(of, (f, n - f - 1), 0)[f : n - f].mean(0)

    def mixed() -> np.ndarray:
        near = np.argsort(scores(x @ x.T)[0], 1)[:, : n - f]
        weights = np.zeros((n, n), x.dtype)
        np.put_along_axis(weights, near, 1 / (n - f), 1)
        return weights @ x

    def around(middle: np.ndarray) -> np.ndarray:
        near = np.argpartition(abs(x - middle), n - f - 1, 0)[: n - f]
        return np.take_along_axis(x, near, 0).mean(0)

    def weiszfeld() -> Any:
        z = t.mean(0)
        for _ in range(3):
            w = 1 / (t - z).norm(dim=1).clamp_min(0.1)
            z = w @ t / w.sum()
        return z

    def centered() -> Any:
        v = torch.zeros_like(t[0])
        for _ in range(3):
            gaps = t - v
            v = v + (10 / gaps.norm(dim=1)).clamp_max(1) @ gaps / n
        return v

    calls: dict[str, Calls] = {
        "mean": {"x.mean(0)": lambda: x.mean(0), "t.mean(0)": lambda: t.mean(0)},
        "median": {
            "np.median": lambda: np.median(x, 0),
            "torch.median (lower)": lambda: t.median(0).values,
            "np.partition": lambda: np.partition(x, ((n - 1) // 2, n // 2), 0)[
                [(n - 1) // 2, n // 2]
            ].mean(0),
        },
        "trimmed_mean": {
            "np.sort": lambda: np.sort(x, 0)[f : n - f].mean(0),
            "torch.sort": lambda: t.sort(0).values[f : n - f].mean(0),
            "np.partition": lambda: trimmed(x),
        },
        "meamed": {"np.argpartition": lambda: around(np.median(x, 0))},
        "phocas": {"np.argpartition": lambda: around(trimmed(x))},
        "krum": {"x @ x.T": chosen(1), "t @ t.T": chosen_torch(1)},
        "multi_krum": {"x @ x.T": chosen(n - f - 2), "t @ t.T": chosen_torch(n - f - 2)},
        "geometric_median": {"torch, three steps": weiszfeld},
        "centered_clipping": {"torch, three steps": centered},
        "cge": {
            "np.linalg.norm": lambda: x[np.argsort(np.linalg.norm(x, axis=1))[: n - f]].mean(0),
        },
        "monna": {
            "np.linalg.norm": lambda: x[np.argsort(np.linalg.norm(x - x[0], axis=1))[: n - f]].mean(
                0
            ),
        },
        "nnm": {"w @ x, np.partition": lambda: trimmed(mixed())},
        "majority_vote": {"np.sign": lambda: np.sign(np.sign(x).sum(0))},
        "rlr": {
            "np.sign": lambda: np.where(abs(np.sign(x).sum(0)) >= 4, 1, -1) * x.mean(0),
        },
    }
    return calls


def on_gpu(rows: Any, f: int) -> dict[str, Calls]:
    """Write in torch what is already on a GPU."""
    import torch

    n = len(rows)
    return {
        "median": {"torch.median (lower)": lambda: rows.median(0)},
        "trimmed_mean": {"torch.sort": lambda: rows.sort(0).values[f : n - f].mean(0)},
        "krum": {"torch.cdist": lambda: torch.cdist(rows, rows).sort(1).values[:, : n - f - 1]},
    }


def byzfl(rows: np.ndarray, f: int) -> dict[str, Calls]:
    """List ByzFL's rules, on numpy and on torch."""
    import byzfl as peer
    import torch

    n = len(rows)
    plain: dict[str, Call] = {
        "mean": peer.Average(),
        "median": peer.Median(),
        "trimmed_mean": peer.TrMean(f=f),
        "meamed": peer.Meamed(f=f),
        "krum": peer.Krum(f=f),
        "multi_krum": peer.MultiKrum(f=f),
        "geometric_median": peer.GeometricMedian(nu=0.1, T=3),
        "centered_clipping": peer.CenteredClipping(L=3, tau=10.0),
        "caf": peer.CAF(f=f),
        "monna": peer.MoNNA(f=f),
    }
    if math.comb(n, f) <= SUBSETS:
        plain |= {"mda": peer.MDA(f=f), "smea": peer.SMEA(f=f)}
    after, krum = peer.TrMean(f=f), peer.Krum(f=f)
    chains = {
        "arc": peer.ARC(f=f),
        "clipping": peer.Clipping(c=1.0),
        "bucketing": peer.Bucketing(s=2),
    }
    if (n - f) * rows.nbytes < 8 * 2**30:  # what NNM makes beside the rows
        chains["nnm"] = peer.NNM(f=f)
        plain["nnm, krum"] = lambda x: krum(chains["nnm"](x))
    plain |= {name: lambda x, one=one: after(one(x)) for name, one in chains.items()}
    inputs = {"byzfl, numpy": rows, "byzfl, torch": torch.from_numpy(rows)}
    return {
        rule: {label: lambda call=call, x=x: call(x) for label, x in inputs.items()}
        for rule, call in plain.items()
    }


def flower(rows: np.ndarray, f: int) -> dict[str, Calls]:
    """List what Flower aggregates with; its lists of arrays are made beforehand."""
    from flwr.server.strategy import aggregate as peer

    n, results = len(rows), [([row], 1) for row in rows]
    calls = {
        "mean": lambda: peer.aggregate(results),
        "median": lambda: peer.aggregate_median(results),
        "trimmed_mean": lambda: peer.aggregate_trimmed_avg(results, (f + 0.5) / n),
        "krum": lambda: peer.aggregate_krum(results, f, 0),
        "multi_krum": lambda: peer.aggregate_krum(results, f, n - f - 2),
    }
    few = (n - 3) // 4  # and its rows are taken out of the list it is given
    calls["bulyan"] = lambda: peer.aggregate_bulyan(
        list(results), min(f, few), peer.aggregate_krum, to_keep=0
    )
    return {rule: {"flower": call} for rule, call in calls.items()}


def byzpy(rows: np.ndarray, f: int) -> dict[str, Calls]:
    """List ByzPy's rules, on a list of tensors."""
    import torch
    from byzpy.aggregators import coordinate_wise, geometric_wise, norm_wise
    from byzpy.pre_aggregators import arc, bucketing, clipping, nnm

    n, sent = len(rows), list(torch.from_numpy(rows))
    plain = {
        "median": coordinate_wise.CoordinateWiseMedian(),
        "trimmed_mean": coordinate_wise.CoordinateWiseTrimmedMean(f),
        "meamed": coordinate_wise.MeanOfMedians(f),
        "krum": geometric_wise.Krum(f),
        "multi_krum": geometric_wise.MultiKrum(f, n - f - 2),
        "geometric_median": geometric_wise.GeometricMedian(max_iter=3, init="mean"),
        "monna": geometric_wise.MoNNA(f),
        "centered_clipping": norm_wise.CenteredClipping(c_tau=10.0, M=3, init="zero"),
        "caf": norm_wise.CAF(f),
        "cge": norm_wise.ComparativeGradientElimination(f),
    }
    if math.comb(n, f) <= SUBSETS:
        plain["mda"] = geometric_wise.MinimumDiameterAveraging(f)
        plain["smea"] = geometric_wise.SMEA(f)
    after, krum = plain["trimmed_mean"], plain["krum"]
    chains = {
        "nnm": (nnm.NearestNeighborMixing(f), after),
        "nnm, krum": (nnm.NearestNeighborMixing(f), krum),
        "arc": (arc.ARC(f), after),
        "clipping": (clipping.Clipping(1.0), after),
        "bucketing": (bucketing.Bucketing(2), after),
    }
    calls: dict[str, Call] = {
        rule: lambda one=one: one.aggregate(sent) for rule, one in plain.items()
    }
    calls |= {
        rule: lambda one=one, then=then: then.aggregate(one.pre_aggregate(sent))
        for rule, (one, then) in chains.items()
    }
    return {rule: {"byzpy": call} for rule, call in calls.items()}


PEERS: Mapping[str, Callable[[np.ndarray, int], dict[str, Calls]]] = {
    "byzfl": byzfl,
    "flower": flower,
    "byzpy": byzpy,
}


def serve(peer: str, place: str, f: int, threads: int) -> None:
    """Say which rules there are, then time whichever is asked for until nothing is."""
    words = sys.stdout
    sys.stdout = sys.stderr  # whatever the peer prints
    import torch

    torch.set_num_threads(threads)
    calls = PEERS[peer](np.load(place), f)
    print(";".join(calls), file=words, flush=True)
    for line in sys.stdin:
        try:
            ((_, call),) = calls[line.strip()].items()
            print(*clocked(call), file=words, flush=True)
        except Exception as failed:  # a peer that breaks is a note in the table
            print("failed:", *str(failed).split(), file=words, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
