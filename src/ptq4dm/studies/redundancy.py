"""Why 8 bits lose so little: noise of each layer, growth of the error along a trajectory, the layers that dominate it.

* noise: the ratio of signal to quantization noise of every layer's input and output, by time-step (`layer_noise`);
* growth: the error of x_t where the default recipe's network walks by itself, beside that of single calls (`growth`);
* shares: one layer quantized at a time, and all together: whose error it is (`single_errors`).

Noise and shares are of all layers that have an INT8 form in the default recipe, those too that it leaves in float for
their sensitivity: that is what shows why. All is measured on test trajectories, none of which was calibrated on.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ptq4dm.pipelines.sampling import calls_per_picture
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.studies.cases import SWEEP, Case
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.growth import growth_of
from ptq4dm.studies.layer_noise import decibels_of, layer_noise
from ptq4dm.studies.redundancy_sentences import GROWTH, NOISE, SHARES
from ptq4dm.studies.single_errors import single_errors, thinned
from ptq4dm.studies.study import Study

QUESTION: Final = "redundancy"
PICTURES: Final = 8
"""At most so many test pictures are walked with every call kept."""
CALLS: Final = 8
"""At so many time-steps each layer is quantized alone; half as many in a quick study."""


def redundancy(study: Study) -> Sequence[Case]:
    """Three cases, of facts."""
    asked = every_call(study)
    parts: dict[str, tuple[Callable[[Study, Trajectories], dict[str, Any]], Callable[[], Any]]] = {
        NOISE: (noise_facts, lambda: study.rounded_layers),
        GROWTH: (growth_facts, lambda: study.default_network),
        SHARES: (share_facts, lambda: study.rounded_layers),
    }
    recipe = study.recipe.to_dict()
    return [
        Case(
            QUESTION,
            name,
            {"recipe": recipe, "calibration": SWEEP, "measured": name},
            lambda measure=measure: {"facts": measure(study, asked)},
            asked,
            shared=shared,
        )
        for name, (measure, shared) in parts.items()
    ]


def every_call(study: Study) -> Trajectories:
    """The first test trajectories, with all calls kept."""
    scheduler = make_scheduler(study.settings.sampler, study.pipeline.scheduler.config)
    calls = calls_per_picture(scheduler, study.settings.steps)
    return replace(study.trajectories.short(PICTURES), kept=calls)


def noise_facts(study: Study, asked: Trajectories) -> dict[str, Any]:
    """By layer, dB of its input and output at each time-step, and over all; the noisiest output first."""
    walked = study.walk(asked)
    found = layer_noise(study.pipeline.denoiser, study.rounded_layers, walked, study.settings.batch_size, study.shown)
    left = study.sensitive["left_in_float"]
    layers = [
        {
            "layer": name,
            "input": decibels_of(*sums[0]),
            "output": decibels_of(*sums[1]),
            "input_all": decibels_of(*sums[0].sum(1, keepdim=True))[0],
            "output_all": decibels_of(*sums[1].sum(1, keepdim=True))[0],
            "left_in_float": name in left,
        }
        for name, sums in found.items()
    ]
    layers.sort(key=lambda row: float("inf") if row["output_all"] is None else row["output_all"])
    return {"t": walked.timesteps.tolist(), "n": len(asked.seeds), "layers": layers}


def growth_facts(study: Study, asked: Trajectories) -> dict[str, Any]:
    """How the error of x_t grows, of the default recipe's network."""
    return growth_of(study.pipeline, study.default_network, study.walk(asked), asked, study.shown)


def share_facts(study: Study, asked: Trajectories) -> dict[str, Any]:
    """By layer, its share of the squared error and of the multiply-adds, the largest first; and the sum of shares."""
    network, quick = study.pipeline.denoiser, study.settings.quick
    walked = thinned(study.walk(asked), CALLS // 2 if quick else CALLS)
    found = single_errors(network, study.rounded_layers, walked, study.settings.batch_size, study.shown)
    macs = study.macs
    left = study.sensitive["left_in_float"]
    layers = [
        {
            "layer": name,
            "share": share,
            "macs": macs.get(name, 0) / max(sum(macs.values()), 1),
            "left_in_float": name in left,
        }
        for name, share in sorted(found.shares().items(), key=lambda item: -item[1])
    ]
    return {
        "t": walked.timesteps.tolist(),
        "n": len(asked.seeds),
        "relative_l2": float(found.whole.sqrt().mean()),
        "additivity": found.additivity(),
        "additivity_at": found.additivity_at(),
        "half": number_for(np.array([row["share"] for row in layers]), 0.5),
        "layers": layers,
    }


def number_for(shares: np.ndarray, part: float) -> int:
    """How many of the largest shares (sorted, the largest first) make that part of their sum."""
    return int(np.searchsorted(np.cumsum(shares), part * shares.sum()) + 1) if len(shares) else 0
