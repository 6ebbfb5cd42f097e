"""Schedulers by name, built from a pipeline's own scheduler so that betas and prediction type stay the model's."""

from collections.abc import Mapping
from typing import Any, Final

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ptq4dm.errors import RecipeError, first_line
from ptq4dm.pipelines.denoiser import RAISED_BY_CALLS


class ClippedDDIMScheduler(DDIMScheduler):
    """DDIM as improved-diffusion and guided-diffusion do it: the noise is that of the clipped x_0.

    diffusers goes on with the noise that the network predicted, unless its `step` is told otherwise at each call.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = True,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As that of `DDIMScheduler`, with the other default."""
        return super().step(
            model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
        )


SCHEDULERS: Final[dict[str, type]] = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "ddim-clipped": ClippedDDIMScheduler,
}
FIXED: Final[dict[str, dict[str, Any]]] = {"dpmsolver++": {"algorithm_type": "dpmsolver++"}}
"""What a name promises, whatever the pipeline's own scheduler says."""
PREDICTIONS: Final = ("epsilon", "sample", "v_prediction")
"""What a network may predict: the noise, the picture, or Salimans and Ho's velocity."""
LEARNED: Final = ("learned", "learned_range")
"""Variance types of which the network predicts the variance (Nichol and Dhariwal, arXiv 2102.09672)."""
NOT_FOLLOWED: Final[dict[str, tuple[str, ...]]] = {"pndm": ("sample",)}
"""Predictions that a scheduler cannot use."""
WHOLE_STEPS: Final = (DDPMScheduler, DDIMScheduler, PNDMScheduler)
"""Those that look the noise of a time-step up in a table."""
FEWEST_STEPS: Final[dict[type, int]] = {PNDMScheduler: 4}
"""PNDM starts with Runge-Kutta steps over four time-steps."""


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """Build the scheduler called `name` from the config of a pipeline's scheduler. Raises RecipeError.

    Settings that the wanted class does not have are ignored. All others are passed on: diffusers leaves out those
    that were at their default in the object (it marks them in `_use_default_values`), so that the same model, once
    built and once loaded from a folder, would visit other time-steps.
    """
    if name not in SCHEDULERS:
        raise RecipeError(f"unknown scheduler {name!r}: accepted are {', '.join(SCHEDULERS)}")
    settings = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    prediction = settings.get("prediction_type", PREDICTIONS[0])
    accepted = [kind for kind in PREDICTIONS if kind not in NOT_FOLLOWED.get(name, ())]
    if prediction not in accepted:
        raise RecipeError(
            f"scheduler {name!r} cannot follow the model's prediction_type {prediction!r}: it takes "
            f"{', '.join(accepted)}; choose another scheduler, or mend the model's scheduler_config.json"
        )
    try:
        scheduler = SCHEDULERS[name].from_config(settings, **FIXED.get(name, {}))
    except RAISED_BY_CALLS as error:
        raise RecipeError(
            f"scheduler {name!r} cannot be made of the model's scheduler config ({error}): choose another scheduler, "
            "or mend the model's scheduler_config.json"
        ) from error
    betas, count = scheduler.betas.numel(), scheduler.config.num_train_timesteps
    if betas != count:
        raise RecipeError(
            f"the model's scheduler has {betas} trained_betas for num_train_timesteps = {count}: give one each in its "
            "scheduler_config.json"
        )
    return scheduler


def require_steps(name: str, config: Mapping[str, Any], steps: int) -> None:
    """Raise RecipeError unless the scheduler called `name` can be made and take so many steps: to be asked before long
    work is done for them."""
    set_steps(make_scheduler(name, config), steps)


def set_steps(scheduler: Any, steps: int) -> None:
    """Choose the time-steps that `scheduler` will visit. Raises RecipeError if it cannot make `steps` steps."""
    fewest, most = FEWEST_STEPS.get(type(scheduler), 1), int(scheduler.config.num_train_timesteps)
    if not fewest <= steps <= most:
        raise RecipeError(f"steps = {steps}: {type(scheduler).__name__} takes {fewest} to {most}")
    try:
        scheduler.set_timesteps(steps)
    except RAISED_BY_CALLS as error:
        raise RecipeError(
            f"{type(scheduler).__name__} cannot be set to {steps} steps ({first_line(error)}): mend the model's "
            "scheduler_config.json, or choose another scheduler"
        ) from error
    if isinstance(scheduler, WHOLE_STEPS):  # the others find their noise levels between time-steps
        visited: Any = scheduler.timesteps
        outside = [t for t in visited.tolist() if not 0 <= t < most]
        if outside:
            offset = scheduler.config.get("steps_offset", 0)
            raise RecipeError(
                f"steps = {steps} with the model's steps_offset = {offset} would visit time-step {outside[0]}: "
                f"accepted are 0 to {most - 1}; take fewer steps, or mend the model's scheduler_config.json"
            )
