"""The command line: ``dai-lab +experiment=quickstart``, or ``python -m dai_lab.run``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dai_lab.config import conf_dir, explain

if TYPE_CHECKING:
    from dai_lab.experiment import Result

JOURNAL = "DAI_LAB_SWEEP"
"""Environment variable naming the file to which each job of a sweep adds a line."""

MISTAKES = (HydraException, OmegaConfBaseException, ValueError, OSError, ModuleNotFoundError)
"""What a user can cause; anything else is ours and keeps its traceback."""

STATUSES = ("finished", "skipped", "failed")


def main() -> None:
    """Run one experiment, a sweep, or ``report <folder>``."""
    words = sys.argv[1:]
    if "DAI_LAB_TRUST" in os.environ:
        sys.path.insert(0, os.getcwd())  # where a user's own module lies, as for python -m
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    journal = Path(tempfile.mkdtemp(prefix="dai-lab-"), "sweep.jsonl")
    os.environ[JOURNAL] = str(journal)
    code = 0
    try:
        if {"--help", "-h"} & set(words):
            print(page(words))
        elif words[:1] == ["report"]:
            code = report(words[1:])
        elif words[:1] == ["publish"]:
            code = publish(words[1:])
        elif words[:1] == ["study"]:
            code = study(words[1:])
        elif words and words[0] in ABOUT_A_RUN:
            code = ABOUT_A_RUN[words[0]](words[1:])
        else:
            run(words)
    except MISTAKES as error:
        if wants_traceback:
            raise
        print(f"dai-lab: {explain(error, words)}", file=sys.stderr)
        code = 1
    except SystemExit as stop:
        if wants_traceback and stop.__cause__:
            raise stop.__cause__ from None
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        code = 130
    finally:
        jobs = (
            [json.loads(one) for one in journal.read_text().splitlines()]
            if journal.exists()
            else []
        )
        journal.unlink(missing_ok=True)
        journal.parent.rmdir()
    if jobs:
        code = closing(jobs) or code
    sys.exit(code)


def page(words: list[str]) -> str:
    """Write the help page: examples, every part there is, and settings.

    Hydra's own takes seconds, once there are many parts.
    """
    folders = [Path(one) for one in (conf_dir(), parsed(words).config_dir) if one]
    parts: dict[str, list[str]] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*/*.yaml")):
        parts.setdefault(file.parent.name, []).append(file.stem)
    width = max(map(len, parts))
    lines = [f"  {group:{width}}  {'  '.join(names)}" for group, names in sorted(parts.items())]
    return Path(conf_dir(), "help.txt").read_text().replace("$parts", "\n".join(lines)).rstrip()


def parsed(words: list[str]) -> Namespace:
    """Tell options from settings, as Hydra does."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = usage  # type: ignore[method-assign]
    return parser.parse_intermixed_args(words)


def run(words: list[str]) -> None:
    """Hand the command line to Hydra, whose errors come back instead of being printed."""
    settings = parsed(words).overrides
    # Hydra itself takes options only before settings; people type them anywhere.
    sys.argv[1:] = [*(word for word in words if word not in settings), *settings]
    if "hydra/sweeper=optuna" in settings and "max_failure_rate" not in " ".join(words):
        sys.argv.append("hydra.sweeper.max_failure_rate=1")  # one bad trial stops no other
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(job)()
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]


def usage(message: str) -> NoReturn:
    """Say in one line what is wrong with the words, and end."""
    print(f"dai-lab: {message}; see dai-lab --help", file=sys.stderr)
    sys.exit(2)


def job(cfg: DictConfig) -> float:
    """Run the composed experiment; return its final test accuracy, for sweepers that search."""
    here = HydraConfig.get()
    sweep = here.mode == RunMode.MULTIRUN
    try:
        from dai_lab.experiment import simulate

        result = simulate(cfg, progress=not sweep or "BasicLauncher" in here.launcher._target_)
    except Exception as error:
        with contextlib.suppress(OSError):
            Path(here.runtime.output_dir).rmdir()  # Hydra made it; a refused run needs none
        if not sweep:
            known = isinstance(error, MISTAKES)
            raise (SystemExit(f"dai-lab: {explain(error)}") if known else error) from error
        accuracy = noted(cfg, list(here.overrides.task), error)
        if "BasicSweeper" in here.sweeper._target_:
            return accuracy
        raise
    if sweep:
        return noted(cfg, list(here.overrides.task), result)
    summary = result.summary
    there = "  (was there already)" if result.skipped else ""
    print(f"{in_words(summary)}  {result.folder}{there}")
    final = summary.get("test_accuracy")
    return float("nan") if final is None else float(final)


def together(cfgs: list[Any], words: list[list[str]], *, threads: int, abreast: int) -> list[float]:
    """Run a sweep's jobs in this process, side by side; return their accuracies."""
    from dai_lab.experiment import simulate_together

    ends = simulate_together(cfgs, threads=threads, abreast=abreast)
    return [noted(*one) for one in zip(cfgs, words, ends, strict=True)]


def noted(cfg: Any, words: list[str], end: Result | Exception) -> float:
    """Write down how a job of a sweep ended; return its accuracy, or NaN."""
    about: dict[str, Any] = {"job": words, "name": cfg.name}
    if isinstance(end, Exception):
        known = isinstance(end, MISTAKES)
        if not known:
            traceback.print_exception(end)
        why = explain(end) if known else f"{type(end).__name__}: {end}".splitlines()[0]
        note({**about, "status": "failed", "why": why})
        return float("nan")
    accuracy = end.summary.get("test_accuracy")
    status = "skipped" if end.skipped else "finished"
    note({**about, "status": status, "folder": str(end.folder), "accuracy": accuracy})
    return float("nan") if accuracy is None else float(accuracy)


def in_words(summary: Mapping[str, Any]) -> str:
    """Put the end of a run in one line."""
    measures = {"test_accuracy": "accuracy", "test_loss": "loss"}
    found = [f"{word} {summary[name]:.4f}" for name, word in measures.items() if summary.get(name)]
    for unit in ("client", "record"):
        # What nothing protects has no epsilon: it is infinite, and null in the record.
        if (name := f"privacy/{unit}_epsilon") in summary:
            most = summary[name]
            least = summary.get(f"audit/{unit}_epsilon")
            audited = "" if least is None else f" (audited: at least {least:.3f})"
            bound = "unbounded" if most is None else f"{most:.3f}"
            found.append(f"epsilon of a {unit} {bound}{audited}")
    ends = "diverged" if summary["diverged"] else "finished"
    if summary.get("privacy/stopped"):
        ends = "stopped by accounting.epsilon"
    return f"{summary['name']}: {ends} after {summary['rounds']} rounds  {'  '.join(found)}"


def note(entry: Mapping[str, Any]) -> None:
    """Tell the process that started the sweep how a job ended, from whichever process ran it."""
    with open(os.environ[JOURNAL], "a") as journal:
        journal.write(json.dumps(entry) + "\n")


def closing(jobs: list[dict[str, Any]]) -> int:
    """Print how a sweep's jobs ended and what they found; return 1 if any failed."""
    counts = {status: sum(one["status"] == status for one in jobs) for status in STATUSES}
    print("\n" + ", ".join(f"{number} {status}" for status, number in counts.items()))
    shared = set.intersection(*(set(one["job"]) for one in jobs)) if len(jobs) > 1 else set()
    names = [" ".join(word for word in one["job"] if word not in shared) for one in jobs]
    width = max(map(len, names))
    rows = zip(jobs, names, strict=True)
    for one, name in sorted(rows, key=lambda row: (STATUSES.index(row[0]["status"]), row[1])):
        accuracy = one.get("accuracy")
        ended = one.get("why") or ("" if accuracy is None else f"accuracy {accuracy:.4f}")
        print(f"  {one['status']:8}  {name:{width}}  {ended}".rstrip())
    for folder in sorted({str(Path(one["folder"]).parent) for one in jobs if "folder" in one}):
        report([folder])
    return int(counts["failed"] > 0)


def report(words: list[str]) -> int:
    """Print a folder's table, write its report, and say where that is."""
    if len(words) != 1 or words[0].startswith("-"):
        usage("write dai-lab report <folder>, such as results/run")
    from dai_lab.report import report as write
    from dai_lab.report import terminal

    folder = Path(words[0])
    written = write(folder)
    print(f"\n{terminal(folder)}\n")
    for figure in sorted(written.parent.glob("*.png")):
        print(f"figure: {figure}")
    print(f"report: {written}")
    return 0


def publish(words: list[str]) -> int:
    """Keep a study's summary, figures and table in its folder under ``experiments/``."""
    if len(words) != 2 or words[0].startswith("-"):
        usage("write dai-lab publish <results> <study>, as in --help")
    from dai_lab.report import publish as write

    print(f"table: {write(*words)}")
    return 0


def study(words: list[str]) -> int:
    """Run what is left of a study's grid."""
    names = ("results", "part", "seed", "share", "abreast")
    lists: dict[str, list[str]] = {name: [] for name in names}
    knobs = [word.partition("=") for word in words if "=" in word]
    if strange := [knob for knob, _, _ in knobs if knob not in lists]:
        usage(f"study: there is no {strange[0]}: it takes {', '.join(lists)} and plan")
    lists |= {knob: said.split(",") for knob, _, said in knobs}
    folders = [word for word in words if "=" not in word and word != "plan"]
    if len(folders) != 1 or folders[0].startswith("-"):
        usage("write dai-lab study <study> [plan] [part=...] [seed=0,1] [share=0.1] [abreast=1]")
    from dai_lab.experiment import study as carry_out

    try:
        seeds, share = [int(one) for one in lists["seed"]], float((lists["share"] or ["1"])[0])
        abreast = int((lists["abreast"] or ["1"])[0])
    except ValueError as error:
        raise ValueError(f"study: seed, share and abreast must be numbers: {error}") from None
    ends = carry_out(
        folders[0], results=(lists["results"] or ["results"])[0], parts=lists["part"],
        seeds=seeds, share=share, show="plan" in words, abreast=abreast,
    )  # fmt: skip
    return int(any(isinstance(end, Exception) for end in ends))


def verify(words: list[str]) -> int:
    """Check a run or a bundle; return 1 on any doubt."""
    parser = options("verify", "Check a run's folder, or a bundle, without its lab.")
    parser.add_argument("path", help="results/<name>/<digest>, or a file from dai-lab prove")
    parser.add_argument("--key", help="the lab's key as you know it: name+identity+key")
    parser.add_argument("--url", help="of a node, where the run is anchored on one")
    asked = parser.parse_args(words)
    from dai_lab.experiment import check

    verdict = check(asked.path, key=asked.key, url=asked.url)
    print(verdict)
    return int(not verdict.holds)


def prove(words: list[str]) -> int:
    """Write a bundle that proves one event to others."""
    parser = options("prove", "Write a bundle that proves one event of a run to anyone.")
    parser.add_argument("folder", help="results/<name>/<digest>")
    parser.add_argument("--round", type=int)
    parser.add_argument("--client", type=int, help="a client's row; else the round's model")
    parser.add_argument("--kind", help="another kind of event, such as evaluation or dataset")
    parser.add_argument("--out", default="proof.bundle", help="the file to write")
    asked = parser.parse_args(words)
    from dai_lab.experiment import prove as write

    raw = write(asked.folder, round=asked.round, client=asked.client, kind=asked.kind)
    Path(asked.out).write_bytes(raw)
    print(f"{asked.out}: {len(raw)} bytes; anyone can check it: dai-lab verify {asked.out}")
    return 0


def audit(words: list[str]) -> int:
    """Play a round once more; return 1 if anybody lied."""
    parser = options("audit", "Play a round once more, and name who lied.")
    parser.add_argument("folder", help="results/<name>/<digest> of a run with ledger=local")
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--client", type=int, help="whom to look at; everybody unless given")
    asked = parser.parse_args(words)
    from dai_lab.experiment import audit as replay

    verdict = replay(asked.folder, asked.round, asked.client)
    print(verdict)
    return int(not verdict.holds)


def export(words: list[str]) -> int:
    """Write a run's provenance in a format that others read."""
    parser = options("export", "Write a run's provenance for the tools of others.")
    parser.add_argument("folder", help="results/<name>/<digest> of a finished run with a log")
    parser.add_argument("kind", help="in-toto, prov, ro-crate or model-signing")
    parser.add_argument("--out", help="the file or folder to write")
    asked = parser.parse_args(words)
    from dai_lab.experiment import export as write

    print(f"export: {write(asked.folder, asked.kind, asked.out)}")
    return 0


def card(words: list[str]) -> int:
    """Write the card of a finished run's model, and say where."""
    parser = options("card", "Write the card of a finished run's model, from its folder alone.")
    parser.add_argument("folder", help="results/<name>/<digest> of a finished run")
    parser.add_argument("--out", help="the file to write; model_card.md in the folder unless given")
    asked = parser.parse_args(words)
    from dai_lab.experiment import card as write

    print(f"card: {write(asked.folder, asked.out)}")
    return 0


def options(verb: str, about: str) -> ArgumentParser:
    """Return a parser whose complaints are one line, as all of ours are."""
    parser = ArgumentParser(prog=f"dai-lab {verb}", description=about, add_help=False)
    parser.error = usage  # type: ignore[method-assign]
    return parser


ABOUT_A_RUN = {
    "verify": verify,
    "prove": prove,
    "audit": audit,
    "export": export,
    "card": card,
}
"""What one can ask of a run that has ended; all but the last need its log."""


if __name__ == "__main__":
    main()
