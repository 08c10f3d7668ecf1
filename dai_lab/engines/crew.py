"""Hiring workers, and letting them go."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import Any

from dai_lab.core import Compute, LocalTraining, Task
from dai_lab.engines.arena import Arena, nameless
from dai_lab.engines.parcel import pack

FORKS = sys.platform == "linux"
"""Whether a process that has imported torch may be copied; elsewhere each worker starts anew."""

ALONE = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
"""One thread and no GPU from the first import: only a process without threads can be copied."""


class Worker:
    """A worker as the lab sees it: a line, and the memory where it leaves its updates."""

    def __init__(self, line: socket.socket, answers: Arena) -> None:
        self.line, self.answers = line, answers
        self._heard = line.makefile("r")

    def tell(self, command: dict[str, Any]) -> bool:
        """Send a command; false if nobody is there any more."""
        try:
            self.line.sendall(json.dumps(command).encode() + b"\n")
        except OSError:
            return False
        return True

    def hear(self) -> dict[str, Any] | None:
        """Wait for the reply; ``None`` if the worker died first."""
        try:
            said = self._heard.readline()
        except OSError:
            return None
        reply: dict[str, Any] | None = json.loads(said) if said.endswith("\n") else None
        return reply

    def leave(self) -> None:
        """Cut the line, which ends the worker."""
        self._heard.close()
        self.line.close()
        self.answers.close()


class Crew:
    """Workers of one trade, hired when they are needed.

    Args:
        local: What clients do.
        task: What they learn, and who holds which examples.
        compute: Where and how gradients are computed.
    """

    def __init__(self, local: LocalTraining, task: Task, compute: Compute) -> None:
        self._trade = (local, task, compute)
        self._line: socket.socket | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._parcel = Arena(nameless())
        self._places: Any = None
        self.orders = Arena(nameless())
        """Where each round's state and cohort are written."""
        self.workers: list[Worker] = []

    def hire(self) -> Worker:
        """Start one more worker.

        Raises:
            ValueError: It cannot be taught the trade.
            ChildProcessError: Processes die as they start.
        """
        line, theirs = socket.socketpair()
        worker = Worker(line, Arena(nameless()))
        self.workers.append(worker)
        with theirs:
            descriptors = [theirs.fileno(), worker.answers.descriptor]
            try:
                socket.send_fds(self._first(), [b"w"], descriptors)
            except OSError:
                # Even the first process may have been killed: once is bad luck.
                self._line = None
                socket.send_fds(self._first(), [b"w"], descriptors)
        if not FORKS:
            self._line = None
        return worker

    def lose(self, worker: Worker) -> None:
        """Let one worker go, dead or alive."""
        self.workers.remove(worker)
        worker.leave()

    def dismiss(self) -> None:
        """Let all workers go, whatever they are doing."""
        while self.workers:
            self.workers.pop().leave()

    def close(self) -> None:
        """End every process."""
        self.dismiss()
        if self._line is not None:
            self._line.close()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._parcel.close()
        self.orders.close()

    def _first(self) -> socket.socket:
        """Return the line to the process that becomes workers, started if there is none."""
        if self._line is not None:
            return self._line
        if self._places is None:
            self._places = pack(self._trade, self._parcel)
        line, theirs = socket.socketpair()
        handed = (theirs.fileno(), self._parcel.descriptor, self.orders.descriptor)
        path = [each for each in sys.path if isinstance(each, str)]
        # Not multiprocessing, which would run the user's script again, and not -m, which would
        # look for the lab where the user happens to stand.
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            f"sys.path[:] = {path!r}; from dai_lab.engines.worker import main; "
            f"main(*{handed}, forks={FORKS})"
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ALONE},
                pass_fds=handed,
            )
        self._processes.append(process)
        with contextlib.ExitStack() as failing:
            failing.callback(line.close)
            failing.callback(process.kill)  # it has no workers yet who would have to go first
            said = ""
            with contextlib.suppress(OSError), line.makefile("r") as heard:
                line.sendall(json.dumps(self._places).encode() + b"\n")
                said = heard.readline()
            if not said.endswith("\n"):
                why = "engine.processes: workers die as they start (out of memory?)"
                raise ChildProcessError(why)
            if error := json.loads(said).get("error"):
                raise ValueError(f"engine=workers: a worker cannot start ({error})")
            failing.pop_all()
        self._line = line
        return line
