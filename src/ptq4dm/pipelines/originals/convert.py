"""From a checkpoint file of a paper's own code to a diffusers pipeline."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from torch import Tensor

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.class_conditional import ClassConditionalDDPMPipeline
from ptq4dm.pipelines.fixed_heads import FixedHeadsUNet2DModel
from ptq4dm.pipelines.loading import FAULTS, one_line
from ptq4dm.pipelines.originals import ddim, openai
from ptq4dm.pipelines.originals.checkpoint import read_checkpoint
from ptq4dm.pipelines.originals.flags import REPOSITORIES, read_flags
from ptq4dm.pipelines.originals.original import Original
from ptq4dm.pipelines.originals.published import PUBLISHED
from ptq4dm.pipelines.unconditional import config_of

SUFFIXES: Final = (".toml", ".json")
"""Of a config beside a checkpoint."""


def convert_checkpoint(path: str | Path, config: str | Path | None = None) -> DiffusionPipeline:
    """Open a checkpoint of improved-diffusion, guided-diffusion or the original DDIM code as a diffusers pipeline.

    The layout and all that names and shapes tell are read off the weights. The rest is said by a config.

    Args:
        path: a file of torch.save or safetensors; read as tensors only.
        config: a TOML or JSON file with the flags of the run under their original names, or the name of a published
            checkpoint (`cifar10_uncond_50M_500K`). Left out: the file of the checkpoint's name beside it
            (`model.toml` for `model.pt`), else the published checkpoint of that name.

    Returns:
        A `DDPMPipeline`, or a `ClassConditionalDDPMPipeline` (`pipe(class_labels=[...])`), in float32, with the betas
        and variances of the original in its scheduler.

    Raises:
        ModelError: not such a checkpoint, damaged, nothing says what its weights do not tell, or a setting that
            diffusers cannot express.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"no checkpoint {str(path)!r}: give the file that torch.save or safetensors wrote")
    tensors = read_checkpoint(path)
    values, where = config_of_checkpoint(path, config)
    try:
        return built(read_layout(tensors, values, where, path))
    except FAULTS as error:
        raise ModelError(f"{path}: its tensors make no network of their layout: {one_line(error)}") from error


def read_layout(tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None, where: str, path: Path) -> Original:
    """The checkpoint by its layout. Raises ModelError, and FAULTS where names and shapes do not belong together."""
    if all(name in tensors for name in ddim.SIGNS):
        return ddim.read_ddim(tensors, values or {}, where)
    if not all(name in tensors for name in openai.SIGNS):
        some = ", ".join(sorted(tensors)[:3])
        raise ModelError(
            f"{path} has tensors of no layout that is known ({some}, ...): accepted are networks of improved-diffusion "
            "and guided-diffusion (no classifiers), and of the original DDIM code; others as diffusers folders"
        )
    if values is None:
        raise ModelError(
            f"{path}: the weights do not tell image_size, heads and noise schedule: write the flags of the run to "
            f"{path.with_suffix('.toml')} (repository = {' or '.join(map(repr, REPOSITORIES))}, image_size = 32, ...), "
            f"or name a published checkpoint as config: {', '.join(PUBLISHED)}"
        )
    return openai.read_openai(tensors, read_flags(values, where), where)


def config_of_checkpoint(path: Path, config: str | Path | None) -> tuple[Mapping[str, Any] | None, str]:
    """The config of a checkpoint (None if nothing says one), and what to call it. Raises ModelError."""
    if config is not None and str(config) in PUBLISHED:
        return PUBLISHED[str(config)], str(config)
    if config is not None:
        return read_config(Path(config).expanduser()), str(config)
    for beside in (path.with_suffix(suffix) for suffix in SUFFIXES):
        if beside.is_file():
            return read_config(beside), str(beside)
    return PUBLISHED.get(path.stem), str(path)


def read_config(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as plain data. Raises ModelError."""
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(
            f"config {str(path)!r} cannot be read ({one_line(error)}): give a TOML or JSON file, or one of "
            f"{', '.join(PUBLISHED)}"
        ) from error
    if not isinstance(values, dict):
        raise ModelError(f"config {str(path)!r} holds a {type(values).__name__}: it should be a table of flags")
    return values


def built(original: Original) -> DiffusionPipeline:
    """The pipeline of a checkpoint that was read. Raises FAULTS if the weights do not fit."""
    kind = UNet2DModel if original.heads is None else FixedHeadsUNet2DModel
    with torch.device("meta"):
        network = kind(**original.network)
    network.load_state_dict(original.tensors, strict=True, assign=True)
    every = config_of(DDPMScheduler(**original.scheduler))  # all said, so that its config is the same at each opening
    whole = DDPMPipeline if original.network.get("num_class_embeds") is None else ClassConditionalDDPMPipeline
    pipeline = whole(network.eval().requires_grad_(False), DDPMScheduler(**every))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
