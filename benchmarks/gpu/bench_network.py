"""A whole network on a GPU: INT8 beside FP32, FP16 and torchao, eager and compiled, in turns.

    python benchmarks/gpu/bench_network.py ddpm-cifar10|imagenet64|sd15|dit-xl [--batch N] [--contenders C ...]

NOT YET RUN ON A GPU. Written to run unattended within ten minutes. Correct first: the INT8 network is compared with the
simulated one. What is compiled is kept beside the results, and contenders that found no time are timed by the next run
of the same command. Writes JSON with hardware and versions, prints a table last.
"""

import argparse
import copy
import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from networks import NETWORKS, built, quantized
from on_gpu import AGAIN, Clock, Results, alternating, keep_compile_caches, parser, ratio, require_gpu, spread
from torch import Tensor, nn

HALF = torch.float16
INT8, STRICT, COMPILED = "INT8 (faster of both a layer)", "INT8 (strict)", "FP16 compiled"
CONTENDERS = (STRICT, INT8, COMPILED, "FP16 eager", "FP32 eager, TF32", "FP32 eager", "torchao INT8 dynamic, compiled")
BUILDING = 0.6
"""The share of the time after which nothing new is compiled."""


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("network", choices=NETWORKS)
    own.add_argument("--batch", type=int)
    own.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    args = own.parse_args()
    device = require_gpu(args.rehearse)
    keep_compile_caches(args.out)
    torch.backends.cudnn.benchmark = True  # rivals at their best, in the choice of each layer too
    batch = args.batch or NETWORKS[args.network].batch
    clock, results = Clock(args.deadline), Results(args, f"network-{args.network}-batch{batch}")
    missing = [name for name in args.contenders if name not in results.rows]
    if missing:
        missing = run(args, batch, missing, clock, results, device)
    table(results.rows)
    if missing:
        print(f"out of time before {', '.join(missing)}: run the command again to go on")
        sys.exit(AGAIN)


def run(
    args: argparse.Namespace, batch: int, missing: list[str], clock: Clock, results: Results, device: torch.device
) -> list[str]:
    """Measure what is missing, beside strict INT8 and compiled FP16; what there was no time for."""
    network = built(args.network, device)
    few = inputs_of(args.network, 2, device, torch.float32)
    simulated = quantized(network, few)
    if "correct" not in results.rows:
        results.rows["correct"] = correct(simulated, few)
        results.write()
    print("relative L2:", results.rows["correct"])
    if not results.rows["correct"]["passed"]:
        sys.exit("INT8 is wrong: not timed")
    ready: dict[str, Any] = {}
    for name in dict.fromkeys([STRICT, COMPILED, *missing]):
        if ready and clock.over(BUILDING):
            continue
        one = contender(name, network, simulated, args.network, batch, args.rehearse)
        if isinstance(one, str):
            results.rows[name] = {"cannot": one}
            results.write()
        else:
            ready[name] = one
    measure(ready, args.network, batch, args.rounds, results, device)
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


def contender(
    name: str, network: nn.Module, simulated: nn.Module, subject: str, batch: int, rehearse: bool
) -> Callable[..., Any] | str:
    """A network ready to be called, compiled and warm; or why it cannot be had. In a rehearsal nothing is compiled."""
    import ptq4dm
    from ptq4dm.backends.triton_gpu.run import TritonBackend

    device = next(network.parameters()).device
    compiled = (lambda module: module) if rehearse else compiled_to_the_utmost
    example = ptq4dm.Call(kwargs=inputs_of(subject, batch, device, HALF))
    try:
        if name in (INT8, STRICT):
            half = copy.deepcopy(simulated).to(HALF)
            module = TritonBackend(strict=name == STRICT).prepare(half, example)
            ready = compiled(module)
        elif name == COMPILED:
            ready = compiled(last(copy.deepcopy(network).to(HALF)))
        elif name == "FP16 eager":
            ready = last(copy.deepcopy(network).to(HALF))
        elif name.startswith("torchao"):
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            module = last(copy.deepcopy(network).to(HALF))
            quantize_(module, Int8DynamicActivationInt8WeightConfig())
            ready = compiled(module)
        else:
            ready = last(copy.deepcopy(network))
        with torch.no_grad(), precision(name):
            for _ in range(1 if rehearse else 3):
                torch.compiler.cudagraph_mark_step_begin()
                ready(**inputs_of(subject, batch, device, dtype_of(name)))
        synchronize()
    except (ImportError, RuntimeError) as error:  # a contender that cannot run is told of, and does not stop the others
        return " ".join(str(error).split())[:300]
    return ready


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
    ready: dict[str, Any], subject: str, batch: int, rounds: int, results: Results, device: torch.device
) -> None:
    """Time all that are ready, in turns; ratios to INT8 of the same rounds."""
    if not ready:
        return
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
    for name, taken in times.items():
        results.rows[name] = {
            "ms": spread(taken),
            "int8_speedup": {key: ratio(taken, times[key]) for key in (INT8, STRICT) if key in times},
            "beside": list(ready),
            **memory(ready[name], calls[name]),
        }
        results.write()


def memory(network: Any, call: Callable[[int], Any]) -> dict[str, Any]:
    """Bytes of the weights, the peak that a call adds to what is held (graphs hold theirs), and the layers' choices."""
    module = getattr(network, "_orig_mod", network)
    held = sum(item.numel() * item.element_size() for item in module.state_dict().values())
    layers = [vars(one) for one in vars(module).get("ptq4dm_layers", ())]
    if not torch.cuda.is_available():
        return {"weight_bytes": held, "layers": layers}
    synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(0)
    synchronize()
    return {"weight_bytes": held, "peak_bytes_of_a_call": torch.cuda.max_memory_allocated() - before, "layers": layers}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(rows: dict[str, Any]) -> None:
    """The short table; memory of the weights beside compiled FP16's."""
    half = rows.get(COMPILED, {}).get("weight_bytes")
    for name, row in rows.items():
        if "cannot" in row:
            print(f"{name:34s} cannot run: {row['cannot']}")
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
