"""Write a study down: tables, figures and one page that needs nothing else."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from dai_lab.report.commands import command
from dai_lab.report.depictions import FIGURES, depictions
from dai_lab.report.figures import rendered
from dai_lab.report.groups import TARGET, Group, common, flat, grouped, varying
from dai_lab.report.lineage import LOG, Lineage, lineage
from dai_lab.report.runs import Run, runs
from dai_lab.report.tables import every_run, latex, markdown, spelled, texts

LINEAGES = 4
"""Runs whose lineage is drawn at most: a run with a log takes up some 100 kB of a page."""


def report(folder: Path | str) -> Path:
    """Write tables, figures and ``report.html`` of every run in ``folder`` into its ``report``.

    The same runs give the same files, to the last byte.

    Args:
        folder: Holds runs at any depth; unfinished and broken ones are listed, not counted.

    Returns:
        The page.

    Raises:
        ValueError: There is no run in the folder, or the report cannot be written there.
    """
    root = Path(folder)
    found = runs(root)
    groups, repeated = grouped(found)
    out = root / "report"
    written: dict[str, bytes | str] = {
        "table.md": markdown(groups),
        "table.tex": latex(groups),
        "table.csv": spelled(groups).to_csv(index=False),
        "runs.csv": every_run(found, groups).to_csv(index=False),
    }
    figures = []
    for name, (draw, caption) in depictions(groups).items():
        light, dark = draw(), rendered(draw(dark=True), "svg", dark=True)
        both = {kind: rendered(light, kind) for kind in ("svg", "png")}
        written |= {f"{name}.{kind}": drawn for kind, drawn in both.items()}
        shown = {"light": _inline(both["svg"]), "dark": _inline(dark), "caption": caption}
        figures.append(shown)
    drawn, silent = _lineages(root, groups)
    for one in list(drawn.values())[:1]:
        written |= {f"lineage.{kind}": rendered(one.figure(), kind) for kind in ("svg", "png")}
    written["report.html"] = _page(root, found, groups, [*repeated, *silent], figures, drawn)
    try:
        out.mkdir(exist_ok=True)
        for stale in (*FIGURES, "lineage"):
            for kind in ("svg", "png"):
                (out / f"{stale}.{kind}").unlink(missing_ok=True)
        for name, content in written.items():
            data = content.encode() if isinstance(content, str) else content
            (out / name).write_bytes(data)
    except OSError as error:
        raise ValueError(f"cannot write the report into {out}: {error.strerror}") from error
    return out / "report.html"


def _page(
    root: Path,
    found: Sequence[Run],
    groups: Sequence[Group],
    repeated: Sequence[str],
    figures: Sequence[Mapping[str, str]],
    lineages: Mapping[str, Lineage],
) -> str:
    from jinja2 import Environment, StrictUndefined

    head, body = texts(groups)
    counted = [run for group in groups for run in group.runs]
    template = files("dai_lab.report").joinpath("page.html").read_text(encoding="utf-8")
    # Settings and folder names are anybody's text: every one is escaped.
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    knobs = [group.knobs for group in groups]
    return jinja.from_string(template).render(
        title=root.resolve().name,
        counted=len(counted),
        total=len(found),
        differ=[name.removesuffix(f".{TARGET}") for name in varying(knobs)],
        head=head,
        body=body,
        figures=figures,
        lineages=lineages,
        broken=[
            {"folder": _short(run, root), "problem": run.problem} for run in found if run.problem
        ],
        notes=[
            *repeated,
            *_uncommitted(counted),
            *(f"{_short(run, root)}: {note}" for run in found for note in run.notes),
        ],
        commands=[
            {
                "label": group.label,
                "line": command(
                    group.runs[0], seeds=[run.config.get("seed") for run in group.runs]
                ),
            }
            for group in groups
        ],
        settings={name: json.dumps(value) for name, value in common(knobs).items()},
        environment=_environment(counted),
    )


def _lineages(root: Path, groups: Sequence[Group]) -> tuple[dict[str, Lineage], list[str]]:
    """Read the lineage of the first run of each group that has a log; say what is not drawn."""
    logged = [[run for run in group.runs if (run.folder / LOG).exists()] for group in groups]
    found: dict[str, Lineage] = {}
    notes = []
    for group, with_log in zip(groups, logged, strict=True):
        if with_log and len(found) < LINEAGES:
            name = _short(with_log[0], root)
            try:
                found[f"{group.label} ({name})"] = lineage(with_log[0].folder)
            except ValueError as error:
                notes.append(f"{name}: {error}")
    if rest := sum(map(len, logged)) - len(found) - len(notes):
        notes.append(
            f"{rest} more {'runs have logs' if rest > 1 else 'run has a log'}: "
            "dai_lab.report.lineage(folder) draws the lineage of any"
        )
    return found, notes


def _inline(drawn: bytes) -> str:
    return b64encode(drawn).decode()


def _short(run: Run, root: Path) -> str:
    inside = run.folder.relative_to(root).as_posix()
    return run.folder.name if inside == "." else inside


def _uncommitted(counted: Sequence[Run]) -> list[str]:
    dirty = sum(run.environment.get("dirty") is True for run in counted)
    return [f"{dirty} of {len(counted)} runs used code that differs from its commit"] * (dirty > 0)


def _environment(counted: Sequence[Run]) -> dict[str, list[str]]:
    """Collect what the runs ran on; an entry with two values means they did not run alike.

    The digest is a run's name, no part of where it ran.
    """
    found: dict[str, dict[str, None]] = {}
    for run in counted:
        for name, value in flat(run.environment).items():
            if name == "digest":
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            found.setdefault(name, {})[text] = None
    return {name: list(values) for name, values in found.items()}
