"""Which pipelines can come in, by how their denoiser is called. A new family is one more entry of `FAMILIES`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from diffusers import DiffusionPipeline, UNet2DModel

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.schedulers import PREDICTIONS


@dataclass(frozen=True)
class Family:
    """Pipelines whose denoiser is called in one way.

    component: the attribute of the pipeline that holds the denoiser. called: how. misfit: says why a pipeline is
    not of this family, "" if it is.
    """

    component: str
    called: str
    misfit: Callable[[DiffusionPipeline], str]


def family_of(source: DiffusionPipeline) -> Family:
    """The family that `source` belongs to. Raises ModelError that says which are supported."""
    reasons = []
    for name, family in FAMILIES.items():
        reason = family.misfit(source)
        if not reason:
            return family
        reasons.append(f"{name} ({family.called}): {reason}")
    raise ModelError(
        f"{type(source).__name__} is not supported; supported are {'; '.join(reasons)}. "
        "Quantize the network itself with ptq4dm.quantize_module"
    )


def not_unconditional(source: DiffusionPipeline) -> str:
    """Why `source` is no unconditional pixel model: a `UNet2DModel` and a scheduler with betas, no more."""
    others = sorted(name for name in source.components if name not in ("unet", "scheduler"))
    if others:
        return f"this one has other components ({', '.join(others)})"
    unet, scheduler = source.components.get("unet"), source.components.get("scheduler")
    if not isinstance(unet, UNet2DModel):
        return f"its unet is a {type(unet).__name__}, not a UNet2DModel"
    if "beta_schedule" not in config_of(scheduler):
        return f"its scheduler {type(scheduler).__name__} has no betas"
    config = unet.config
    if config["class_embed_type"] is not None or config["num_class_embeds"] is not None:
        return "its unet wants class labels"
    if config["in_channels"] != config["out_channels"]:
        return f"its unet has {config['in_channels']} channels in and {config['out_channels']} out"
    size, kind = config["sample_size"], config_of(scheduler).get("prediction_type", PREDICTIONS[0])
    if not is_picture_size(size):
        return f"its unet's sample_size is {size!r}, not a number of pixels or (height, width)"
    if kind not in PREDICTIONS:
        return f"its scheduler's prediction_type is {kind!r}, none of {', '.join(PREDICTIONS)}"
    return ""


def is_picture_size(size: Any) -> bool:
    """Whether a config's `sample_size` says how large pictures are: one whole number, or two."""
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)


def config_of(part: Any) -> dict[str, Any]:
    """The public settings of a diffusers model or scheduler ({} for None)."""
    return {} if part is None else {key: value for key, value in dict(part.config).items() if not key.startswith("_")}


FAMILIES: Final[dict[str, Family]] = {
    "unconditional pixel models": Family("unet", "DDPMPipeline, DDIMPipeline, any UNet2DModel", not_unconditional),
}
