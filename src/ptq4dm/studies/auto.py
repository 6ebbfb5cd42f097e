"""Time-steps weighted by what an error at each does to the picture, against uniform ones and NDTC as published.

w(t) is the change of the final picture per unit of error in the call at t (`calibration.step_weights`), measured on
calibration trajectories with the errors of a network that is rounded under uniform time-steps, and again with white
noise of 2 %. All ranges come from the one sweep:

* p in proportion to w(t), and to w(t)²: the law for a distance that is a mean of squares; `timesteps = "auto"` is this;
* the skew normal nearest to it;
* for each layer the skew normal with the least fitting loss, weighted with w(t)² times the square of what an error in
  the layer's own input does to the answer at t (`studies.layer_gains`);
* for each layer these weights themselves.

Two draws of few samples under the default law tell how much of a difference is the draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ptq4dm.calibration.call_errors import error_of, noise_of_size
from ptq4dm.calibration.step_weights import StepWeights, weigh_steps
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.laws import band_shares, under_law
from ptq4dm.studies.auto_words import AUTO, DRAWS, PUBLISHED, UNIFORM
from ptq4dm.studies.cases import Case, measured_case, recipe_case
from ptq4dm.studies.integer_products import integer_products
from ptq4dm.studies.law_grid import Grid, best_for_layers, make_grid, nearest
from ptq4dm.studies.layer_gains import layer_gains
from ptq4dm.studies.samples import few_of, few_samples, first_of
from ptq4dm.studies.study import Study

QUESTION: Final = "auto"
FACTS: Final = "what an error at each time-step does"
PLAIN, NEAREST = "p ∝ w(t)", "skew normal nearest to auto"
OWN_SKEW, OWN = "skew normal of each layer's own", "weights of each layer's own"
NDTC: Final = {"location": 0.4, "scale": 0.4, "shape": 0.0, "overflow": "clip"}
"""As the paper's released script has it."""
WHITE: Final = 0.02
"""Size of the white noise, of the answer that it is added to: about that of the errors of 8 bits."""
GAIN_PICTURES: Final = 4
"""Trajectories that the gains of layers are measured on."""
SIDES: Final = {False: 10, True: 6}
"""Skew normals along each of location, scale and shape, in a full and in a quick study."""
VISITS: Final = {False: 25, True: 8}
"""Time-steps at which w(t) is measured, in a full and in a quick study."""


@dataclass(frozen=True, eq=False)
class Effects:
    """What errors do in one study, each part measured when it is first asked for."""

    study: Study

    @property
    def visits(self) -> int:
        """At how many time-steps w(t) is measured."""
        return VISITS[self.study.settings.quick]

    @cached_property
    def weights(self) -> StepWeights:
        """w(t) of the errors of a network rounded under uniform time-steps."""
        calibration = {"timesteps": UNIFORM, "law_options": {}}
        study, own = self.study, self.study.recipe.calibration
        recipe = study.recipe.replace(calibration=calibration, weights={"error_feedback": False})
        how = {"recipe": recipe.to_dict(), "pool": study.pool.facts, "bands": study.settings.bands}
        network = study.under_law(recipe)
        with integer_products(network.modules()):
            return weigh_steps(study.pipeline, own, error_of(network), how, study.folder, study.shown, self.visits)

    @cached_property
    def white(self) -> StepWeights:
        """w(t) of white noise."""
        study = self.study
        own = study.recipe.calibration
        error = noise_of_size(WHITE, own.seed)
        return weigh_steps(study.pipeline, own, error, WHITE, study.folder, study.shown, self.visits)

    @cached_property
    def layer_shares(self) -> dict[str, Tensor]:
        """By layer (visits,): w(t)² times the square of what an error in its input does to the answer."""
        sweep, pool, denoiser = self.study.sweep, self.study.pool, self.study.pipeline.denoiser
        x_t, seed = pool.x_t[:, :GAIN_PICTURES], self.study.settings.seed
        factors = sweep.smoothing.factors
        gains = layer_gains(denoiser, list(sweep.statistics), pool.timesteps, x_t, factors, seed, self.study.shown)
        shares = {name: gain * self.weights.shares(2) for name, gain in gains.items()}
        even = self.weights.shares(2)
        return {name: item / item.sum() if item.sum() > 0 else even for name, item in shares.items()}

    @cached_property
    def grid(self) -> Grid:
        """Many skew normals."""
        study = self.study
        return make_grid(SIDES[study.settings.quick], study.pool.timesteps, study.pipeline.num_train_timesteps)

    @cached_property
    def nearest(self) -> dict[str, float]:
        """The options of the skew normal that is nearest to p in proportion to w(t)²."""
        return nearest(self.grid, self.weights.shares(2))

    @cached_property
    def own_laws(self) -> dict[str, int]:
        """By layer which of the grid's laws is best for it."""
        sweep, own = self.study.sweep, self.study.recipe.ranges
        bands = {name: band_shares(item, sweep.visited, sweep.edges) for name, item in self.layer_shares.items()}
        laws = torch.stack([band_shares(item, sweep.visited, sweep.edges) for item in self.grid.shares])
        return best_for_layers(sweep.statistics, laws, bands, own, self.study.shown)

    def weighted(self, power: float) -> nn.Module:
        """The network calibrated with p(t) in proportion to w(t) to a power."""
        return self.lawful("weighted", self.weights.law_options(power))

    def lawful(self, law: str, options: Mapping[str, Any]) -> nn.Module:
        """The network of the default recipe with another law."""
        return self.study.under_law(self.study.recipe.replace(calibration={"timesteps": law, "law_options": options}))

    def layerwise(self, shares: Mapping[str, Tensor]) -> nn.Module:
        """The network with the ranges of each layer under shares (visits,) of its own."""
        sweep, study = self.study.sweep, self.study
        statistics: dict[str, LayerStatistics] = {
            name: under_law(item, band_shares(shares[name], sweep.visited, sweep.edges))
            for name, item in sweep.statistics.items()
        }
        calls = study.law_set("weighted", self.weights.law_options(2))
        return study.network(study.recipe, statistics | dict(sweep.of_time), calls)

    def facts(self) -> dict[str, Any]:
        """w(t) of both errors, how alike they are, and the laws that follow from it."""
        weights, white = self.weights, self.white
        known = list(weights.measured)
        logs, of_white = (np.log(np.array(item.weights)[known]) for item in (weights, white))
        alike = np.corrcoef(logs, of_white)[0, 1]
        skews = [self.grid.options[index] for index in self.own_laws.values()]
        locations = [options["location"] for options in skews]
        return {
            "facts": {
                "weights": weights.to_dict(),
                "white": white.to_dict(),
                "correlation": float(alike) if np.isfinite(alike) else None,
                "nearest": self.nearest,
                "locations": [float(np.quantile(locations, share)) for share in (0.25, 0.5, 0.75)],
            }
        }


def auto(study: Study) -> Sequence[Case]:
    """A case for each law, and one of facts."""
    effects = Effects(study)

    def case(variant: str, build: Callable[[], nn.Module]) -> Case:
        identity = {"law": variant, "recipe": study.recipe.to_dict(), "grid": SIDES[study.settings.quick]}
        return measured_case(study, QUESTION, variant, identity, build, shared=lambda: effects.weights)

    def own_skew() -> dict[str, Tensor]:
        return {name: effects.grid.shares[index] for name, index in effects.own_laws.items()}

    few, n = few_of(study, QUESTION, DRAWS[0]), few_samples(study)
    redrawn = first_of(study, QUESTION, n, n, study.settings.seed + 1, DRAWS[1])
    cases = [
        recipe_case(study, QUESTION, PUBLISHED, {"calibration": {"timesteps": "ndtc", "law_options": NDTC}}),
        recipe_case(study, QUESTION, UNIFORM, {"calibration": {"timesteps": UNIFORM, "law_options": {}}}),
        case(AUTO, lambda: effects.weighted(2)),
        case(OWN_SKEW, lambda: effects.layerwise(own_skew())),
        Case(QUESTION, FACTS, {"facts": FACTS, "recipe": study.recipe.to_dict()}, effects.facts),
    ]
    if study.settings.quick:
        return cases
    return [
        *cases,
        case(PLAIN, lambda: effects.weighted(1)),
        case(OWN, lambda: effects.layerwise(effects.layer_shares)),
        case(NEAREST, lambda: effects.lawful("ndtc", effects.nearest)),
        few,
        replace(redrawn, baseline=few, note="the same number of samples from other trajectories: what the draw does"),
    ]
