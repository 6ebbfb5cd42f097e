"""Is the gain independent of the sampler, and does one calibration serve them all?

Under each sampler three networks draw: calibrated on the study's own trajectories (the default), on that sampler's
own, and at one time-step alone, as for a classifier. The first is what the others are compared with.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from torch import nn

from ptq4dm.recipe import Recipe
from ptq4dm.studies.cases import SWEEP, Case, measured_case
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.settings import Settings
from ptq4dm.studies.study import Study

FULL: Final = (("ddpm", 1000), ("ddim", 100), ("ddim", 50), ("ddim", 20), ("dpmsolver++", 20), ("unipc", 10))
QUICK: Final = (("ddim", 16), ("dpmsolver++", 10), ("unipc", 10))
LONG: Final = 200
"""Steps beyond which few pictures are drawn, and no calibration of the sampler's own is made."""
FEW: Final = 4
"""How many."""
OWN: Final = 256
"""At most how many samples a sampler's own calibration has, each from a trajectory of its own."""
ONE_STEP: Final = {"timesteps": "single", "law_options": {"t": 0}}
"""The naive calibration: where pictures are finished, as one would calibrate a classifier."""
DEFAULT, OTHER, NAIVE = "default calibration", "calibrated on this sampler", "calibrated at t = 0 alone"


def samplers(study: Study) -> Sequence[Case]:
    """Two or three cases a sampler."""
    return [
        case for name, steps in (QUICK if study.settings.quick else FULL) for case in of_sampler(study, name, steps)
    ]


def of_sampler(study: Study, name: str, steps: int) -> list[Case]:
    """The cases of one sampler."""
    own = study.settings
    steps = min(steps, study.pipeline.num_train_timesteps)
    seeds = tuple(own.test_seeds)[: FEW if steps > LONG else own.pictures]
    asked = Trajectories(name, steps, seeds, own.kept_calls, own.batch_size)

    def case(variant: str, recipe: Recipe, how: Any, build: Callable[[], nn.Module], baseline: Case | None) -> Case:
        identity = {"recipe": recipe.to_dict(), "calibration": how}
        title = f"{name}-{steps}: {variant}"
        return measured_case(
            study,
            "samplers",
            title,
            identity,
            build,
            trajectories=asked,
            baseline=baseline,
            note=few_note(seeds, own),
            shared=None if baseline else lambda: study.default_network,
        )

    recipe, naive = study.recipe, study.recipe.replace(calibration=ONE_STEP)
    default = case(DEFAULT, recipe, SWEEP, lambda: study.default_network, None)
    cases = [default, case(NAIVE, naive, SWEEP, lambda: study.under_law(naive), default)]
    if steps <= LONG:
        samples = min(OWN, own.samples)
        cases.insert(1, case(OTHER, recipe, {"own": samples}, lambda: on_own(study, name, steps, samples), default))
    return cases


def few_note(seeds: Sequence[int], own: Settings) -> str:
    """Why there are few pictures."""
    return f"{len(seeds)} pictures: paired measures only" if len(seeds) < own.pictures else ""


def on_own(study: Study, sampler: str, steps: int, samples: int) -> nn.Module:
    """The network calibrated on trajectories of that sampler, under the default law."""
    return study.on_set(study.recipe, study.collected(sampler=sampler, steps=steps, samples=samples))
