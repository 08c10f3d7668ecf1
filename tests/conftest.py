"""One Hypothesis profile (no wall-clock deadlines, same examples every run), one thread."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# One thread in what tests start, too: each worker has a core, and threads that wait still spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import sampled
import torch
from hypothesis import settings

sampled.install()
settings.register_profile("lab", deadline=None, derandomize=True, database=None)
settings.load_profile("lab")
torch.set_num_threads(1)
# Logs are signed with keys of their own here, and nobody's own are touched.
os.environ["DAI_LAB_KEYS"] = tempfile.mkdtemp(prefix="dai-lab-keys-")


ROOT = Path(__file__).parents[1]
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""Of the first account that anvil makes money for; everybody knows it."""


def pytest_runtest_setup(item):
    sampled.begin()


def anvil_binary():
    """Find the node: where one says, on the path, or where make puts it."""
    fetched = ROOT / ".venv" / "anvil" / "node_modules" / ".bin" / "anvil"
    places = [os.environ.get("DAI_LAB_ANVIL"), shutil.which("anvil"), fetched]
    return next((str(one) for one in places if one and Path(one).exists()), None)


@pytest.fixture(scope="session")
def anvil_url(tmp_path_factory):
    """Run a node on this machine for as long as the tests last, and give its address."""
    binary = anvil_binary()
    if binary is None:
        pytest.skip("anvil is not here: npm can provide it (make test fetches it)")
    said = tmp_path_factory.mktemp("anvil") / "said"
    with said.open("w") as out:
        words = [binary, "--host", "127.0.0.1", "--port", "0"]
        node = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 60
        while "Listening on " not in said.read_text():
            assert node.poll() is None and time.monotonic() < until, said.read_text()[-2000:]
            time.sleep(0.05)
        yield "http://" + said.read_text().split("Listening on ")[1].split()[0]
    finally:
        node.terminate()
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            node.kill()


@pytest.fixture
def lines_run():
    """Count the lines of Python a call runs: what it costs, the same on a busy machine."""

    def count(call):
        lines = 0

        def follow(frame, event, argument):
            nonlocal lines
            lines += event == "line"
            return follow

        sampled.begin()  # checks are lines too: each count meets the same ones
        before = sys.gettrace()
        sys.settrace(follow)
        try:
            call()
        finally:
            sys.settrace(before)
        return lines

    return count
