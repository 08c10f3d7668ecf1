"""``hydra/launcher=together``: a sweep in one process, its runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

SETTINGS = {
    "_target_": "hydra_plugins.dai_lab_together.Together",
    "threads": 0,  # runs side by side; 0 is one a core
    "abreast": 1,  # runs that train in one batch, where they train alike
}


class Together(Launcher):
    """Hand all jobs of a sweep to the lab at once."""

    def __init__(self, threads: int = 0, abreast: int = 1) -> None:
        self.threads, self.abreast = threads, abreast

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember where jobs are composed."""
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs and return how each ended."""
        # Imported here because Hydra loads every launcher to see which there are.
        from dai_lab.run import together

        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        returns, tasks = [], []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            loader = self.context.config_loader
            whole = loader.load_sweep_config(self.config, list(overrides))
            OmegaConf.set_struct(whole.hydra, False)
            whole.hydra.job.id = whole.hydra.job.num = number
            task: Any = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
            OmegaConf.set_struct(task, True)
            tasks.append(task)
            returns.append(
                JobReturn(
                    overrides=list(whole.hydra.overrides.task),
                    cfg=task,
                    hydra_cfg=OmegaConf.masked_copy(whole, ["hydra"]),
                    task_name=whole.hydra.job.name,
                )
            )
        words = [list(one.overrides or ()) for one in returns]
        accuracies = together(tasks, words, threads=self.threads, abreast=self.abreast)
        for one, accuracy in zip(returns, accuracies, strict=True):
            one.return_value, one.status = accuracy, JobStatus.COMPLETED
        return returns


ConfigStore.instance().store(group="hydra/launcher", name="together", node=SETTINGS)
