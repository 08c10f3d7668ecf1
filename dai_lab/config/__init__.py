"""From YAML to values: the schema, the parts, a run's name, and errors that name the knob."""

from dai_lab.config.load import conf_dir, explain, load
from dai_lab.config.name import by_content, digest, targets
from dai_lab.config.parts import build, build_named, locate, trust, trusted
from dai_lab.config.schema import Experiment, Frame, check

__all__ = [
    "Experiment",
    "Frame",
    "build",
    "build_named",
    "by_content",
    "check",
    "conf_dir",
    "digest",
    "explain",
    "load",
    "locate",
    "targets",
    "trust",
    "trusted",
]
