"""Where a diffusion model comes in: by name, folder, hub id, or as a pipeline object."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from ptq4dm.errors import ModelError
from ptq4dm.files import fingerprint
from ptq4dm.pipelines.denoiser import require_finite_weights
from ptq4dm.pipelines.families import config_of, family_of
from ptq4dm.pipelines.loading import hub_folder, load_float_pipeline
from ptq4dm.zoo.zoo import MODELS, model_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A float diffusion model: the user's diffusers pipeline and which part of it is the denoiser.

    source: the pipeline. name: what the user called it ("emoji-32", a folder, a hub id, a class name).
    component: the attribute of `source` that is the denoiser, such as "unet".
    """

    source: DiffusionPipeline
    name: str
    component: str

    @property
    def denoiser(self) -> nn.Module:
        """The noise-estimation network ε_θ(x_t, t)."""
        return getattr(self.source, self.component)

    @property
    def scheduler(self) -> Any:
        """The pipeline's own scheduler."""
        return self.source.components["scheduler"]

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the denoiser works on."""
        config = config_of(self.denoiser)
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return config["in_channels"], height, width

    @property
    def num_train_timesteps(self) -> int:
        """T: time-steps are 0 to T - 1, T - 1 the noisiest."""
        return int(config_of(self.scheduler)["num_train_timesteps"])

    @property
    def fingerprint(self) -> str:
        """Of the denoiser's weights and config and the scheduler's config; read anew each time."""
        facts = [type(self.denoiser).__name__, config_of(self.denoiser)]
        facts += [type(self.scheduler).__name__, config_of(self.scheduler)]
        return fingerprint(dict(self.denoiser.state_dict()), *facts)


def open_pipeline(model: "str | Path | DiffusionPipeline | Pipeline") -> Pipeline:
    """Open a model: a built-in name, a local diffusers folder, a hub id, or a diffusers pipeline object.

    The denoiser is put into evaluation mode. Raises ModelError: not found, damaged, not float, NaN or infinite
    weights, or of a family that is not supported.
    """
    if isinstance(model, Pipeline):
        return model
    if isinstance(model, DiffusionPipeline):
        return adopt(model, type(model).__name__)
    if not isinstance(model, str | Path):
        raise ModelError(
            f"a {type(model).__name__} is no model: give a name ({', '.join(MODELS)}), a diffusers folder, a hub id "
            "or a diffusers pipeline; for a bare network use ptq4dm.quantize_module"
        )
    name = str(model)
    if name in MODELS:
        return adopt(load_float_pipeline(model_folder(name)), name)
    place = os.path.expanduser(name)
    if os.path.exists(place):  # of pathlib, a name that is too long is an OSError
        return adopt(load_float_pipeline(Path(place)), name)
    if isinstance(model, str) and HUB_ID.fullmatch(name):
        return adopt(load_float_pipeline(hub_folder(name)), name)
    raise ModelError(
        f"no model {name!r}: there is no such folder; accepted are {', '.join(MODELS)}, "
        "a diffusers pipeline folder, or a hub id such as google/ddpm-cifar10-32"
    )


def adopt(source: DiffusionPipeline, name: str) -> Pipeline:
    """Take in a loaded pipeline. Raises ModelError: family not supported, or weights not finite."""
    pipeline = Pipeline(source, name, family_of(source).component)
    require_finite_weights(pipeline.denoiser, f"{name}: {pipeline.component}")
    pipeline.denoiser.eval()
    return pipeline
