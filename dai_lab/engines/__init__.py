"""Where clients run: one process for now."""

from dai_lab.engines.local import local

__all__ = ["local"]
