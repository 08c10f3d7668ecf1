"""What clients' devices can do.

Speeds are told in the units data sheets use: billions of floating-point operations a second,
millions of bits a second, millions of bytes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Key, Profiles
from dai_lab.participation import columns

COLUMNS = ("gflops", "down_mbps", "up_mbps", "memory_mb", "failing")


def untimed(clients: int, *, key: Key) -> None:
    """Simulate no time: nobody is slow, nobody fails.

    Args:
        clients: Registered clients.
        key: Unused; nothing is drawn.
    """


def alike(
    clients: int,
    *,
    key: Key,
    gflops: float = 10.0,
    down_mbps: float = 6.0,
    up_mbps: float = 2.0,
    memory_mb: float = 1000.0,
    failing: float = 0.0,
) -> Profiles:
    """Give every client the same device.

    A client's seconds in a round are bytes down over ``down_mbps``, plus operations over
    ``gflops``, plus bytes up over ``up_mbps``. An infinite speed takes no time.

    Args:
        clients: Registered clients.
        key: Unused; nothing is drawn.
        gflops: Billions of floating-point operations a second in training, above 0.
        down_mbps: Millions of bits a second received, above 0.
        up_mbps: Millions of bits a second sent, above 0.
        memory_mb: Millions of bytes free for training, above 0; a device with fewer than 12
            bytes for each parameter of the model takes no part.
        failing: Probability of dropping out in the middle of a round, in [0, 1].

    Raises:
        ValueError: A knob out of range.
    """
    _refuse_zero(gflops=gflops, down_mbps=down_mbps, up_mbps=up_mbps, memory_mb=memory_mb)
    _refuse_chance(failing)
    values = (gflops, down_mbps, up_mbps, memory_mb, failing)
    same = [torch.full((clients,), value, dtype=torch.float64) for value in values]
    return _profiles(*same)


def phones(
    clients: int,
    *,
    key: Key,
    gflops: float = 10.0,
    gflops_sigma: float = 0.7,
    down_mbps: float = 6.0,
    up_mbps: float = 2.0,
    mbps_sigma: float = 1.1,
    memory_mb: float = 1000.0,
    memory_sigma: float = 0.5,
    failing: float = 0.08,
) -> Profiles:
    """Draw smartphones: log-normal speeds and links, so that a few are very slow.

    What is published and what is our reading of it:

    ============ ================================================================================
    links        FedScale's trace (MobiPerf's measurements) has a median of about 6 Mbit/s with a
                 quarter of its phones below 3, as a log-normal with sigma 1.1 has. It knows one
                 speed for both ways; sending a third as fast as receiving is from Ookla's means
                 for the United States in 2018 (27.3 and 8.6 Mbit/s).
    speed        Wu et al. report peaks of tens of GFLOP/s on phones' CPUs that differ by more
                 than an order of magnitude: sigma 0.7 puts a factor of 10 between the 5th and
                 the 95th percentile. A median of 10 in training is our assumption.
    failing      Between 6 % and 10 % of phones drop out of a round in Bonawitz et al.
    memory       Our assumption; we know of no published distribution of what is free.
    ============ ================================================================================

    A phone that receives fast sends fast: both have one draw. Nothing else is correlated, and a
    phone stays as it is throughout. Who else is registered changes nobody's phone.

    Args:
        clients: Registered clients.
        key: Where phones are drawn.
        gflops: Median of billions of floating-point operations a second in training, above 0.
        gflops_sigma: Standard deviation of their natural logarithm, 0 or more.
        down_mbps: Median of millions of bits a second received, above 0.
        up_mbps: Median of millions of bits a second sent, above 0.
        mbps_sigma: Standard deviation of their natural logarithm, 0 or more.
        memory_mb: Median of millions of bytes free for training, above 0; a phone with fewer
            than 12 bytes for each parameter of the model takes no part.
        memory_sigma: Standard deviation of their natural logarithm, 0 or more.
        failing: Probability of dropping out in the middle of a round, in [0, 1].

    Raises:
        ValueError: A knob out of range.

    Source:
        FedScale: Lai et al. 2022, arXiv:2105.11367, the device traces; Wu et al. 2019, "Machine
        Learning at Facebook: Understanding Inference at the Edge", HPCA, figure 1; Bonawitz et
        al. 2019, arXiv:1902.01046, section 9.
    """
    _refuse_zero(gflops=gflops, down_mbps=down_mbps, up_mbps=up_mbps, memory_mb=memory_mb)
    for knob, sigma in (("gflops", gflops_sigma), ("mbps", mbps_sigma), ("memory", memory_sigma)):
        if not sigma >= 0:
            raise ValueError(f"devices.{knob}_sigma must be 0 or more, got {sigma}")
    _refuse_chance(failing)
    speed = _spread(clients, gflops_sigma, key / "speed")
    link = _spread(clients, mbps_sigma, key / "link")
    memory = _spread(clients, memory_sigma, key / "memory")
    drop = torch.full((clients,), failing, dtype=torch.float64)
    return _profiles(gflops * speed, down_mbps * link, up_mbps * link, memory_mb * memory, drop)


def table(clients: int, *, key: Key, path: str) -> Profiles:
    """Read your own devices from a CSV file, one line a client.

    Args:
        clients: Registered clients.
        key: Unused; nothing is drawn.
        path: A file with the columns ``client`` (from 0), ``gflops``, ``down_mbps``,
            ``up_mbps``, ``memory_mb`` and ``failing``, in the units and ranges of ``alike``.

    Raises:
        ValueError: The file cannot be read, a client has no line or several, or a value is out
            of range; line and column are named.
    """
    found = columns.read(path, COLUMNS, clients=clients, knob="devices.path")
    order = found["client"].argsort(stable=True)
    ids, lines = found["client"][order], found["line"][order].tolist()
    if twice := (ids[1:] == ids[:-1]).nonzero().flatten().tolist():
        at = twice[0]
        raise ValueError(
            f"devices.path={path}: client {int(ids[at])} has two lines, "
            f"{lines[at]} and {lines[at + 1]}"
        )
    if len(ids) < clients:
        lost = next(client for client, one in enumerate([*ids.tolist(), None]) if client != one)
        raise ValueError(f"devices.path={path}: client {lost} has no line")
    for name in COLUMNS:
        chance = name == "failing"
        wrong = (found[name] < 0) | (found[name] > 1) if chance else found[name] <= 0
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"devices.path={path}, line {int(found['line'][at])}: {name} must be "
                f"{'in 0..1' if chance else 'above 0'}, got {float(found[name][at]):g}"
            )
    return _profiles(*(found[name][order] for name in COLUMNS))


def _profiles(
    gflops: Float[Tensor, "clients"],
    down_mbps: Float[Tensor, "clients"],
    up_mbps: Float[Tensor, "clients"],
    memory_mb: Float[Tensor, "clients"],
    failing: Float[Tensor, "clients"],
) -> Profiles:
    """Turn the units of data sheets into operations and bytes."""
    return Profiles(gflops * 1e9, down_mbps * 1e6 / 8, up_mbps * 1e6 / 8, memory_mb * 1e6, failing)


def _spread(clients: int, sigma: float, key: Key) -> Float[Tensor, "clients"]:
    """Draw log-normal factors with median 1."""
    # Not randn, whose numbers depend on how many are drawn together.
    uniform = torch.rand(clients, generator=key.stream(), dtype=torch.float64)
    factors: Tensor = (sigma * torch.special.ndtri(uniform.clamp_min(2**-54))).exp()
    return factors


def _refuse_zero(**knobs: float) -> None:
    for knob, value in knobs.items():
        if not value > 0:
            raise ValueError(f"devices.{knob} must be above 0, got {value}")


def _refuse_chance(failing: float) -> None:
    if not 0 <= failing <= 1:
        raise ValueError(f"devices.failing must be in 0..1, got {failing}")
