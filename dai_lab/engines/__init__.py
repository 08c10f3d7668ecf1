"""Where clients run: this process, or worker processes."""

from dai_lab.engines.local import local
from dai_lab.engines.workers import workers

__all__ = ["local", "workers"]
