"""A run killed at any instant, raced for or starved of disk ends as if nothing had happened."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dai_lab.config import digest, load
from dai_lab.core import Key, State
from dai_lab.experiment import environment, files, restore, simulate
from dai_lab.experiment.simulate import sessions

SMALL = (
    "data=digits",
    "model=logistic",
    "federation.clients=4",
    "federation.holdout=0",
    "server=fedavgm",
    "rounds=3",
    "compute.method=vmap",
)
SAME = ("records.jsonl", "summary.json", "checkpoint.safetensors")

PRELUDE = f"""
import os, resource, signal, sys, time
import torch
torch.set_num_threads(1)
from dai_lab.config import load
from dai_lab.core import Key
from dai_lab.experiment import simulate
import dai_lab.federation, dai_lab.metrics, safetensors.torch, tqdm.auto
SAME = {SAME!r}
cfg = load(*{SMALL!r})

def child(folder, before=lambda: None):
    pid = os.fork()
    if pid:
        return pid
    try:
        before()
        simulate(cfg, folder, progress=False)
        os._exit(0)
    except ValueError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with open(f"{{folder}}.said", "a") as said:
            said.write(f"{{error}}\\n")
        os._exit(3)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(4)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def same(one, other):
    for name in SAME:
        with open(f"{{one}}/{{name}}", "rb") as ours, open(f"{{other}}/{{name}}", "rb") as theirs:
            assert ours.read() == theirs.read(), name
    assert len(open(f"{{one}}/timings.jsonl").readlines()) == cfg.rounds

def die():
    os.kill(os.getpid(), signal.SIGKILL)

root = sys.argv[1]
reference = f"{{root}}/reference"
simulate(cfg, reference, progress=False)  # children are forked warm: their time goes into rounds
started = time.perf_counter()
assert ended(child(f"{{root}}/again")) == 0
same(f"{{root}}/again", reference)
took = time.perf_counter() - started
"""


def in_another_process(script, folder):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def small(*more):
    return load(*SMALL, *more)


def content(folder):
    return {name: Path(folder, name).read_bytes() for name in SAME}


def test_a_run_killed_before_any_write_reaches_the_disk_ends_as_if_it_never_was(tmp_path):
    script = """
def die_at(point):
    def patch():
        left = [point]
        def counted(call):
            def stand_in(*given, **more):
                if left[0] == 0:
                    die()
                left[0] -= 1
                return call(*given, **more)
            return stand_in
        for name in ("fsync", "replace", "truncate"):
            setattr(os, name, counted(getattr(os, name)))
    return patch

cfg.rounds = 2  # every point of a first and of a later round
reference = f"{root}/short"
simulate(cfg, reference, progress=False)
point, killed = 0, 0
while True:
    folder = f"{root}/{point}"
    first = ended(child(folder, die_at(point)))
    if first == 0:
        break
    assert first == -signal.SIGKILL, first
    killed += 1
    if point % 4 == 0:
        ended(child(folder, die_at(point % 7)))  # and once more, while it mends itself
    assert ended(child(folder)) == 0
    same(folder, reference)
    point += 1
print(killed)
"""
    # Each round waits for the disk four times and swaps one file.
    assert int(in_another_process(script, tmp_path)) > 2 * 5


def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(tmp_path):
    script = """
import numpy
draw = numpy.random.default_rng(Key(2).number())
kills = 0
for number in range(60):
    folder = f"{root}/{number}"
    for _ in range(2):
        pid = child(folder)
        time.sleep(draw.uniform(0, took))
        os.kill(pid, signal.SIGKILL)
        kills += ended(pid) == -signal.SIGKILL
    assert ended(child(folder)) == 0
    same(folder, reference)
    if kills >= 5:
        break
print(kills)
"""
    assert int(in_another_process(script, tmp_path)) >= 5


def test_processes_racing_for_one_folder_take_turns(tmp_path):
    script = """
codes = [ended(pid) for pid in [child(f"{root}/raced") for _ in range(6)]]
assert set(codes) <= {0, 3} and 0 in codes, codes
if 3 in codes:
    said = open(f"{root}/raced.said").read().splitlines()
    assert all("is being run by another process (pid " in line for line in said), said
assert ended(child(f"{root}/raced")) == 0
same(f"{root}/raced", reference)

hear, tell = os.pipe()
lock = os.fork()  # somebody holds it for sure
if not lock:
    from dai_lab.experiment import files
    from pathlib import Path
    with files.locked(Path(f"{root}/held")):
        os.write(tell, b"held")
        signal.alarm(120)  # an orphan ends by itself
        signal.pause()
os.close(tell)
assert os.read(hear, 4) == b"held"  # nothing, should the holder die first
assert ended(child(f"{root}/held")) == 3
assert f"another process (pid {lock})" in open(f"{root}/held.said").read()
os.kill(lock, signal.SIGKILL)
os.waitpid(lock, 0)
assert ended(child(f"{root}/held")) == 0  # the dead hold nothing
same(f"{root}/held", reference)
"""
    in_another_process(script, tmp_path)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    script = """
def limit(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
lost = os.path.getsize(f"{reference}/records.jsonl")
checkpoint = os.path.getsize(f"{reference}/checkpoint.safetensors")
for size in (1, 50, 400, checkpoint - 1, lost // 2, lost - 1):
    folder = f"{root}/{size}"
    code = ended(child(folder, limit(size)))
    assert code == 3, (size, code)
    said = open(f"{folder}.said").read().splitlines()
    assert len(said) == 1 and folder in said[0] and "File too large" in said[0], said
    assert ended(child(folder)) == 0
    same(folder, reference)
"""
    in_another_process(script, tmp_path)


@pytest.fixture
def mounted(tmp_path):
    """Mount small file systems, where this user may."""
    places = []

    def mount(options):
        place = tmp_path / f"mount{len(places)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
        )
        if done.returncode:
            pytest.skip("mounting a file system needs root; the limit on file size is tested above")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_file_system_that_fills_up_is_one_line_and_loses_nothing(mounted, tmp_path):
    disk = mounted("size=48k")
    stuffing = disk / "stuffing"
    stuffing.write_bytes(bytes(16_000))
    with pytest.raises(ValueError, match=f"cannot write to {disk}/run: No space left") as said:
        simulate(small("rounds=80"), disk / "run", progress=False)
    assert "\n" not in str(said.value)
    recorded = (disk / "run" / "records.jsonl").read_bytes()
    whole = [line for line in recorded.splitlines(keepends=True) if line.endswith(b"\n")]
    _, done = restore(disk / "run" / "checkpoint.safetensors")
    assert 0 < done <= len(whole)
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    simulate(small("rounds=80"), disk / "run", progress=False)
    simulate(small("rounds=80"), tmp_path / "undisturbed", progress=False)
    assert content(disk / "run") == content(tmp_path / "undisturbed")


def test_a_folder_that_cannot_be_written_is_one_line(mounted, tmp_path):
    disk = mounted("ro")
    with pytest.raises(ValueError, match=f"cannot write to {disk}/run: Read-only file system"):
        simulate(small(), disk / "run")


def test_a_folder_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file/run: Not a directory"):
        simulate(small(), tmp_path / "file" / "run")


def stopped_after(folder, rounds, monkeypatch):
    """Leave a run as a kill between two rounds would."""
    real = files.save

    def save(path, state, done):
        real(path, state, done)
        if done == rounds:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "save", save)
        patch.setattr(sys.modules["dai_lab.experiment.simulate"], "PATIENCE", 0)
        with pytest.raises(KeyboardInterrupt):
            simulate(small(), folder, progress=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    simulate(small(), folder, progress=False)
    return folder


@given(tail=st.binary(max_size=300))
def test_whatever_a_dying_run_wrote_after_its_checkpoint_is_cut_off(tail):
    import tempfile

    lines = [files.line({"round": number, "x": number / 7}).encode() for number in (1, 2)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        path.write_bytes(b"".join(lines) + tail)
        assert [one["round"] for one in files.keep(path, 2)] == [1, 2]
        assert path.read_bytes() == b"".join(lines)


def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path, monkeypatch, capsys, undisturbed):
    stopped_after(tmp_path / "run", 2, monkeypatch)
    assert f"the same command goes on from {tmp_path / 'run'}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "summary.json").exists()
    simulate(small(), tmp_path / "run", progress=False)
    assert content(tmp_path / "run") == content(undisturbed)


@pytest.mark.parametrize(
    ("file", "damage", "complaint"),
    [
        ("checkpoint.safetensors", b"", "checkpoint.safetensors is damaged"),
        ("checkpoint.safetensors", b"\0" * 400, "checkpoint.safetensors is damaged"),
        ("records.jsonl", b"", "holds 0 rounds of 2 in the checkpoint"),
        ("records.jsonl", b'{"round": 1}\n{"round": 3}\n', "line 2 is not the record of round 2"),
        ("records.jsonl", b'{"round": 1}\n{"rou', "line 2 is not the record of round 2"),
        ("timings.jsonl", b"[]\n[]\n", "line 1 is not the record of round 1"),
        ("environment.json", b"{", "environment.json is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_deleted(
    tmp_path, monkeypatch, file, damage, complaint
):
    folder = tmp_path / "run"
    stopped_after(folder, 2, monkeypatch)
    (folder / file).write_bytes(damage)
    before = {one.name: one.read_bytes() for one in folder.iterdir() if one.name != ".lock"}
    with pytest.raises(ValueError, match=complaint) as said:
        simulate(small(), folder, progress=False)
    assert f"delete {folder} to start again" in str(said.value)
    assert "\n" not in str(said.value)
    after = {one.name: one.read_bytes() for one in folder.iterdir() if one.name != ".lock"}
    assert after == before


def test_a_folder_that_holds_another_experiment_is_refused(undisturbed, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds another experiment"):
        simulate(small("seed=1"), undisturbed)
    stopped_after(tmp_path / "run", 2, monkeypatch)
    with pytest.raises(ValueError, match="holds another experiment"):
        simulate(small("seed=1"), tmp_path / "run")
    (tmp_path / "run" / "environment.json").unlink()
    with pytest.raises(ValueError, match="holds another experiment"):
        simulate(small("seed=1"), tmp_path / "run")


def test_a_finished_run_is_returned_without_running(undisturbed):
    before = {one: one.stat().st_mtime_ns for one in undisturbed.iterdir()}
    again = simulate(small(), undisturbed)
    assert again.skipped
    assert again.summary["round"] == 3
    assert {one: one.stat().st_mtime_ns for one in undisturbed.iterdir()} == before


def test_the_folder_is_named_by_what_is_computed(tmp_path):
    cfg = small(f"results={tmp_path}", "name=named", "rounds=1")
    assert simulate(cfg).folder == tmp_path / "named" / digest(cfg)
    written = {one.name for one in (tmp_path / "named" / digest(cfg)).iterdir()}
    assert written == {".lock", "config.yaml", "environment.json", "timings.jsonl", *SAME}


def test_a_resumed_run_keeps_its_way_of_computing_and_what_it_ran_on_before(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stopped_after(folder, 2, monkeypatch)
    about = json.loads((folder / "environment.json").read_text())
    assert (about["from_round"], about["earlier"]) == (1, [])
    about |= {"cpu": "another processor", "versions": {"torch": "1.0"}}
    about["compute"] |= {"method": "vmap", "group": 2}
    (folder / "environment.json").write_text(json.dumps(about))
    simulate(small("compute.method=vmap", "compute.threads=2"), folder, progress=False)
    ended = json.loads((folder / "environment.json").read_text())
    (earlier,) = ended["earlier"]
    assert (earlier["from_round"], ended["from_round"]) == (1, 3)
    assert (earlier["cpu"], earlier["versions"]) == ("another processor", {"torch": "1.0"})
    assert ended.items() >= environment(1).items()
    assert ended["compute"] == {"device": "cpu", "threads": 1, "method": "vmap", "group": 2}


@given(rounds=st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=1))
def test_every_recorded_round_has_the_session_it_was_computed_in(rounds):
    about, ran = {}, []
    for done, cpu in rounds:  # goes on from a checkpoint, perhaps one before the last record
        ran = ran[:done]
        about = sessions(about, {"cpu": cpu}, len(ran))
        ran += [cpu] * (done + 1 - len(ran))
    starts = {one["from_round"]: one["cpu"] for one in [*about["earlier"], about]}
    assert list(starts) == sorted(starts)
    for number, cpu in enumerate(ran, start=1):
        assert starts[max(one for one in starts if one <= number)] == cpu


def test_the_threads_of_blas_are_given_back(tmp_path):
    script = """
import scipy.linalg.cython_blas, threadpoolctl
def threads():
    return [one["num_threads"] for one in threadpoolctl.threadpool_info()
            if one["user_api"] == "blas"]
threadpoolctl.threadpool_limits(2, user_api="blas")
from dai_lab.learning import products
during = []
real = products._address
def watched():
    during.append(threads())
    return real()
products._address = watched
before = threads()
simulate(load("data=digits", "model=mlp", "federation.clients=4", "rounds=1",
              "compute.method=compiled"), f"{root}/run", progress=False)
assert during and all(set(one) == {1} for one in during), during
assert set(before) == {2} and threads() == before, (before, threads())
products.linear(torch.ones(2, 3), torch.ones(4, 3), None)  # outside a run, too
assert set(during[-1]) == {1}
"""
    in_another_process(script, tmp_path)


def test_the_number_of_threads_is_given_back(tmp_path):
    before = torch.get_num_threads()
    simulate(small("rounds=1", "compute.threads=2"), tmp_path, progress=False)
    assert torch.get_num_threads() == before


def test_a_model_that_explodes_ends_the_run_as_a_result(tmp_path):
    cfg = small("server.rate=1e39", "rounds=6")  # more than float32 holds
    result = simulate(cfg, tmp_path, progress=False)
    assert result.summary["diverged"]
    assert result.summary["rounds"] < 6
    assert "NaN" not in (tmp_path / "records.jsonl").read_text()
    assert simulate(cfg, tmp_path).skipped


def test_clients_left_alone_whose_models_explode_end_the_run_as_a_result(tmp_path):
    cfg = small("frame=local_only", "local.rate=1e38", "rounds=6")
    result = simulate(cfg, tmp_path, progress=False)
    assert result.summary["diverged"]
    assert result.summary["rounds"] < 6


def test_the_summary_says_when_the_target_was_reached(tmp_path):
    result = simulate(small("evaluation.target=0.3"), tmp_path, progress=False)
    records = [json.loads(one) for one in (tmp_path / "records.jsonl").read_text().splitlines()]
    reached = [one["round"] for one in records if one["test_accuracy"] >= 0.3]
    assert result.summary["rounds_to_target"] == reached[0]
    assert result.summary["peak_test_accuracy"] == max(one["test_accuracy"] for one in records)


def test_a_target_may_be_for_the_accuracy_on_what_clients_held_out(tmp_path):
    cfg = small(
        "evaluation.target=0.3", "evaluation.metric=client_accuracy", "federation.holdout=0.2"
    )
    result = simulate(cfg, tmp_path, progress=False)
    records = [json.loads(one) for one in (tmp_path / "records.jsonl").read_text().splitlines()]
    reached = [one["round"] for one in records if one["client_accuracy"] >= 0.3]
    assert result.summary["rounds_to_target"] == reached[0]


def test_a_secret_a_tracker_refers_to_does_not_reach_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_SECRET", "hunter2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = small("tracker=wandb", "rounds=1", "tracker.entity=${oc.env:LAB_SECRET}")
    simulate(cfg, tmp_path, progress=False)
    assert "LAB_SECRET" in (tmp_path / "config.yaml").read_text()
    for file in tmp_path.glob("*.*"):
        assert file.is_dir() or b"hunter2" not in file.read_bytes()


def test_nothing_is_left_of_a_run_that_was_refused(tmp_path):
    with pytest.raises(ValueError, match="hostile"):
        simulate(small("federation.hostile=4"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"partition\.by"):
        simulate(small("partition=natural"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tracker", ["jsonl", "tensorboard", "wandb"])
@pytest.mark.parametrize(
    "knob", ["server.rate=0", "local.rate=nan", "local.batch_size=-1", "local.clip=0"]
)
def test_nothing_is_left_of_a_run_whose_first_round_refused_a_knob(tmp_path, knob, tracker):
    with pytest.raises(ValueError, match=knob.partition("=")[0]):
        simulate(small(knob, f"tracker={tracker}"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@given(seed=st.integers(0, 999))
def test_a_checkpoint_gives_back_the_state_it_was_given(seed):
    import tempfile

    stream = Key(seed).stream()
    params = torch.randn(5, generator=stream)
    shared = params.expand(3, -1)
    state = State(params, {"server/momentum": params, "clients/momentum": shared.T})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        files.save(path, state, 7)
        first = path.read_bytes()
        back, done = restore(path)
        files.save(path, back, 7)
        assert path.read_bytes() == first
    assert done == 7
    assert torch.equal(back.params, state.params)
    assert back.memory.keys() == state.memory.keys()
    assert all(torch.equal(back.memory[name], state.memory[name]) for name in state.memory)


def test_a_command_that_is_killed_goes_on_when_typed_again(tmp_path):
    words = [*SMALL, "rounds=60", "name=killed"]
    command = [sys.executable, "-m", "dai_lab.run", *words, f"results={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/*/checkpoint.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (folder,) = tmp_path.glob("killed/*")
    _, done = restore(folder / "checkpoint.safetensors")
    assert 0 < done < 60
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run([*command, "name=undisturbed"], check=True, capture_output=True)
    whole = tmp_path / "undisturbed" / folder.name
    names = [name for name in SAME if name != "summary.json"]
    assert all((folder / name).read_bytes() == (whole / name).read_bytes() for name in names)
