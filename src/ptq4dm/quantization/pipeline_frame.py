"""The frame of an artifact: everything of a pipeline but its denoisers, as diffusers writes and reads it.

What diffusers leaves out is noted beside it: which projections were fused, and float types other than float32.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from ptq4dm import files
from ptq4dm.errors import ArtifactError, ModelError
from ptq4dm.pipelines.classes import find_class, library_of, public_class
from ptq4dm.pipelines.fused import fuse_again, fused_attentions, saved_unfused
from ptq4dm.pipelines.loading import quiet
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.float_types import float_types, restore_types


def write_pipeline_frame(pipeline: Pipeline, folder: Path) -> None:
    """Write everything of a pipeline but its denoisers, as diffusers does."""
    index = {key: value for key, value in dict(pipeline.source.config).items() if not key.startswith("_")}
    index = {key: list(value) if isinstance(value, tuple) else value for key, value in index.items()}
    kinds = {name: public_class(denoiser) for name, denoiser in pipeline.denoisers.items()}
    index |= {name: [library_of(kind), kind.__name__] for name, kind in kinds.items()}
    index["_class_name"] = public_class(pipeline.source).__name__
    index["_diffusers_version"] = diffusers.__version__
    files.write_json(folder / "model_index.json", index)
    for name, part in pipeline.source.components.items():
        if name not in pipeline.components and hasattr(part, "save_pretrained"):
            with saved_unfused(part):
                part.save_pretrained(str(folder / name))  # several ControlNets want text


def plain_config(network: nn.Module) -> dict[str, Any]:
    """The diffusers config of a network as JSON data, with its class name."""
    if not hasattr(network, "to_json_string"):
        raise ModelError(f"{type(network).__name__} has no diffusers config, so it cannot be saved as a pipeline")
    return {**json.loads(network.to_json_string()), "_class_name": public_class(network).__name__}  # pyright: ignore[reportCallIssue]


def fused_parts(pipeline: Pipeline) -> dict[str, list[str]]:
    """The attentions with fused projections in parts of a pipeline that are no denoisers (a VAE)."""
    found = {name: fused_attentions(part) for name, part in other_parts(pipeline).items()}
    return {name: names for name, names in found.items() if names}


def types_of_parts(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The float types of those parts of a pipeline that are no denoisers, and not in float32."""
    found = {name: float_types(part) for name, part in other_parts(pipeline).items()}
    return {name: types for name, types in found.items() if types}


def other_parts(pipeline: Pipeline) -> dict[str, nn.Module]:
    """The networks of a pipeline that are no denoisers."""
    parts = pipeline.source.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module) and name not in pipeline.components}


def read_pipeline(folder: Path, networks: dict[str, nn.Module], facts: dict[str, Any]) -> Pipeline:
    """The diffusers pipeline around quantized networks, its parts fused and in the float types as they were saved.

    Raises ArtifactError: a part is missing, or its config is no JSON object.
    """
    index = files.read_object(folder / "model_index.json", "quantize the model again")
    for name, row in index.items():
        if name.startswith("_") or not isinstance(row, list) or row == [None, None] or name in networks:
            continue
        if not (folder / name).is_dir():
            raise ArtifactError(f"{folder}: the part {name} ({row[1]}) is missing: quantize the model again")
        for path in sorted((folder / name).glob("*config.json")):  # diffusers takes one that is no object for a hub id
            files.read_object(path, "quantize the model again")
    kind = diffusers_class(folder, index.get("_class_name"))
    with quiet():
        source = kind.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, **networks)
    for name, names in facts.get("fused_parts", {}).items():
        fuse_again(source.components[name], names, folder)
    for name, types in facts.get("float_types", {}).items():
        restore_types(source.components[name], types, folder)
    return Pipeline(source, str(folder), tuple(networks))


def diffusers_class(folder: Path, name: Any) -> Any:
    """A class of diffusers by name. Raises ArtifactError."""
    found = find_class(name)
    if found is None:
        raise ArtifactError(f"{folder}: diffusers {diffusers.__version__} has no {name}: pip install -U diffusers")
    return found
