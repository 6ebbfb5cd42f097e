"""Where a diffusion model comes in: by name, folder, hub id, or as a pipeline object."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from ptq4dm.errors import ModelError
from ptq4dm.files import fingerprint
from ptq4dm.pipelines.adapters import require_no_adapters
from ptq4dm.pipelines.denoiser import require_finite_weights, require_float
from ptq4dm.pipelines.loading import hub_folder, load_float_pipeline
from ptq4dm.pipelines.originals.convert import convert_checkpoint
from ptq4dm.pipelines.unconditional import config_of, why_not_drawable, why_not_unconditional
from ptq4dm.zoo.zoo import MODELS, model_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A diffusion model: the user's diffusers pipeline and which parts of it are denoisers.

    source: the pipeline. name: what the user called it ("emoji-32", a folder or file, a hub id, a class name).
    components: the attributes of `source` that are denoisers, such as ("unet",); () while they are not known, which
    is so of a conditional pipeline until it was seen at work (`pipelines.denoisers`).
    """

    source: DiffusionPipeline
    name: str
    components: tuple[str, ...] = ()

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        """The denoisers by the name of their component."""
        return {name: getattr(self.source, name) for name in self.components}

    @property
    def component(self) -> str:
        """The name of the one denoiser. Raises ModelError if there are several, or none is known yet."""
        if len(self.components) != 1:
            known = ", ".join(self.components) or "none that is known yet"
            raise ModelError(f"{self.name} has several denoisers or {known}: name the one that is meant")
        return self.components[0]

    @property
    def denoiser(self) -> nn.Module:
        """The noise-estimation network ε_θ(x_t, t). Raises ModelError if there are several, or none is known yet."""
        return self.denoisers[self.component]

    @property
    def scheduler(self) -> Any:
        """The pipeline's own scheduler; of several the first. Raises ModelError: it has none."""
        found = [part for part in self.source.components.values() if isinstance(part, SchedulerMixin)]
        if not found:
            raise ModelError(f"{self.name} has no scheduler: quantize the network itself with ptq4dm.quantize_module")
        own = self.source.components.get("scheduler")
        return found[0] if own is None else own  # some schedulers have a length, which may fail

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the denoiser works on. Raises ModelError: not unconditional."""
        require_unconditional(self)
        config = config_of(self.denoiser)
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return config["in_channels"], height, width

    @property
    def num_train_timesteps(self) -> int:
        """T: time-steps are 0 to T - 1, T - 1 the noisiest; 1000 for a scheduler that was trained on no whole steps."""
        return int(config_of(self.scheduler).get("num_train_timesteps", 1000))

    @property
    def fingerprint(self) -> str:
        """Of the denoisers' weights and configs and the scheduler's config; read anew each time."""
        facts: list[Any] = []
        tensors: dict[str, Tensor] = {}
        for name, denoiser in self.denoisers.items():
            prefix = "" if len(self.components) == 1 else f"{name}."
            tensors |= {f"{prefix}{key}": tensor for key, tensor in denoiser.state_dict().items()}
            facts += [type(denoiser).__name__, config_of(denoiser)]
        return fingerprint(tensors, *facts, type(self.scheduler).__name__, config_of(self.scheduler))


def open_pipeline(model: "str | Path | DiffusionPipeline | Pipeline") -> Pipeline:
    """Open a model: a built-in name, a local diffusers folder, a hub id, a diffusers pipeline object, or a checkpoint
    file of improved-diffusion, guided-diffusion or the DDIM code (`pipelines.originals`).

    The denoiser is put into evaluation mode. Raises ModelError: not found, damaged, not float, NaN or infinite
    weights.
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
    if os.path.isfile(place):
        return adopt(convert_checkpoint(place), name)
    if os.path.exists(place):  # of pathlib, a name that is too long is an OSError
        return adopt(load_float_pipeline(Path(place)), name)
    if isinstance(model, str) and HUB_ID.fullmatch(name):
        return adopt(load_float_pipeline(hub_folder(name)), name)
    raise ModelError(
        f"no model {name!r}: there is no such folder or file; accepted are {', '.join(MODELS)}, a diffusers pipeline "
        "folder, a checkpoint of improved-diffusion, guided-diffusion or DDIM, or a hub id (google/ddpm-cifar10-32)"
    )


def adopt(source: DiffusionPipeline, name: str) -> Pipeline:
    """Take in a loaded pipeline. Raises ModelError: a denoiser that is not float or not finite, settings nothing can
    follow."""
    if why_not_unconditional(source):
        return Pipeline(source, name)
    fault = why_not_drawable(source)
    if fault:
        raise ModelError(f"{name} ({type(source).__name__}) cannot be sampled: {fault}")
    pipeline = Pipeline(source, name, ("unet",))
    require_float(pipeline.denoiser, f"{name}: {pipeline.component}")
    require_no_adapters(pipeline.denoiser, f"{name}: {pipeline.component}")
    require_finite_weights(pipeline.denoiser, f"{name}: {pipeline.component}")
    pipeline.denoiser.eval()
    return pipeline


@contextmanager
def modes_kept(model: Any) -> Iterator[None]:
    """Give the modules of a pipeline object back in the training or evaluation mode that they came in."""
    source = model.source if isinstance(model, Pipeline) else model
    parts = source.components.values() if isinstance(source, DiffusionPipeline) else ()
    modes = {module: module.training for part in parts if isinstance(part, nn.Module) for module in part.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def require_unconditional(pipeline: Pipeline) -> None:
    """Raise ModelError unless our own loop can draw with `pipeline`."""
    reason = why_not_unconditional(pipeline.source)
    if reason:
        raise ModelError(
            f"{pipeline.name} ({type(pipeline.source).__name__}) is no unconditional pixel model: {reason}. Its own "
            "pipeline draws with it: ptq4dm.load(folder).to_pipeline() in Python"
        )
