"""What is proven of one family: calibrated, quantized, run in INT8, saved, loaded and run again."""

import copy
import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import ptq4dm
from families.family import TinyFamily, run
from ptq4dm.errors import PTQ4DMError, SimulatedWarning
from ptq4dm.pipelines.conditions import OWN
from ptq4dm.pipelines.denoiser import Call, batch_of, output_tensor
from ptq4dm.quantization.quantized_model import QuantizedDenoiser

STEPS = 3
DIFFUSERS = "from_pretrained"
OF_WAY = {DIFFUSERS: "simulated"}
"""What diffusers' own loading yields."""
UNCONDITIONAL = ("ddpm", "ddim")
"""Those that our own loop draws with."""
FULL = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 48, "steps": 6, "batch_size": 6})
"""For the table: pictures enough that the steps skipped pay for the checks and a search for sensitive layers: with 12
none was left for the search, and inpainting was 9.6 % from float instead of 5.2 %."""
RECIPE = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 4, "steps": STEPS, "batch_size": 2})


@dataclass(frozen=True)
class Proof:
    """One row. rows_made: rows through the denoisers for all of the calibration, and rows_of_running if the pipeline
    were run for its pictures; None for our own loop. layers: quantized of all; share: of the multiply-adds in INT8;
    call_error: relative L2 of the first call of each denoiser against float; on_cpu: layers that OpenVINO ran in INT8,
    of those quantized; engine_error: relative L2 of its pictures against the simulated backend's; engine_distance: of
    the first call of each denoiser, its batch taken twice, from the simulated one in float64, and float32_distance of
    that in float32 from there; same_again: by backend, and for what diffusers loads, whether the loaded model
    draws the same bits. faults: why an entry is missing."""

    family: str
    denoisers: tuple[str, ...]
    samples: int
    calls_made: int
    calls_saved: int
    rows_made: int | None
    rows_of_running: int | None
    layers: tuple[int, int]
    share: float
    call_error: dict[str, float]
    on_cpu: tuple[int, int] | None
    engine_error: float | None
    engine_distance: dict[str, float]
    float32_distance: dict[str, float]
    same_again: dict[str, bool]
    faults: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return json.loads(json.dumps(asdict(self)))


def conditions(family: TinyFamily, count: int = 2) -> list[dict[str, Any]]:
    """What the family's pipeline is calibrated with: the inputs of single pictures, as plain values where the inputs of
    several are lists of them, so that the pictures of one batch share a run. An IP-Adapter's are the same for all."""
    one, several = family.inputs(1), family.inputs(count)
    singly = {key for key, value in several.items() if isinstance(value, list) and len(value) == count > 1} - {
        "ip_adapter_image"
    }
    return [
        {key: several[key][index] if key in singly else one[key] for key in one if key not in OWN}
        for index in range(count)
    ]


def prove(
    family: TinyFamily,
    folder: Path,
    backends: tuple[str, ...] = ("simulated", "openvino"),
    recipe: ptq4dm.Recipe = RECIPE,
) -> Proof:
    """Walk one family through the whole job, in `folder`."""
    family = from_part_of_the_way(family)
    pipeline = family.build()
    given = None if family.name in UNCONDITIONAL else conditions(family, max(2, recipe.calibration.batch_size))
    model = ptq4dm.quantize(pipeline, recipe, conditions=given)
    faults, pictures, on_cpu, distances, of_float32 = [], {}, None, {}, {}
    for backend in backends:
        try:
            fast = model.to_pipeline(backend)
            pictures[backend] = run(family, fast)
        except PTQ4DMError as error:
            faults.append(f"{backend}: {error}")
            continue
        if backend == "openvino":
            ran = [layer for name in model.denoisers for layer in getattr(fast, name).ptq4dm_engine.executed]
            on_cpu = (sum(layer.int8 for layer in ran), sum(layer.quantized for layer in model.plan))
            distances = {name: distance(getattr(fast, name), model.denoiser(name)) for name in model.denoisers}
            of_float32 = {name: distance(item.network, item) for name, item in model.denoisers.items()}
            if len(run(family, fast, batch=2)) != 2:
                faults.append(f"{backend}: a batch of two was not drawn")
    try:
        again = loaded_again(family, model, folder, tuple(pictures))
    except PTQ4DMError as error:
        faults.append(f"load: {error}")
        again = {}
    macs = [layer for layer in model.plan if layer.macs]
    facts = model.facts["calibration"]
    both = {"simulated", "openvino"} <= pictures.keys()
    return Proof(
        family=family.name,
        denoisers=tuple(model.denoisers),
        samples=facts["samples"],
        calls_made=facts["calls_made"],
        calls_saved=facts["calls_saved"],
        rows_made=sum(facts["rows_made"].values()) if "rows_made" in facts else None,
        rows_of_running=sum(facts["rows_of_running"].values()) if "rows_of_running" in facts else None,
        layers=(sum(layer.quantized for layer in model.plan), len(model.plan)),
        share=sum(layer.macs or 0 for layer in macs if layer.quantized) / sum(layer.macs or 0 for layer in macs),
        call_error={name: call_error(pipeline, model, name) for name in model.denoisers},
        on_cpu=on_cpu,
        engine_error=relative(pictures["openvino"], pictures["simulated"]) if both else None,
        engine_distance=distances,
        float32_distance=of_float32,
        same_again={way: torch.equal(drawn, pictures[OF_WAY.get(way, way)]) for way, drawn in again.items()},
        faults=tuple(faults),
    )


def from_part_of_the_way(family: TinyFamily) -> TinyFamily:
    """The family as it is used where its pictures start from others: noised over part of the time axis."""
    if "strength" not in family.inputs(1):
        return family
    return replace(family, inputs=lambda batch: {**family.inputs(batch), "strength": 0.6})


def loaded_again(
    family: TinyFamily, model: ptq4dm.QuantizedModel, folder: Path, backends: tuple[str, ...]
) -> dict[str, Tensor]:
    """The pictures of the model after it was saved and loaded."""
    loaded = ptq4dm.load(model.save(folder))
    found = {DIFFUSERS: run(family, loaded_by_diffusers(family, folder))}
    for backend in backends:
        pipeline = loaded.to_pipeline(backend)
        pipeline.set_progress_bar_config(disable=True)
        found[backend] = run(family, pipeline)
    return found


def loaded_by_diffusers(family: TinyFamily, folder: Path) -> DiffusionPipeline:
    """The saved pipeline as diffusers alone opens it, saves it, and opens it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SimulatedWarning)
        DiffusionPipeline.from_pretrained(folder).save_pretrained(folder / "again")
        pipeline = DiffusionPipeline.from_pretrained(folder / "again")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_error(pipeline: Any, model: ptq4dm.QuantizedModel, name: str) -> float:
    """Relative L2 of a denoiser's first call against the float one, ‖Δ‖ / ‖float‖."""
    denoiser = model.denoiser(name)
    example = denoiser.example
    assert isinstance(example, Call)
    with torch.no_grad():
        wanted = first(getattr(pipeline, name)(*example.args, **example.kwargs))
        got = first(denoiser.network(*example.args, **example.kwargs))
    return relative(got, wanted)


@torch.no_grad()
def distance(network: nn.Module, denoiser: QuantizedDenoiser) -> float:
    """How far a network's answer to a denoiser's first call, its batch taken twice, is from the simulated network's in
    float64, relative L2."""
    example = denoiser.example
    assert isinstance(example, Call)
    rows = batch_of(example.args, example.kwargs)

    def given(dtype: torch.dtype) -> Call:
        def changed(tensor: Tensor) -> Tensor:
            twice = torch.cat([tensor, tensor.flip(0)]) if tensor.dim() and len(tensor) == rows else tensor
            return twice.to(dtype) if tensor.is_floating_point() else twice

        return Call(*pytree.tree_map_only(Tensor, changed, (example.args, example.kwargs)))

    exact, call = given(torch.float64), given(torch.float32)
    wanted = first(copy.deepcopy(denoiser.network).double()(*exact.args, **exact.kwargs))
    return relative(first(network(*call.args, **call.kwargs)), wanted)


def first(output: Any) -> Tensor:
    """The first tensor of what a denoiser gives (a ControlNet gives a list of them first)."""
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    while isinstance(values, tuple | list) and isinstance(values[0], tuple | list):
        values = values[0]
    return output_tensor(tuple(values) if isinstance(values, list) else values)


def relative(got: Tensor, wanted: Tensor) -> float:
    """‖got - wanted‖ / ‖wanted‖, in float64."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())
