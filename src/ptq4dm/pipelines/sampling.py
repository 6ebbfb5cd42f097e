"""The unconditional sampling loop, right under every scheduler.

`DDPMPipeline` passes `generator` to schedulers that have no such argument and ignores `scale_model_input` and
`init_noise_sigma`; this loop does neither. The loop is three small functions (`begin`, `answer`, `advance`), so
that calibration, which drops samples on the way, walks the very same path.
"""

import copy
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, DDPMScheduler
from torch import Tensor, nn

from ptq4dm.errors import ModelError, RecipeError, first_line
from ptq4dm.pipelines.denoiser import RAISED_BY_CALLS, placement, predict
from ptq4dm.pipelines.schedulers import LEARNED, make_scheduler, set_steps
from ptq4dm.progress import progress


@dataclass(frozen=True, eq=False)
class Step:
    """One call of the network on the way from x_T to x_0.

    index: 0 at the noisy end. timestep: 0-d. x_t: (batch, channels, height, width), the network's input, scaled.
    output: what the network answered, as far as the scheduler uses it: of the same shape, or with predicted variances
    (twice the channels) where it is a DDPM scheduler that follows them.
    """

    index: int
    timestep: Tensor
    x_t: Tensor
    output: Tensor


def sample(
    network: nn.Module,
    scheduler_name: str,
    scheduler_config: Mapping[str, Any],
    picture_shape: tuple[int, ...],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    shown: bool = True,
) -> Tensor:
    """Draw one picture a seed: (len(seeds), channels, height, width), float32 on the CPU, in [0, 1].

    A picture depends on its own seed only; `batch_size` changes it by float rounding and no more. Raises RecipeError
    (scheduler, steps, batch_size, no seeds) and ModelError (the network's output is not finite).
    """
    scheduler = make_scheduler(scheduler_name, scheduler_config)
    return sample_with(network, scheduler, picture_shape, seeds, steps, batch_size, shown)


def sample_with(
    network: nn.Module,
    scheduler: Any,
    picture_shape: tuple[int, ...],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    shown: bool = True,
) -> Tensor:
    """`sample` with a scheduler object, which is left as it was."""
    if not seeds or batch_size < 1:
        raise RecipeError(f"{len(seeds)} pictures in batches of {batch_size}: both should be at least 1")
    device, dtype = placement(network)
    pictures = []
    with progress("pictures", len(seeds) * calls_per_picture(scheduler, steps), shown) as done:
        for first in range(0, len(seeds), batch_size):
            x_T, generators = seeded_start(picture_shape, seeds[first : first + batch_size])
            walk = trajectory(network, scheduler, steps, x_T.to(device, dtype), generators)
            while True:
                try:
                    next(walk)
                except StopIteration as end:
                    pictures.append(to_picture(end.value))
                    break
                done(len(x_T))
    return torch.cat(pictures)


def trajectory(
    network: nn.Module,
    scheduler: Any,
    steps: int,
    x_T: Tensor,
    generators: Sequence[torch.Generator] | None = None,
) -> Generator[Step, None, Tensor]:
    """Denoise x_T, yielding every call of the network before x_{t-1} is computed; returns x_0 (in [-1, 1], unclipped).

    x_T: (batch, channels, height, width), standard normal. generators: one a picture, for schedulers that draw noise
    (`seeded_start` gives both); None is refused for DDPM (RecipeError). `scheduler` is copied, so it is left as it
    was. Stop iterating to stop denoising.
    """
    scheduler, x = begin(scheduler, steps, x_T)
    require_known_times(network, scheduler.timesteps)
    if generators is None and isinstance(scheduler, DDPMScheduler):
        raise RecipeError("DDPM draws noise at every step: give one generator a picture, as seeded_start does")
    for index, timestep in enumerate(scheduler.timesteps):
        x_t, output = answer(network, scheduler, timestep, x)
        yield Step(index, timestep, x_t, output)
        x = advance(scheduler, output, timestep, x, generators)
    return x


def begin(scheduler: Any, steps: int, x_T: Tensor) -> tuple[Any, Tensor]:
    """A fresh copy of `scheduler` set to `steps`, and x_T scaled as that scheduler starts. Raises RecipeError."""
    scheduler = copy.deepcopy(scheduler)
    set_steps(scheduler, steps)
    return scheduler, x_T * float(scheduler.init_noise_sigma)


def answer(network: nn.Module, scheduler: Any, timestep: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The network's input x_t, which is x as the scheduler scales it, and the part of its answer that is used.

    Raises ModelError: the network does not take such pictures, or the answer is not finite.
    """
    x_t = scheduler.scale_model_input(x, timestep)
    output = part_used(scheduler, predict(network, x_t, timestep), x_t)
    if not torch.isfinite(output).all():
        raise ModelError(
            f"the network's output at time-step {timestep.item():g} holds NaN or infinity: "
            "check its weights, or run it in float32"
        )
    return x_t, output


def advance(
    scheduler: Any, output: Tensor, timestep: Tensor, x: Tensor, generators: Sequence[torch.Generator] | None
) -> Tensor:
    """x_{t-1} of x_t (unscaled) and the network's output. Noise of picture i comes from generators[i] alone.

    Raises RecipeError: the scheduler cannot take the step.
    """
    options = noise_options(scheduler.step, generators)
    try:
        return scheduler.step(part_used(scheduler, output, x), timestep, x, return_dict=False, **options)[0]
    except RAISED_BY_CALLS as error:
        raise RecipeError(
            f"{type(scheduler).__name__} fails at time-step {timestep.item():g} ({first_line(error)}): mend the "
            "model's scheduler_config.json, or choose another scheduler"
        ) from error


def noise_options(step: Callable[..., Any], generators: Sequence[torch.Generator] | None) -> dict[str, Any]:
    """The generators as an argument of a scheduler's step, if it takes any."""
    takes_noise = "generator" in inspect.signature(step).parameters
    return {"generator": list(generators)} if takes_noise and generators is not None else {}


def part_used(scheduler: Any, output: Tensor, x: Tensor) -> Tensor:
    """What a scheduler uses of a network's output: no predicted variances, unless it is DDPM and follows them."""
    if isinstance(scheduler, DDPMScheduler) and scheduler.config["variance_type"] in LEARNED:
        return output
    return output[:, : x.shape[1]]


def keep_rows(scheduler: Any, shape: torch.Size, rows: Tensor) -> None:
    """Drop the other rows of the batch from what a multi-step scheduler remembers (outputs and samples of `shape`)."""

    def kept(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == shape:
            return value[rows]
        return [kept(item) for item in value] if isinstance(value, list) else value

    for name, value in vars(scheduler).items():
        setattr(scheduler, name, kept(value))


def calls_per_picture(scheduler: Any, steps: int) -> int:
    """How often the network is called for one picture (PNDM calls it more than `steps` times)."""
    return len(visited_timesteps(scheduler, steps))


def visited_timesteps(scheduler: Any, steps: int) -> Tensor:
    """The time-steps of a trajectory in the order of the calls, (calls,). Raises RecipeError."""
    scheduler = copy.deepcopy(scheduler)
    set_steps(scheduler, steps)
    return scheduler.timesteps.cpu()


def seeded_start(shape: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, list[torch.Generator]]:
    """x_T ~ N(0, I), (len(seeds), *shape), and the generators that drew it, ready to draw the noise of the steps.

    Generators seeded anew would draw x_T again as the first step's noise; always pass these on.
    """
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return torch.cat([torch.randn(1, *shape, generator=generator) for generator in generators]), generators


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """x_T ~ N(0, I), (len(seeds), *shape), float32 on the CPU; picture i depends on seeds[i] only."""
    return seeded_start(shape, seeds)[0]


def require_known_times(network: nn.Module, timesteps: Tensor) -> None:
    """Raise RecipeError for time-steps of a float type where a network looks its embeddings of time up in a table."""
    table = isinstance(network, ConfigMixin) and network.config.get("time_embedding_type") == "learned"
    if table and timesteps.is_floating_point():
        raise RecipeError(
            "the network looks whole time-steps up in a table, and those of the scheduler may be fractions: choose "
            "another one (ddim, ddpm, pndm, dpmsolver++, unipc)"
        )


def to_picture(x_0: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1], clipped, float32 on the CPU (as `DDPMPipeline` does)."""
    return (x_0 / 2 + 0.5).clamp(0, 1).float().cpu()
