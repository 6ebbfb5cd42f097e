"""The sections `speed` and `memory` of results.json: every engine on the user's own machine, in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.evaluation.baselines import EAGER, FLOAT_ENGINES, REWRITTEN, float_engines
from ptq4dm.evaluation.hardware import (
    gpu_memory,
    gpu_peak_of,
    peak_memory,
    release_free_memory,
    reset_peak_memory,
    resident_memory,
    this_processor,
)
from ptq4dm.evaluation.sections import SIMULATED
from ptq4dm.evaluation.speed import alternate, fastest, median_confidence, predicted_limit, speedup, spread
from ptq4dm.pipelines.denoiser import Call, call_on, network_on, output_tensor, placement
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import sample
from ptq4dm.progress import progress
from ptq4dm.quantization.plan import LayerPlan
from ptq4dm.quantization.quantized_model import tensor_bytes

ROUNDS: Final = 12
FP32, INT8 = "FP32", "INT8"
PRECISIONS: Final = {torch.float16: "FP16", torch.bfloat16: "BF16", torch.float64: "FP64"}
"""Names of the other float types."""
Contestants = dict[tuple[str, str], nn.Module]
"""Networks by (engine, precision)."""


@dataclass(frozen=True)
class Engines:
    """Networks ready to be timed. memory: rows of the section `memory`; notes: what could not be measured, and why."""

    networks: Contestants
    memory: list[dict[str, Any]]
    notes: list[str]


def prepare_engines(
    network: nn.Module,
    int8: Mapping[str, Callable[[], nn.Module]],
    example: Call,
    rewritten: bool = False,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    shown: bool = False,
) -> Engines:
    """Build the float network on every engine here and the INT8 ones by engine name, watching the memory of each.

    network: on the CPU in float32, which the engines compile. int8: functions that build each where it is to run.
    rewritten: FP32 with the graph rewritten as for INT8 too. device, dtype: where eager PyTorch runs the float network,
    and in which type. shown: a bar.
    """
    memory: list[dict[str, Any]] = []
    eager = network_on(network, device, dtype)
    count = 1 + len(FLOAT_ENGINES) + (len(REWRITTEN) if rewritten else 0) + len(int8)
    with progress("compiling engines", count, shown) as advance:

        def watched_float(name: str, build: Callable[[], nn.Module]) -> nn.Module:
            title, held = f"float, {name}", 0
            if name == EAGER:
                title, build, held = "float, PyTorch eager", lambda: eager, tensor_bytes(eager)
            try:
                return watched(title, build, example, memory, held, device)
            finally:
                advance(1)  # one that is not here too

        engines, notes = float_engines(network, example, watched_float, rewritten)
        networks: Contestants = {
            (name, precision_of(module) if name == EAGER else FP32): module for name, module in engines.items()
        }
        for name, build in int8.items():
            networks[name, INT8] = watched(f"INT8, {name}", build, example, memory, device=device)
            advance(1)
    return Engines(networks, memory, notes)


def watched(
    name: str,
    build: Callable[[], nn.Module],
    example: Call,
    memory: list[dict[str, Any]],
    held: int = 0,
    device: str = "cpu",
) -> nn.Module:
    """Build a network, call it once, and add a row to `memory`: how far the resident memory rose meanwhile. Of a
    network on an NVIDIA GPU: what was allocated there at most in a second call, beyond what was before it was built.

    held: bytes of the network that were there before (eager PyTorch builds nothing). device: where it will be, if not
    on the CPU. No row where the system does not tell the peak, nor for a network on another kind of device.
    """
    release_free_memory()
    allowed, before, before_on_gpu = reset_peak_memory(), resident_memory(), gpu_memory(device)
    module = build()
    call, there = caller(module, example), placement(module)[0]
    with torch.no_grad():
        call()
        if there.type == "cuda":
            peak = gpu_peak_of(call, there) - before_on_gpu
            memory.append({"name": name, "peak_bytes": max(0, peak) + held, "device": str(there)})
    if allowed and before and there.type == "cpu":
        memory.append({"name": name, "peak_bytes": max(0, peak_memory() - before) + held})
    return module


def network_speed(
    networks: Contestants, example: Call, plan: Sequence[LayerPlan], rounds: int = ROUNDS, shown: bool = False
) -> dict[str, Any]:
    """Time one call of each network, alternating, as the section `speed`."""
    with torch.no_grad():
        times = alternate(
            {label(key): caller(module, example) for key, module in networks.items()}, rounds, shown=shown
        )
    return {
        "batch": len(example.args[0]),
        "what": "one network call",
        **speed_tables({key: times[label(key)] for key in networks}, rounds),
        "predicted_limit": limit_of(plan) if all(map(on_cpu, networks.values())) else None,
    }


def caller(module: nn.Module, example: Call) -> Callable[[], Tensor]:
    """A function that makes the call `example` of a network where it computes and waits for the answer."""
    call = call_on(module, example)
    return lambda: output_tensor(module(*call.args, **call.kwargs)).cpu()


def on_cpu(module: nn.Module) -> bool:
    """Whether a network computes on the CPU."""
    return placement(module)[0].type == "cpu"


def precision_of(network: nn.Module) -> str:
    """The name of the float type that a network computes in."""
    return PRECISIONS.get(placement(network)[1], FP32)


def run_notes(device: str, engine: str, dtype: torch.dtype | None) -> list[str]:
    """What the reader of speeds must know where not all of them are the CPU's in float32. engine: of the INT8 network,
    "" where that is an engine of the CPU."""
    notes = []
    if device != "cpu":
        ran = "the float network, the simulated one" + (f", {engine}" if engine not in ("", SIMULATED) else "")
        notes.append(f"PyTorch ({ran}) ran on {device}, the engines on the CPU")
    if dtype not in (None, torch.float32):
        kind = str(dtype).removeprefix("torch.")
        notes.append(f"The INT8 network and the float one that it is timed beside computed in {kind}")
    return notes


def sampling_speed(
    networks: Contestants,
    pipeline: Pipeline,
    sampler: str,
    steps: int,
    seeds: Sequence[int],
    batch_size: int,
    rounds: int = 3,
    shown: bool = False,
) -> dict[str, Any]:
    """Time drawing the same pictures with each network end to end, alternating: `rows` and `ratios` as in `speed`."""

    def drawer(module: nn.Module) -> Callable[[], Any]:
        config, shape = pipeline.scheduler.config, pipeline.picture_shape
        return lambda: sample(module, sampler, config, shape, seeds, steps, batch_size, shown=False)

    drawers = {label(key): drawer(module) for key, module in networks.items()}
    times = alternate(drawers, rounds, warm_up=1, shown=shown)
    tables = speed_tables({key: times[label(key)] for key in networks}, rounds)
    return {"batch": batch_size, "what": f"{len(seeds)} pictures, {sampler} in {steps} steps", **tables}


def speed_tables(times: Mapping[tuple[str, str], Sequence[float]], rounds: int) -> dict[str, Any]:
    """Threads, rows and ratios of alternating times by (engine, precision)."""
    rows, eager = [], next((key for key in times if key[0] == EAGER), None)
    for (engine, precision), values in times.items():
        taken = spread(values)
        row = {"engine": engine, "precision": precision}
        row |= {"seconds_median": taken.median, "seconds_low": taken.low, "seconds_high": taken.high}
        row |= {"seconds": list(values)}
        if eager is not None:
            row["ratio_to_eager"] = speedup(times[eager], values).median
        rows.append(row)
    return {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "spread": spread_words(rounds),
        "rows": rows,
        "ratios": ratios_of(times),
    }


def ratios_of(times: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    """The fastest INT8 network against every float one, paired by round; the fastest float one is marked."""
    int8 = {key: values for key, values in times.items() if key[1] == INT8}
    floats = {key: values for key, values in times.items() if key[1] != INT8}
    if not int8 or not floats:
        return []
    contestant = times[fastest(int8)]
    best = fastest(floats)
    ratios = []
    for key, values in floats.items():
        ratio = speedup(values, contestant)
        of_eager = "against diffusers eager" if key[1] == FP32 else f"against diffusers eager in {key[1]}"
        name = of_eager if key[0] == EAGER else f"against {key[1]} in {key[0]}"
        row = {"name": name, "baseline": key[0], "precision": key[1], "fastest_float": key == best}
        row |= {"value": ratio.median, "low": ratio.low, "high": ratio.high, "confidence": ratio.confidence}
        ratios.append(row)
    return ratios


def spread_words(rounds: int) -> str:
    """What stands beside a median of times and beside a ratio."""
    if rounds == 1:
        return "a single round, so neither quartiles nor intervals"
    share = f"{100 * median_confidence(rounds):.3g} %"
    return f"quartiles of {rounds} alternating rounds; ratios: {share} interval of the median of paired rounds"


def limit_of(plan: Sequence[LayerPlan]) -> dict[str, Any] | None:
    """Multiply-adds a sample, their share in INT8, the processor's ratio and the gain they allow; None if unknown."""
    counted = [layer for layer in plan if layer.macs is not None]
    macs = sum(layer.macs or 0 for layer in counted)
    ratio = this_processor().int8_ratio
    if not macs or ratio is None:
        return None
    share = sum(layer.macs or 0 for layer in counted if layer.quantized) / macs
    return {"macs": macs, "int8_share": share, "processor_ratio": ratio, "limit": predicted_limit(share, ratio)}


def label(key: tuple[str, str]) -> str:
    """Engine and precision as one name."""
    return " ".join(key)
