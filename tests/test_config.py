"""The same science has the same name, parts are built safely, and errors name the knob."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dai_lab.config import (
    build,
    build_named,
    check,
    conf_dir,
    digest,
    load,
    locate,
    trust,
    trusted,
)
from dai_lab.config.parts import did_you_mean

CLEAN = load()


@pytest.fixture
def lab_of_a_user(tmp_path, monkeypatch):
    """A package the lab does not know, and how to rewrite it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DAI_LAB_TRUST", "")
    made = []

    def write(text):
        name = f"user_lab_{tmp_path.name}_{len(made)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "watched",
    ["name=other", "tracker=wandb", "results=elsewhere", "compute.threads=2", "compute.device=cpu"],
)
def test_where_a_run_happens_and_who_watches_does_not_change_its_name(watched):
    assert digest(load(watched)) == digest(CLEAN)


@pytest.mark.parametrize(
    "science",
    [
        "seed=1",
        "rounds=21",
        "frame=local_only",
        "federation.clip=1",
        "federation.holdout=0.2",
        "evaluation.every=2",
        "evaluation.target=0.9",
        "evaluation.metric=client_accuracy",
        "attack=alie",
        "local.rate=0.2",
    ],
)
def test_what_is_computed_changes_the_name(science):
    assert digest(load(science)) != digest(CLEAN)


def test_an_experiment_is_only_shorthand():
    short = load("+experiment=quickstart")
    text = (Path(conf_dir()) / "experiment" / "quickstart.yaml").read_text()
    deltas = OmegaConf.to_container(OmegaConf.create(text))
    spelled = [f"{key}={value}" for key, value in leaves(deltas) if not key.startswith("hydra")]
    assert digest(load("partition=dirichlet", *spelled)) == digest(short)


def leaves(node, at=""):
    """Spell nested settings as on the command line."""
    for key, value in node.items():
        if key == "defaults":
            continue
        if isinstance(value, dict):
            yield from leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def test_a_notebook_s_dictionary_and_a_composed_configuration_have_the_same_name():
    plain = OmegaConf.to_container(CLEAN, resolve=True, enum_to_str=True)
    assert digest(plain) == digest(CLEAN)
    assert digest(dict(reversed(plain.items()))) == digest(CLEAN)
    assert digest(OmegaConf.create(OmegaConf.to_yaml(CLEAN))) == digest(CLEAN)


def test_runs_that_differ_only_by_seed_share_a_group():
    groups = {digest(load(f"seed={seed}"), without=("seed",)) for seed in range(3)}
    assert len(groups) == 1
    assert groups != {digest(load("rounds=3"), without=("seed",))}


@given(number=st.integers(-(10**9), 10**9))
def test_one_and_one_point_zero_are_the_same_setting(number):
    def named(value):
        return digest({"attack": {"_target_": "dai_lab.attacks.alie", "z": value}})

    assert named(number) == named(float(number))
    assert named(number) != named(number + 0.5)
    assert named(True) != named(1)
    assert named("1") != named(1)


def test_a_part_gets_the_kind_of_number_it_asks_for():
    whole = build({"_target_": "dai_lab.attacks.alie", "z": 1}, at="attack").keywords["z"]
    assert (whole, type(whole)) == (1.0, float)
    trim = build({"_target_": "dai_lab.aggregators.trimmed_mean", "f": 2.0}, at="aggregator")
    assert type(trim.keywords["f"]) is int


CALLS = "def part(rows, *, key):\n    return half(rows)\ndef half(x):\n"


def test_an_edited_function_of_the_user_is_another_run(lab_of_a_user):
    texts = {
        "plain": "def part(rows, *, key):\n    return rows\n",
        "edited": "def part(rows, *, key):\n    return 2 * rows\n",
        "neighbor": CALLS + "    return x / 2\n",
        "its edit": CALLS + "    return x / 3\n",
        "constant": "BY = 2\ndef part(rows, *, key):\n    return BY * rows\n",
        "its change": "BY = 3\ndef part(rows, *, key):\n    return BY * rows\n",
        "class": "class part:\n    def __call__(self, rows, *, key):\n        return rows\n",
        "method": "class part:\n    def __call__(self, rows, *, key):\n        return -rows\n",
    }
    names = {}
    for what, text in texts.items():
        module = lab_of_a_user(text)
        trust(module)
        locate(f"{module}.part")
        names[what] = digest({"privacy": {"_target_": f"{module}.part"}})
        sys.modules[module].__dict__.clear()
    assert len(set(names.values())) == len(texts)

    module = lab_of_a_user(texts["neighbor"])
    trust(module)
    before = digest({"privacy": {"_target_": f"{module}.part"}})
    again = digest({"privacy": {"_target_": f"{module}.part"}})
    assert before == again
    path = Path(sys.modules[module].__file__)
    path.write_text(texts["its edit"] + "# now another length\n")
    del sys.modules[module]
    import importlib
    import linecache

    importlib.invalidate_caches()
    linecache.checkcache()
    assert digest({"privacy": {"_target_": f"{module}.part"}}) != before


def test_a_function_typed_into_main_is_named_by_its_code():
    probe = """
import sys
from dai_lab.config import build, digest, trust
trust("__main__")
def part(rows, *, state, key, scale: float = 1.0):
    return {body}
node = {{"_target_": "__main__.part", "scale": 2}}
print(digest({{"privacy": node}}), build(node, at="privacy").keywords)
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", probe.format(body=body)], capture_output=True, text=True
        ).stdout
        for body in ("rows", "rows", "-rows")
    ]
    assert "{'scale': 2.0}" in said[0]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("os.system", "will not build 'os.system'"),
        ("subprocess.run", "will not build"),
        ("builtins.eval", "will not build"),
        ("dai_lab.config.trust", "will not build"),
        ("dai_lab.config.parts.trust", "will not build"),
        ("dai_lab.run.main", "will not build"),
        ("dai_lab.experiment.simulate", "will not build"),
        ("dai_lab.track.contextmanager", "it is defined in contextlib"),
        ("dai_lab.attacks._private", "will not build"),
        ("dai_lab._x.y", "will not build"),
        ("dai_labs.attacks.alie", "will not build"),
        ("torch.load", "will not build"),
        ("alie", "will not build"),
        ("", "will not build"),
        ("dai_lab.attacks.alei", "no function 'alei' in dai_lab.attacks; did you mean alie"),
        ("dai_lab.atacks.alie", "no module 'dai_lab.atacks'"),
    ],
)
def test_only_public_parts_of_trusted_packages_are_built(target, complaint):
    with pytest.raises(ValueError, match=complaint) as said:
        build({"_target_": target}, at="attack")
    assert "\n" not in str(said.value)


def test_trust_comes_from_outside_the_configuration_only(lab_of_a_user, monkeypatch):
    module = lab_of_a_user("from os import system\ndef part(rows, *, key):\n    return rows\n")
    node = {"_target_": f"{module}.part"}
    with pytest.raises(ValueError, match="DAI_LAB_TRUST"):
        build(node)
    monkeypatch.setenv("DAI_LAB_TRUST", f"something, {module}")
    assert build(node)
    with pytest.raises(ValueError, match="it is defined in posix"):
        build({"_target_": f"{module}.system"})
    trust("one.more")
    assert {f"{module}.", "one.more."} <= set(trusted())
    with pytest.raises(ValueError, match="not the name of a package"):
        trust("a,b")


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        ({"zz": 1}, r"there is no attack\.zz: .* has z; did you mean z|there is no attack\.zz"),
        ({"z": "much"}, r"attack\.z must be a number.*, got 'much'"),
        ({"z": True}, r"attack\.z must be a number.*, got True"),
        ({"z": "???"}, r"attack\.z is missing"),
        ({"key": 3}, r"there is no attack\.key"),
        ({"own": 3}, r"there is no attack\.own"),
    ],
)
def test_a_bad_knob_is_named_before_anything_runs(node, complaint):
    with pytest.raises(ValueError, match=complaint):
        build({"_target_": "dai_lab.attacks.alie", **node}, at="attack")


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("server", "dai_lab.aggregators.median"),
        ("server", "dai_lab.engines.local"),
        ("data", "dai_lab.data.tensors"),
        ("cohort", "dai_lab.privacy.none"),
        ("attack", "dai_lab.privacy.none"),
        ("watch", "dai_lab.aggregators.median"),
        ("watch.mine", "dai_lab.aggregators.median"),
        ("tracker", "dai_lab.aggregators.median"),
    ],
)
def test_a_part_of_another_group_is_refused_in_one_line(group, target):
    with pytest.raises(ValueError, match=f"{target} is no part for {group}, it takes") as said:
        build({"_target_": target}, at=group)
    assert "\n" not in str(said.value)


def test_a_part_of_another_group_inside_a_part_is_refused():
    node = {
        "_target_": "dai_lab.attacks.sometimes",
        "attack": {"_target_": "dai_lab.learning.servers.fedavg"},
    }
    with pytest.raises(ValueError, match=r"is no part for attack\.attack"):
        build(node, at="attack")


def test_nested_parts_and_lists_of_parts_are_built_and_their_knobs_named(lab_of_a_user):
    inner = {"_target_": "dai_lab.attacks.sign_flip", "scale": 5}
    nested = {"_target_": "dai_lab.attacks.sometimes", "probability": 1, "attack": inner}
    assert build(nested, at="attack").keywords["attack"].keywords == {"scale": 5.0}
    bad = {**nested, "attack": {**inner, "sclae": 1}}
    with pytest.raises(ValueError, match=r"there is no attack\.attack\.sclae.*did you mean scale"):
        build(bad, at="attack")
    without = {key: value for key, value in nested.items() if key != "attack"}
    with pytest.raises(ValueError, match=r"attack\.attack is missing"):
        build(without, at="attack")
    module = lab_of_a_user("def several(rows, *, state, key, steps: list):\n    return rows\n")
    trust(module)
    listed = build({"_target_": f"{module}.several", "steps": [inner, inner]}, at="privacy")
    assert [one.keywords["scale"] for one in listed.keywords["steps"]] == [5.0, 5.0]


def test_a_composed_node_knows_where_it_is():
    cfg = load("attack=alie", "+attack.zz=1")
    with pytest.raises(ValueError, match=r"there is no attack\.zz"):
        build(cfg.attack)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("rounds=0", "rounds must be at least 1, got 0"),
        ("seed=-1", "seed must be 0 or more, got -1"),
        ("federation.clients=-1", "federation.clients must be 0"),
        ("federation.hostile=-1", "federation.hostile must be 0 or more, got -1"),
        ("federation.hostile=20", r"federation.hostile must be below federation.clients \(20\)"),
        ("federation.holdout=1", r"federation.holdout must be in \[0, 1\), got 1.0"),
        ("federation.clip=0", "federation.clip must be above 0"),
        ("federation.clip=nan", "federation.clip must be above 0"),
        ("evaluation.every=0", "evaluation.every must be at least 1"),
        ("evaluation.target=1.5", "evaluation.target must be an accuracy"),
        ("evaluation.metric=test_loss", "evaluation.metric must be one of test_accuracy, "),
        ("compute.threads=0", "compute.threads must be at least 1"),
        ("compute.device=gpu", "compute.device must be auto, cpu"),
        ("name=a/../b", "name must be letters"),
        ("name=.hidden", "name must be letters"),
        ("+nonsense=1", "there is no nonsense"),
        ("~attack", "attack must be a part|attack"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(override, complaint):
    with pytest.raises(ValueError, match=complaint) as said:
        cfg = load(override)
        if OmegaConf.missing_keys(cfg):
            raise ValueError(f"{min(OmegaConf.missing_keys(cfg))} is missing")
        check(OmegaConf.to_container(cfg, enum_to_str=True))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("attack=alei", "there is no attack 'alei': choose from .*alie.*; did you mean alie"),
        ("atack=alie", "there is no atack; did you mean attack"),
        ("federation.client=3", "did you mean federation.clients"),
        ("local.rat=1", "there is no local.rat: local has .*did you mean local.rate"),
        ("rounds=many", "rounds must be a whole number, got 'many'"),
        ("rounds=2.5", "rounds must be a whole number, got '2.5'"),
        ("rounds=null", "rounds must have a value"),
        ("federation.holdout=x", "federation.holdout must be a number, got 'x'"),
        ("frame=central", "frame must be one of federated, .*, got 'central'"),
        ("federation=3", "federation holds settings of its own"),
        ("+experiment=nope", "there is no experiment 'nope'"),
        ("experiment=quickstart", r"write \+experiment="),
        ("rounds", "cannot read 'rounds'"),
        ("rounds=[", r"cannot read rounds=\["),
    ],
)
def test_what_cannot_be_composed_is_said_in_one_line(override, complaint):
    with pytest.raises(ValueError, match=complaint) as said:
        load(override)
    assert "\n" not in str(said.value)


def test_several_watchers_are_merged_by_name(tmp_path):
    (tmp_path / "watch").mkdir()
    for name in ("first", "second"):
        (tmp_path / "watch" / f"{name}.yaml").write_text(
            f"# @package watch.{name}\n_target_: dai_lab.watch.{name}\n"
        )
    cfg = load("watch=[first,second]", conf_dir=tmp_path)
    assert set(cfg.watch) == {"first", "second"}
    assert load("watch=first", conf_dir=tmp_path).watch.keys() == {"first"}
    assert digest(cfg) != digest(CLEAN)


def test_a_watcher_is_one_function_and_one_yaml(tmp_path, lab_of_a_user):
    module = lab_of_a_user("def norms(trace, *, power: float = 2.0):\n    return {}\n")
    trust(module)
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "mine.yaml").write_text(f"_target_: {module}.norms\npower: 1\n")
    cfg = load("watch=mine", "watch.power=3", conf_dir=tmp_path)
    built = build_named(OmegaConf.to_container(cfg.watch), at="watch")
    assert {name: one.keywords for name, one in built.items()} == {"norms": {"power": 3.0}}
    assert build_named({}, at="watch") == {}
    headed = {"a": {"_target_": f"{module}.norms"}, "b": {"_target_": f"{module}.norms"}}
    assert set(build_named(headed, at="watch")) == {"a", "b"}


def test_a_word_is_not_suggested_for_itself():
    assert did_you_mean("watch", ["watch", "match"]) == ""
    assert did_you_mean("wacth", ["watch"]) == "; did you mean watch?"


def test_a_folder_of_ones_own_adds_choices_and_a_wrong_one_is_named(tmp_path):
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "mine.yaml").write_text("_target_: dai_lab.attacks.alie\nz: 9\n")
    assert load("attack=mine", conf_dir=tmp_path).attack.z == 9
    with pytest.raises(ValueError, match="there is no folder"):
        load(conf_dir=tmp_path / "nowhere")


OVERRIDES = [
    ["data=adult", "aggregator=bucketing", "aggregator.then.f=2", "seed=3"],
    ["+experiment=quickstart", "rounds=2", "name='a b'"],
    ["+algorithm=scaffold", "schedule@local.schedule=cosine", "local.rate=0.5", "local.rate=1e-3"],
    ["watch={}", "federation.clients=7", "+local.more={a: [1, 2], b: null}", "local={rate: 2}"],
    ["data=biased", "data@data.of=adult", "data.flip=0.1", "partition.by=${fairness.attribute}"],
    ["~track", "seed=1"],
    ["~server.rate", "aggregator=krum"],
    ["++hydra={}", "seed=1"],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_what_is_composed_again_is_what_hydra_composes(overrides):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(conf_dir(), version_base="1.3"):
        try:
            expected = compose("config", overrides)
        except Exception:
            expected = None
    for _ in range(2):
        try:
            found = load(*overrides)
        except ValueError:
            assert expected is None
            continue
        assert OmegaConf.to_yaml(found, resolve=False) == OmegaConf.to_yaml(expected)
        found.rounds = 999  # whoever changes what was loaded changes it for nobody else
        found.aggregator.more = 1


def test_an_edited_file_of_settings_is_read_anew(tmp_path, monkeypatch):
    mine = tmp_path / "conf"
    shutil.copytree(conf_dir(), mine)
    monkeypatch.setattr(sys.modules["dai_lab.config.load"], "conf_dir", lambda: str(mine))
    file = mine / "aggregator" / "krum.yaml"
    assert load("aggregator=krum", "seed=1").aggregator.f == 1
    file.write_text(file.read_text().replace("f: 1", "f: 22"))
    assert load("aggregator=krum", "seed=1").aggregator.f == 22
    (mine / "aggregator" / "mine.yaml").write_text(file.read_text())
    assert load("aggregator=mine", "seed=1").aggregator.f == 22
    (mine / "attack").rename(tmp_path / "attacks")
    (mine / "attack").symlink_to(tmp_path / "attacks")
    assert load("attack=alie", "seed=1").attack.z == 1.5
    file = tmp_path / "attacks" / "alie.yaml"
    file.write_text(file.read_text().replace("z: 1.5", "z: 3"))
    assert load("attack=alie", "seed=1").attack.z == 3


def test_a_part_that_a_program_stores_again_is_read_anew():
    store = ConfigStore.instance()
    try:
        for z in (1, 1.0, True):
            node = {"_target_": "dai_lab.attacks.alie", "z": z}
            store.store(group="attack", name="stored", node=node)
            found = load("attack=stored", "seed=1").attack.z
            assert (found, type(found)) == (z, type(z))
        store.repo["attack"]["stored.yaml"].node.z = 5
        assert load("attack=stored", "seed=1").attack.z == 5
    finally:
        del store.repo["attack"]


def test_loading_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert digest(load()) == digest(CLEAN)
    assert Path(conf_dir()).is_absolute()


def test_composing_imports_nothing_heavy():
    probe = (
        "import sys; from dai_lab.config import digest, load; digest(load('tracker=wandb'))\n"
        "print([m for m in ('torch', 'numpy', 'numba', 'wandb', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_data_is_named_by_what_it_is_and_not_by_where_it_lies(tmp_path):
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    here.write_bytes(b"the same")
    there.write_bytes(b"the same")
    cfg = load("data=file", f"data.path={here}")
    assert digest(cfg) == digest(load("data=file", f"data.path={there}"))
    before = digest(cfg)
    here.write_bytes(b"other content")
    assert digest(cfg) != before
    moved = load("data=fashion_mnist", "data.root=/elsewhere")
    assert digest(moved) == digest(load("data=fashion_mnist"))
