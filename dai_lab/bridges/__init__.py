"""Third parties enter here only, imported when they are asked for."""

from dai_lab.bridges.tensorboards import tensorboard
from dai_lab.bridges.weights_and_biases import wandb

__all__ = ["tensorboard", "wandb"]
