"""Rooms look down, never sideways; the code is formatted, linted and typed."""

import ast
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


HEAVY = {
    "llvmlite",
    "matplotlib",
    "numba",
    "opacus",
    "pandas",
    "pyarrow",
    "ray",
    "scipy",
    "seaborn",
    "sklearn",
    "tensorboard",
    "torchvision",
    "wandb",
}
KERNELS = {
    *(f"learning/{one}.py" for one in ("compiled", "first_layer", "halving", "products")),
    *(
        f"aggregators/kernels/{one}.py"
        for one in ("columns", "cuda", "pairs", "ranks", "sums", "vectors")
    ),
    "privacy/kernels.py",
    "secagg/kernels.py",
}
"""Compiled code needs its compiler at the top; these files are imported inside functions."""


def parsed():
    files = sorted((ROOT / "dai_lab").rglob("*.py"))
    return [
        (str(file.relative_to(ROOT / "dai_lab")), ast.parse(file.read_text())) for file in files
    ]


def run_on_import(node):
    """Give every statement below ``node`` but those in functions and for type checkers."""
    for child in ast.iter_child_nodes(node):
        typing = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        if not typing and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from run_on_import(child)


def imported(nodes):
    """Give the full name of every module that is imported."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def is_heavy(name):
    return bool(HEAVY & set(name.split(".")[:1])) or name.startswith("torch.utils.tensorboard")


def test_rooms_import_what_is_heavy_only_inside_functions():
    heavy = {
        file: [one for one in imported(run_on_import(tree)) if is_heavy(one)]
        for file, tree in parsed()
    }
    assert {file for file, names in heavy.items() if names} == KERNELS
    assert {one.split(".")[0] for file in KERNELS for one in heavy[file]} == {"llvmlite", "numba"}


def test_importing_every_room_loads_nothing_heavy():
    rooms = sorted(one.parent.name for one in (ROOT / "dai_lab").glob("*/__init__.py"))
    rooms += sorted(one.stem for one in (ROOT / "dai_lab").glob("[!_]*.py"))
    assert {"federation", "learning", "data"} <= set(rooms)
    code = f"import sys, {', '.join(f'dai_lab.{one}' for one in rooms)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


TORCH = {
    *("bernoulli", "multinomial", "normal", "poisson", "rand", "rand_like", "randint"),
    *("randint_like", "randn", "randn_like", "randperm"),
}
IN_PLACE = {
    *("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_"),
    *("random_", "uniform_"),
}
STREAMS = {"numpy.random.default_rng", "numpy.random.Generator"}
ALONE = {
    # A trial run of the user's module; its numbers are thrown away, and the stream is a key's.
    "models/view.py": ["torch.randn"],
    # Code is compiled here, on numbers nobody reads.
    "learning/warm.py": ["torch.rand"],
}


def drawn(tree):
    """Give every call, by its full name, that draws from a global random generator."""
    full = {"np": "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {one.asname: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom):
            full |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        name = ".".join([full.get(first, first), *rest])
        a_method = "(" in name  # of whatever a call gave
        given = any(
            word.arg == "generator" and ast.unparse(word.value) != "None" for word in node.keywords
        )
        last = name.split(".")[-1]
        if (
            (name in {f"torch.{one}" for one in TORCH} and not given)
            or (isinstance(node.func, ast.Attribute) and last in IN_PLACE and not given)
            or name in {"torch.manual_seed", "torch.seed", "torch.random.manual_seed"}
            or (name.startswith("numpy.random.") and name not in STREAMS and not a_method)
            or (name in STREAMS and not node.args)
            or (name.startswith(("random.", "secrets.")) and not a_method)
        ):
            yield name


def test_nothing_draws_from_a_global_generator():
    found = {file: names for file, tree in parsed() if (names := list(drawn(tree)))}
    assert found == ALONE


@pytest.mark.parametrize(
    "code",
    [
        "torch.rand(3)",
        "torch.randperm(n, generator=None)",
        "torch.multinomial(weights, 2)",
        "from torch import randn as noise\nnoise(2)",
        "rows.normal_()",
        "torch.manual_seed(0)",
        "import numpy as n\nn.random.shuffle(x)",
        "from numpy import random\nrandom.normal()",
        "np.random.default_rng()",
        "import random\nrandom.gauss(0, 1)",
        "from random import choice\nchoice(x)",
    ],
)
def test_the_search_for_global_draws_finds_them(code):
    assert list(drawn(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "torch.rand(3, generator=key.stream())",
        "rows.normal_(generator=stream)",
        "np.random.default_rng(key.number()).normal()",
        "torch.random.fork_rng()",
        "draw.random(5)",
        "nn.init.kaiming_normal_(weight)",
    ],
)
def test_the_search_for_global_draws_leaves_streams_alone(code):
    assert not list(drawn(ast.parse(code)))
