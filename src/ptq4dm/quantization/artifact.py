"""The artifact on disk: a diffusers pipeline folder whose denoiser holds INT8 weights, scales and zero points.

    model_index.json, scheduler/            as diffusers writes them
    unet/config.json                        the network's config + `quantization_config` (format version, layers)
    unet/diffusion_pytorch_model.safetensors  the tensors, with their fingerprint in the metadata
    ptq4dm.json                             recipe, plan, calibration facts: what the report and `inspect` read

A bare module has no pipeline and no config: its folder holds `module.safetensors` and `ptq4dm.json`, and is loaded
into a float module of the same class that the caller supplies.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor, nn

from ptq4dm import files
from ptq4dm.errors import ArtifactError, ModelError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.loading import FAULTS, one_line
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.filling import fill
from ptq4dm.quantization.layers_qdq import quantized_names
from ptq4dm.quantization.plan import LayerPlan
from ptq4dm.quantization.quantized_model import QuantizedModel, example_call
from ptq4dm.recipe import recipe_from_dict

FORMAT_VERSION = 1
FACTS = "ptq4dm.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
BARE_WEIGHTS = "module.safetensors"


def write_artifact(model: QuantizedModel, folder: Path) -> Path:
    """Write `model` to `folder`, whole or not at all. Raises ArtifactError if it cannot be written."""
    with files.new_folder(folder) as building:
        fill_folder(model, building)
    return folder


def fill_folder(model: QuantizedModel, building: Path) -> None:
    """Write the files of an artifact into a folder that is being built."""
    quantized = quantized_names(model.network)
    header = {"quant_method": "ptq4dm", "format_version": FORMAT_VERSION, "arithmetic": model.recipe.arithmetic}
    tensors = model.network.state_dict()
    if model.pipeline is None:
        weights = building / BARE_WEIGHTS
    else:
        component = building / model.pipeline.component
        component.mkdir()
        write_pipeline_frame(model.pipeline, building)
        config = {**plain_config(model.network), "quantization_config": {**header, "layers": quantized}}
        files.write_json(component / "config.json", config)
        weights = component / WEIGHTS
    files.write_tensors(weights, tensors, {"format": "pt", "ptq4dm": files.fingerprint(tensors)})
    facts = {
        **header,
        "layers": quantized,
        "weights": str(weights.relative_to(building)),
        "component": model.pipeline.component if model.pipeline else None,
        "recipe": model.recipe.to_dict(),
        "plan": [dataclasses.asdict(layer) for layer in model.plan],
        "facts": model.facts,
    }
    files.write_json(building / FACTS, facts)


def write_pipeline_frame(pipeline: Pipeline, folder: Path) -> None:
    """Write everything of a pipeline but its denoiser, as diffusers does."""
    index = {key: value for key, value in dict(pipeline.source.config).items() if not key.startswith("_")}
    index = {key: list(value) if isinstance(value, tuple) else value for key, value in index.items()}
    index[pipeline.component] = ["diffusers", public_class(pipeline.denoiser)]
    index["_class_name"] = public_class(pipeline.source)
    index["_diffusers_version"] = diffusers.__version__
    files.write_json(folder / "model_index.json", index)
    for name, part in pipeline.source.components.items():
        if name != pipeline.component and hasattr(part, "save_pretrained"):
            part.save_pretrained(folder / name)


def public_class(part: Any) -> str:
    """The name of the class of diffusers that `part` is, or is derived from (a class of your own is not loaded)."""
    for kind in type(part).__mro__:
        if getattr(diffusers, kind.__name__, None) is kind:
            return kind.__name__
    raise ModelError(f"{type(part).__name__} is no class of diffusers, so it cannot be saved as a pipeline")


def plain_config(network: nn.Module) -> dict[str, Any]:
    """The diffusers config of a network as JSON data, with its class name."""
    if not hasattr(network, "to_json_string"):
        raise ModelError(f"{type(network).__name__} has no diffusers config, so it cannot be saved as a pipeline")
    return {**json.loads(network.to_json_string()), "_class_name": public_class(network)}  # pyright: ignore[reportCallIssue]


def read_facts(folder: Path) -> dict[str, Any]:
    """Read and check `ptq4dm.json`. Raises ArtifactError for a foreign, newer or damaged artifact."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"no folder {folder}: name a folder that `ptq4dm quantize --out` wrote")
    if not (folder / FACTS).is_file():
        raise ArtifactError(f"{folder} has no {FACTS}, so it is no quantized model: make one with `ptq4dm quantize`")
    facts = files.read_json(folder / FACTS)
    if not isinstance(facts, dict) or facts.get("quant_method") != "ptq4dm":
        raise ArtifactError(f"{folder / FACTS} is not of ptq4dm")
    check_version(facts.get("format_version"), folder / FACTS)
    missing = {"layers", "weights", "component", "recipe", "plan", "facts", "arithmetic"} - set(facts)
    if missing:
        raise ArtifactError(f"{folder / FACTS} lacks {', '.join(sorted(missing))}: quantize the model again")
    return facts


def check_version(version: Any, where: Path) -> None:
    """Refuse a format that this version of ptq4dm does not know."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{where}: format_version = {version!r} is no version: quantize the model again")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: format_version = {version}, this ptq4dm reads up to {FORMAT_VERSION}: pip install -U ptq4dm"
        )


def load(folder: str | Path, module: nn.Module | None = None, example: Call | None = None) -> QuantizedModel:
    """Load a quantized model that was saved.

    Args:
        folder: what `QuantizedModel.save` or `ptq4dm quantize --out` wrote, or the name of a built-in artifact
            (`emoji-32`).
        module: for a bare module only: a float module of the same class, to be filled.
        example: for a bare module only: one call of it, for backends that must trace it.

    Raises:
        ArtifactError: missing, damaged, tampered with, or of a newer format.
    """
    from ptq4dm.zoo.zoo import MODELS, int8_folder

    folder = int8_folder(str(folder)) if str(folder) in MODELS and not Path(folder).exists() else Path(folder)
    facts = read_facts(folder)
    try:
        return read_model(folder, facts, module, example)
    except FAULTS as error:
        raise ArtifactError(
            f"{folder} is damaged ({type(error).__name__}: {one_line(error)}): quantize the model again"
        ) from error


def read_model(folder: Path, facts: dict[str, Any], module: nn.Module | None, example: Call | None) -> QuantizedModel:
    """The model of an artifact whose facts were read. Raises ArtifactError, and FAULTS where it was tampered with."""
    if Path(facts["weights"]).is_absolute() or ".." in Path(facts["weights"]).parts:
        raise ArtifactError(f"{folder}: its weights lie outside it ({facts['weights']}): quantize the model again")
    tensors, metadata = files.read_tensors(folder / facts["weights"])
    if metadata.get("ptq4dm") != files.fingerprint(tensors):
        raise ArtifactError(f"{folder / facts['weights']} is not what was saved (fingerprint differs): quantize again")
    recipe = recipe_from_dict(facts["recipe"], str(folder / FACTS))
    plan = tuple(LayerPlan(**row) for row in facts["plan"])
    if facts["component"] is None:
        if module is None:
            raise ArtifactError(f"{folder} holds a bare module: load(folder, module=...) with one of the same class")
        network = fill(module, facts["layers"], tensors, folder)
        return QuantizedModel(network, None, example or Call(), plan, recipe, facts["facts"])
    frame = read_pipeline_frame(folder, facts, tensors)
    return QuantizedModel(frame.denoiser, frame, example or example_call(frame), plan, recipe, facts["facts"])


def read_pipeline_frame(folder: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Pipeline:
    """The diffusers pipeline around the quantized network."""
    component = facts["component"]
    config = files.read_json(folder / component / "config.json")
    header = config.pop("quantization_config", {})
    check_version(header.get("format_version"), folder / component / "config.json")
    if header.get("arithmetic") != facts["arithmetic"] or facts["recipe"].get("arithmetic") != facts["arithmetic"]:
        raise ArtifactError(f"{folder}: its files name several arithmetics: quantize the model again")
    network_class = getattr(diffusers, str(config.get("_class_name")), None)
    index = files.read_json(folder / "model_index.json")
    pipeline_class = getattr(diffusers, str(index.get("_class_name")), None)
    if network_class is None or pipeline_class is None:
        raise ArtifactError(f"{folder}: diffusers {diffusers.__version__} has no {config.get('_class_name')} "
                            f"or no {index.get('_class_name')}: pip install -U diffusers")  # fmt: skip
    network = fill(network_class.from_config(config), facts["layers"], tensors, folder)
    parts: dict[str, Any] = {component: network}
    for name, row in index.items():
        if name == component or name.startswith("_") or not isinstance(row, list):
            continue
        part = getattr(diffusers, str(row[1]), None)
        if part is None or not (folder / name).is_dir():
            raise ArtifactError(f"{folder}: the part {name} ({row[1]}) is missing: quantize the model again")
        parts[name] = part.from_pretrained(folder / name)
    return Pipeline(pipeline_class(**parts), str(folder), component)
