"""Write a study down: tables, figures and one page that needs nothing else."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.metrics import final
from dai_lab.report.commands import command
from dai_lab.report.figures import METRICS, draw_curves, draw_finals, rendered
from dai_lab.report.groups import TARGET, Group, common, flat, grouped, varying
from dai_lab.report.runs import Run, runs
from dai_lab.report.tables import every_run, latex, markdown, spelled, texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any


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
    figures = _figures(groups)
    written: dict[str, bytes | str] = {
        "table.md": markdown(groups),
        "table.tex": latex(groups),
        "table.csv": spelled(groups).to_csv(index=False),
        "runs.csv": every_run(found, groups).to_csv(index=False),
        "report.html": _page(root, found, groups, repeated, figures),
    }
    for name, (draw, _) in figures.items():
        figure = draw()
        written |= {f"{name}.{kind}": rendered(figure, kind) for kind in ("svg", "png")}
    try:
        out.mkdir(exist_ok=True)
        for stale in ("curves", "final"):
            for kind in ("svg", "png"):
                (out / f"{stale}.{kind}").unlink(missing_ok=True)
        for name, content in written.items():
            data = content.encode() if isinstance(content, str) else content
            (out / name).write_bytes(data)
    except OSError as error:
        raise ValueError(f"cannot write the report into {out}: {error.strerror}") from error
    return out / "report.html"


def _figures(groups: Sequence[Group]) -> dict[str, tuple[Callable[..., Figure], str]]:
    """Name the figures this study has data for, how to draw each, and what it shows."""
    seen = {name for group in groups for run in group.runs for row in run.rounds for name in row}
    found: dict[str, tuple[Callable[..., Figure], str]] = {}
    drawn = [
        name
        for name in METRICS
        if any(
            isinstance(row.get(name), (int, float))
            for group in groups
            for run in group.runs
            for row in run.rounds
        )
    ]
    if drawn:
        said = ", ".join(METRICS[name] for name in drawn)
        found["curves"] = (
            partial(draw_curves, groups),
            f"Over rounds: {said}. Lines are interquartile means over seeds, bands 95 % intervals.",
        )
    ends = [name for name in ("test_accuracy", "test_loss") if name in seen]
    for name in ends[:1]:
        if any(final(run.rounds, name) is not None for group in groups for run in group.runs):
            found["final"] = (
                partial(draw_finals, groups, metric=name),
                f"Final {METRICS[name]}: interquartile mean, 95 % interval, and a tick per seed.",
            )
    return found


def _page(
    root: Path,
    found: Sequence[Run],
    groups: Sequence[Group],
    repeated: Sequence[str],
    figures: Mapping[str, tuple[Callable[..., Figure], str]],
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
        figures=[
            {
                "light": _inline(draw(), dark=False),
                "dark": _inline(draw(dark=True), dark=True),
                "caption": caption,
            }
            for draw, caption in figures.values()
        ],
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


def _inline(figure: Figure, *, dark: bool) -> str:
    return b64encode(rendered(figure, "svg", dark=dark)).decode()


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
