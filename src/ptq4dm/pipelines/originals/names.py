"""Rename the tensors of a network, each of them once, and tell of those that were not expected."""

from collections.abc import Mapping

from torch import Tensor

from ptq4dm.errors import ModelError


class Renaming:
    """Takes tensors out of a checkpoint under their original names and gives them the names of diffusers."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.left = dict(tensors)
        self.renamed: dict[str, Tensor] = {}

    def has(self, layer: str) -> bool:
        """Whether the checkpoint has weights of a layer."""
        return f"{layer}.weight" in self.left

    def take(self, name: str) -> Tensor:
        """A tensor by its original name. Raises ModelError if it is not there."""
        if name not in self.left:
            raise ModelError(f"the checkpoint has no tensor {name!r}: it is truncated, or of another architecture")
        return self.left.pop(name)

    def layer(self, old: str, new: str) -> None:
        """Rename weight and bias of a layer."""
        for part in ("weight", "bias"):
            self.renamed[f"{new}.{part}"] = self.take(f"{old}.{part}")

    def matrix(self, old: str, new: str) -> None:
        """Rename a convolution over one point as the linear layer that it is."""
        weight, bias = self.take(f"{old}.weight"), self.take(f"{old}.bias")
        self.renamed |= {f"{new}.weight": weight.flatten(1), f"{new}.bias": bias}

    def finish(self) -> dict[str, Tensor]:
        """The renamed tensors. Raises ModelError if the checkpoint holds others."""
        if self.left:
            some = ", ".join(sorted(self.left)[:3])
            raise ModelError(
                f"the checkpoint has {len(self.left)} tensors that no UNet2DModel of its architecture has ({some})"
            )
        return self.renamed
