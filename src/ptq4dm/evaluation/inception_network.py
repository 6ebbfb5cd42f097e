"""The architecture of TensorFlow's `inception-2015-12-05`, under the names of the published PyTorch weights.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016
(https://arxiv.org/abs/1512.00567). It differs from torchvision's Inception v3: 1008 classes, average pools that leave
the padding out, one max pool in the last block.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES: Final = 1008


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True):
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (size[0] // 2, size[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w')."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, concatenated. A branch is a chain of layers; a list at its end forks it."""

    def __init__(self, branches: list[list[str | list[str]]], pool: str, parts: dict[str, ConvNorm]):
        super().__init__()
        self.branches, self.pool = branches, pool
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, sum of branches, h', w')."""
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, list):
                    outputs += [self.get_submodule(name)(y) for name in step]
                    break
                y = self.get_submodule(step)(y)
            else:
                outputs.append(y)
        outputs += self.pooled(x)
        return torch.cat(outputs, dim=1)

    def pooled(self, x: Tensor) -> list[Tensor]:
        """The pooling branch: none of its own weights with stride 2, a 1x1 convolution after it otherwise."""
        if self.pool == "reduce":
            return [F.max_pool2d(x, 3, stride=2)]
        if self.pool == "max":
            return [self.get_submodule("branch_pool")(F.max_pool2d(x, 3, stride=1, padding=1))]
        average = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return [self.get_submodule("branch_pool")(average)]


def mixed_5(c: int, pool: int) -> Mixed:
    """35 x 35 block: branches 1x1, 5x5, two 3x3."""
    return Mixed(
        [["branch1x1"], ["branch5x5_1", "branch5x5_2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]],
        "average",
        {
            "branch1x1": ConvNorm(c, 64, 1),
            "branch5x5_1": ConvNorm(c, 48, 1),
            "branch5x5_2": ConvNorm(48, 64, 5),
            "branch3x3dbl_1": ConvNorm(c, 64, 1),
            "branch3x3dbl_2": ConvNorm(64, 96, 3),
            "branch3x3dbl_3": ConvNorm(96, 96, 3),
            "branch_pool": ConvNorm(c, pool, 1),
        },
    )


def mixed_6a() -> Mixed:
    """From 35 x 35 to 17 x 17."""
    return Mixed(
        [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]],
        "reduce",
        {
            "branch3x3": ConvNorm(288, 384, 3, 2, padded=False),
            "branch3x3dbl_1": ConvNorm(288, 64, 1),
            "branch3x3dbl_2": ConvNorm(64, 96, 3),
            "branch3x3dbl_3": ConvNorm(96, 96, 3, 2, padded=False),
        },
    )


def mixed_6(k: int) -> Mixed:
    """17 x 17 block with 7x7 convolutions factored into 1x7 and 7x1, k channels inside."""
    wide, tall = (1, 7), (7, 1)
    return Mixed(
        [
            ["branch1x1"],
            ["branch7x7_1", "branch7x7_2", "branch7x7_3"],
            [f"branch7x7dbl_{index}" for index in range(1, 6)],
        ],
        "average",
        {
            "branch1x1": ConvNorm(768, 192, 1),
            "branch7x7_1": ConvNorm(768, k, 1),
            "branch7x7_2": ConvNorm(k, k, wide),
            "branch7x7_3": ConvNorm(k, 192, tall),
            "branch7x7dbl_1": ConvNorm(768, k, 1),
            "branch7x7dbl_2": ConvNorm(k, k, tall),
            "branch7x7dbl_3": ConvNorm(k, k, wide),
            "branch7x7dbl_4": ConvNorm(k, k, tall),
            "branch7x7dbl_5": ConvNorm(k, 192, wide),
            "branch_pool": ConvNorm(768, 192, 1),
        },
    )


def mixed_7a() -> Mixed:
    """From 17 x 17 to 8 x 8."""
    return Mixed(
        [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{index}" for index in range(1, 5)]],
        "reduce",
        {
            "branch3x3_1": ConvNorm(768, 192, 1),
            "branch3x3_2": ConvNorm(192, 320, 3, 2, padded=False),
            "branch7x7x3_1": ConvNorm(768, 192, 1),
            "branch7x7x3_2": ConvNorm(192, 192, (1, 7)),
            "branch7x7x3_3": ConvNorm(192, 192, (7, 1)),
            "branch7x7x3_4": ConvNorm(192, 192, 3, 2, padded=False),
        },
    )


def mixed_7(c: int, pool: str) -> Mixed:
    """8 x 8 block whose 3x3 branches fork into 1x3 and 3x1."""
    return Mixed(
        [
            ["branch1x1"],
            ["branch3x3_1", ["branch3x3_2a", "branch3x3_2b"]],
            ["branch3x3dbl_1", "branch3x3dbl_2", ["branch3x3dbl_3a", "branch3x3dbl_3b"]],
        ],
        pool,
        {
            "branch1x1": ConvNorm(c, 320, 1),
            "branch3x3_1": ConvNorm(c, 384, 1),
            "branch3x3_2a": ConvNorm(384, 384, (1, 3)),
            "branch3x3_2b": ConvNorm(384, 384, (3, 1)),
            "branch3x3dbl_1": ConvNorm(c, 448, 1),
            "branch3x3dbl_2": ConvNorm(448, 384, 3),
            "branch3x3dbl_3a": ConvNorm(384, 384, (1, 3)),
            "branch3x3dbl_3b": ConvNorm(384, 384, (3, 1)),
            "branch_pool": ConvNorm(c, 192, 1),
        },
    )


class InceptionNetwork(nn.Module):
    """The whole network; its state dict has the names of the published weights file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = mixed_5(192, 32), mixed_5(256, 64), mixed_5(288, 64)
        self.Mixed_6a = mixed_6a()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (mixed_6(k) for k in (128, 160, 160, 192))
        self.Mixed_7a = mixed_7a()
        self.Mixed_7b, self.Mixed_7c = mixed_7(1280, "average"), mixed_7(2048, "max")
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(n, 3, 299, 299) -> pooled (n, 2048), the 1x1 branch of Mixed_6d (n, 192, 17, 17), and perceptual layers."""
        first = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        second = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(first, 3, stride=2)))
        third = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(second, 3, stride=2))))
        before = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(third)))
        spatial = self.Mixed_6d.get_submodule("branch1x1")(before)
        fourth = self.Mixed_6e(self.Mixed_6d(before))
        last = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(fourth)))
        return last.mean((2, 3)), spatial, [first, second, third, fourth, last]
