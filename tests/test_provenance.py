"""A run with a log: anyone can check it, nobody can change it, and who lies is named."""

import base64
import hashlib
import os
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dai_lab.config import load
from dai_lab.experiment import audit, check, prove, simulate
from dai_lab.experiment.provenance import SEALED
from dai_lab.experiment.simulate import placed
from dai_lab.ledger import Log, keyring, verifier, verify
from dai_lab.run import main
from tests.conftest import KEY

TINY = (
    "data=digits", "model=logistic", "federation.clients=6", "federation.hostile=2", "rounds=4",
    "ledger=local", "ledger.every=2",
)  # fmt: skip
LYING = ("attack=sign_flip",)


def ran(place, *settings):
    return Path(simulate(load(*TINY, *settings, f"results={place}"), progress=False).folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("results"), *LYING)


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def doubts(folder, **asked):
    verdict = check(folder, **asked)
    assert str(verdict).count("\n") == len(verdict.lines)  # one line each
    return {name: why for mark, name, why in verdict.lines if mark == "DOUBT"}


def test_a_finished_run_is_verified(run):
    verdict = check(run)
    assert verdict.holds
    found = {name: (mark, why) for mark, name, why in verdict.lines}
    assert found["rounds"] == (
        "ok", "4: 24 rows of 6 clients, committed to before anything was revealed"
    )  # fmt: skip
    assert found["anchor"] == ("ok", "4 of 4 rounds, on a chain of the lab's own, replayed")
    assert found["not covered"] == ("--", "timings.jsonl")


def test_a_log_changes_nothing_that_is_computed(run, tmp_path):
    settings = [one for one in TINY if not one.startswith("ledger")]
    cfg = load(*settings, *LYING, f"results={tmp_path}")
    plain = Path(simulate(cfg, progress=False).folder)
    assert plain.name == run.name
    for name in ("records.jsonl", "summary.json", "checkpoint.safetensors"):
        assert (plain / name).read_bytes() == (run / name).read_bytes()
    assert not {"seal", "store", "ledger.sqlite", "chain.jsonl"} & {
        one.name for one in plain.iterdir()
    }
    assert "kept no log (ledger=none)" in doubts(plain)["log"]


def test_a_copy_is_verified_elsewhere_with_nothing_but_the_public_key(copy, monkeypatch, tmp_path):
    key = verifier("lab", keyring().signer("lab").public)
    monkeypatch.setenv("DAI_LAB_KEYS", str(tmp_path / "nothing"))
    assert not doubts(copy, key=key)
    assert not (tmp_path / "nothing").exists()
    other = verifier("lab", keyring(tmp_path / "other").signer("lab").public)
    assert "not the key you know" in doubts(copy, key=other)["key"]
    with pytest.raises(ValueError, match="is not a key"):
        check(copy, key="lab+1+2")


def test_no_byte_of_any_file_can_be_changed(copy):
    draw = random.Random(0)
    files = [one for one in copy.rglob("*") if one.is_file() and "lock" not in one.name]
    files = [one for one in files if one.name != "timings.jsonl"]
    assert {one.name for one in files} >= {*SEALED, "seal"}
    for number in range(60):
        victim = files[number % len(files)]
        whole = victim.read_bytes()
        bad = bytearray(whole)
        bad[draw.randrange(len(bad))] ^= draw.randrange(1, 256)
        victim.write_bytes(bad)
        assert doubts(copy), victim
        victim.write_bytes(whole)
    assert not doubts(copy)


@pytest.mark.parametrize("name", [*SEALED, "seal"])
def test_no_file_can_be_taken_away(copy, name):
    (copy / name).unlink()
    # What opens clients' rows may be kept from others: it is needed for a replay alone.
    assert bool(doubts(copy)) is (name != "opening")


def test_a_log_cannot_be_rolled_back(copy):
    """Whoever holds the files, and not the key, cannot make the run end earlier."""
    import sqlite3

    with sqlite3.connect(copy / "ledger.sqlite") as base:
        (size,) = base.execute("SELECT size FROM checkpoint ORDER BY size LIMIT 1").fetchone()
        base.execute("DELETE FROM event WHERE place >= ?", (size,))
        base.execute("DELETE FROM checkpoint WHERE size > ?", (size,))
    base.close()
    found = doubts(copy)
    assert "ledger.sqlite was changed" in found["seal"]
    assert "no end" in found["rounds"] and "records" in found


def test_a_log_signed_anew_after_the_fact_contradicts_the_chain(run, copy):
    """The lab itself, which has the key, cannot rewrite what is anchored."""
    from dai_lab.ledger import digests, seal, signed

    lab = keyring().signer("lab")
    raws = list(Log(copy / "ledger.sqlite", readonly=True).events())
    at = next(one for one, raw in enumerate(raws) if verify(raw).kind == "evaluation")
    server = keyring().signer("server", run.name)
    raws[at] = signed("evaluation", {"round": 1, "record": bytes(32)}, server)
    sizes = [size for size, _ in Log(copy / "ledger.sqlite", readonly=True).notes()]
    _rewrite(copy, run.name, raws, sizes)
    names = [str(one.relative_to(copy)) for one in copy.rglob("*") if one.is_file()]
    listed = [one for one in names if "lock" not in one and one not in ("seal", "timings.jsonl")]
    (copy / "seal").write_text(seal(run.name, digests(copy, listed), lab))
    found = doubts(copy)
    assert found.pop("anchor") == "the chain says otherwise about round 1"
    assert set(found) == {"records"}


def test_a_replay_names_who_lied_and_nobody_else(run):
    liars = _hostile(run)
    verdict = audit(run, 3)
    said = {name for mark, name, _ in verdict.lines if mark == "DOUBT"}
    assert said == {f"client {one}" for one in liars} and "SOMEBODY LIED" in str(verdict)
    assert ("ok", "server", "made of the rows what the settings say") in verdict.lines
    honest = next(one for one in range(6) if one not in liars)
    assert audit(run, 1, honest).holds and not audit(run, 4, liars[0]).holds


def test_who_poisons_the_data_it_registered_is_named_too(tmp_path):
    folder = ran(tmp_path, "poison=label_flip")
    said = {name for mark, name, _ in audit(folder, 2).lines if mark == "DOUBT"}
    assert said == {f"client {one}" for one in _hostile(folder)}


def test_everybody_honest_is_cleared(tmp_path):
    verdict = audit(ran(tmp_path, "federation.hostile=0", "aggregator=median"), 4)
    assert verdict.holds and "nobody lied" in str(verdict)


@pytest.mark.parametrize(
    "settings",
    [("privacy=local_gaussian",), ("privacy=private_unit",),
     ("privacy=central", "privacy.norm=0.1", "audit.clients=3"), ("+algorithm=scaffold",),
     ("compression=top_k",)],
)  # fmt: skip
def test_whatever_protects_rows_nobody_honest_is_blamed(tmp_path, settings):
    folder = ran(tmp_path, *LYING, *settings)
    said = {name for mark, name, _ in audit(folder, 3).lines if mark == "DOUBT"}
    assert said == {f"client {one}" for one in _hostile(folder)}


def test_what_comes_late_is_not_judged_and_that_is_said(tmp_path):
    late = ("+algorithm=fedbuff", "devices=phones", "pace.size=2", "federation.hostile=0")
    folder = ran(tmp_path, *late)
    verdicts = [audit(folder, number) for number in range(1, 5)]
    assert all(one.holds for one in verdicts)
    assert any("as far as can be told here" in str(one) for one in verdicts)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("config.yaml", b"seed: 0", b"seed: 1"), ("environment.json", b'"cpu"', b'"CPU"'),
     ("opening", b"a", b"b"), ("records.jsonl", b'"round": 1', b'"round":  1')],
)  # fmt: skip
def test_nothing_is_replayed_from_files_that_were_changed(copy, name, old, new):
    content = (copy / name).read_bytes()
    assert old in content
    (copy / name).write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match="is not what its log says") as caught:
        audit(copy, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "stranger",
    ["${oc.env:HOME}", "dai_lab.chain.rpc", "dai_lab.ledger.Log", "dai_lab.bridges.flower.server"],
)
def test_a_strangers_settings_reach_nothing_that_writes_or_tells(run, tmp_path, stranger):
    """A run that is sound, under a stranger's own key, with settings made to be replayed."""
    from dai_lab.ledger import digests, seal, signed

    place = tmp_path / "stranger"
    shutil.copytree(run, place)
    text = (place / "config.yaml").read_text()
    bad = text.replace("_target_: dai_lab.data.digits", f"_target_: {stranger}")
    assert bad != text
    (place / "config.yaml").write_text(bad)
    raws = list(Log(place / "ledger.sqlite", readonly=True).events())
    raws = [raw for raw in raws if verify(raw).kind != "anchored"]
    start = dict(verify(raws[0]).body)
    start["config"] = hashlib.sha256(bad.encode()).digest()
    raws[0] = signed("started", start, keyring().signer("lab"))
    _rewrite(place, run.name, raws, [len(raws)])
    names = [str(one.relative_to(place)) for one in place.rglob("*") if one.is_file()]
    listed = [one for one in names if "lock" not in one and one not in ("seal", "timings.jsonl")]
    (place / "seal").write_text(seal(run.name, digests(place, listed), keyring().signer("lab")))
    with pytest.raises(ValueError, match=r"will not call|holds references"):
        audit(place, 1)


@pytest.mark.parametrize("what", ["aggregate", "model", "record", "memory"])
def test_a_server_that_does_something_else_is_named(tmp_path, monkeypatch, what):
    import dai_lab.federation as federation

    play = federation.play

    def cheated(us, *rest, **more):
        def server(state, update):
            after = us.server(state, update)
            return replace(after, params=after.params + 1e-3)

        def aggregator(visible, context):
            found = us.aggregator(visible, context)
            return replace(found, update=found.update * 1.001)

        lies = {"model": {"server": server}, "aggregate": {"aggregator": aggregator}}
        for one in play(replace(us, **lies.get(what, {})), *rest, **more):
            if what == "record":
                one = replace(one, record={**one.record, "test_accuracy": 0.999})
            if what == "memory":
                swollen = {name: 5 * held for name, held in one.state.memory.items()}
                one = replace(one, state=replace(one.state, memory=swollen))
            yield one

    monkeypatch.setattr(federation, "play", cheated)
    folder = ran(tmp_path, "federation.hostile=0", "server=fedavgm", "ledger.every=1")
    monkeypatch.setattr(federation, "play", play)
    assert not doubts(folder)  # the log is sound: it says what the server did, not what it should
    said = {name: why for mark, name, why in audit(folder, 1).lines if mark == "DOUBT"}
    words = {
        "aggregate": "the aggregate does not follow from what was sent",
        "model": "the next model does not follow from what was sent",
        "memory": "what it remembers does not follow from what was sent",
        "record": "the record of the round says something else of test_accuracy",
    }
    assert said == {"server": f"LIED: {words[what]}"}
    if what in ("aggregate", "model"):
        # Played from the beginning, the first round is found out on the way to the third.
        shutil.rmtree(folder / "store")
        (folder / "store").mkdir()
        assert "store" in str(doubts(folder))


def test_kept_rows_tell_how_far_off_a_lie_is(tmp_path):
    folder = ran(tmp_path, *LYING, "ledger.rows=true")
    assert not doubts(folder)
    liar = _hostile(folder)[0]
    (_, _, why) = next(one for one in audit(folder, 2).lines if one[1] == f"client {liar}")
    assert why == "LIED: its row is 2 of its length away from what its data give"


def test_a_run_that_was_stopped_goes_on_with_its_log(run, tmp_path):
    stop = threading.Event()
    stop.set()
    cfg = load(*TINY, *LYING, f"results={tmp_path}")
    with pytest.raises(KeyboardInterrupt):
        placed(cfg, progress=False, stop=stop)
    folder = tmp_path / "run" / run.name
    assert "not finished" in doubts(folder)["seal"]
    assert simulate(cfg, progress=False).folder == folder
    verdict = check(folder)
    assert verdict.holds, str(verdict)
    assert "in 2 sessions" in str(verdict)
    assert (folder / "checkpoint.safetensors").read_bytes() == (
        run / "checkpoint.safetensors"
    ).read_bytes()


def test_rounds_played_again_after_a_crash_must_come_out_the_same(run, tmp_path):
    """A checkpoint may be older than the log; the log is never cut."""
    stop = threading.Event()
    cfg = load(*TINY, *LYING, f"results={tmp_path}")
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        placed(cfg, progress=False, stop=stop)
    folder = tmp_path / "run" / run.name
    old = (folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        placed(cfg, progress=False, stop=stop)
    (folder / "checkpoint.safetensors").write_bytes(old)
    simulate(cfg, progress=False)
    verdict = check(folder)
    assert verdict.holds and "1 of them played again and found the same" in str(verdict)
    assert "3 sessions" in str(verdict)


def test_a_run_goes_on_whatever_is_kept_of_it(run, tmp_path):
    """What is kept, and where clients run, may change on the way; what is computed does not."""
    stop = threading.Event()
    stop.set()
    first = load(*TINY, *LYING, f"results={tmp_path}")
    with pytest.raises(KeyboardInterrupt):
        placed(first, progress=False, stop=stop)
    then = load(*TINY, *LYING, "ledger.every=1", "ledger.rows=true", f"results={tmp_path}")
    verdict = check(simulate(then, progress=False).folder)
    assert verdict.holds, str(verdict)


def test_a_chain_that_lacks_the_first_rounds_is_refused_in_one_line(run, tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        placed(load(*TINY, *LYING, "chain=none", f"results={tmp_path}"), progress=False, stop=stop)
    with pytest.raises(ValueError, match="go on with the one the run began with") as caught:
        simulate(load(*TINY, *LYING, f"results={tmp_path}"), progress=False)
    assert "\n" not in str(caught.value)


def test_what_is_no_plain_file_is_not_opened(copy):
    (copy / "records.jsonl").unlink()
    os.mkfifo(copy / "records.jsonl")
    assert doubts(copy) == {"files": "records.jsonl is not a plain file"}
    (copy / "records.jsonl").unlink()
    (copy / "records.jsonl").symlink_to("/dev/zero")
    assert doubts(copy) == {"files": "records.jsonl is not a plain file"}


def test_tables_that_are_no_tables_of_a_log_are_not_read(copy):
    import sqlite3

    base = sqlite3.connect(copy / "ledger.sqlite")
    base.execute("DROP TABLE event")
    base.execute("CREATE VIEW event AS WITH RECURSIVE e(place, raw) AS (SELECT 0, x'' UNION ALL "
                 "SELECT place + 1, raw FROM e) SELECT * FROM e")  # fmt: skip
    base.close()
    assert "holds other tables" in doubts(copy)["log"]


def test_the_name_of_a_file_cannot_write_on_the_terminal(copy):
    (copy / "\x1b[2J\x1b[H verified\n  ok     key").write_text("")
    text = str(check(copy))
    assert "\x1b" not in text and text.count("\n") == len(check(copy).lines)


def test_one_run_does_not_pass_for_another(copy, run):
    other = copy.rename(copy.with_name("0123456789"))
    assert doubts(other)["seal"] == f"this is run {run.name}, in the folder of another"


def test_nothing_slips_into_a_seal():
    from dai_lab.ledger import read_seal, seal

    lab = keyring().signer("lab")
    for name in ("store/z\n" + "0" * 64 + "  opening", "../x", "/x", "a/b/c", ""):
        with pytest.raises(ValueError, match="a seal cannot list"):
            seal("r", {name: bytes(32)}, lab)
    assert read_seal(seal("r", {"a": bytes(32)}, lab), "r", "lab", lab.public) == {"a": bytes(32)}


@pytest.mark.parametrize("left", [(), ("seal",)])
def test_a_run_that_died_before_its_summary_is_ended_once(copy, run, left):
    """All but the last files were written: the log has its end, the seal may be there."""
    from omegaconf import OmegaConf

    for name in {"summary.json", "seal"} - {*left}:
        (copy / name).unlink()
    size = len(Log(copy / "ledger.sqlite", readonly=True))
    done = simulate(OmegaConf.load(copy / "config.yaml"), copy, progress=False)
    assert not done.skipped and check(copy).holds
    assert len(Log(copy / "ledger.sqlite", readonly=True)) == size
    assert (copy / "summary.json").read_bytes() == (run / "summary.json").read_bytes()


def test_nobody_goes_on_with_anothers_log(run, tmp_path, monkeypatch):
    stop = threading.Event()
    stop.set()
    cfg = load(*TINY, *LYING, f"results={tmp_path}")
    with pytest.raises(KeyboardInterrupt):
        placed(cfg, progress=False, stop=stop)
    monkeypatch.setenv("DAI_LAB_KEYS", str(tmp_path / "other"))
    with pytest.raises(ValueError, match="another key than that in DAI_LAB_KEYS") as caught:
        simulate(cfg, progress=False)
    assert "\n" not in str(caught.value)


def test_a_secure_sum_leaves_its_transcript(tmp_path):
    folder = ran(tmp_path, "secagg=pairwise", "federation.hostile=0")
    assert not doubts(folder) and audit(folder, 2).holds
    kinds = [verify(raw).kind for raw in Log(folder / "ledger.sqlite", readonly=True).events()]
    assert kinds.count("transcript") == 4


@pytest.mark.parametrize("frame", ["centralized", "local_only"])
def test_without_a_federation_models_and_records_are_logged(tmp_path, frame):
    folder = ran(tmp_path, f"frame={frame}", "federation.hostile=0")
    assert not doubts(folder)


def test_no_secret_reaches_a_run_or_its_messages(run, tmp_path, capfd):
    keys, secrets = keyring(), []
    for one in [("lab",), ("server", run.name), *(("client", run.name, at) for at in range(6))]:
        secrets.append(keys.signer(*one)._private.private_bytes_raw())
    secrets.append(keys._secret)
    for place in [run, ran(tmp_path, *LYING, "seed=1")]:
        for file in [one for one in place.rglob("*") if one.is_file()]:
            content = file.read_bytes()
            for secret in secrets:
                for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:40]):
                    assert form not in content, file
            assert b"PRIVATE KEY" not in content
    said = "".join(capfd.readouterr())
    assert not any(one.hex() in said for one in secrets)


@pytest.mark.parametrize(
    ("knob", "complaint"),
    [
        ("ledger.every=0", r"ledger\.every must be at least 1"),
        ("ledger.largest=-1", r"ledger\.largest must be 0 or more"),
    ],
)
def test_knobs_out_of_range_are_named(tmp_path, knob, complaint):
    with pytest.raises(ValueError, match=complaint):
        ran(tmp_path, knob)
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_the_command_line_checks_proves_and_replays(run, tmp_path, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr("sys.argv", ["dai-lab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return ended.value.code or 0, out.out + out.err

    assert said("verify", run)[0] == 0
    bundle = tmp_path / "proof"
    code, text = said("prove", run, "--round", 2, "--client", 1, "--out", bundle)
    assert code == 0 and bundle.stat().st_size < 3000
    code, text = said("verify", bundle)
    assert code == 0 and "update: round 2, client 1" in text
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"\0")
    code, text = said("verify", bundle)
    assert code == 1 and "NOT VERIFIED" in text
    assert said("audit", run, "--round", 1)[0] == 1
    assert said("verify", tmp_path / "nothing") == (
        1, f"dai-lab: verify: there is no {tmp_path / 'nothing'}\n"
    )  # fmt: skip
    assert "round must be in 1..4, got 9" in said("audit", run, "--round", 9)[1]
    assert said("audit", run) == (
        2, "dai-lab: the following arguments are required: --round; see dai-lab --help\n"
    )  # fmt: skip
    assert "holds no update round=9" in said("prove", run, "--round", 9, "--client", 1)[1]


def test_a_bundle_can_be_of_any_kind_of_event(run):
    assert b"dataset" in prove(run, client=2, kind="dataset")
    assert b"evaluation" in prove(run, round=3, kind="evaluation")
    assert b"finished" in prove(run, kind="finished")


def _rewrite(folder, run, raws, sizes):
    """Put another log in the place of a run's, signed by the lab from the first event on."""
    from dai_lab.ledger import Checkpoint, checkpoint

    (folder / "ledger.sqlite").unlink()
    log = Log(folder / "ledger.sqlite")
    log.append(raws)
    for size in sizes:
        at = Checkpoint(f"dai_lab/{run}", size, log.tree.root(size))
        log.note(size, checkpoint(at, keyring().signer("lab")))
    log.close(whole=True)


def _hostile(folder):
    """Say who lies, by the run's settings."""
    from omegaconf import OmegaConf

    from dai_lab.core import Compute
    from dai_lab.experiment.simulate import founded

    return founded(
        OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")), Compute()
    ).hostile


def test_a_run_is_anchored_on_a_node_as_on_the_chain_of_its_own(
    run, anvil_url, tmp_path, monkeypatch
):
    monkeypatch.setenv("DAI_LAB_CHAIN_KEY", KEY)
    folder = ran(tmp_path, *LYING, "chain=rpc", f"chain.url={anvil_url}")
    assert not (folder / "chain.jsonl").exists()
    verdict = check(folder)
    assert verdict.holds and "not asked (--url)" in str(verdict)
    asked = {name: (mark, why) for mark, name, why in check(folder, url=anvil_url).lines}
    assert asked["anchor"] == ("ok", "4 of 4 rounds, on a node, which was asked")
    for file in [one for one in folder.rglob("*") if one.is_file()]:
        content = file.read_bytes().lower()
        assert KEY[2:].encode() not in content and bytes.fromhex(KEY[2:]) not in content
    monkeypatch.delenv("DAI_LAB_CHAIN_KEY")
    with pytest.raises(ValueError, match="set DAI_LAB_CHAIN_KEY"):
        ran(tmp_path, "seed=5", "chain=rpc", f"chain.url={anvil_url}")
    # The node of a run that is over may be another by now: nobody is fooled.
    from dai_lab.chain import embedded

    embedded(folder / "chain.jsonl").close()
    assert "anchored on chain 31337, not here" in doubts(folder)["anchor"]


def test_a_run_on_a_node_goes_on_where_it_was(anvil_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DAI_LAB_CHAIN_KEY", KEY)
    stop = threading.Event()
    stop.set()
    cfg = load(*TINY, "chain=rpc", f"chain.url={anvil_url}", f"results={tmp_path}")
    with pytest.raises(KeyboardInterrupt):
        placed(cfg, progress=False, stop=stop)
    folder = simulate(cfg, progress=False).folder
    assert not doubts(folder, url=anvil_url)
