"""What every layout gives: a network's config and renamed weights, and the schedule that it was trained with."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Original:
    """A checkpoint, told in the terms of diffusers.

    network: settings of UNet2DModel. heads: how many heads every attention has where its channels differ, so that no
    UNet2DModel says it (`FixedHeadsUNet2DModel` does); None if it need not be said. tensors: the weights, renamed.
    scheduler: settings of DDPMScheduler.
    """

    network: dict[str, Any]
    heads: int | None
    tensors: dict[str, Tensor]
    scheduler: dict[str, Any]
