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
from ptq4dm.errors import ArtifactError
from ptq4dm.evaluation.sheet import write_sheet
from ptq4dm.files import fingerprint, read_json, write_json
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.bisection import shares_within
from ptq4dm.quantization.error_feedback import round_again
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.network import round_network
from ptq4dm.quantization.plan import LayerPlan, leave_out, make_plan
from ptq4dm.quantization.rewrite import quantize_layers
from ptq4dm.quantization.sensitivity import best_in_float
from ptq4dm.quantization.smoothing import Smoothing
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import CalibrationRecipe, Recipe, load_recipe
from ptq4dm.studies.float_walk import FloatWalk, Trajectories, float_walk
from ptq4dm.studies.pool import Pool, collect_pool
from ptq4dm.studies.settings import Settings
from ptq4dm.studies.sweep import Sweep, along_time, largest_on, make_sweep, smoothed

SEARCH_CALLS = 48
"""Calls that a quick study may make to find the sensitive layers."""
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

    def law_set(self, law: str | Callable[..., Any], options: Mapping[str, Any], **changes: Any) -> CalibrationSet:
        """Samples of the pool under a law: those that weights are rounded by."""
        total = self.pipeline.num_train_timesteps
        return self.pool.under(law, options, FEEDBACK_SAMPLES, self.settings.seed, total, **changes)

    def collected(self, **changes: Any) -> CalibrationSet:
        """A calibration set collected on its own, with changes to the calibration of the recipe."""
        recipe: CalibrationRecipe = replace(self.recipe.calibration, **changes)
        given = self.pictures if recipe.source in ("pictures", "diffused") else None
        return collect(self.pipeline, recipe, self.folder / "calibration", self.shown, given)

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
        """Found once, for the default recipe, and the same in all rows. `shares`: each layer's share of the output's
        squared error. `left_in_float`: the layers that are kept out of INT8 for theirs, with the reason."""
        path = self.folder / "sensitive.json"
        key = fingerprint({}, self.model, {**asdict(self.settings), "distribution": None})
        try:
            saved = read_json(path)
            if saved["key"] == key:
                return saved["found"]
        except (ArtifactError, KeyError, TypeError):  # not measured yet
            pass
        network = self.pipeline.denoiser
        calls = [call for call, _ in calls_on(network, self.default_set.calls(OBSERVED_AT_ONCE))]
        limit = SEARCH_CALLS if self.settings.quick else None
        shares, _ = shares_within(network, self.rounded_layers, calls, limit, self.shown)
        left = best_in_float(shares, count_macs(network, calls[0]), self.recipe.float_share)
        found = {"shares": shares, "left_in_float": left}
        write_json(path, {"key": key, "found": found})
        return found

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
            round_again(network, layers, calls, recipe.weights, self.shown)
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
