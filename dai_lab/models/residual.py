"""Residual networks with group norm, so that nothing but weights is learned."""

from __future__ import annotations

from torch import Tensor, nn

from dai_lab.models.networks import Shape, image


def resnet8(shape: Shape, classes: int, *, groups: int = 8) -> nn.Sequential:
    """Build the smallest CIFAR ResNet: three stages of one block, 16 to 64 channels.

    Args:
        shape: Channels, height and width of one image, at least 4 pixels a side.
        classes: Classes to tell apart; 0 for regression.
        groups: Groups of each group norm; divides 16.

    Raises:
        ValueError: Inputs that are no images, or groups that do not fit.

    Source:
        He et al. 2016, arXiv:1512.03385, section 4.2 with n=1; Wu and He 2018,
        arXiv:1803.08494; Hsieh et al. 2020, arXiv:1910.00189, section 5, on why batch norm
        fails on clients that differ.
    """
    channels, _, _ = image("resnet8", shape, least=4)
    return _residual(channels, classes, widths=(16, 32, 64), blocks=1, groups=groups)


def resnet18(shape: Shape, classes: int, *, groups: int = 32) -> nn.Sequential:
    """Build ResNet-18 with the 3x3 stem used on images of about 32 pixels.

    Args:
        shape: Channels, height and width of one image, at least 8 pixels a side.
        classes: Classes to tell apart; 0 for regression.
        groups: Groups of each group norm; divides 64.

    Raises:
        ValueError: Inputs that are no images, or groups that do not fit.

    Source:
        He et al. 2016, arXiv:1512.03385, table 1; Wu and He 2018, arXiv:1803.08494.
    """
    channels, _, _ = image("resnet18", shape, least=8)
    return _residual(channels, classes, widths=(64, 128, 256, 512), blocks=2, groups=groups)


class Residual(nn.Module):
    """Two convolutions beside a shortcut; a module because the path is not a chain."""

    def __init__(self, before: int, after: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(groups, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.GroupNorm(groups, after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False),
                nn.GroupNorm(groups, after),
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Add what the body learned to what came in."""
        total: Tensor = self.body(inputs) + self.shortcut(inputs)
        return total.relu()


def _residual(
    channels: int, classes: int, *, widths: tuple[int, ...], blocks: int, groups: int
) -> nn.Sequential:
    if groups < 1 or widths[0] % groups:
        raise ValueError(f"model.groups must divide {widths[0]}, got {groups}")
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        nn.GroupNorm(groups, widths[0]),
        nn.ReLU(),
    ]
    before = widths[0]
    for stage, after in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Residual(before, after, stride=stride, groups=groups))
            before = after
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes or 1)
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
