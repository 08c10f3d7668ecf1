"""Tasks and engines that several tests of engines use."""

from pathlib import Path

import pytest
import torch

from dai_lab.core import Compute, Examples, Key, Sensitive, Shards, State, Task
from dai_lab.engines import local, workers
from dai_lab.models import create

SIZES = (7, 0, 33, 1, 12, 20, 20, 20, 5, 64)
KEY = Key(3)


@pytest.fixture
def users_own(monkeypatch):
    """The module of parts that a user might have written, importable as such."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import users_own

    return users_own


@pytest.fixture
def task():
    def make(factory, shape=(6,), classes=3):
        stream, count = KEY.stream(), sum(SIZES)
        inputs = torch.randn(count, *shape, generator=stream)
        targets = torch.randint(classes, (count,), generator=stream)
        dealt = torch.randperm(count, generator=stream).split(SIZES)
        model = create(factory, shape=shape, classes=classes, key=KEY / "model")
        shards = Shards.of(list(dealt))
        return Task(model, Examples(inputs, targets), shards, Sensitive(("class",), (3,)))

    return make


@pytest.fixture
def both():
    """Ask the same of ``local`` and of ``workers``."""

    class Both:
        def __init__(self, part, what, **knobs):
            knobs = {"processes": 2, **knobs}
            self.compute = Compute(method=knobs.pop("method", "auto"))
            self.here = local(part, what, compute=self.compute)
            self.there = workers(part, what, compute=self.compute, **knobs)
            self.what = what

        def __enter__(self):
            self.one, self.many = self.here.__enter__(), self.there.__enter__()
            return self

        def __exit__(self, *error):
            self.there.__exit__(*error)
            self.here.__exit__(*error)

        def __call__(self, state=None, start=None, cohort=None, *, key=KEY, round=1):
            state = State(self.what.model.initial) if state is None else state
            start = state.params if start is None else start
            cohort = range(len(self.what.shards)) if cohort is None else cohort
            given = {"key": key, "round": round}
            return self.one(state, start, cohort, **given), self.many(state, start, cohort, **given)

    return Both


@pytest.fixture
def same():
    """Hold two updates against each other, bit by bit."""

    def compare(one, other):
        for name in ("rows", "weights", "losses", "looks"):
            assert getattr(other, name).dtype == getattr(one, name).dtype
            assert getattr(other, name).equal(getattr(one, name)), name
        assert (other.up, other.down) == (one.up, one.down)
        assert [*other.events] == [*one.events]
        for kind in ("learned", "memory"):
            first, second = getattr(one, kind), getattr(other, kind)
            assert list(first) == list(second)
            for name, value in first.items():
                assert second[name].dtype == value.dtype
                assert second[name].equal(value), name

    return compare
