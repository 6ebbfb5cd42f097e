"""Unconditional pixel models: those that our own sampling loop can draw with (DDPMPipeline, DDIMPipeline, ...).

Every other pipeline is calibrated while it does its normal work (`pipelines.at_work`).
"""

from typing import Any

from diffusers import DiffusionPipeline, UNet2DModel

from ptq4dm.pipelines.schedulers import LEARNED, PREDICTIONS


def why_not_unconditional(source: DiffusionPipeline) -> str:
    """Why `source` is no unconditional pixel model, "" if it is: a `UNet2DModel`, a scheduler with betas, no more.

    The network may predict variances too: as many channels more.
    """
    others = sorted(name for name in source.components if name not in ("unet", "scheduler"))
    if others:
        return f"it has other components ({', '.join(others)})"
    unet, scheduler = source.components.get("unet"), source.components.get("scheduler")
    if not isinstance(unet, UNet2DModel):
        return f"its unet is a {type(unet).__name__}, not a UNet2DModel"
    if "beta_schedule" not in config_of(scheduler):
        return f"its scheduler {type(scheduler).__name__} has no betas"
    config = unet.config
    if config["class_embed_type"] is not None or config["num_class_embeds"] is not None:
        return "its unet wants class labels"
    if config["out_channels"] not in (config["in_channels"], 2 * config["in_channels"]):
        return f"its unet has {config['in_channels']} channels in and {config['out_channels']} out"
    return ""


def why_not_drawable(source: DiffusionPipeline) -> str:
    """Why no loop can draw with an unconditional model, "" if one can: settings that no sampling can follow."""
    size = source.components["unet"].config["sample_size"]
    kind = config_of(source.components["scheduler"]).get("prediction_type", PREDICTIONS[0])
    count = config_of(source.components["scheduler"]).get("num_train_timesteps", 1)
    if not isinstance(count, int) or count < 1:
        return f"its scheduler's num_train_timesteps is {count!r}, not a whole number above 0"
    if not is_picture_size(size):
        return f"its unet's sample_size is {size!r}, not a number of pixels or (height, width)"
    if kind not in PREDICTIONS:
        return f"its scheduler's prediction_type is {kind!r}, none of {', '.join(PREDICTIONS)}"
    config, variance = source.components["unet"].config, config_of(source.components["scheduler"]).get("variance_type")
    if variance in LEARNED and config["out_channels"] == config["in_channels"]:
        return f"its scheduler's variance_type is {variance!r}, but its unet predicts no variance"
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
