"""Features of pictures: what distances between distributions are measured on.

An extractor is any object with a name, a source and one method; the distances say which one they used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from ptq4dm.errors import EvaluationError
from ptq4dm.progress import progress

BATCH: Final = 32


@dataclass(frozen=True)
class Features:
    """Of n pictures, float32: pooled (n, d), a flattened spatial map (n, s), class logits (n, classes)."""

    pooled: np.ndarray
    spatial: np.ndarray
    logits: np.ndarray


class Extractor(Protocol):
    """A fixed network that turns pictures into features."""

    @property
    def name(self) -> str:
        """What the distances are named after."""
        ...

    @property
    def standard(self) -> bool:
        """Whether it is the Inception network of published tables, with its exact preparation of pictures."""
        ...

    def features(self, pictures: Tensor) -> Features:
        """The features of a batch (n, 3, h, w) in [0, 1]."""
        ...

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """Activations (n, c, h, w) of several depths, for the perceptual distance."""
        ...


def make_extractor(weights: str | Path | None = None) -> Extractor:
    """The offline extractor, or the standard Inception network from a local weights file.

    Raises MissingDependencyError or EvaluationError.
    """
    if weights is None:
        from ptq4dm.evaluation.efficientnet import EfficientNetLite0  # needs an optional package

        return EfficientNetLite0()
    from ptq4dm.evaluation.inception import Inception

    return Inception(Path(weights))


def extract(extractor: Extractor, pictures: Tensor, shown: bool = False, what: str = "features") -> Features:
    """Features of pictures (n, c, h, w) in [0, 1], in batches; one channel is repeated to three."""
    pictures = as_rgb(pictures)
    with progress(what, len(pictures), shown) as advance:
        parts = []
        for batch in pictures.split(BATCH):
            parts.append(extractor.features(batch))
            advance(len(batch))
    return joined(parts)


def feature_distance(extractor: Extractor, first: Tensor, second: Tensor) -> np.ndarray:
    """Normalised multi-layer feature distance of each picture (n, c, h, w) in [0, 1] to its partner, (n,).

    At each layer, activations are scaled to unit length over channels; the squared difference is summed over channels
    and averaged over places; layers are added. This is LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep
    Features as a Perceptual Metric", CVPR 2018, Eq. 1) with all learned weights at 1, on the extractor's network: a
    number of its own, not to be compared with published LPIPS.
    """
    if first.shape != second.shape:
        raise EvaluationError(f"pictures of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be paired")
    pairs = zip(as_rgb(first).split(BATCH), as_rgb(second).split(BATCH), strict=True)
    parts = [layer_distance(extractor.layers(one), extractor.layers(other)) for one, other in pairs]
    return torch.cat(parts).numpy()


def layer_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The distance of `feature_distance` for one batch of activations, float64 (n,)."""
    total = torch.zeros(first[0].shape[0], dtype=torch.float64)
    for one, other in zip(first, second, strict=True):
        total += (unit_channels(one.double()) - unit_channels(other.double())).square().sum(1).mean((1, 2))
    return total


def unit_channels(activation: Tensor) -> Tensor:
    """(n, c, h, w) with unit length over c at every place; a place of all zeros stays zero."""
    return activation / activation.norm(dim=1, keepdim=True).clamp_min(1e-10)


def as_rgb(pictures: Tensor) -> Tensor:
    """Pictures (n, c, h, w) in [0, 1] as float32 with three channels. Raises EvaluationError."""
    if pictures.dim() != 4 or pictures.shape[1] not in (1, 3) or not len(pictures):
        raise EvaluationError(f"pictures of shape {tuple(pictures.shape)}: accepted are (n, 1 or 3, height, width)")
    pictures = pictures.float()
    if not bool(((pictures >= 0) & (pictures <= 1)).all()):
        raise EvaluationError("pictures hold values outside [0, 1] (or NaN): clip them first")
    return pictures.expand(-1, 3, -1, -1)


def joined(parts: Sequence[Features]) -> Features:
    """Features of several batches as one."""
    return Features(
        np.concatenate([part.pooled for part in parts]),
        np.concatenate([part.spatial for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )
