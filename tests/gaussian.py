"""A denoiser known in closed form: the exact ε(x, t) for Gaussian pictures, as an oracle for samplers and collections.

Pictures x_0 ~ N(MEAN, SPREAD²) per pixel, x_t = a·x_0 + b·ε with a = √ᾱ, b = √(1 - ᾱ). Then
E[ε | x_t] = b (x_t - a·MEAN) / (a²·SPREAD² + b²), and the probability-flow ODE keeps quantiles: a pixel that is z
standard deviations from the mean of x_t is so at every t.
"""

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

MEAN, SPREAD, T = 0.2, 0.2, 1000
ALPHAS_BAR = np.cumprod(1 - np.linspace(0.0001, 0.02, T))


def marginal(timestep: Tensor | float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """a, b, mean and standard deviation of x_t; ln ᾱ is interpolated between whole time-steps."""
    alpha_bar = np.exp(np.interp(np.asarray(timestep, dtype=np.float64), np.arange(T), np.log(ALPHAS_BAR)))
    a, b = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    return a, b, a * MEAN, np.sqrt(a**2 * SPREAD**2 + b**2)


def exact_x(x_T: Tensor, start: float, timestep: float) -> Tensor:
    """x at `timestep` of the exact ODE that has x_T at `start`."""
    (*_, mean, spread), (*_, mean_start, spread_start) = marginal(timestep), marginal(start)
    return mean + spread * (x_T.double() - mean_start) / spread_start


class GaussianUNet(UNet2DModel):
    """A `UNet2DModel` whose answer is the closed form."""

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> UNet2DOutput:  # type: ignore[override]
        a, b, _, spread = (torch.as_tensor(value, dtype=sample.dtype) for value in marginal(timestep))
        shape = (-1, 1, 1, 1)
        noise = b.view(shape) * (sample - a.view(shape) * MEAN) / spread.view(shape) ** 2
        return UNet2DOutput(sample=noise)


def gaussian_pipeline(size: int = 8) -> DDPMPipeline:
    """A `DDPMPipeline` that draws Gaussian pictures, 3 x size x size."""
    unet = GaussianUNet(
        sample_size=size,
        block_out_channels=(4,),
        layers_per_block=1,
        norm_num_groups=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        add_attention=False,
    )
    return DDPMPipeline(unet.eval(), DDPMScheduler(num_train_timesteps=T))
