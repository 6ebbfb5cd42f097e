"""Study: what all experiments on one model stand on, each part made once and kept in the study's folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.calls import OBSERVED_AT_ONCE, calls_on
from ptq4dm.calibration.collect import collect
from ptq4dm.calibration.time_shares import time_shares, visit_shares
from ptq4dm.evaluation.features import Extractor, feature_distance
from ptq4dm.evaluation.sheet import write_sheet
from ptq4dm.files import fingerprint
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.network import round_network
from ptq4dm.quantization.plan import LayerPlan, leave_out, make_plan
from ptq4dm.quantization.rewrite import quantize_layers
from ptq4dm.quantization.smoothing import Smoothing
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.laws import law_distance
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import CalibrationRecipe, Recipe, load_recipe
from ptq4dm.studies.extractor import find_extractor
from ptq4dm.studies.float_walk import FloatWalk, Trajectories, float_walk
from ptq4dm.studies.kept_rounding import KeptRounding
from ptq4dm.studies.pool import Pool, collect_pool
from ptq4dm.studies.sensitive import QUICK_CALLS, find_sensitive
from ptq4dm.studies.settings import Settings
from ptq4dm.studies.sweep import Sweep, along_time, largest_on, make_sweep, smoothed

SHOWN = 8
"""Pictures of a row that are kept to be looked at."""
FEEDBACK_SAMPLES = 256
"""Samples of a law whose calls weights are rounded by."""


@dataclass(frozen=True, eq=False)
class Study:
    """One model, the settings, and a folder. The parts below are computed when first asked for."""

    pipeline: Pipeline
    settings: Settings
    folder: Path
    shown: bool = False
    pictures: Tensor | None = None

    @cached_property
    def model(self) -> str:
        """The fingerprint of the float model."""
        return self.pipeline.fingerprint

    @cached_property
    def sight(self) -> tuple[Extractor | None, str]:
        """What pictures are seen through, loaded once; None where there is none, and why."""
        return find_extractor(self.pipeline.picture_shape[0])

    @property
    def extractor(self) -> Extractor | None:
        """What pictures are seen through."""
        return self.sight[0]

    @cached_property
    def between_pictures(self) -> float | None:
        """The mean perceptual distance of the float model's test pictures from one another: the scale of a row's."""
        if self.extractor is None:
            return None
        drawn = self.walk(self.trajectories).pictures
        return float(feature_distance(self.extractor, drawn, drawn.roll(1, 0)).mean())

    @property
    def size(self) -> dict[str, Any]:
        """The settings that a row depends on, as JSON data: how many pictures distances are measured on is none."""
        return {**asdict(self.settings), "distribution": None}

    @cached_property
    def recipe(self) -> Recipe:
        """The default recipe; in a quick study without error feedback, which takes minutes a row."""
        recipe = load_recipe("w8a8").replace(calibration=self.calibration_changes)
        return recipe.replace(weights={"error_feedback": False}) if self.settings.quick else recipe

    @property
    def calibration_changes(self) -> dict[str, Any]:
        """What the settings say of the calibration."""
        own = self.settings
        return {"samples": own.samples, "sampler": own.sampler, "steps": own.steps, "seed": own.seed}

    @cached_property
    def trajectories(self) -> Trajectories:
        """The test trajectories of the study's own sampler."""
        own = self.settings
        return Trajectories(own.sampler, own.steps, tuple(own.test_seeds), own.kept_calls, own.batch_size)

    @cached_property
    def walks(self) -> dict[Trajectories, FloatWalk]:
        """The float walks at hand."""
        return {}

    def walk(self, asked: Trajectories) -> FloatWalk:
        """The float trajectories, walked once."""
        if asked not in self.walks:
            self.walks[asked] = float_walk(self.pipeline, self.model, asked, self.folder / "walks", self.shown)
        return self.walks[asked]

    def prepare(self, asked: Trajectories | None) -> None:
        """Make what all rows share, so that its time counts for none of them."""
        _ = self.sweep
        if asked:
            _ = self.sensitive
            self.walk(asked)

    def sheet(self, pictures: Tensor) -> str:
        """Keep the first pictures (n, c, h, w) as a sheet; its name in the study's folder."""
        shown = pictures[:SHOWN]
        name = f"pictures/{fingerprint({'pictures': shown})}.png"
        if shown.shape[1] in (1, 3):
            write_sheet(self.folder / name, shown, len(shown))
            return name
        return ""

    @cached_property
    def pool(self) -> Pool:
        """The calibration trajectories of the study's own sampler."""
        own = self.settings
        return collect_pool(
            self.pipeline,
            self.model,
            own.sampler,
            own.steps,
            own.trajectories,
            own.thinning,
            own.seed,
            own.batch_size,
            self.folder / "pool",
            self.shown,
        )

    @cached_property
    def sweep(self) -> Sweep:
        """The statistics of the pool by band of time-steps."""
        return make_sweep(self.pipeline, self.pool, self.recipe, self.settings.bands, self.folder, self.shown)

    def shares_of(self, law: str | Callable[..., Any], options: Mapping[str, Any], visited: Tensor) -> Tensor:
        """The share of each visited time-step under a law."""
        return visit_shares(time_shares(law, options, self.pipeline.num_train_timesteps), visited)

    def statistics(self, law: str | Callable[..., Any], options: Mapping[str, Any]) -> dict[str, LayerStatistics]:
        """The statistics under a law, from the sweep."""
        return self.sweep.under(self.shares_of(law, options, self.pool.timesteps))

    def law_distance(self, law: str | Callable[..., Any], options: Mapping[str, Any]) -> float:
        """How far a law is from those whose statistics the sweep gives exactly (`ranges.laws`); 0 for such a one."""
        visited = self.sweep.visited
        return law_distance(self.shares_of(law, options, visited), visited, self.sweep.edges)

    def law_set(self, law: str | Callable[..., Any], options: Mapping[str, Any]) -> CalibrationSet:
        """Samples of the pool under a law: those that weights are rounded by."""
        total = self.pipeline.num_train_timesteps
        return self.pool.under(law, options, FEEDBACK_SAMPLES, self.settings.seed, total)

    def collected(self, **changes: Any) -> CalibrationSet:
        """A calibration set collected on its own, with changes to the calibration of the recipe."""
        recipe: CalibrationRecipe = replace(self.recipe.calibration, **changes)
        given = self.pictures if recipe.source in ("pictures", "diffused") else None
        return collect(self.pipeline, recipe, self.folder / "calibration", self.shown, given)

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-adds of each layer, for one picture."""
        network = self.pipeline.denoiser
        first = next(self.default_set.calls(OBSERVED_AT_ONCE))
        return count_macs(network, calls_on(network, [first])[0][0])

    @cached_property
    def rounding(self) -> KeptRounding:
        """Rounds weights with error feedback, the same ones once."""
        return KeptRounding(self.folder / "rounded", self.model)

    @cached_property
    def default_statistics(self) -> dict[str, LayerStatistics]:
        """The statistics under the default recipe's law."""
        return self.statistics(self.recipe.calibration.timesteps, self.recipe.calibration.law_options)

    @cached_property
    def default_set(self) -> CalibrationSet:
        """Samples under the default recipe's law."""
        return self.law_set(self.recipe.calibration.timesteps, self.recipe.calibration.law_options)

    @cached_property
    def default_network(self) -> nn.Module:
        """The simulated network of the default recipe."""
        return self.under_law(self.recipe)

    @cached_property
    def sensitive(self) -> dict[str, Any]:
        """Found once, for the default recipe, and the same in all rows (`studies.sensitive`)."""
        key, network = fingerprint({}, self.model, self.size, self.recipe.to_dict()), self.pipeline.denoiser
        return find_sensitive(
            self.folder / f"sensitive-{key}.json",
            network,
            lambda: self.rounded_layers,
            [call for call, _ in calls_on(network, self.default_set.calls(OBSERVED_AT_ONCE))],
            self.recipe.float_share,
            QUICK_CALLS if self.settings.quick else None,
            self.shown,
        )

    @cached_property
    def rounded_layers(self) -> dict[str, QuantizedLayer]:
        """All layers that the default recipe may round, the sensitive ones too, in INT8."""
        calls = [call for call, _ in calls_on(self.pipeline.denoiser, self.default_set.calls(OBSERVED_AT_ONCE))]
        plan = leave_out(self.plan, dict.fromkeys(self.sweep.of_time, "follows the time-step"))
        return self.int8_layers(plan, calls)

    @property
    def plan(self) -> tuple[LayerPlan, ...]:
        """What the default recipe plans for each layer, before any is found to be sensitive."""
        own = self.recipe
        return make_plan(self.pipeline.denoiser, own.keep_float, self.default_statistics, None, own.min_channels)

    def int8_layers(self, plan: Sequence[LayerPlan], calls: Sequence[Call]) -> dict[str, QuantizedLayer]:
        """The layers of a plan in INT8, by the default statistics and recipe."""
        network, recipe = self.pipeline.denoiser, self.recipe
        ranges = choose_ranges(self.default_statistics, recipe.ranges, shown=self.shown)
        layers = quantize_layers(network, plan, ranges, recipe.weights, self.shown)
        if recipe.weights.error_feedback:
            self.rounding(network, [(layers, recipe.weights)], calls, self.shown)
        return layers

    def network(
        self,
        recipe: Recipe,
        statistics: Mapping[str, LayerStatistics],
        calibration_set: CalibrationSet,
        smoothing: Smoothing | None = None,
    ) -> nn.Module:
        """The simulated network of a recipe, with statistics and the calls that weights are rounded by. smoothing: that
        of the statistics, the sweep's if None."""
        network = self.pipeline.denoiser
        calls = [call for call, _ in calls_on(network, calibration_set.calls(OBSERVED_AT_ONCE))]
        denoiser, _ = round_network(
            network,
            statistics,
            calls,
            recipe,
            self.shown,
            (smoothing or self.sweep.smoothing).folds,
            pictures=OBSERVED_AT_ONCE,
            timed=list(self.sweep.of_time),
            along=[call for call, _ in along_time(self.pipeline)],
            shares=self.sensitive["shares"],
            rounding=self.rounding,
            macs=self.macs,
        )
        return denoiser.network

    def under_law(self, recipe: Recipe) -> nn.Module:
        """The simulated network of a recipe, calibrated on the sweep under the recipe's law."""
        law, options = recipe.calibration.timesteps, recipe.calibration.law_options
        return self.network(recipe, self.statistics(law, options), self.law_set(law, options))

    def on_set(self, recipe: Recipe, calibration_set: CalibrationSet) -> nn.Module:
        """The simulated network of a recipe, calibrated on a set directly: smoothing, ranges and rounding."""
        network = self.pipeline.denoiser
        calls = calls_on(network, calibration_set.calls(OBSERVED_AT_ONCE))
        smoothing = smoothed(self.pipeline, largest_on(network, calls), recipe)
        statistics = self.sweep.of_calls(network, calls, smoothing, self.shown)
        return self.network(recipe, statistics, calibration_set, smoothing)
