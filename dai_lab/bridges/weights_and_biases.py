"""Weights & Biases as a second place where records go."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dai_lab.core import Record, Tracker

Mode = Literal["online", "offline", "disabled", "shared"]


@contextmanager
def wandb(
    folder: Path,
    config: Mapping[str, Any],
    *,
    project: str = "dai-lab",
    mode: Mode = "offline",
    entity: str | None = None,
) -> Iterator[Tracker]:
    """Log to one Weights & Biases run, beside the JSON lines.

    A run that was killed goes on as the same W&B run. Runs that differ only by seed share a
    group; the parts' names are tags. When it ends, its summary, its curve and (online only)
    its model are added.

    Args:
        folder: The run's folder; W&B's own files go into ``wandb/`` there.
        config: The run's settings, with ``digest`` and ``group``.
        project: Project to log to.
        mode: Offline keeps everything in the folder until ``wandb sync`` is called on it.
        entity: User or team, the account's default if null.

    Raises:
        ValueError: W&B is not installed, or refuses.
    """
    try:
        import wandb
    except ImportError:
        raise ValueError("tracker: wandb is not installed; pip install wandb") from None

    kept = folder / "wandb.id"
    if not kept.exists():
        kept.write_text(uuid.uuid4().hex[:12])
    settings = {key: value for key, value in config.items() if key != "tracker"}
    try:
        run = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            dir=folder,
            id=kept.read_text(),
            resume="allow" if mode == "online" else None,
            name=f"{config['name']}-{config['digest']}",
            group=config["group"],
            tags=tags(config),
            config=settings,
            reinit="finish_previous",
            # Neither what a terminal shows nor the user's files are ours to send.
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True
            ),
        )
    except (wandb.errors.Error, OSError) as refused:
        raise ValueError(f"tracker: wandb cannot start: {str(refused).splitlines()[0]}") from None
    with run:

        def log(record: Record) -> None:
            step = int(record["round"] or 0)
            if step >= run.step:  # a run that goes on hands every record again
                run.log(dict(record), step=step)

        yield log
        # Only a run that got here is finished; one that failed keeps its records.
        add_ending(run, folder, online=mode == "online")


def tags(config: Mapping[str, Any]) -> list[str]:
    """Name the parts in use, each by the last piece of its ``_target_``."""
    parts = {
        group: node["_target_"].rpartition(".")[2]
        for group, node in config.items()
        if isinstance(node, Mapping) and "_target_" in node and group != "tracker"
    }
    return [f"{group}={name}"[:64] for group, name in parts.items()]


def add_ending(run: Any, folder: Path, *, online: bool) -> None:
    """Add the summary, the curve and, online, the model of a finished run."""
    import PIL.Image
    import wandb

    if not (folder / "summary.json").exists():
        return
    run.summary.update(json.loads((folder / "summary.json").read_text()))
    records = [json.loads(one) for one in (folder / "records.jsonl").read_text().splitlines()]
    drawn = io.BytesIO()
    curve(records).savefig(drawn, format="png", dpi=150)
    run.log({"curve": wandb.Image(PIL.Image.open(drawn))})
    if online:
        model = wandb.Artifact(f"model-{run.id}", type="model")
        model.add_file(str(folder / "checkpoint.safetensors"))
        run.log_artifact(model)


def curve(records: list[dict[str, Any]]) -> Any:
    """Draw test accuracy, or loss where there is none, over rounds."""
    from matplotlib.figure import Figure

    accurate = any(one.get("test_accuracy") is not None for one in records)
    metric = "test_accuracy" if accurate else "test_loss"
    points = [(one["round"], one[metric]) for one in records if one.get(metric) is not None]
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], marker=".", color="#0072B2")
    axes.set(xlabel="round", ylabel=metric.replace("_", " "))
    return figure
