"""Networks, and how any of them is seen as one flat vector."""

from dai_lab.models.networks import (
    lenet5,
    logistic,
    mcmahan_cnn,
    mlp,
    mnist_cnn,
    small_cnn,
    tanh_cnn,
)
from dai_lab.models.residual import resnet8, resnet18
from dai_lab.models.view import create, flat, flops

__all__ = [
    "create",
    "flat",
    "flops",
    "lenet5",
    "logistic",
    "mcmahan_cnn",
    "mlp",
    "mnist_cnn",
    "resnet8",
    "resnet18",
    "small_cnn",
    "tanh_cnn",
]
