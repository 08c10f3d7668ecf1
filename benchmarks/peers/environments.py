"""One virtual environment a peer, away from ours, with pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

TORCH = version("torch").split("+")[0]
"""Everybody runs the torch that we run."""
PYTHON = {"blazefl": "3.13"}
"""BlazeFL 2 needs Python 3.12 or later; 3.0 needs 3.14, best a free-threaded build."""
PINS = {
    "flower": ["flwr[simulation]==1.41.0", "ray==2.55.1", "numpy==2.4.6"],
    "pfl": ["pfl[pytorch]==0.6.0", "numpy==2.4.6"],
    "blazefl": ["blazefl[contrib,reproducibility]==2.0.3", "numpy==2.4.6"],
    "fedlab": ["fedlab==1.3.0", "numpy==2.4.6"],
}


def interpreter(peer: str, folder: Path) -> Path:
    """Return the Python of a peer's environment, made now if it is not there or not as pinned.

    Raises:
        RuntimeError: The peer cannot be installed here, in the installer's own words.
    """
    pins = [*PINS[peer], f"torch=={TORCH}"]
    place = folder / peer
    stamp, python = place / "pins.txt", place / "bin" / "python"
    if stamp.exists() and stamp.read_text() == "\n".join(pins):
        return python
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    uv = Path(sys.executable).with_name("uv")
    tool = str(uv) if uv.exists() else shutil.which("uv")
    if tool is None:
        raise RuntimeError("uv is not installed: make setup brings it")
    _call(tool, "venv", "--python", _python(PYTHON.get(peer, "3.11")), str(place))
    _call(tool, "pip", "install", "--python", str(python), *pins)
    stamp.write_text("\n".join(pins))
    return python


def _python(wanted: str) -> str:
    """Find a Python of the wanted version that pyenv keeps out of the path."""
    beside = sorted(Path.home().glob(f".pyenv/versions/{wanted}*/bin/python"))
    return str(beside[-1]) if beside else wanted


def _call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise RuntimeError(said[-600:])
