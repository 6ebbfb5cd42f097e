"""The standard Inception network of published tables, from a local weights file.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016
(https://arxiv.org/abs/1512.00567), in the variant that FID was defined on: TensorFlow's `inception-2015-12-05`, which
differs from torchvision's network (1008 classes, average pools that leave padding out, one max pool in the last block).

The weights are TensorFlow's (Apache-2.0), as converted by M. Seitzer (pytorch-fid, Apache-2.0) and shipped by
torch-fidelity too: `pt_inception-2015-12-05-6726825d.pth` = `weights-inception-2015-12-05-6726825d.pth`. They are not
part of this package; the file is checked by SHA-256 and read as plain tensors.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ptq4dm.evaluation.features import Features
from ptq4dm.evaluation.inception_network import InceptionNetwork
from ptq4dm.evaluation.weights_file import read_state_dict

SHA256: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE: Final = 299
SPATIAL_CHANNELS: Final = 7
"""sFID's map: the first 7 channels of the 1x1 branch of mixed_6 (Mixed_6d), 17 x 17, as in the ADM evaluator."""


class Inception:
    """2048 pooled features, logits without bias (as the Inception score takes them), 7 x 17 x 17 spatial features.

    Pictures are rounded to 8 bit, enlarged to 299 x 299 as TensorFlow 1 did, and scaled by (x - 128) / 128.
    """

    name = "inception-2015-12-05"
    standard = True

    def __init__(self, weights: Path) -> None:
        self.network = InceptionNetwork().eval().requires_grad_(False)
        self.network.load_state_dict(read_state_dict(weights, SHA256, "Inception"))

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Features:
        """The features of a batch (n, 3, h, w) in [0, 1]."""
        pooled, spatial, _ = self.network(prepared(pictures))
        logits = F.linear(pooled, self.network.fc.weight)
        return Features(pooled.numpy(), spatial[:, :SPATIAL_CHANNELS].flatten(1).numpy(), logits.numpy())

    @torch.inference_mode()
    def layers(self, pictures: Tensor) -> list[Tensor]:
        """Outputs of the stem (64, 192 channels), of Mixed_5d, Mixed_6e and Mixed_7c."""
        return self.network(prepared(pictures))[2]


def prepared(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) in [0, 1] as the network wants it: 8-bit values, (n, 3, 299, 299), [-1, 1)."""
    return (resized((pictures * 255).round(), SIZE) - 128) / 128


def resized(pictures: Tensor, size: int) -> Tensor:
    """Bilinear resize of (n, c, h, w) with TensorFlow 1's corners: output i lies at input i * h / size."""
    rows = lerp_matrix(pictures.shape[2], size, pictures.dtype)
    columns = lerp_matrix(pictures.shape[3], size, pictures.dtype)
    return rows @ pictures @ columns.T


def lerp_matrix(inputs: int, outputs: int, dtype: torch.dtype) -> Tensor:
    """(outputs, inputs) weights of a one-dimensional legacy bilinear resize."""
    place = np.arange(outputs) * (inputs / outputs)
    low = np.minimum(place.astype(np.int64), inputs - 1)
    high = np.minimum(low + 1, inputs - 1)
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs), low), 1.0 - (place - low))
    np.add.at(matrix, (np.arange(outputs), high), place - low)
    return torch.from_numpy(matrix).to(dtype)
