"""The artifact on disk: a diffusers pipeline folder whose denoiser holds INT8 weights, scales and zero points.

    model_index.json, scheduler/, ...       as diffusers writes them
    unet/config.json                        a denoiser's config + `quantization_config` (format version, layers)
    unet/diffusion_pytorch_model.safetensors  its tensors, with their fingerprint in the metadata
    folded.safetensors                      smoothing factors that layers took in, where some did
    ptq4dm.json                             recipe, plans, calibration facts: what the report and `inspect` read

A bare module has no pipeline and no config: its folder holds `module.safetensors` and `ptq4dm.json`, and is loaded
into a float module of the same class that the caller supplies.
"""

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from ptq4dm import files
from ptq4dm.errors import ArtifactError
from ptq4dm.pipelines.denoiser import Call, require_module
from ptq4dm.pipelines.fused import fused_attentions
from ptq4dm.pipelines.loading import FAULTS, one_line, saved_by_diffusers
from ptq4dm.pipelines.unconditional import why_not_unconditional
from ptq4dm.quantization.attention_products import product_names
from ptq4dm.quantization.facts import require_facts
from ptq4dm.quantization.filling import fill
from ptq4dm.quantization.float_types import float_types
from ptq4dm.quantization.folded_factors import read_factors, write_factors
from ptq4dm.quantization.half_layers import half_names
from ptq4dm.quantization.ip_adapters import attach_adapters
from ptq4dm.quantization.layers_qdq import quantized_names
from ptq4dm.quantization.pipeline_frame import (
    diffusers_class,
    fused_parts,
    plain_config,
    read_pipeline,
    types_of_parts,
    write_pipeline_frame,
)
from ptq4dm.quantization.plan import LayerPlan
from ptq4dm.quantization.quantized_model import QuantizedDenoiser, QuantizedModel, example_call
from ptq4dm.quantization.savable import require_savable
from ptq4dm.quantization.shared import layers_entry, saved_tensors, shared_names
from ptq4dm.quantization.time_axis import axis_entry, check_axis
from ptq4dm.quantization.time_bands import bands_entry, bands_of
from ptq4dm.quantization.weight_only import weight_only_names
from ptq4dm.recipe import Recipe, recipe_from_dict
from ptq4dm.registration import METHOD, TELLING

FORMAT_VERSION = 2
BANDED_VERSION = 3
"""Of artifacts whose scales depend on the time-step, so that a version that knew one scale a layer refuses them."""
READS = f"this ptq4dm reads {FORMAT_VERSION} and {BANDED_VERSION}"
FACTS = "ptq4dm.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
BARE_WEIGHTS = "module.safetensors"
BEFORE: Final = {
    "float_share": 0.0,
    "time_in_float": False,
    "smoothing": {"enabled": False},
    "weights": {"error_feedback": False, "gain_correction": False},
}
"""Keys of a recipe that artifacts of this format had not from the beginning, and what is true of one without them."""


def write_artifact(model: QuantizedModel, folder: Path) -> Path:
    """Write `model` to `folder`, whole or not at all. Raises ArtifactError if it cannot be written, ModelError if it
    could not be loaded again."""
    with files.new_folder(folder) as building:
        fill_folder(model, building)
    return folder


def fill_folder(model: QuantizedModel, building: Path) -> None:
    """Write the files of an artifact into a folder that is being built."""
    networks = [denoiser.network for denoiser in model.denoisers.values()]
    version = max(map(format_version, networks), default=FORMAT_VERSION)
    header = {"quant_method": METHOD, "format_version": version, "arithmetic": model.recipe.arithmetic}
    if model.pipeline is not None:
        require_savable(model.pipeline)
        write_pipeline_frame(model.pipeline, building)
    denoisers = {}
    for name, denoiser in model.denoisers.items():
        layers = quantized_names(denoiser.network)
        weights = building / BARE_WEIGHTS
        if model.pipeline is not None:
            weights = building / name / WEIGHTS
            weights.parent.mkdir()
            own = {"quant_method": TELLING, "format_version": format_version(denoiser.network)}
            axis = axis_entry(denoiser.facts.get("time_axis"))
            entry = {**header, **layers_entry(denoiser.network), **own, **axis}
            config = {**plain_config(denoiser.network), "quantization_config": entry}
            files.write_json(weights.parent / "config.json", config)
        shared = shared_names(denoiser.network)
        tensors = saved_tensors(denoiser.network.state_dict(), shared)
        files.write_tensors(weights, tensors, {"format": "pt", "ptq4dm": files.fingerprint(tensors)})
        denoisers[name] = {
            "layers": layers,
            "half": half_names(denoiser.network),
            "weight_only": weight_only_names(denoiser.network),
            "attention_products": product_names(denoiser.network),
            "shared": shared,
            "fused": fused_attentions(denoiser.network),
            **bands_entry(denoiser.network),
            "float_types": float_types(denoiser.network),
            "weights": str(weights.relative_to(building)),
            "plan": [dataclasses.asdict(layer) for layer in denoiser.plan],
            "facts": denoiser.facts,
        }
    write_factors(building, {name: denoiser.folded for name, denoiser in model.denoisers.items()})
    facts = {
        **header,
        "pipeline": model.pipeline is not None,
        "denoisers": denoisers,
        "fused_parts": {} if model.pipeline is None else fused_parts(model.pipeline),
        "float_types": {} if model.pipeline is None else types_of_parts(model.pipeline),
        "recipe": model.recipe.to_dict(),
        "facts": model.facts,
    }
    files.write_json(building / FACTS, facts)


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Read and check `ptq4dm.json`. Raises ArtifactError for a foreign, newer or damaged artifact."""
    if not isinstance(folder, str | Path):
        raise ArtifactError(f"a {type(folder).__name__} is no folder: name one that `ptq4dm quantize --out` wrote")
    folder = Path(folder)
    if not os.path.isdir(folder):  # of pathlib, a name that is too long is an OSError
        raise ArtifactError(f"no folder {folder}: name a folder that `ptq4dm quantize --out` wrote")
    if not (folder / FACTS).is_file() and saved_by_diffusers(folder):
        raise ArtifactError(
            f"{folder} has no {FACTS}: it was saved by diffusers; open it with DiffusionPipeline.from_pretrained after "
            "`import ptq4dm`"
        )
    if not (folder / FACTS).is_file():
        raise ArtifactError(f"{folder} has no {FACTS}, so it is no quantized model: make one with `ptq4dm quantize`")
    facts = files.read_json(folder / FACTS)
    if not isinstance(facts, dict) or facts.get("quant_method") != METHOD:
        raise ArtifactError(f"{folder / FACTS} is not of ptq4dm")
    check_version(facts.get("format_version"), folder / FACTS)
    missing = {"denoisers", "pipeline", "recipe", "facts", "arithmetic"} - set(facts)
    if missing:
        raise ArtifactError(f"{folder / FACTS} lacks {', '.join(sorted(missing))}: quantize the model again")
    return facts


def format_version(network: nn.Module) -> int:
    """The format that a quantized network is saved in."""
    return FORMAT_VERSION if bands_of(network) is None else BANDED_VERSION


def check_version(version: Any, where: Path) -> None:
    """Refuse a format that this version of ptq4dm does not know."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{where}: format_version = {version!r} is no version: quantize the model again")
    if version > BANDED_VERSION:
        raise ArtifactError(f"{where}: format_version = {version}, {READS}: pip install -U ptq4dm")
    if version < FORMAT_VERSION:
        raise ArtifactError(f"{where}: format_version = {version}, {READS}: quantize the model again")


def load(folder: str | Path, module: nn.Module | None = None, example: Call | None = None) -> QuantizedModel:
    """Load a quantized model that was saved.

    Args:
        folder: what `QuantizedModel.save` or `ptq4dm quantize --out` wrote, or the name of a built-in artifact
            (`emoji-32`).
        module: for a bare module only: a float module of the same class, to be filled.
        example: one call of the (only) denoiser, for engines that trace it; without one they trace the first call made.

    Raises:
        ArtifactError: missing, damaged, tampered with, or of a newer format.
    """
    from ptq4dm.zoo.zoo import MODELS, int8_folder

    folder = int8_folder(str(folder)) if str(folder) in MODELS and not os.path.exists(folder) else folder
    facts = read_facts(folder)
    try:
        return read_model(Path(folder), facts, module, example)
    except FAULTS as error:
        raise ArtifactError(
            f"{folder} is damaged ({type(error).__name__}: {one_line(error)}): quantize the model again"
        ) from error


def read_model(folder: Path, facts: dict[str, Any], module: nn.Module | None, example: Call | None) -> QuantizedModel:
    """The model of an artifact whose facts were read. Raises ArtifactError, and FAULTS where it was tampered with."""
    recipe = recipe_of(folder, facts)
    if not facts["pipeline"] and module is None:
        raise ArtifactError(f"{folder} holds a bare module: load(folder, module=...) with one of the same class")
    if facts["pipeline"] and module is not None:
        raise ArtifactError(f"{folder} holds a pipeline, which needs no module: ptq4dm.load(folder) alone")
    if module is not None:
        require_module(module)
        require_fitting(example, module)
    if not facts["denoisers"]:
        raise ArtifactError(f"{folder} names no denoiser: quantize the model again")
    if facts["arithmetic"] != recipe.arithmetic:
        raise ArtifactError(f"{folder}: its files name several arithmetics: quantize the model again")
    of_denoisers = {name: held["facts"] for name, held in facts["denoisers"].items()}
    require_facts(facts["facts"], of_denoisers, str(folder / FACTS))
    networks = {
        name: read_network(folder, name, held, facts["arithmetic"], None if facts["pipeline"] else module)
        for name, held in facts["denoisers"].items()
    }
    pipeline = read_pipeline(folder, networks, facts) if facts["pipeline"] else None
    if example is None and pipeline is not None and not why_not_unconditional(pipeline.source):
        example = example_call(pipeline)
    denoisers = {
        name: QuantizedDenoiser(
            networks[name],
            tuple(LayerPlan(**row) for row in held["plan"]),
            example,
            held["facts"],
            read_factors(folder, name),
        )
        for name, held in facts["denoisers"].items()
    }
    return QuantizedModel(denoisers, pipeline, recipe, facts["facts"])


def recipe_of(folder: Path, facts: dict[str, Any]) -> Recipe:
    """The recipe that an artifact was made with, by its facts; what it does not name was not done."""
    named: dict[str, Any] = facts["recipe"]
    sections = {key: {**value, **named.get(key, {})} for key, value in BEFORE.items() if isinstance(value, dict)}
    return recipe_from_dict({**BEFORE, **named, **sections}, str(folder / FACTS))


def require_fitting(example: Call | None, module: nn.Module) -> None:
    """Raise ArtifactError unless `example` is a call that `module` takes, of at least one sample, or None."""
    if example is None:
        return
    if not isinstance(example, Call):
        raise ArtifactError(f"example is a {type(example).__name__}: give ptq4dm.Call((x, t)), a call of the module")
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*example.args, **example.kwargs)
    except TypeError as error:
        kind = type(module).__name__
        raise ArtifactError(f"example does not fit {kind}.forward{signature}: {error}; give a call of it") from error
    if any(isinstance(item, Tensor) and not item.numel() for item in (*example.args, *example.kwargs.values())):
        raise ArtifactError("example holds no samples: give a call of at least one")


def read_network(folder: Path, name: str, held: dict[str, Any], arithmetic: str, module: nn.Module | None) -> nn.Module:
    """One quantized network: `module` filled, or one of the class and config that its folder names."""
    tensors = read_weights(folder, held)
    if module is None:
        module = empty_network(folder, name, arithmetic)
        attach_adapters(module, tensors, folder)
    check_axis(held["facts"].get("time_axis"), type(module), folder)
    return fill(module, held, tensors, folder)


def read_weights(folder: Path, held: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of one denoiser of an artifact. Raises ArtifactError: not what was saved."""
    if Path(held["weights"]).is_absolute() or ".." in Path(held["weights"]).parts:
        raise ArtifactError(f"{folder}: its weights lie outside it ({held['weights']}): quantize the model again")
    weights = folder / held["weights"]
    tensors, metadata = files.read_tensors(weights)
    if metadata.get("ptq4dm") != files.fingerprint(tensors):
        raise ArtifactError(f"{weights} is not what was saved (fingerprint differs): quantize again")
    return tensors


def empty_network(folder: Path, name: str, arithmetic: str) -> nn.Module:
    """A float network of the class and config that a denoiser's folder names. Raises ArtifactError."""
    config = files.read_object(folder / name / "config.json", "quantize the model again")
    header = config.pop("quantization_config", None)
    if not isinstance(header, dict):
        raise ArtifactError(
            f"{folder / name / 'config.json'}: quantization_config = {header!r} is not what ptq4dm writes: quantize "
            "the model again"
        )
    check_version(header.get("format_version"), folder / name / "config.json")
    if header.get("arithmetic") != arithmetic:
        raise ArtifactError(f"{folder}: its files name several arithmetics: quantize the model again")
    return diffusers_class(folder, config.get("_class_name")).from_config(config)
