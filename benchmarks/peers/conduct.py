"""Has an engine and the plain loop take turns, round by round, and weighs the engine's memory.

Only one of them works at a time; each reports its own seconds, so starting up and the turns
themselves cost nobody anything.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import memory

MARK = "@@ "
TOKEN = "PEERS_TOKEN"
PATIENCE = 300.0
"""Seconds an engine may take to start or to play one round."""
QUIET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(__file__).parent / ".envs" / "bytecode"),
}


@dataclass(frozen=True)
class Run:
    """What came out of one engine beside the loop."""

    engine: str
    mode: str
    task: str
    seconds: list[float] = field(default_factory=list)
    loop_seconds: list[float] = field(default_factory=list)
    accuracy: float = float("nan")
    loop_accuracy: float = float("nan")
    megabytes: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


class Engine:
    """A process that speaks the protocol of ``setting.py``, with all its children."""

    def __init__(self, command: Sequence[str], log: Path, **more: str) -> None:
        self.token, self.log = uuid.uuid4().hex, log
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                env={**inherited, **QUIET, **more, TOKEN: self.token},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                self.heard.put(json.loads(line.removeprefix(MARK)))
        self.heard.put(None)

    def hear(self, name: str, weigh: float = 0.0) -> tuple[Any, float]:
        """Wait for a report; return it, and the most memory seen, looking every ``weigh`` s."""
        heaviest, until = 0.0, time.monotonic() + PATIENCE
        while True:
            try:
                report = self.heard.get(timeout=weigh or 1.0)
                break
            except queue.Empty:
                if time.monotonic() > until:
                    raise RuntimeError(f"said nothing for {PATIENCE:.0f} s\n{self.end()}") from None
                if weigh:
                    heaviest = max(heaviest, self.megabytes())
        if report is None or name not in report:
            said = self.end()
            raise RuntimeError(f"ended ({self.process.returncode}) before {name}\n{said}")
        return report if name == "accuracy" else report[name], heaviest

    def go(self) -> None:
        """Let the engine play its next round."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def members(self) -> list[int]:
        """Find all processes of this engine: they inherited its token."""
        return memory.family(f"{TOKEN}={self.token}".encode())

    def megabytes(self) -> float:
        """Weigh the whole engine."""
        return memory.megabytes(self.members())

    def end(self) -> str:
        """End every process of this engine and return the last it said."""
        assert self.process.stdin is not None
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self.process.stdin.close()
            self.process.wait(timeout=15)
        for member in self.members():
            with suppress(ProcessLookupError):
                os.kill(member, 9)
        self.process.wait()
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def alternate(run: Run, us: Engine, loop: Engine, *, warm: int, rounds: int) -> Run:
    """Play ``warm`` rounds to warm up and weigh, then ``rounds`` timed ones, by turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    _, heaviest = us.hear("ready", weigh=1.0)
    loop.hear("ready")
    for _ in range(warm):
        us.go()
        heaviest = max(heaviest, us.hear("seconds", weigh=0.25)[1], us.megabytes())
    for _ in range(warm):
        loop.go()
        loop.hear("seconds")
    for number in range(rounds):
        for side in [0, 1] if number % 2 else [1, 0]:
            player = (us, loop)[side]
            player.go()
            seconds[side].append(player.hear("seconds")[0])
    heaviest = max(heaviest, us.megabytes())
    us.go()
    loop.go()
    ours, theirs = us.hear("accuracy")[0], loop.hear("accuracy")[0]
    return replace(
        run,
        seconds=seconds[0],
        loop_seconds=seconds[1],
        accuracy=ours["accuracy"],
        loop_accuracy=theirs["accuracy"],
        megabytes=heaviest,
        versions=ours["versions"],
    )
