"""Evaluate a quantized model against its float model, and save everything that the report shows.

A results folder holds:

    results.json            plain data, `format_version` 1; a section that was not measured is null
        model, recipe, plan, calibration, activation_ranges    what the model is and how it was made
        float_by_method     modules that the method keeps in float, counted by class
        executed            which nodes the engine ran in INT8, or each layer's choice with both times
        size, memory        bytes of the tensors; rise of resident memory while an engine is built and called once, or
                            what a warm call has at most on the GPU
        fidelity            call level (means, curve over t), picture level, of the deployed and the simulated network
        layers              relative L2 of each quantized layer on the float layer's input
        distribution        distances from the data, with n, paired intervals and the smallest detectable difference
        speed               alternating times of one call, ratios with intervals, the predicted limit
        pictures            the sheets, seeds, sampler
        environment, commands, notes
    float.png, int8.png     the pictures, same seeds, in sheets of tiles
    pictures.safetensors    the same, raw: `float`, `int8`, `simulated` (n, c, h, w) in [0, 1]

`results.json` is written last and whole.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.backends.base import Backend
from ptq4dm.backends.places import device_for, device_of_network, require_place
from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.commands import FIRST_SEED, RECIPE, commands
from ptq4dm.evaluation.environment import environment
from ptq4dm.evaluation.fidelity import compare_calls
from ptq4dm.evaluation.layer_errors import layer_errors
from ptq4dm.evaluation.measure import INT8, ROUNDS, network_speed, prepare_engines, run_notes, sampling_speed
from ptq4dm.evaluation.sections import SIMULATED, aims, distributions, executed, fidelity, find_extractors
from ptq4dm.evaluation.sheet import write_sheet
from ptq4dm.files import exclusive, make_folder, new_files, write_json, write_tensors
from ptq4dm.pipelines.denoiser import network_on
from ptq4dm.pipelines.pipeline import Pipeline, require_unconditional
from ptq4dm.pipelines.sampling import sample
from ptq4dm.pipelines.schedulers import require_steps
from ptq4dm.quantization.quantized_model import QuantizedModel, compiled, example_call, pipeline_on
from ptq4dm.quantization.summary import summary
from ptq4dm.quantization.time_bands import bands_words

FORMAT_VERSION: Final = 1
RESULTS: Final = "results.json"
SPEED_BATCH: Final = 8
SPEED_STEPS: Final = 10
"""Steps of the trajectories that are timed end to end."""
SPEED_TRAJECTORIES: Final = 3
"""Rounds of these."""


def evaluate(
    model: QuantizedModel,
    pipeline: Pipeline,
    out: Path,
    *,
    pictures: int = 16,
    steps: int = 50,
    sampler: str = "ddim",
    batch_size: int = 16,
    seed: int = FIRST_SEED,
    seeds: Sequence[int] | None = None,
    backend: str | Backend = "auto",
    device: str | None = None,
    torch_dtype: torch.dtype | None = None,
    features: bool = False,
    inception: Path | None = None,
    reference: Tensor | None = None,
    speed_rounds: int = ROUNDS,
    artifact: Path | None = None,
    float_model: str | None = None,
    reference_folder: Path | None = None,
    shown: bool = True,
) -> dict[str, Any]:
    """Compare a quantized model with its float model at equal seeds and write a results folder.

    Args:
        model: the quantized model. pipeline: the float model that it was made from.
        out: the folder to write.
        pictures, seed: that many pictures, of the seeds `seed`, `seed` + 1, ... `seeds`: or these.
        steps, sampler, batch_size: how they are drawn.
        backend: where the quantized network runs; `auto` takes the fastest on that device.
        device: the torch device of the networks; INT8 engines run on the CPU. None: where the backend computes, the CPU
            where it leaves the choice.
        torch_dtype: the float type of the quantized network, and of the float one in timing; its fidelity is to the
            float model as it is.
        features: measure distances from the data too, on the offline extractor.
        inception: a local weights file of the standard Inception network, to measure on it as well.
        reference: the data, (n, c, h, w) in [0, 1]; a built-in model knows its own.
        speed_rounds: rounds of alternating timing; 0 leaves speed and memory out.
        artifact, float_model, reference_folder: where the saved model, the float model (if the artifact is not told to
            find it) and `reference` lie, to be named in the commands.

    Raises PTQ4DMError: another float model than the artifact's, an unwritable folder, a bare module, a bad setting, a
    backend or a device that cannot be used here.
    """
    seeds = list(seeds) if seeds is not None else list(range(seed, seed + pictures))
    check_pair(model, pipeline)
    require_steps(sampler, pipeline.scheduler.config, steps)
    arithmetic, named = model.recipe.arithmetic, None if device in (None, "cpu") else str(device)
    device = device_for(backend, device, arithmetic)
    there = device_of_network(backend, device, arithmetic)
    require_place(backend, there, torch_dtype, arithmetic)
    float_pipeline, simulated = pipeline_on(pipeline, device), network_on(model.network, device)
    out = Path(out)
    extractors, notes = find_extractors(features, inception)
    with exclusive(out):
        make_folder(out)
        deployed = compiled(model, backend, shown, there, torch_dtype, SPEED_BATCH)
        engine = str(deployed.ptq4dm_backend)
        notes += [*map(str, deployed.ptq4dm_notes), *run_notes(device, engine if there == device else "", torch_dtype)]
        notes += [bands_words(found)] if (found := model.denoiser().facts.get("time_bands")) else []
        networks = {"int8": deployed} if engine == SIMULATED else {"int8": deployed, SIMULATED: simulated}
        walk = compare_calls(float_pipeline, networks, sampler, steps, seeds, batch_size, shown)
        drawn = {"float": walk.pictures}
        for name, network in networks.items():
            config, shape = pipeline.scheduler.config, pipeline.picture_shape
            drawn[name] = sample(network, sampler, config, shape, seeds, steps, batch_size, shown)
        speed, memory = None, None
        if speed_rounds:
            trajectory, known = (sampler, min(steps, SPEED_STEPS)), engine if backend == "auto" else backend

            def build() -> nn.Module:
                return compiled(model, known, False, there, torch_dtype, SPEED_BATCH)

            speed, memory, more = measured_speed(
                model, pipeline, deployed, build, trajectory, speed_rounds, device, torch_dtype, shown
            )
            notes += more
        columns = min(8, len(seeds))
        sizes = summary(model)
        _, height, width = pipeline.picture_shape
        results = {
            "format_version": FORMAT_VERSION,
            "model": {**model.facts["model"], "artifact": str(artifact) if artifact else None},
            "recipe": model.recipe.to_dict(),
            "calibration": model.facts.get("calibration"),
            "activation_ranges": model.denoiser().facts.get("activation_ranges"),
            "plan": [dataclasses.asdict(layer) for layer in model.plan],
            "float_by_method": model.denoiser().facts.get("float_by_method"),
            "executed": executed(deployed, engine),
            "size": {key: sizes[key] for key in ("float_bytes", "int8_bytes", "ratio")},
            "memory": memory,
            "fidelity": fidelity(walk, drawn, engine, sampler, steps, extractors) | aims(pipeline.name, sampler, steps),
            "layers": layer_errors(float_pipeline.denoiser, simulated, model.plan, walk.calls),
            "distribution": distributions(extractors, features, drawn, pipeline.name, reference, notes, shown),
            "speed": speed,
            "pictures": {
                "float": "float.png",
                "int8": "int8.png",
                "tile": [width, height],
                "columns": columns,
                "count": len(seeds),
                "seeds": seeds,
                "sampler": sampler,
                "steps": steps,
            },
            "environment": environment(device),
            "commands": commands(
                model.recipe,
                pipeline.name,
                artifact,
                out,
                seeds,
                {
                    "steps": steps,
                    "scheduler": sampler,
                    "batch-size": batch_size,
                    "backend": engine,
                    "device": named,
                    "dtype": None if torch_dtype is None else str(torch_dtype).removeprefix("torch."),
                    "features": features,
                    "inception": inception,
                    "float": float_model,
                    "reference": reference_folder,
                },
                (model.facts.get("calibration") or {}).get("pictures"),
            ),
            "notes": notes,
        }
        with new_files(out) as building:
            write_sheet(building / "float.png", drawn["float"], columns)
            write_sheet(building / "int8.png", drawn["int8"], columns)
            write_tensors(building / "pictures.safetensors", drawn)
            write_json(building / RECIPE, model.recipe.to_dict())
            write_json(building / RESULTS, results)
    return results


def check_pair(model: QuantizedModel, pipeline: Pipeline) -> None:
    """Refuse to compare with a float model that the quantized one was not made from. Raises EvaluationError."""
    if model.pipeline is None:
        raise EvaluationError("this model was quantized from a bare module, which draws no pictures by itself")
    require_unconditional(pipeline)
    made_from = model.facts["model"].get("fingerprint")
    if made_from and made_from != pipeline.fingerprint:
        raise EvaluationError(
            f"{pipeline.name} (fingerprint {pipeline.fingerprint}) is not the float model that the artifact was made "
            f"from ({model.facts['model']['name']}, {made_from}): give that one"
        )


def measured_speed(
    model: QuantizedModel,
    pipeline: Pipeline,
    deployed: Any,
    build: Callable[[], nn.Module],
    trajectory: tuple[str, int],
    rounds: int,
    device: str,
    dtype: torch.dtype | None,
    shown: bool,
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The sections `speed` (one call; under `sampling` a trajectory of that sampler and steps) and `memory`, and notes
    on engines that are not here.

    The INT8 network is built once more, so that its memory is seen apart from that of the engines `auto` tried.
    """
    example, engine = example_call(pipeline, SPEED_BATCH), str(deployed.ptq4dm_backend)
    engines = prepare_engines(pipeline.denoiser, {engine: build}, example, device=device, dtype=dtype, shown=shown)
    networks = engines.networks | {(engine, INT8): deployed}
    speed = network_speed(networks, example, model.plan, rounds, shown)
    few = min(rounds, SPEED_TRAJECTORIES)
    speed["sampling"] = sampling_speed(
        networks, pipeline, *trajectory, range(SPEED_BATCH), SPEED_BATCH, rounds=few, shown=shown
    )
    return speed, {"rows": engines.memory}, engines.notes
