"""A mixed-precision plan: a recipe that leaves some layers in float, for a number of layers or a target of fidelity.

Every layer is quantized alone on held-out calls, the layers are chosen by that (`quantization.mixed_precision`), the
network of the new recipe is quantized as `ptq4dm quantize` does it, and its relative L2 measured on the calls of other
pictures. With a target, layers are added until the measured figure meets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.collect import collect
from ptq4dm.errors import ArtifactError, RecipeError
from ptq4dm.files import fingerprint, new_file, read_json, write_json
from ptq4dm.pipelines.pipeline import Pipeline, modes_kept, open_pipeline, require_unconditional
from ptq4dm.quantization.mixed_precision import Sensitivity, in_order
from ptq4dm.quantization.plan import make_plan, planned
from ptq4dm.quantization.quantized_model import QuantizedDenoiser
from ptq4dm.quantization.sensitivity import instead
from ptq4dm.recipe import Recipe
from ptq4dm.recipe_text import recipe_text
from ptq4dm.studies.float_walk import FloatWalk, Trajectories, errors_along, walk
from ptq4dm.studies.single_errors import single_errors
from ptq4dm.workflow import in_float32, quantize_opened, settled

RANKED: Final = range(500_000, 500_004)
"""Seeds of the pictures on whose calls each layer is quantized alone: none that an evaluation or a study tests with."""
MEASURED: Final = range(500_004, 500_012)
"""Seeds of the pictures on whose calls a plan is measured."""
CALLS: Final = 10
"""Calls of each picture, evenly spaced over its trajectory."""
NO_FOLDS: Final = 1e30
"""As a threshold of smoothing: no layer in front takes factors in, so that layers can be exchanged one by one."""


@dataclass(frozen=True)
class MixedPlan:
    """A plan and what is known of it.

    recipe: what `quantize` takes. kept: the layers that the plan leaves in float, those with the most error for their
    multiply-adds first. predicted, measured: relative L2 of a call. float_macs: the share of the multiply-adds in
    float, with what the recipe keeps there anyway. calls: of one picture each, that it was measured on. sensitivity:
    what the choice was made by.
    """

    model: str
    recipe: Recipe
    kept: tuple[str, ...]
    predicted: float
    measured: float
    float_macs: float
    calls: int
    sensitivity: Sensitivity

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        known = self.sensitivity
        return {
            "model": self.model,
            "kept": [{"layer": name, "share": known.share(name), "macs": known.cost([name])} for name in self.kept],
            "candidates": len(known.shares),
            "predicted": self.predicted,
            "measured": self.measured,
            "all_int8": known.all_int8,
            "floor": known.floor,
            "kept_macs": known.cost(self.kept),
            "float_macs": self.float_macs,
            "calls": self.calls,
        }

    def text(self) -> str:
        """The recipe as TOML with its figures as comments."""
        known = self.sensitivity
        head = [
            f"Written by `ptq4dm plan` for {self.model}: {len(self.kept)} of {len(known.shares)} layers that have an "
            "INT8 form stay in float.",
            f"Relative L2 of a call: {percent(self.measured)} measured on {self.calls} held-out calls "
            f"({percent(self.predicted)} expected); {percent(known.all_int8)} with all of them in INT8.",
            f"Multiply-adds in float: {percent(known.cost(self.kept))} by these layers, {percent(self.float_macs)} "
            "with those that the recipe keeps there anyway.",
        ]
        beside = {
            name: f"{percent(known.share(name))} of the error for {percent(known.cost([name]))} of the multiply-adds"
            for name in self.kept
        }
        return recipe_text(self.recipe, head, beside)

    def save(self, path: str | Path) -> Path:
        """Write the recipe file, whole or not at all."""
        with new_file(Path(path)) as building:
            building.write_text(self.text(), encoding="utf-8")
        return Path(path)


def plan_recipe(
    model: str | Path | DiffusionPipeline | Pipeline,
    recipe: Recipe | str | Path = "w8a8",
    *,
    keep_float: int | None = None,
    target_l2: float | None = None,
    pictures: Tensor | None = None,
    work: Path | None = None,
    progress: bool = False,
) -> MixedPlan:
    """Choose which layers of an unconditional pixel model stay in float; exactly one of the two budgets is given.

    Args:
        model: a built-in name, a diffusers folder, a hub id, or a pipeline object.
        recipe: what the plan starts from; its `keep_float` stays, the plan takes the place of its `float_share`.
        keep_float: so many layers, those whose rounding harms the output most.
        target_l2: the relative L2 of a call, such as 0.01, to be met with the fewest multiply-adds in float.
        pictures: (n, c, h, w) in [-1, 1], for calibration sources that need some.
        work: folder for the calibration and the ranking, which a later plan or `quantize` of the same goes on from.
        progress: show progress bars on stderr.

    Raises PTQ4DMError: a budget that no plan can have (with the best that can be reached), a model that is not fit.
    """
    recipe = settled(recipe)
    check_budget(keep_float, target_l2)
    recipe_text(recipe)  # a recipe that no file can hold is told before the long work
    with modes_kept(model):
        pipeline = open_pipeline(model)
        require_unconditional(pipeline)
        pipeline = in_float32(pipeline)
        layers = planned(make_plan(pipeline.denoiser, recipe.keep_float, min_channels=recipe.min_channels))
        check_number(keep_float, len(layers), pipeline.name)
        planner = make_planner(pipeline, recipe, pictures, work, progress)
        known = planner.sensitivity
        check_number(keep_float, len(known.shares), pipeline.name)
        if keep_float is not None:
            return planner.plan(known.most_sensitive(keep_float))
        assert target_l2 is not None  # check_budget
        return planner.meet(target_l2)


def check_budget(keep_float: int | None, target_l2: float | None) -> None:
    """Raise RecipeError unless exactly one budget is given, and one that makes sense."""
    if (keep_float is None) == (target_l2 is None):
        given = "neither" if keep_float is None else "both"
        raise RecipeError(
            f"{given} of keep_float and target_l2 given: a plan takes one, a number of layers or a target"
        )
    if keep_float is not None and keep_float < 1:
        raise RecipeError(f"keep_float = {keep_float}: a plan leaves at least 1 layer in float")
    if target_l2 is not None and not 0 < target_l2 < 1:
        raise RecipeError(f"target_l2 = {target_l2}: accepted is a relative L2 between 0 and 1, such as 0.02 for 2 %")


def check_number(keep_float: int | None, layers: int, model: str) -> None:
    """Raise RecipeError if that many in float leave no layer in INT8."""
    if layers < 2:
        raise RecipeError(f"the recipe rounds {layers} layers of {model}: a plan needs 2 to choose from")
    if keep_float is not None and keep_float >= layers:
        raise RecipeError(
            f"keep_float = {keep_float}, but the recipe rounds {layers} layers of {model}: accepted are 1 to "
            f"{layers - 1}, so that one is left in INT8"
        )


@dataclass(frozen=True, eq=False)
class Planner:
    """What all plans of one model and recipe share."""

    pipeline: Pipeline
    recipe: Recipe
    calibration_set: CalibrationSet
    sensitivity: Sensitivity
    walked: FloatWalk
    progress: bool

    def plan(self, names: Sequence[str]) -> MixedPlan:
        """The plan that keeps these layers in float, measured."""
        kept = in_order(names, self.sensitivity.by_worth())
        recipe = mixed_recipe(self.recipe, kept)
        denoiser = quantized(self.pipeline, recipe, self.calibration_set, self.progress)
        measured = mean_error(self.walked, denoiser.network)
        known, total = self.sensitivity, sum(item.macs or 0 for item in denoiser.plan)
        in_float = sum(item.macs or 0 for item in denoiser.plan if not item.quantized)
        calls = self.walked.x_t.shape[:2].numel()
        share = in_float / max(total, 1)
        return MixedPlan(self.pipeline.name, recipe, tuple(kept), known.predicted(kept), measured, share, calls, known)

    def meet(self, target: float) -> MixedPlan:
        """The cheapest plan whose measured error meets the target. Raises RecipeError."""
        known, aim, names = self.sensitivity, target, []
        most = known.most_sensitive(len(known.shares) - 1)
        while True:
            chosen = known.cheapest(aim, names)
            if chosen is None:
                chosen = most
            if len(chosen) <= len(names) and names:  # the aim is met by what was tried: the next best one too
                chosen = [*names, *(name for name in known.by_worth() if name not in names)][: len(names) + 1]
            found = self.plan(chosen)
            if found.measured <= target:
                return found
            if len(chosen) >= len(most):
                raise RecipeError(
                    f"target_l2 = {target} cannot be reached: with all but one of the {len(known.shares)} layers in "
                    f"float the relative L2 of a call is {found.measured:.4g}: give at least that"
                )
            names, aim = chosen, min(aim, target * found.predicted / found.measured)


def make_planner(
    pipeline: Pipeline, recipe: Recipe, pictures: Tensor | None, work: Path | None, progress: bool
) -> Planner:
    """Calibrate, walk the float trajectories, and measure every layer alone (or read what was measured before)."""
    calibration_set = collect(pipeline, recipe.calibration, work, progress, pictures)
    own = recipe.calibration
    walks = [
        walk(pipeline, Trajectories(own.sampler, own.steps, tuple(seeds), CALLS, len(seeds)), progress)
        for seeds in (RANKED, MEASURED)
    ]
    every = mixed_recipe(recipe.replace(smoothing={"threshold": NO_FOLDS}), [])
    held_out = {"seeds": [*RANKED, *MEASURED], "calls": CALLS}
    own_calls = {"x_t": calibration_set.x_t, "timesteps": calibration_set.timesteps}
    key = fingerprint(own_calls, pipeline.fingerprint, every.replace(name="").to_dict(), held_out)
    place = work / f"sensitivity-{key}.json" if work is not None else None
    known = read_sensitivity(place)
    if known is None:
        known = measure_sensitivity(pipeline, quantized(pipeline, every, calibration_set, progress), walks, progress)
        if place is not None:
            write_json(place, {key: value for key, value in vars(known).items()})
    return Planner(pipeline, recipe, calibration_set, known, walks[1], progress)


def measure_sensitivity(
    pipeline: Pipeline, every: QuantizedDenoiser, walks: Sequence[FloatWalk], progress: bool
) -> Sensitivity:
    """Measure each layer alone on the first float walk; all together, and what is left without them, on the second."""
    network = pipeline.denoiser
    layers = {name: every.network.get_submodule(name) for name in planned(every.plan)}
    ranked, measured = walks
    shares = single_errors(network, layers, ranked, len(RANKED), progress).shares()
    with instead(every.network, {name: network.get_submodule(name) for name in layers}):
        floor = mean_error(measured, every.network)
    macs = {item.name: item.macs for item in every.plan if item.macs is not None}
    return Sensitivity(shares, macs, mean_error(measured, every.network), floor)


def read_sensitivity(place: Path | None) -> Sensitivity | None:
    """What was measured before; None if nothing was, or the file is damaged."""
    if place is None or not place.is_file():
        return None
    try:
        return Sensitivity(**read_json(place))
    except (ArtifactError, TypeError):
        return None


def mixed_recipe(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with these layers in float, and no others for their sensitivity."""
    return recipe.replace(keep_float=(*recipe.keep_float, *names), float_share=0.0)


def quantized(pipeline: Pipeline, recipe: Recipe, calibration_set: CalibrationSet, progress: bool) -> QuantizedDenoiser:
    """The denoiser as `quantize` makes it."""
    return quantize_opened(pipeline, recipe, None, calibration_set, None, None, progress).denoiser()


def percent(share: float) -> str:
    """0.0123 -> "1.23 %"."""
    return f"{100 * share:.3g} %"


def mean_error(walked: FloatWalk, network: nn.Module) -> float:
    """The mean relative L2 of a network's calls on a float walk."""
    return float(errors_along(walked, network, len(MEASURED), False).relative_l2.mean())
