"""What is installed runs from anywhere, with nothing of the checkout at hand."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_brings_its_settings_and_its_data_and_runs_elsewhere(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words):
        return subprocess.run(
            [sys.executable, *words],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
            capture_output=True,
            text=True,
        )

    where = run("-c", "import dai_lab.config as c; print(c.conf_dir())").stdout.strip()
    assert where == str(tmp_path / "installed" / "dai_lab" / "conf")
    assert "mnist10k" in run("-m", "dai_lab.run", "--help").stdout
    done = run("-m", "dai_lab.run", "rounds=1", "model=logistic")
    assert done.returncode == 0, done.stderr
    assert list((elsewhere / "results" / "run").glob("*/summary.json"))
