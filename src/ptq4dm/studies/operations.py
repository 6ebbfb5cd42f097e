"""Which operations: float but for one kind quantized at a time, and then all that the paper quantizes.

Convolutions and linear layers are the INT8 layers of `quantization.layers`, weights and inputs. The other kinds are
rounded where they come out of a float network, per tensor, to the nearest of 256 values whose range the default metric
chooses on the default calibration (`studies.rounding`):

* attention products: queries, keys and values as they leave their projections, and the attention probabilities;
* SiLU, softmax, normalisation: what these operations give;
* output ε: what the network gives;
* variance Σ: its second half, where a network predicts variances, under DDPM: no other sampler follows them;
* all that the paper quantizes: all of these layers and products at once, rounded as the default recipe rounds;
* the preset `w8a8-paper`: the same as `quantize` makes it by the paper's own calibration (L_p 2.4, no smoothing, no
  error feedback), on the study's trajectories;
* x_{t-1}, under the study's sampler and under DDPM, and posterior mean μ: what each step of the sampler gives, for μ
  before noise is added, under DDPM: samplers that add no noise give the same for both. No network call changes then:
  the pictures tell. Without noise, updates smaller than half a step of the rounding are lost.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.calls import OBSERVED_AT_ONCE, calls_on
from ptq4dm.pipelines.denoiser import TimedCall
from ptq4dm.pipelines.schedulers import LEARNED, make_scheduler
from ptq4dm.quantization.layers import QuantizedLayer, QuantizedLinear, SpatialLayer
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.recipe import Recipe, load_recipe
from ptq4dm.studies.cases import SWEEP, Case, Painter, default_case, measure_pictures, measured_case, painter
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.rounded_steps import range_of, round_steps
from ptq4dm.studies.rounding import SITES, has_sites, site_ranges, with_rounding
from ptq4dm.studies.study import Study
from ptq4dm.studies.variants import PAPER, PRESET, STEP
from ptq4dm.workflow import quantize

QUESTION: Final = "operations"
LAYERS: Final[dict[str, type]] = {"convolutions": SpatialLayer, "linear layers": QuantizedLinear}
DDPM: Final = "ddpm"
"""The sampler under which μ and x_{t-1} differ, and which follows a predicted variance."""
VARIANCE: Final = "variance Σ"


def operations(study: Study) -> Sequence[Case]:
    """A case for each kind of operation, and one for all of the paper's."""
    layers = functools.cache(lambda: every_layer(study))
    cases = [layer_case(study, name, kind, layers) for name, kind in LAYERS.items()]
    default = ddpm_default(study)
    cases += [site_case(study, kind, default) for kind in SITES]
    cases += [step_case(study), noisy_step_case(study, default), mean_case(study, default), paper_case(study, layers)]
    preset = functools.cache(lambda: preset_network(study))
    return [*cases, preset_case(study, preset), preset_case(study, preset, default)]


def every_layer(study: Study) -> dict[str, QuantizedLayer]:
    """Each convolution and linear layer of the network in INT8, the narrow ones and those of time included."""
    plan = make_plan(study.pipeline.denoiser, study.recipe.keep_float, study.default_statistics)
    return study.int8_layers(plan, [call for call, _ in default_calls(study)])


def default_calls(study: Study) -> list[TimedCall]:
    """The calls of the default calibration that weights are rounded by."""
    return calls_on(study.pipeline.denoiser, study.default_set.calls(OBSERVED_AT_ONCE))


def identity_of(study: Study, operation: str) -> dict[str, Any]:
    """What a case of one operation depends on."""
    return {"recipe": study.recipe.to_dict(), "calibration": SWEEP, "operation": operation}


def layer_case(study: Study, name: str, kind: type, layers: Callable[[], dict[str, QuantizedLayer]]) -> Case:
    """All layers of one kind in INT8, the rest in float."""

    def build() -> nn.Module:
        chosen = {key: layer for key, layer in layers().items() if isinstance(layer, kind)}
        return with_layers(study.pipeline.denoiser, chosen)

    return measured_case(study, QUESTION, name, identity_of(study, name), build, shared=layers)


def site_case(study: Study, kind: str, default: Case) -> Case:
    """What one kind of operation gives, rounded; not applicable where there is none of it. default: under DDPM."""
    network = study.pipeline.denoiser
    reason = why_not(study, kind)
    if reason:
        return Case(QUESTION, kind, identity_of(study, kind), lambda: {"not_applicable": reason})

    def build() -> nn.Module:
        return with_rounding(network, kind, site_ranges(network, kind, default_calls(study), study.recipe.ranges))

    identity = identity_of(study, kind)
    if kind != VARIANCE:
        return measured_case(study, QUESTION, kind, identity, build)
    asked = ddpm_trajectories(study)
    note = f"under {asked.name}: no other sampler follows the variance"
    return measured_case(study, QUESTION, kind, identity, build, trajectories=asked, baseline=default, note=note)


def why_not(study: Study, kind: str) -> str:
    """Why a kind of operation cannot be measured on this model; empty where it can be."""
    if not has_sites(study.pipeline.denoiser, kind):
        return "the network predicts no variance" if kind == VARIANCE else f"the network has no {kind}"
    scheduler: Any = make_scheduler(DDPM, study.pipeline.scheduler.config)
    if kind == VARIANCE and scheduler.config.variance_type not in LEARNED:
        return (
            f"the model's scheduler follows no predicted variance (variance_type = {scheduler.config.variance_type!r})"
        )
    return ""


def paper_case(study: Study, layers: Callable[[], dict[str, QuantizedLayer]]) -> Case:
    """Convolutions, linear layers and attention products."""
    kind = "attention products"

    def build() -> nn.Module:
        network = study.pipeline.denoiser
        ranges = site_ranges(network, kind, default_calls(study), study.recipe.ranges)
        return with_rounding(with_layers(network, layers()), kind, ranges)

    note = "convolutions, linear layers and attention products; SiLU, softmax and normalisation in float"
    return measured_case(study, QUESTION, PAPER, identity_of(study, PAPER), build, note=note, shared=layers)


def preset_case(study: Study, network: Callable[[], nn.Module], default: Case | None = None) -> Case:
    """The preset of the paper; default: the default recipe's case under DDPM, for the one there."""
    asked = default.trajectories if default else None
    return measured_case(
        study,
        QUESTION,
        f"{PRESET}, {asked.name}" if asked else PRESET,
        {"recipe": preset_recipe(study).to_dict(), "calibration": "pool"},
        network,
        trajectories=asked,
        baseline=default,
        note="calibrated as the paper does, on the study's trajectories",
        shared=network,
    )


def preset_recipe(study: Study) -> Recipe:
    """The preset of the paper, with the study's calibration trajectories."""
    return load_recipe(PRESET).replace(calibration=study.calibration_changes)


def preset_network(study: Study) -> nn.Module:
    """What `quantize` makes of the float network by the preset of the paper."""
    recipe = preset_recipe(study)
    own, total = recipe.calibration, study.pipeline.num_train_timesteps
    samples = study.pool.under(own.timesteps, own.law_options, own.samples, own.seed, total)
    return quantize(study.pipeline, recipe, calibration_set=samples, progress=study.shown).network


def step_case(study: Study) -> Case:
    """x_{t-1} rounded after each step of the study's sampler."""
    note = "no network call changes: only pictures are compared"
    return rounded_case(study, STEP, study.trajectories, default_case(study), note, mean_only=False)


def noisy_step_case(study: Study, default: Case) -> Case:
    """The same under DDPM, whose noise keeps updates that are smaller than half a step from being rounded away."""
    asked = ddpm_trajectories(study)
    note = f"under {asked.name}, which adds noise; no network call changes"
    return rounded_case(study, f"{STEP}, {asked.name}", asked, default, note, mean_only=False)


def mean_case(study: Study, default: Case) -> Case:
    """The posterior mean rounded, under DDPM with as many steps: elsewhere it is x_{t-1} itself."""
    asked = ddpm_trajectories(study)
    note = f"under {asked.name}, where it is not x_{{t-1}}; no network call changes"
    return rounded_case(study, "posterior mean μ", asked, default, note, mean_only=True)


def ddpm_trajectories(study: Study) -> Trajectories:
    """The test trajectories under DDPM with as many steps."""
    return replace(study.trajectories, sampler=DDPM)


def ddpm_default(study: Study) -> Case:
    """The default recipe under DDPM: what the rows that are measured there are compared with."""
    asked = ddpm_trajectories(study)
    return measured_case(
        study,
        QUESTION,
        f"default recipe, {asked.name}",
        identity_of(study, "default"),
        lambda: study.default_network,
        trajectories=asked,
        shared=lambda: study.default_network,
    )


def rounded_case(study: Study, name: str, asked: Trajectories, default: Case, note: str, mean_only: bool) -> Case:
    """The float network under a sampler whose steps are rounded."""

    def paint() -> Painter:
        return painter(study, study.pipeline.denoiser, asked, rounding_scheduler(study, asked, mean_only))

    identity = identity_of(study, name)
    return Case(QUESTION, name, identity, lambda: measure_pictures(study, paint(), asked), asked, default, note, paint)


def rounding_scheduler(study: Study, asked: Trajectories, mean_only: bool) -> Any:
    """A sampler's scheduler that rounds to the range of x_t on the calibration trajectories."""
    x_t = study.pool.x_t[1:] if len(study.pool.x_t) > 1 else study.pool.x_t
    chosen = range_of(x_t.flatten(0, 1), study.recipe.ranges)
    return round_steps(make_scheduler(asked.sampler, study.pipeline.scheduler.config), chosen, mean_only)
