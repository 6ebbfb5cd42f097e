"""Which operations: float but for one kind quantized at a time, and then all that the paper quantizes.

Convolutions and linear layers are the INT8 layers of `quantization.layers`, weights and inputs. The other kinds are
rounded where they come out of a float network, per tensor, to the nearest of 256 values whose range the default metric
chooses on the default calibration (`studies.rounding`):

* attention products: queries, keys and values as they leave their projections, and the attention probabilities;
* SiLU, softmax, normalisation: what these operations give;
* output ε: what the network gives; variance Σ: its second half, where a network predicts variances;
* x_{t-1}, and posterior mean μ: what each step of the sampler gives, before noise is added for μ. Samplers that add no
  noise give the same for both. No network call changes then: the pictures tell.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.calls import OBSERVED_AT_ONCE, calls_on
from ptq4dm.pipelines.denoiser import TimedCall
from ptq4dm.pipelines.sampling import sample_with
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.quantization.layers import QuantizedLayer, QuantizedLinear, SpatialLayer
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.studies.cases import SWEEP, Case, default_case, measured_case
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.rounded_steps import range_of, round_steps
from ptq4dm.studies.rounding import SITES, has_sites, site_ranges, with_rounding
from ptq4dm.studies.rows import measured
from ptq4dm.studies.study import Study

QUESTION: Final = "operations"
LAYERS: Final[dict[str, type]] = {"convolutions": SpatialLayer, "linear layers": QuantizedLinear}
PAPER: Final = "all that the paper quantizes"
MEAN: Final = "ddpm"
"""The sampler under which μ and x_{t-1} differ."""


def operations(study: Study) -> Sequence[Case]:
    """A case for each kind of operation, and one for all of the paper's."""
    layers = once(lambda: every_layer(study))
    cases = [layer_case(study, name, kind, layers) for name, kind in LAYERS.items()]
    cases += [site_case(study, kind) for kind in SITES]
    cases += [step_case(study), mean_case(study)]
    return [*cases, paper_case(study, layers)]


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """A function that makes something when first called, and gives the same from then on."""
    made: list[Any] = []

    def give() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return give


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

    return measured_case(study, QUESTION, name, identity_of(study, name), build)


def site_case(study: Study, kind: str) -> Case:
    """What one kind of operation gives, rounded; not applicable where the network has none of it."""
    network = study.pipeline.denoiser
    if not has_sites(network, kind):
        reason = "the network predicts no variance" if kind == "variance Σ" else f"the network has no {kind}"
        return Case(QUESTION, kind, identity_of(study, kind), lambda: {"not_applicable": reason})

    def build() -> nn.Module:
        return with_rounding(network, kind, site_ranges(network, kind, default_calls(study), study.recipe.ranges))

    return measured_case(study, QUESTION, kind, identity_of(study, kind), build)


def paper_case(study: Study, layers: Callable[[], dict[str, QuantizedLayer]]) -> Case:
    """Convolutions, linear layers and attention products."""
    kind = "attention products"

    def build() -> nn.Module:
        network = study.pipeline.denoiser
        ranges = site_ranges(network, kind, default_calls(study), study.recipe.ranges)
        return with_rounding(with_layers(network, layers()), kind, ranges)

    note = "convolutions, linear layers and attention products; SiLU, softmax and normalisation in float"
    return measured_case(study, QUESTION, PAPER, identity_of(study, PAPER), build, note=note)


def step_case(study: Study) -> Case:
    """x_{t-1} rounded after each step of the study's sampler."""
    name = "x_{t-1}"
    return Case(
        QUESTION,
        name,
        identity_of(study, name),
        lambda: measure_steps(study, study.trajectories, False),
        study.trajectories,
        default_case(study),
        "no network call changes: only pictures are compared",
    )


def mean_case(study: Study) -> Case:
    """The posterior mean rounded, under DDPM with as many steps: elsewhere it is x_{t-1} itself."""
    own, name = study.trajectories, "posterior mean μ"
    asked = Trajectories(MEAN, own.steps, own.seeds, own.kept, own.batch_size)
    identity = identity_of(study, "default")
    default = measured_case(
        study, QUESTION, f"default recipe, {asked.name}", identity, lambda: study.default_network, trajectories=asked
    )
    note = f"under {asked.name}, where it is not x_{{t-1}}; no network call changes"
    return Case(
        QUESTION,
        name,
        identity_of(study, name),
        lambda: measure_steps(study, asked, True),
        asked,
        default,
        note,
    )


def measure_steps(study: Study, asked: Trajectories, mean_only: bool) -> dict[str, Any]:
    """Picture measures of the float network under a sampler whose steps are rounded."""
    pipeline, own = study.pipeline, study.settings
    walked = study.walk(asked)
    x_t = study.pool.x_t[1:] if len(study.pool.x_t) > 1 else study.pool.x_t
    chosen = range_of(x_t.flatten(0, 1), study.recipe.ranges)
    scheduler = round_steps(make_scheduler(asked.sampler, pipeline.scheduler.config), chosen, mean_only)
    shape = pipeline.picture_shape
    drawn = sample_with(pipeline.denoiser, scheduler, shape, asked.seeds, asked.steps, own.batch_size, study.shown)
    return {**measured(None, walked.pictures, drawn), "sheet": study.sheet(drawn)}
