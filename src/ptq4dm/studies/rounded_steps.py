"""Round what a sampler's step gives: x_{t-1}, or the posterior mean μ before the step adds its noise."""

import types
from typing import Any

import torch
from torch import Tensor

from ptq4dm.pipelines.sampling import noise_options
from ptq4dm.ranges.histograms import ONE_BAND, Histogram
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import RangeRecipe
from ptq4dm.studies.rounding import rounded


def range_of(x: Tensor, recipe: RangeRecipe) -> InputRange:
    """The range of a tensor (n, channels, ...), chosen as a layer's."""
    histogram = Histogram(ONE_BAND, x.shape[1])
    histogram.add(x.flatten(2), torch.zeros(len(x), dtype=torch.int64))
    return choose_ranges({"x": histogram.finish()}, recipe).ranges["x"]


def adds_noise(scheduler: Any) -> bool:
    """Whether the noise of the scheduler's step can be taken apart from its mean, as DDPM's can."""
    return hasattr(scheduler, "variance_type") and hasattr(scheduler, "_get_variance")


def round_steps(scheduler: Any, chosen: InputRange, mean_only: bool) -> Any:
    """The scheduler itself, its steps rounded from now on. mean_only: noise is added to the rounded mean.

    The methods are bound to the scheduler, so that a copy of it rounds too.
    """
    scheduler.rounded_range = chosen
    scheduler.step = types.MethodType(rounded_mean_step if mean_only else rounded_step, scheduler)
    return scheduler


def rounded_step(
    self: Any, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = False
) -> tuple[Tensor]:
    """A step whose x_{t-1} is rounded."""
    return (rounded(plain_step(self, model_output, timestep, sample, generator), self.rounded_range),)


def rounded_mean_step(
    self: Any, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = False
) -> tuple[Tensor]:
    """A step whose mean is rounded before noise is added. The mean is what the same step gives with no variance."""
    noisy = plain_step(self, model_output, timestep, sample, generator)
    nothing = torch.tensor(-torch.inf if self.config.variance_type == "learned_range" else 0.0)
    self._get_variance = lambda *args, **kwargs: nothing
    try:
        other = [torch.Generator().manual_seed(0) for _ in sample]
        mean = plain_step(self, model_output, timestep, sample, other)
    finally:
        del self._get_variance
    return (rounded(mean, self.rounded_range) + (noisy - mean),)


def plain_step(scheduler: Any, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any) -> Tensor:
    """What the step of the scheduler's class gives."""
    options = noise_options(type(scheduler).step, generator)
    return type(scheduler).step(scheduler, model_output, timestep, sample, return_dict=False, **options)[0]
