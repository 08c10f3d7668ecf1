"""Rooms look down, never sideways; the code is formatted, linted and typed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "check",
    [
        ("lint-imports", "--no-cache"),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--check", "--no-cache", "."),
        ("mypy",),
    ],
    ids=" ".join,
)
def test_the_house_rules_hold(check):
    tool, *words = check
    done = subprocess.run([BIN / tool, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


HEAVY = {"matplotlib", "pandas", "sklearn", "torchvision", "wandb", "pyarrow", "ray", "opacus"}


def test_rooms_import_what_is_heavy_only_inside_functions():
    import ast

    found = []
    for file in sorted((ROOT / "dai_lab").rglob("*.py")):
        tree = ast.parse(file.read_text())
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(file.name, one) for one in names if one.split(".")[0] in HEAVY]
    assert found == []


def test_nothing_draws_from_a_global_generator():
    import re

    drawn = re.compile(
        r"\b(torch\.manual_seed|np\.random\.(?!default_rng|Generator)\w+|numpy\.random\."
        r"(?!default_rng|Generator)\w+|^import random$|random\.(random|choice|shuffle)\()",
        re.MULTILINE,
    )
    found = {
        file.name: drawn.findall(file.read_text())
        for file in sorted((ROOT / "dai_lab").rglob("*.py"))
        if drawn.search(file.read_text())
    }
    assert found == {}
