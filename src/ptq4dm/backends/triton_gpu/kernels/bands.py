"""Which entry of a layer's tables a sample takes, where scales depend on the time-step.

Such a layer holds a scale and a zero point for each band of time-steps, in tables on the device. A call hands over the
band of its time-step as a tensor there, one for all samples or one a sample, so that no number passes through the host.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.launching import launch, tile_of, tiles
from ptq4dm.errors import ModelError


@triton.jit
def entry_of(band, sample, samples_a_band, there, SEVERAL: tl.constexpr):
    """The entry of each sample; one for all unless there are SEVERAL bands in the call; 0 where a layer has one scale.

    sample: of each row of a tile, or one number; there: whether it is one.
    """
    entry = 0
    if band is not None:
        if SEVERAL:
            entry = tl.load(band + sample // samples_a_band, mask=there, other=0)
        else:
            entry = tl.load(band)
    return entry


def several(band: Tensor | None) -> bool:
    """Whether samples of one call may be in different bands."""
    return band is not None and band.numel() > 1


def samples_a_band(samples: int, band: Tensor | None) -> int:
    """How many samples in a row take one number of `band`: a network may repeat samples along the first axis.

    Raises ModelError where they cannot be dealt out evenly.
    """
    given = 1 if band is None else band.numel()
    if samples % given:
        raise ModelError(
            f"{given} time-steps for a layer's input of {samples} samples: this network does not keep samples along "
            "the first axis, so it takes one time-step a call where scales depend on it"
        )
    return max(1, samples // given)


def per_channel(step: Tensor, band: Tensor | None) -> bool:
    """Whether `step` differs from channel to channel: (channels,), or (bands, channels) where there are bands."""
    return step.numel() > 1 if band is None else step.dim() > 1


def launch_by_rows(
    kernel: Any,
    x: Tensor,
    q: Tensor,
    step: Tensor,
    zero_point: Tensor,
    band: Tensor | None,
    elements: int,
    **fixed: Any,
) -> None:
    """Start a kernel that makes each row of q of one row of x, in tiles of so many elements; none where q has no rows.

    step, zero_point, band: as `quantize.quantize` has them, of the channels of q.
    """
    if not q.numel():
        return
    channels = q.shape[-1]
    rows, samples = q.numel() // channels, q.shape[0] if q.dim() > 1 else 1
    tall, wide = tile_of(rows, channels, elements)
    numbers = (rows, channels, rows // samples, samples_a_band(samples, band))
    fixed |= {"SEVERAL": several(band), "PER_CHANNEL": per_channel(step, band), "ROWS": tall, "CHANNELS": wide}
    grid = (tiles(rows, tall), tiles(channels, wide))
    launch(kernel, grid, x.contiguous(), step, zero_point, band, q, *numbers, **fixed)
