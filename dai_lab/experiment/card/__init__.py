"""The card of a finished run: what its model does, measured anew; what it spent, as recorded."""

from __future__ import annotations

from pathlib import Path

from dai_lab.experiment import files

NAME = "model_card.md"
"""Where in a run's folder its card lies unless told."""


def card(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the model card of a finished run; return where.

    Args:
        folder: ``results/<name>/<digest>``; besides, only the data are needed.
        out: The file to write; ``model_card.md`` in the run's folder unless given.

    Raises:
        ValueError: The run is not finished, has no common model, or is not what its record or
            its log says; or ``out`` is one of its files.

    Source:
        Mitchell et al. 2019, arXiv:1810.03993, section 4 (what a card says).
    """
    from dai_lab.experiment.card.findings import findings
    from dai_lab.experiment.card.page import page
    from dai_lab.experiment.machine import one_setting_of_threads

    place = Path(folder)
    where = place / NAME if out is None else Path(out)
    if where.resolve().parent == place.resolve() and where.suffix != ".md":
        raise ValueError(f"card: out must not be one of the run's own files, got {out}")
    with one_setting_of_threads():
        text = page(findings(place))
    with files.writing(where.parent):
        where.parent.mkdir(parents=True, exist_ok=True)
    files.write(where, text.encode())
    return where
