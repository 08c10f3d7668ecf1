"""What a run ran on and with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("dai-lab", "torch", "torchvision", "numpy", "numba", "scipy", "hydra-core", "omegaconf")


def environment(threads: int) -> dict[str, Any]:
    """Describe the code, the packages and the machine; nothing about its user."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        **source(),
        "versions": {"python": platform.python_version(), **versions()},
        "platform": platform.platform(),
        "cpu": processor(),
        "threads": threads,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
    }


def source() -> dict[str, Any]:
    """Name the commit of the lab's code, and whether files differ from it."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside somebody else's repository; its commit is not ours.
    if git("ls-files", "--error-unmatch", "config/schema.py") is None:
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "."))}


def versions() -> dict[str, str]:
    """Give the versions of the packages that decide what is computed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Give the processor's name as its maker prints it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for row in listing.read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()
