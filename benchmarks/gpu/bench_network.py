"""A whole network on a GPU: INT8 beside FP32, FP16 and torchao, eager and compiled, in turns.

    python benchmarks/gpu/bench_network.py ddpm-cifar10|imagenet64|sd15|dit-xl [--batch N] [--contenders C ...]

NOT YET RUN ON A GPU. Written to run unattended within ten minutes. Correct first: the INT8 network is compared with the
simulated one, and at the measured batch once more as it is timed. INT8 and compiled FP16 are timed before anything else
is built; what is compiled is kept beside the results, and contenders that found no time are timed by the next run of
the same command. Writes JSON with hardware and versions, prints a table last.
"""

import argparse
import copy
import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from networks import NETWORKS, built, quantized
from on_gpu import AGAIN, Clock, Results, alternating, keep_compile_caches, parser, ratio, reason, require_gpu, spread
from torch import Tensor, nn

from ptq4dm.quantization.layers import QuantizedLayer, QuantizedLinear

HALF = torch.float16
INT8, STRICT, COMPILED = "INT8 (faster of both a layer)", "INT8 (strict)", "FP16 compiled"
TORCHAO = "torchao INT8 dynamic, compiled"
QUANTO = "optimum-quanto W8A8, eager"
CONTENDERS = (STRICT, INT8, COMPILED, "FP16 eager", "FP32 eager, TF32", "FP32 eager", TORCHAO, QUANTO)
FIRST = (STRICT, INT8, COMPILED)
"""Those that the goals are about: timed before the others are built."""
BUILDING = 0.6
"""The share of the time after which nothing new is compiled."""
COMPARED, AT_ONCE = 16, 2
"""How many samples of a batch are compared with the simulated network, and how many of them it computes at once."""


def main() -> None:
    args = arguments(sys.argv[1:])
    device = require_gpu(args.rehearse)
    keep_compile_caches(args.out)
    torch.backends.cudnn.benchmark = True  # rivals at their best, in the choice of each layer too
    batch = args.batch or NETWORKS[args.network].batch
    clock, results = Clock(args.deadline), Results(args, name_of(args))
    missing = results.missing(args.contenders)
    if missing:
        missing = run(args, batch, missing, clock, results, device)
    table(results.rows)
    if missing:
        print(f"out of time before {', '.join(missing)}: run the command again to go on")
        sys.exit(AGAIN)


def arguments(given: list[str]) -> argparse.Namespace:
    own = parser(__doc__ or "")
    own.add_argument("network", choices=NETWORKS)
    own.add_argument("--batch", type=int)
    own.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    return own.parse_args(given)


def name_of(args: argparse.Namespace) -> str:
    """Of the file of results."""
    return f"network-{args.network}-batch{args.batch or NETWORKS[args.network].batch}"


def run(
    args: argparse.Namespace, batch: int, missing: list[str], clock: Clock, results: Results, device: torch.device
) -> list[str]:
    """Measure what is missing, beside strict INT8 and compiled FP16; what there was no time for."""
    network = built(args.network, device)
    few = inputs_of(args.network, 2, device, torch.float32)
    simulated = quantized(network, few)
    off = correct(simulated, few)
    results.keep("correct", off)
    print("relative L2:", off)
    if not off["passed"]:
        sys.exit("INT8 is wrong: not timed")
    bound = 2 * off["simulated_in_fp16"] + 1e-3
    needed = [name for name in FIRST if name in (STRICT, COMPILED, *missing)]
    ready: dict[str, Any] = {}
    for group in (needed, [name for name in missing if name not in needed]):
        for name in group:
            if ready and clock.over(BUILDING):
                continue
            try:
                one = contender(name, network, simulated, args.network, batch, args.rehearse)
                far = distance_at(batch, one, simulated, args.network, device) if name in (INT8, STRICT) else 0.0
            except Exception as error:  # whatever a peer, a compiler or a driver raises: the others are measured
                results.keep(name, {"cannot": reason(error)})
                continue
            if not far < bound:
                results.keep(name, {"wrong": far})
                continue
            ready[name] = one
        if fresh := results.missing(name for name in group if name in ready):
            measure(ready, fresh, args.network, batch, args.rounds, results, device)
    return [name for name in missing if name not in results.rows]


def inputs_of(name: str, batch: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator(device).manual_seed(seed)
    return NETWORKS[name].inputs(batch, generator, device, dtype)


@torch.no_grad()
def correct(simulated: nn.Module, few: dict[str, Any]) -> dict[str, Any]:
    """How far INT8 in FP32 and in FP16 is from the simulated network, beside the simulated network in FP16."""
    from ptq4dm.backends.triton_gpu.run import TritonBackend

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    exact = answer(simulated, few)
    kernels = TritonBackend(strict=True).prepare(simulated, None)
    halves = {key: item.to(HALF) if is_float(item) else item for key, item in few.items()}
    off = {"int8_in_fp32": distance(answer(kernels, few), exact)}
    off["int8_in_fp16"] = distance(answer(kernels.to(HALF), halves), exact)
    off["simulated_in_fp16"] = distance(answer(copy.deepcopy(simulated).to(HALF), halves), exact)
    passed = off["int8_in_fp32"] < 0.05 and off["int8_in_fp16"] < 2 * off["simulated_in_fp16"] + 1e-3
    return {**off, "passed": passed}


def is_float(item: Any) -> bool:
    return isinstance(item, Tensor) and item.is_floating_point()


def answer(network: nn.Module, call: dict[str, Any]) -> Tensor:
    return network(**call, return_dict=False)[0].double()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def distance_at(
    batch: int, ready: Callable[..., Any], simulated: nn.Module, subject: str, device: torch.device
) -> float:
    """How far INT8, as it is timed, is from the simulated network with the same layers in float: some samples of the
    batch, from its first to its last."""
    half = inputs_of(subject, batch, device, HALF)
    torch.compiler.cudagraph_mark_step_begin()
    got = ready(**half)[0].double()  # called as it is timed, so that it is not compiled anew
    exact = with_the_same_layers(simulated, getattr(ready, "_orig_mod", ready))
    chosen = torch.linspace(0, batch - 1, min(batch, COMPARED), device=device).long()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    parts = [answer(exact, samples(half, part)) for part in chosen.split(AT_ONCE)]
    return distance(got[chosen], torch.cat(parts))


def with_the_same_layers(simulated: nn.Module, prepared: nn.Module) -> nn.Module:
    """The simulated network in which the layers that run faster in float are in float, as in the network prepared."""
    from ptq4dm.quantization.dequantized import float_form
    from ptq4dm.quantization.rewrite import with_layers

    apart = [one.layer for one in vars(prepared)["ptq4dm_layers"] if not one.int8 and one.type != "simulated"]
    return with_layers(simulated, {name: float_form(simulated.get_submodule(name), torch.float32) for name in apart})


def samples(call: dict[str, Any], chosen: Tensor) -> dict[str, Any]:
    """Some samples of a call, in float32."""
    return {key: item[chosen].float() if is_float(item) else item[chosen] for key, item in call.items()}


def contender(
    name: str, network: nn.Module, simulated: nn.Module, subject: str, batch: int, rehearse: bool
) -> Callable[..., Any]:
    """A network ready to be called, compiled and warm. In a rehearsal nothing is compiled."""
    device = next(network.parameters()).device
    compiled = (lambda module: module) if rehearse else compiled_to_the_utmost
    if name in (INT8, STRICT):
        ready = compiled(on_kernels(simulated, name == STRICT, subject, batch, device))
    elif name == COMPILED:
        ready = compiled(last(copy.deepcopy(network).to(HALF)))
    elif name == "FP16 eager":
        ready = last(copy.deepcopy(network).to(HALF))
    elif name == TORCHAO:
        ready = compiled(by_torchao(last(copy.deepcopy(network).to(HALF)), simulated))
    elif name == QUANTO:
        ready = by_quanto(last(copy.deepcopy(network).to(HALF)), simulated, inputs_of(subject, 2, device, HALF))
    else:
        ready = last(copy.deepcopy(network))
    with torch.no_grad(), precision(name):
        for _ in range(0 if rehearse else 3):
            torch.compiler.cudagraph_mark_step_begin()
            ready(**inputs_of(subject, batch, device, dtype_of(name)))
    synchronize()
    return ready


def on_kernels(simulated: nn.Module, strict: bool, subject: str, batch: int, device: torch.device) -> nn.Module:
    """INT8 for that batch, told by an example of two samples: the simulated network would not run a large batch."""
    import ptq4dm
    from ptq4dm.backends.triton_gpu.run import TritonBackend

    example = ptq4dm.Call(kwargs=inputs_of(subject, 2, device, HALF))
    return TritonBackend(strict=strict, batch=batch).prepare(copy.deepcopy(simulated).to(HALF), example)


def by_torchao(network: nn.Module, simulated: nn.Module) -> nn.Module:
    """The linear layers that INT8 multiplies here too; torchao's product refuses the few rows of those of time."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    names = {name for name, module in simulated.named_modules() if isinstance(module, QuantizedLinear)}
    quantize_(
        network,
        Int8DynamicActivationInt8WeightConfig(),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and name in names,
    )
    return network


@torch.no_grad()
def by_quanto(network: nn.Module, simulated: nn.Module, call: dict[str, Any]) -> nn.Module:
    """The layers in INT8 here, in optimum-quanto's, ranges by one call; convolutions it multiplies in float."""
    from optimum.quanto import Calibration, freeze, qint8, quantize

    names = [name for name, module in simulated.named_modules() if isinstance(module, QuantizedLayer)]
    quantize(network, weights=qint8, activations=qint8, include=names)
    with Calibration():
        network(**call)
    freeze(network)
    return network


def last(module: nn.Module) -> nn.Module:
    """With channels last in memory."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compiled_to_the_utmost(module: nn.Module) -> Callable[..., Any]:
    return torch.compile(module, mode="max-autotune", fullgraph=True)


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name.startswith("FP32") else HALF


class precision:
    """TF32 for the contender that has it in its name, and for no other."""

    def __init__(self, name: str):
        self.allowed = "TF32" in name

    def __enter__(self) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.allowed

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@torch.no_grad()
def measure(
    ready: dict[str, Any],
    fresh: list[str],
    subject: str,
    batch: int,
    rounds: int,
    results: Results,
    device: torch.device,
) -> None:
    """Time all that are ready, in turns, and keep the fresh ones; ratios to INT8 of the same rounds."""
    gc.collect()
    sets = {
        kind: [inputs_of(subject, batch, device, kind, seed) for seed in range(3)] for kind in (HALF, torch.float32)
    }

    def calling(name: str) -> Callable[[int], Any]:
        inputs, network = sets[dtype_of(name)], ready[name]

        def call(index: int) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            with precision(name):
                return network(**inputs[index % len(inputs)])

        return call

    calls = {name: calling(name) for name in ready}
    times = alternating(calls, rounds)
    for name in fresh:
        taken = times[name]
        row = {
            "ms": spread(taken),
            "int8_speedup": {key: ratio(taken, times[key]) for key in (INT8, STRICT) if key in times},
            "beside": list(ready),
            **memory(ready[name], sets[dtype_of(name)][0], precision(name)),
        }
        results.keep(name, row)


def memory(network: Any, call: dict[str, Any], precise: precision) -> dict[str, Any]:
    """Bytes of the weights, the peak that a call adds to what is held, and the layers' choices. Graphs hold their
    memory from when they are captured, so the peak is that of an eager call of the same module."""
    module = getattr(network, "_orig_mod", network)
    held = sum(item.numel() * item.element_size() for item in module.state_dict().values())
    layers = [vars(one) for one in vars(module).get("ptq4dm_layers", ())]
    if not torch.cuda.is_available():
        return {"weight_bytes": held, "layers": layers}
    synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with precise:
        module(**call)
    synchronize()
    return {
        "weight_bytes": held,
        "peak_bytes_of_an_eager_call": torch.cuda.max_memory_allocated() - before,
        "layers": layers,
    }


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(rows: dict[str, Any]) -> None:
    """The short table; memory of the weights beside compiled FP16's."""
    half = rows.get(COMPILED, {}).get("weight_bytes")
    for name, row in rows.items():
        if "cannot" in row:
            print(f"{name:34s} cannot run: {row['cannot']}")
        elif "wrong" in row:
            print(f"{name:34s} WRONG: relative L2 {row['wrong']:.2e}, not timed")
        elif "ms" in row:
            faster = "  ".join(
                f"{key.split(' (')[1][:-1]} {one['median']:.2f}x" for key, one in row["int8_speedup"].items()
            )
            share = f" ({row['weight_bytes'] / half:.2f} of FP16)" if half else ""
            print(f"{name:34s} {row['ms']['median']:9.3f} ms ({row['ms']['low']:.3f} to {row['ms']['high']:.3f})  "
                  f"weights {row['weight_bytes'] / 2**20:7.1f} MiB{share}  "
                  f"INT8: {faster}")  # fmt: skip


if __name__ == "__main__":
    main()
