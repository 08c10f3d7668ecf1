"""What every aggregator promises, whatever its rule: one table, and a test for each column.

Rules are built from their YAML files, so those are tested too. There are eleven rows, two of them
liars', and nine parameters, those of a softmax regression, so that rules that look at layers can.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dai_lab.config import build, conf_dir, load
from dai_lab.core import Context, Key, State, Visible
from dai_lab.models import create, logistic

COUNT, LIARS = 11, 2
MODEL = create(logistic, shape=(2,), classes=3, key=Key(0))
PARAMS = MODEL.params
NAMES = sorted(one.stem for one in (Path(conf_dir()) / "aggregator").glob("*.yaml"))
SEEDS = st.integers(0, 999)
few = settings(max_examples=6)
pytestmark = pytest.mark.filterwarnings("ignore:aggregator=")  # fewer rows than a proof takes


@dataclass(frozen=True)
class Rule:
    """What a rule promises; the defaults are what most do."""

    knobs: str = "f=2"
    """As on the command line, for eleven rows of which two may lie."""
    least: int = 1
    """Fewest rows it takes with these knobs."""
    order: bool = True
    """Whether it does not matter who comes first."""
    ties: bool = False
    """Whether rows are often tied, so that who comes first does matter for the verdict."""
    shift: bool = True
    """Whether what moves all rows moves the update as much."""
    scale: float | None = 1.0
    """The power with which the update follows the rows' unit; none if there is no such law."""
    agree: bool = True
    """Whether rows that are all alike are the update."""
    plain: str | None = None
    """Knobs that make it the plain mean of all rows."""
    bound: str | None = "near"
    """Where any two of eleven rows leave the update: in the honest ``range`` of every coordinate,
    ``near`` the honest rows, no longer (``short``) than the longest honest row; none: anywhere."""
    sums: bool = True
    """Whether shares add up to no more than 1."""
    finds: bool = True
    """Whether it accuses two who sent the opposite of all others, and nobody else."""
    off: str | None = "f=0"
    """Knobs after two NaN rows were counted off; none if its knobs say nothing of liars."""


AFTER = {"knobs": "f=2 then.f=2", "least": 5, "off": "f=0 then.f=0"}
"""A combinator before the trimmed mean, with the number of liars both have to know."""

TABLE = {
    "mean": Rule("weighted=false", plain="weighted=false", bound=None, finds=False, off=""),
    "median": Rule("", bound="range", finds=False, off=""),
    "trimmed_mean": Rule(least=5, plain="f=0", bound="range"),
    "meamed": Rule(least=5, plain="f=0"),
    "phocas": Rule(least=5, plain="f=0"),
    "majority_vote": Rule("", shift=False, scale=0.0, agree=False, bound=None, finds=False, off=""),
    "rlr": Rule("threshold=4", shift=False, plain="threshold=0", bound=None, finds=False, off=""),
    "krum": Rule(least=7),
    "multi_krum": Rule(least=7),
    # With two liars its last choice is between pairs, where both are as near to each other.
    "bulyan": Rule(least=11, order=False, plain="f=0"),
    "cge": Rule(least=5, shift=False, plain="f=0", bound="short"),
    "monna": Rule(least=5, plain="f=0"),
    # Neighbors with the same neighbors are the same row, and the first of those is dropped.
    "nnm": Rule(**AFTER, plain="f=0 then.f=0", ties=True),
    "arc": Rule(**AFTER, shift=False, plain="f=0 then.f=0", finds=False),
    # One liar a bucket: two of six. Buckets are dealt by place.
    "bucketing": Rule("then.f=2", least=9, order=False, plain="size=1 then.f=0", finds=False,
                      off=None),
    # Rows of length 3 become rows of length 1.
    "clipping": Rule("norm=1.0 then.f=2", least=5, shift=False, scale=None, agree=False,
                     plain="norm=inf then.f=0", bound="short", finds=False, off="then.f=0"),
    # Around the clipped, which it follows here.
    "noisy": Rule("std=0.01 then.norm=1.0 then.then.f=2", least=5, shift=False, scale=None,
                  agree=False, plain="std=0 then.norm=inf then.then.f=0", bound=None, finds=False,
                  off="std=0.01 then.then.f=0"),
    "geometric_median": Rule("", finds=False, off=""),
    # Its center starts at 0, and its radius has the unit of the rows.
    "centered_clipping": Rule("tau=1.0", shift=False, scale=None, agree=False, bound="short",
                              finds=False, off=None),
    "mda": Rule(least=5, plain="f=0"),
    "smea": Rule(least=5, plain="f=0"),
    "mva": Rule(least=5, plain="f=0"),
    "caf": Rule(least=5, plain="f=0"),
    # Liars in two directions hide behind each other.
    "dnc": Rule(least=5, plain="f=0", bound=None),
    # They keep little more than half of all, whoever lies.
    "flame": Rule("", shift=False, scale=None, agree=False, bound="short", finds=False, off=""),
    "freqfed": Rule("", shift=False, bound=None, finds=False, off=""),
    "auror": Rule("", shift=False, scale=None, bound=None, finds=False, off=""),
    # A tenth of nine coordinates is one, and its sign says little.
    "signguard": Rule("", shift=False, bound="short", finds=False, off=""),
    "deepsight": Rule("samples=200", shift=False, scale=None, bound="short", finds=False, off=""),
    "lasa": Rule("", shift=False, bound="short", agree=False, finds=False, off=""),
    # The length is that of the server's own update.
    "fltrust": Rule("", shift=False, agree=False, bound="short", off=""),
    # A sum, from which those who agree too well are left out.
    "foolsgold": Rule("", shift=False, scale=None, agree=False, bound=None, sums=False,
                      finds=False, off=None),
    "fldetector": Rule("", shift=False, scale=None, bound=None, finds=False, off=None),
    "safeguard": Rule("", shift=False, scale=None, bound=None, finds=False, off=None),
    "zeno": Rule(least=3, shift=False, scale=None, plain="f=0"),
    # The second of two liars is judged beside the first, whose lie may hide it.
    "lfr": Rule(least=3, shift=False, scale=None, plain="f=0", bound=None, off=None),
    "err": Rule(least=3, shift=False, scale=None, plain="f=0", bound=None, off=None),
    "lfr_err": Rule(least=5, shift=False, scale=None, plain="f=0", bound=None, off=None),
    # The new model is clipped, and there is noise.
    "crfl": Rule("", shift=False, scale=None, agree=False, bound=None, finds=False, off=None),
}  # fmt: skip


def those(keep):
    """Parametrize by the rules for which a column of the table says so."""
    return pytest.mark.parametrize("name", [one for one in TABLE if keep(TABLE[one])])


every = those(lambda rule: True)


def test_every_rule_that_has_a_file_is_in_the_table():
    assert set(NAMES) == set(TABLE)


@cache
def built(name, knobs=None):
    """Build a rule from its file, with knobs as on the command line."""
    knobs = TABLE[name].knobs if knobs is None else knobs
    words = [f"aggregator.{one}" for one in knobs.split()]
    return build(load(f"aggregator={name}", *words).aggregator)


def normal(key, *shape):
    return torch.randn(*shape, generator=key.stream(), dtype=torch.float64)


def way(seed):
    """Where the honest go: three steps in some direction."""
    found = normal(Key(seed) / "way", PARAMS)
    return 3 * found / found.norm()


def honest(seed, count=COUNT):
    return way(seed) + 0.3 * normal(Key(seed) / "honest", count, PARAMS)


def see(rows, members=None, **more):
    members = torch.arange(len(rows)) if members is None else members
    return Visible(rows, tuple((int(one),) for one in members), torch.ones(len(rows)), **more)


def context(seed, kind=torch.float64):
    """A server that has a model, examples of its own, and nothing to remember."""
    params, goal = MODEL.initial.to(kind), way(seed).to(kind)

    def root():
        return goal + 0.1 * normal(Key(seed) / "root", PARAMS).to(kind)

    def judge(models):
        away = (models - (params + goal)).norm(dim=1)
        return away.square(), away / (1 + away)

    return Context(Key(seed), State(params), MODEL, root, judge)


def play(rule, visible, seed):
    """Aggregate, if the rule remembers in a second round: in the first, everybody was honest."""
    kind = visible.base.dtype
    server = context(seed, kind)
    assert server.state is not None
    if not remembers(rule):
        return rule(visible, server)
    before = rule(see(honest(seed + 1000).to(kind)), server)
    state = State(server.state.params + before.update.to(kind), before.memory)
    return rule(visible, replace(server, key=Key(seed) / 2, state=state))


@cache
def remembers(rule):
    return bool(rule(see(honest(0)), context(0)).memory)


def alike(found, expected, *, ties=False, **within):
    within = within or {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found.update, expected.update, **within)
    if ties:
        return
    torch.testing.assert_close(found.shares, expected.shares, **within)
    torch.testing.assert_close(found.suspicion, expected.suspicion, **within)
    accused = expected.suspected
    assert int(found.suspected.sum()) == int(accused.sum())
    # Who is accused of several that look exactly as strange, nothing decides but who comes first.
    strange = expected.suspicion
    edge = strange[accused].min() if bool(accused.any()) else torch.inf
    clear = (strange - edge).abs() > 1e-8
    tied = bool((~clear & ~accused).any())
    assert found.suspected[clear | (not tied)].equal(accused[clear | (not tied)])


def same(memory, other):
    """Compare bit by bit; what is not known yet may be NaN."""
    assert memory.keys() == other.keys()
    pairs = [(one, other[what]) for what, one in memory.items()]
    return all(one.shape == two.shape and torch.isclose(one, two, 0, 0, True).all()
               for one, two in pairs)  # fmt: skip


@every
@few
@given(seed=SEEDS, lost=st.integers(0, 2))
def test_the_verdict_has_a_line_for_every_row(name, seed, lost):
    rows = honest(seed)
    rows[3 : 3 + lost, 4] = torch.nan
    found = play(built(name), see(rows), seed)
    assert found.update.shape == (PARAMS,)
    assert found.shares.shape == found.suspicion.shape == found.suspected.shape == (COUNT,)
    assert found.suspected.dtype == torch.bool
    assert not found.suspicion.isnan().any()
    assert ((found.shares >= 0) & (found.shares <= 1 + 1e-9)).all()
    assert found.shares.sum() <= 1 + 1e-9 or not TABLE[name].sums
    assert all(isinstance(one, torch.Tensor) for one in found.memory.values())
    assert all(one.startswith("aggregator/") for one in found.memory)


@every
@few
@given(seed=SEEDS, lie=st.sampled_from([torch.nan, torch.inf, -torch.inf]), data=st.data())
def test_rows_that_are_not_finite_never_spread_and_are_accused(name, seed, lie, data):
    liars = data.draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=2, unique=True))
    rows = honest(seed)
    rows[liars, data.draw(st.integers(0, PARAMS - 1))] = lie
    found = play(built(name), see(rows), seed)
    assert found.update.isfinite().all()
    server = context(seed)
    state = State(server.state.params + found.update, found.memory)
    again = built(name)(see(honest(seed)), replace(server, key=Key(seed) / 3, state=state))
    assert again.update.isfinite().all()
    assert again.suspicion.isfinite().all()
    assert found.shares[liars].tolist() == [0.0] * len(liars)
    assert found.suspicion[liars].tolist() == [torch.inf] * len(liars)
    assert found.suspected[liars].all()


@those(lambda rule: rule.off is not None)
@few
@given(seed=SEEDS)
def test_two_rows_that_are_not_finite_are_the_two_liars_expected(name, seed):
    rows = honest(seed)
    rows[3:5] = torch.nan
    kept = [0, 1, 2, *range(5, COUNT)]
    found = play(built(name), see(rows), seed)
    expected = play(built(name, TABLE[name].off), see(rows[kept], members=kept), seed)
    torch.testing.assert_close(found.update, expected.update, rtol=1e-9, atol=1e-9)


@every
@few
@given(seed=SEEDS)
def test_once_more_is_the_same_to_the_last_bit(name, seed):
    rows = honest(seed)
    found, again = (play(built(name), see(rows), seed) for _ in range(2))
    assert found.update.equal(again.update)
    assert found.shares.equal(again.shares)
    assert found.suspicion.equal(again.suspicion)
    assert found.suspected.equal(again.suspected)
    assert same(found.memory, again.memory)


@every
@few
@given(seed=SEEDS, mixed=st.booleans())
def test_what_a_rule_looks_at_stays_as_it_was(name, seed, mixed):
    rows, weights = honest(seed), torch.arange(1.0, COUNT + 1)
    mix = torch.eye(COUNT, dtype=torch.float64).roll(1, 0) if mixed else None
    members = tuple((one,) for one in range(COUNT))
    server = context(seed)
    assert server.state is not None
    looked_at = [rows, weights, server.state.params, *([mix] if mix is not None else [])]
    copies = [one.clone() for one in looked_at]
    found = built(name)(Visible(rows, members, weights, mix), server)
    kept = {what: one.clone() for what, one in found.memory.items()}
    built(name)(see(rows), replace(server, state=State(server.state.params, found.memory)))
    assert all(one.equal(copy) for one, copy in zip(looked_at, copies, strict=True))
    assert same(kept, found.memory)


@every
@few
@given(seed=SEEDS)
def test_float32_gives_float32_and_nearly_the_same(name, seed):
    rows = honest(seed).float()
    found = play(built(name), see(rows), seed)
    precise = play(built(name), see(rows.double()), seed)
    assert found.update.dtype == torch.float32
    assert precise.update.dtype == torch.float64
    torch.testing.assert_close(found.update.double(), precise.update, rtol=1e-4, atol=1e-4)


LAYOUTS = {
    "transposed": lambda rows: rows.T.contiguous().T,
    "every other row": lambda rows: rows.repeat_interleave(2, 0)[::2],
    "every other column": lambda rows: rows.repeat_interleave(2, 1)[:, ::2],
    "inside a larger matrix": lambda rows: torch.nn.functional.pad(rows, (3, 2))[:, 3:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@every
def test_where_the_numbers_lie_in_memory_does_not_matter(name, layout):
    rows = layout(honest(1))
    assert rows.equal(honest(1))
    assert not rows.is_contiguous()
    alike(play(built(name), see(rows), 1), play(built(name), see(honest(1)), 1))


@every
def test_a_row_of_another_size_is_no_problem_where_no_model_is_needed(name):
    lonely = Context(Key(0))
    for params in (1, 40_000):
        rows = 1 + normal(Key(0), COUNT, params)
        try:
            found = built(name)(see(rows), lonely)
        except ValueError as missing:
            assert "\n" not in str(missing)
            assert f"aggregator={name}" in str(missing)
            continue
        assert found.update.shape == (params,)
        assert found.update.isfinite().all()


@every
@few
@given(seed=SEEDS)
def test_rows_that_are_yet_to_be_mixed_are_rows(name, seed):
    made = normal(Key(seed) / "mix", COUNT, COUNT).abs() + 4 * torch.eye(COUNT)
    mix = made / made.sum(1, keepdim=True)
    rows = honest(seed)
    rows[LIARS:] += 0.05 * normal(Key(seed) / "more", COUNT - LIARS, PARAMS)
    lazy, plain = (play(built(name), one, seed) for one in (see(rows, mix=mix), see(mix @ rows)))
    alike(lazy, plain, ties=TABLE[name].ties, rtol=1e-7, atol=1e-7)


@those(lambda rule: rule.order)
@few
@given(seed=SEEDS, data=st.data())
def test_the_order_of_clients_does_not_matter(name, seed, data):
    order = torch.tensor(data.draw(st.permutations(range(COUNT))))
    rows = honest(seed)
    rows[:LIARS] *= -1
    found = play(built(name), see(rows[order], members=order), seed)
    expected = play(built(name), see(rows), seed)
    there = {one: getattr(expected, one)[order] for one in ("shares", "suspicion", "suspected")}
    alike(found, replace(expected, **there), ties=TABLE[name].ties, rtol=1e-8, atol=1e-8)


@few
@given(seed=SEEDS, data=st.data())
def test_the_order_of_clients_does_not_matter_to_bulyan_where_nothing_is_tied(seed, data):
    order = torch.tensor(data.draw(st.permutations(range(15))))
    rows = honest(seed, 15)
    found, expected = (built("bulyan", "f=3")(see(one)) for one in (rows[order], rows))
    torch.testing.assert_close(found.update, expected.update, rtol=1e-9, atol=1e-9)


@those(lambda rule: rule.shift)
@few
@given(seed=SEEDS, shift=st.floats(-100, 100))
def test_what_moves_all_rows_moves_the_update(name, seed, shift):
    rows = honest(seed)
    where = shift * normal(Key(seed) / "where", PARAMS)
    server = context(seed)
    moved = built(name)(see(rows + where), replace(server, root=lambda: server.root() + where))
    stayed = built(name)(see(rows), server)
    torch.testing.assert_close(moved.update, stayed.update + where, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(moved.shares, stayed.shares, rtol=1e-7, atol=1e-7)


@those(lambda rule: rule.scale is not None)
@few
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_the_unit_of_the_rows_is_that_of_the_update(name, seed, scale):
    rows, power = honest(seed), TABLE[name].scale
    server = context(seed)
    larger = built(name)(see(scale * rows), replace(server, root=lambda: scale * server.root()))
    before = built(name)(see(rows), server)
    torch.testing.assert_close(larger.update, scale**power * before.update, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(larger.shares, before.shares, rtol=1e-7, atol=1e-7)


@those(lambda rule: rule.agree)
@few
@given(seed=SEEDS)
def test_clients_who_agree_get_what_they_agree_on(name, seed):
    row = honest(seed, 1)
    for rows in (row.expand(COUNT, -1), row.repeat(COUNT, 1)):
        found = built(name)(see(rows), context(seed))
        torch.testing.assert_close(found.update, row[0], rtol=1e-9, atol=1e-9)


@those(lambda rule: rule.plain is not None)
@few
@given(seed=SEEDS, count=st.integers(3, 12))
def test_where_nobody_lies_it_is_the_plain_mean(name, seed, count):
    rows = honest(seed, count)
    found = built(name, TABLE[name].plain)(see(rows), context(seed))
    torch.testing.assert_close(found.update, rows.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.shares, torch.full_like(found.shares, 1 / count))
    assert not found.suspected.any()


LIES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from([1e30, -1e30, 3e38, 1e-30, 1e300, -1e300]),
)


@those(lambda rule: rule.bound is not None)
@settings(max_examples=20)
@given(seed=SEEDS, data=st.data())
def test_two_liars_in_eleven_do_not_move_the_update_away(name, seed, data):
    rows, bound = honest(seed), TABLE[name].bound
    places = data.draw(st.lists(st.integers(0, COUNT - 1), min_size=2, max_size=2, unique=True))
    for place in places:
        kind = data.draw(st.sampled_from(["fill", "one", "opposite", "longer", "aside"]))
        lie = data.draw(LIES)
        other = normal(Key(seed) / "lie" / place, PARAMS)
        rows[place] = {
            "fill": torch.full((PARAMS,), lie, dtype=torch.float64),
            "one": other.index_fill(0, torch.tensor(0), lie),
            "opposite": -rows[place],
            "longer": 1e3 * rows[place],
            "aside": 3 * other,
        }[kind]
    update = play(built(name), see(rows), seed).update
    kept = rows[[one for one in range(COUNT) if one not in places]]
    if bound == "range":
        rounding = 1e-12
        assert (update >= kept.amin(0) - rounding).all()
        assert (update <= kept.amax(0) + rounding).all()
    elif bound == "short":
        assert update.norm() <= 1.1 * kept.norm(dim=1).max()
    else:
        spread = (kept - kept.mean(0)).norm(dim=1).max()
        assert (update - kept.mean(0)).norm() <= 4 * spread


@those(lambda rule: rule.finds)
@few
@given(seed=SEEDS, data=st.data())
def test_two_who_send_the_opposite_are_the_two_it_accuses(name, seed, data):
    liars = sorted(data.draw(st.permutations(range(COUNT)))[:LIARS])
    rows = honest(seed)
    rows[liars] *= -10
    found = play(built(name), see(rows), seed)
    assert found.suspected.nonzero().flatten().tolist() == liars
    calm = [one for one in range(COUNT) if one not in liars]
    assert found.suspicion[liars].min() > found.suspicion[calm].max()


@those(lambda rule: rule.least > 1)
def test_one_row_fewer_than_it_needs_is_refused_in_one_line(name):
    least, rule = TABLE[name].least, built(name)
    assert play(rule, see(honest(0, least)), 0).update.isfinite().all()
    with pytest.raises(ValueError, match=r"aggregator") as caught:
        rule(see(honest(0, least - 1)), context(0))
    assert "\n" not in str(caught.value)


@every
@pytest.mark.parametrize("count", [1, 3])
def test_where_no_row_is_finite_it_is_refused_or_the_update_says_so(name, count):
    try:
        found = built(name)(see(torch.full((count, PARAMS), torch.nan)), context(0))
    except ValueError as refused:
        assert "\n" not in str(refused)
        assert "aggregator" in str(refused)
    else:
        assert not found.update.isfinite().any()
        assert found.suspected.all()
