"""A whole network on a GPU: INT8 beside FP32, FP16 and torchao, eager and compiled, in turns.

    python benchmarks/gpu/bench_network.py ddpm-cifar10|imagenet64|sd15|dit-xl [--batch N] [--mode M]
        [--contenders C ...]

NOT YET RUN ON A GPU. Written to run unattended within ten minutes and to go on where it ended; writes JSON with
hardware and versions, prints a table last.

Order. Is INT8 right? Then compiled FP16 and strict INT8, which the goals are about: always built and timed as a pair,
whatever the clock says. Then INT8 as it is by default, beside these two, then each other contender beside the three,
and kept at once. So each row has its ratios to both INT8 networks from rounds they shared; a later run builds those
anew, from what was compiled, for the rows that are missing.

Modes. What is compiled is compiled in one mode on both sides, and has it in its name: "reduce-overhead" (CUDA graphs),
the default, because it compiles in a minute; and "max-autotune", the issue's own baseline and the row that counts,
which tries templates for every product besides and takes many minutes. It is that mode by name, coordinate descent and
all: what a user writes, not options of ours.

Layouts. Channels last for all in half precision and INT8; FP32 lies as torch makes it, which is what a user has.

Correct. Each layer in INT8 is given the input that the simulated network gives it, in float32 and in FP16: a mistake
of a kernel shows there, undiluted. Of whole networks little can be asked: where inputs are rounded, noise of 1e-6 grows
until it is as large as the rounding itself. So INT8, as it is timed, may be 1.2 times as far from the FP32 network as
the simulated one is, and 0.5 %; FP16 and TF32 1 %, and other INT8 20 %.

Memory. `weight_bytes`: parameters and buffers, of torchao's and quanto's tensors what they hold. `peak_bytes`: the most
that was allocated besides in a call after the first, by `torch.cuda.max_memory_allocated`; where CUDA graphs are, in
the call that records them, since replays allocate nothing and the graphs of all contenders share their memory.

Peers. torchao, compiled: the issue's baseline (d); optimum-quanto, eager. bitsandbytes' LLM.int8() is not among them:
it too knows linear layers alone, each a module of its own kind with a threshold of outliers; nor is SDNQ, which unfolds
convolutions and comes with a quantizer and a compiled form of its own. Neither is one call on a network.
"""

import argparse
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from networks import NETWORKS, built, quantized
from on_gpu import (
    AGAIN,
    Clock,
    Results,
    alternating,
    host_bound,
    host_milliseconds,
    installed,
    keep_compile_caches,
    parser,
    ratio,
    reason,
    require_answer,
    require_gpu,
    spread,
    synchronize,
)
from torch import Tensor, nn

from ptq4dm.quantization.layers import QuantizedLayer, QuantizedLinear

HALF, FULL = torch.float16, torch.float32
INT8, STRICT, COMPILED = "INT8 (faster of both a layer)", "INT8 (strict)", "FP16 compiled"
TORCHAO, QUANTO = "torchao INT8 dynamic", "optimum-quanto W8A8, eager"
PAIR, OURS = (COMPILED, STRICT), (STRICT, INT8)
MODES = ("reduce-overhead", "max-autotune")
BUILDING = 0.6
"""The share of the time after which nothing new is built, but for the pair."""
COMPARED, AT_ONCE = 16, 2
"""How many samples of a batch are compared with the FP32 network, and how many of them that computes at once."""
LAYERS_OFF = {FULL: 1e-4, HALF: 5e-4}
"""Relative L2 of a layer on the kernels from the simulated one on the same input: in float32 what cuDNN's own sums are
off by, in FP16 one rounding of the output."""
FARTHER, NOISE = 1.2, 0.005
"""How many times as far from the FP32 network INT8 may be as the simulated one is; and what FP16 adds to that."""
HALF_OFF, PEERS_OFF = 0.01, 0.2
"""Relative L2 from the FP32 network: of FP16 and TF32 (10 bits each), and of INT8 that others round by other ranges."""


@dataclass(frozen=True)
class Given:
    """What contenders are made of: the network in FP32, and with its layers in INT8 simulated; at which batch."""

    subject: str
    batch: int
    network: nn.Module
    simulated: nn.Module

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(self.network.parameters()).device


@dataclass(frozen=True)
class Contender:
    """What one contender is. make: its module; off: how far from FP32 it may be; needs: the package to install."""

    make: Callable[[Given], nn.Module]
    dtype: torch.dtype = HALF
    compiled: bool = False
    tf32: bool = False
    channels_last: bool = True
    off: float = HALF_OFF
    needs: str = ""


@dataclass(frozen=True)
class Ready:
    """A contender that is compiled and warm: its module, how that is called, the bytes that a call takes, and how far
    it is from the FP32 network."""

    kind: Contender
    module: nn.Module
    network: Callable[..., Any]
    peak_bytes: int = 0
    off: float = 0.0

    @torch.no_grad()
    def __call__(self, call: dict[str, Any]) -> Any:
        """Call it as it is timed, so that nothing is compiled anew."""
        if self.network is not self.module:
            torch.compiler.cudagraph_mark_step_begin()
        with tf32(self.kind.tf32):
            return self.network(**call)


def main() -> None:
    args = arguments(sys.argv[1:])
    device = require_gpu(args.rehearse)
    keep_compile_caches(args.out)
    torch.backends.cudnn.benchmark = True  # rivals at their best, in the choice of each layer too
    clock, results = Clock(args.deadline), Results(args, name_of(args))
    note_not_installed(args, results)
    if to_measure(args, results):
        run(args, clock, results, device)
    table(results.rows)
    if left := unfinished(args, results.rows):
        print(f"out of time before {', '.join(left)}: run the command again to go on")
        sys.exit(AGAIN)


def arguments(given: list[str]) -> argparse.Namespace:
    own = parser(__doc__ or "")
    own.add_argument("network", choices=NETWORKS)
    own.add_argument("--batch", type=int, help="samples of a call (default: that of the goals)")
    own.add_argument("--mode", choices=MODES, default=MODES[0], help=f"of torch.compile (default {MODES[0]})")
    own.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    args = own.parse_args(given)
    args.batch = args.batch or NETWORKS[args.network].batch
    return args


def name_of(args: argparse.Namespace) -> str:
    """Of the file of results."""
    return f"network-{args.network}-batch{args.batch}"


def row_of(name: str, mode: str) -> str:
    """The row of a contender: with the mode if it is compiled."""
    return f"{name}, {mode}" if CONTENDERS[name].compiled else name


def unfinished(args: argparse.Namespace, rows: dict[str, Any]) -> list[str]:
    """The contenders asked for without a row, or whose row lacks a ratio that it can have."""
    wanted = {row_of(name, args.mode) for name in ours_beside(args.contenders)}
    wanted = {row for row in wanted if not failed(rows.get(row, {}))}
    left = []
    for name in args.contenders:
        row = rows.get(row_of(name, args.mode), {})
        measured = "ms" in row and wanted <= set(row["int8_speedup"])
        installed_since = "install" in row and is_there(CONTENDERS[name])
        if installed_since or not (measured or failed(row)):
            left.append(name)
    return left


def failed(row: dict[str, Any]) -> bool:
    """Whether a row says why there is no time in it."""
    return "cannot" in row or "wrong" in row


def ours_beside(asked: list[str]) -> tuple[str, ...]:
    """The INT8 networks that contenders are timed beside: strict alone for the pair."""
    return (STRICT,) if set(asked) <= set(PAIR) else OURS


def to_measure(args: argparse.Namespace, results: Results) -> list[str]:
    """What is unfinished, and what could not run, which is tried again, but not what is not installed."""
    again = [name for name in args.contenders if "cannot" in results.rows.get(row_of(name, args.mode), {})]
    return [name for name in [*unfinished(args, results.rows), *again] if is_there(CONTENDERS[name])]


def is_there(kind: Contender) -> bool:
    """Whether what a contender comes from is installed."""
    return not kind.needs or bool(installed(kind.needs))


def note_not_installed(args: argparse.Namespace, results: Results) -> None:
    """A row for each contender that is not installed, so that nothing is built for it, and the table says so."""
    for name in args.contenders:
        kind = CONTENDERS[name]
        if not is_there(kind):
            results.keep(row_of(name, args.mode), {"cannot": "not installed", "install": kind.needs})


def run(args: argparse.Namespace, clock: Clock, results: Results, device: torch.device) -> None:
    """Measure what is left to measure, in the order of what it tells, as far as time goes."""
    network = built(args.network, device)
    few = inputs_of(args.network, 2, device, FULL)
    given = Given(args.network, args.batch, network, quantized(network, few))
    require_correct(given, few, results)
    exact = cache(partial(exact_answers, given))
    ready: dict[str, Ready] = {}
    for name in PAIR:
        ready |= attempt(name, args, given, exact, results)
        measure(ready, given, args.rounds, results)  # the first alone too, in case there is no time for the second
    left = [name for name in to_measure(args, results) if name not in PAIR]
    for name in [INT8] * (INT8 in ours_beside(args.contenders)) + [name for name in left if name != INT8]:
        if clock.over(BUILDING):
            return
        gc.collect()
        one = attempt(name, args, given, exact, results)
        measure(ready | one, given, args.rounds, results)
        ready |= one if name == INT8 else {}
        del one  # its memory is the next one's


def require_correct(given: Given, few: dict[str, Any], results: Results) -> None:
    """Leave where INT8 is wrong; asked once for a network."""
    if results.missing(["correct"]):
        try:
            results.keep("correct", correct(given, few))
        except Exception as error:  # whatever a compiler or a driver raises
            results.keep("correct", {"passed": False, "cannot": reason(error)})
    row = results.rows["correct"]
    print("correct:", {key: value for key, value in row.items() if key != "stamp"}, flush=True)
    if not row["passed"]:
        sys.exit("INT8 is wrong: not timed")


def attempt(
    name: str, args: argparse.Namespace, given: Given, exact: Callable[[torch.dtype], Tensor], results: Results
) -> dict[str, Ready]:
    """One contender by its row's name, ready to be timed, if it can run and is right; else a row that says why not."""
    row, kind = row_of(name, args.mode), CONTENDERS[name]
    try:
        one = made_ready(kind, given, args.mode, args.rehearse)
        off, allowed = distance_of(one, given, exact)
    except Exception as error:  # whatever a peer, a compiler or a driver raises: the others are measured
        if "ms" not in results.rows.get(row, {}):  # built once more to stand beside others, it has its row
            results.keep(row, {"cannot": reason(error)})
        print(f"{row}: {reason(error)}", flush=True)
        require_answer(row)
        return {}
    print(f"{row}: relative L2 from FP32 {off:.2e}, up to {allowed:.2e} is let pass", flush=True)
    if off <= allowed:
        return {row: replace(one, off=off)}
    results.keep(row, {"wrong": off, "allowed": allowed})
    return {}


def made_ready(kind: Contender, given: Given, mode: str, rehearse: bool) -> Ready:
    """A contender, compiled and warm. In a rehearsal nothing is compiled."""
    module = kind.make(given)
    compiled = kind.compiled and not rehearse
    network = torch.compile(module, mode=mode, fullgraph=True) if compiled else module
    one = Ready(kind, module, network)
    if rehearse:
        return one
    call = inputs_for(kind, given)
    one(call)  # compiles; cuDNN tries its algorithms, in workspaces that it gives back
    synchronize()
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):  # the first of these is recorded, where CUDA graphs are
        one(call)
    synchronize()
    return replace(one, peak_bytes=torch.cuda.max_memory_allocated() - before)


def inputs_of(
    name: str, batch: int, device: torch.device, dtype: torch.dtype, seed: int = 0, channels_last: bool = True
) -> dict[str, Any]:
    """The arguments of a call, pictures with channels last in memory or as torch makes them."""
    call = NETWORKS[name].inputs(batch, torch.Generator(device).manual_seed(seed), device, dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return {
        key: item.contiguous(memory_format=layout) if isinstance(item, Tensor) and item.dim() == 4 else item
        for key, item in call.items()
    }


def inputs_for(kind: Contender, given: Given, seed: int = 0) -> dict[str, Any]:
    """The arguments of a call of a contender."""
    return inputs_of(given.subject, given.batch, given.device, kind.dtype, seed, kind.channels_last)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """While open, float32 is multiplied in TF32, or is not; afterwards it is not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@torch.no_grad()
def correct(given: Given, few: dict[str, Any]) -> dict[str, Any]:
    """Is INT8 right? Layer by layer on the simulated network's inputs; then the whole network in FP16 (once with its
    time-step on the CPU, as pipelines may hand it) as far from the FP32 network as the simulated one.

    Every product takes one tile here, so that few kernels are compiled: those that are chosen are checked when they
    are, and in the batch as timed.
    """
    from ptq4dm.backends.triton_gpu.run import TritonBackend

    halves = cast(few, HALF)
    with tf32(False), one_tile(given.device):
        layers = layer_distances(given.simulated, few)
        exact = answer(given.network, few)
        kernels = TritonBackend(strict=True, tune=False).prepare(deepcopy(given.simulated).to(HALF), None)
        off = {
            "simulated": distance(answer(given.simulated, few), exact),
            "int8_in_fp16": distance(answer(kernels, halves), exact),
        }
        if isinstance(given.network, UNet2DModel | UNet2DConditionModel):  # others leave the time-step where it is
            on_host = halves | {"timestep": few["timestep"][0].cpu()}
            off["int8_with_the_time_step_on_the_cpu"] = distance(answer(kernels, on_host), exact)
    worst = {
        f"worst_layer_in_{str(dtype).split('.')[1]}": max(layers[dtype].items(), key=lambda item: item[1])
        for dtype in LAYERS_OFF
    }
    passed = all(layers[dtype][name] <= most for dtype, most in LAYERS_OFF.items() for name in layers[dtype])
    passed = passed and all(value <= FARTHER * off["simulated"] + NOISE for value in off.values())
    return {**off, **worst, "layers": len(layers[FULL]), "passed": passed}


def one_tile(device: torch.device) -> AbstractContextManager[None]:
    """While open, every product on a GPU is computed with one tile."""
    from ptq4dm.backends.triton_gpu.kernels.launching import Settings, forced

    return forced(Settings(128, 64, 64, 4, 4)) if device.type == "cuda" else nullcontext()


@torch.no_grad()
def layer_distances(simulated: nn.Module, few: dict[str, Any]) -> dict[torch.dtype, dict[str, float]]:
    """How far each layer on the kernels is from the simulated one, on the inputs that it has in a call: by type, by
    name. NaN is infinitely far."""
    from ptq4dm.backends.triton_gpu.layers import triton_form

    off: dict[torch.dtype, dict[str, float]] = {dtype: {} for dtype in LAYERS_OFF}

    def comparing(name: str) -> Callable[..., None]:
        def compare(layer: QuantizedLayer, args: tuple[Tensor, ...], output: Tensor) -> None:
            form = triton_form(layer)
            for dtype in LAYERS_OFF:
                x = args[0].to(dtype)
                far = distance(form(x).double(), layer.forward(x).double())
                off[dtype][name] = far if far == far else float("inf")

        return compare

    layers = {name: module for name, module in simulated.named_modules() if isinstance(module, QuantizedLayer)}
    hooks = [layer.register_forward_hook(comparing(name)) for name, layer in layers.items()]
    try:
        simulated(**few)
    finally:
        for hook in hooks:
            hook.remove()
    return off


def is_float(item: Any) -> bool:
    return isinstance(item, Tensor) and item.is_floating_point()


def cast(call: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A call with its floats in another type."""
    return {key: item.to(dtype) if is_float(item) else item for key, item in call.items()}


def answer(network: nn.Module, call: dict[str, Any]) -> Tensor:
    return network(**call, return_dict=False)[0].double()


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2 of a from b; NaN where a has one."""
    return float((a - b).norm() / b.norm())


def distance_of(one: Ready, given: Given, exact: Callable[[torch.dtype], Tensor]) -> tuple[float, float]:
    """How far a contender, as it is timed, is from the FP32 network on some samples of the batch, from its first to its
    last; and how far it may be."""
    got = one(inputs_for(one.kind, given))[0].double()[chosen_samples(given)]
    true = exact(one.kind.dtype)
    if "ptq4dm_layers" not in vars(one.module):
        return distance(got, true), one.kind.off
    like = with_the_same_layers(given.simulated, one.module)
    return distance(got, true), FARTHER * distance(in_parts(like, given, HALF), true) + NOISE


def exact_answers(given: Given, dtype: torch.dtype) -> Tensor:
    """The FP32 network's answers for those samples, of inputs that were rounded to `dtype`."""
    return in_parts(given.network, given, dtype)


@torch.no_grad()
def in_parts(network: nn.Module, given: Given, dtype: torch.dtype) -> Tensor:
    """Those samples through a network in float32, a few at once."""
    call = inputs_of(given.subject, given.batch, given.device, dtype)
    with tf32(False):
        parts = [answer(network, samples(call, part)) for part in chosen_samples(given).split(AT_ONCE)]
    return torch.cat(parts)


def chosen_samples(given: Given) -> Tensor:
    """Which samples of a batch are compared."""
    return torch.linspace(0, given.batch - 1, min(given.batch, COMPARED), device=given.device).long()


def samples(call: dict[str, Any], chosen: Tensor) -> dict[str, Any]:
    """Some samples of a call, in float32."""
    return cast({key: item[chosen] for key, item in call.items()}, FULL)


def with_the_same_layers(simulated: nn.Module, prepared: nn.Module) -> nn.Module:
    """The simulated network in which the layers that run faster in float are in float, as in the network prepared."""
    from ptq4dm.quantization.dequantized import float_form
    from ptq4dm.quantization.rewrite import with_layers

    apart = [one.layer for one in vars(prepared)["ptq4dm_layers"] if not one.int8 and one.type != "simulated"]
    return with_layers(simulated, {name: float_form(simulated.get_submodule(name), FULL) for name in apart})


def on_kernels(given: Given, strict: bool) -> nn.Module:
    """INT8 for that batch, told by an example of two samples: the simulated network would not run a large batch."""
    import ptq4dm
    from ptq4dm.backends.triton_gpu.run import TritonBackend

    example = ptq4dm.Call(kwargs=inputs_of(given.subject, 2, given.device, HALF))
    return TritonBackend(strict=strict, batch=given.batch).prepare(deepcopy(given.simulated).to(HALF), example)


def in_half(given: Given) -> nn.Module:
    """The network in FP16, channels last in memory."""
    return deepcopy(given.network).to(HALF).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def by_torchao(given: Given) -> nn.Module:
    """The linear layers that INT8 multiplies here too; torchao's product refuses the few rows of those of time."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    names = {name for name, module in given.simulated.named_modules() if isinstance(module, QuantizedLinear)}
    network = in_half(given)
    quantize_(
        network,
        Int8DynamicActivationInt8WeightConfig(),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and name in names,
    )
    return network


@torch.no_grad()
def by_quanto(given: Given) -> nn.Module:
    """The layers in INT8 here, in optimum-quanto's, ranges by one call; convolutions it multiplies in float."""
    from optimum.quanto import Calibration, freeze, qint8, quantize

    names = [name for name, module in given.simulated.named_modules() if isinstance(module, QuantizedLayer)]
    network = in_half(given)
    quantize(network, weights=qint8, activations=qint8, include=names)
    with Calibration():
        network(**inputs_of(given.subject, 2, given.device, HALF))
    freeze(network)
    return network


def as_it_is(given: Given) -> nn.Module:
    """The network in FP32."""
    return given.network


CONTENDERS = {
    COMPILED: Contender(in_half, compiled=True),
    STRICT: Contender(partial(on_kernels, strict=True), compiled=True),
    INT8: Contender(partial(on_kernels, strict=False), compiled=True),
    TORCHAO: Contender(by_torchao, compiled=True, off=PEERS_OFF, needs="torchao"),
    "FP32 eager, TF32": Contender(as_it_is, FULL, tf32=True, channels_last=False),
    "FP32 eager": Contender(as_it_is, FULL, channels_last=False),
    "FP16 eager": Contender(in_half),
    QUANTO: Contender(by_quanto, off=PEERS_OFF, needs="optimum-quanto"),
}
"""In the order in which they are measured."""


def measure(beside: dict[str, Ready], given: Given, rounds: int, results: Results) -> None:
    """Time contenders in turns, and keep the rows that were not there, or lacked a ratio to INT8 of these."""
    ours = [row for row, one in beside.items() if "ptq4dm_layers" in vars(one.module)]
    known = {row: results.rows.get(row, {}).get("int8_speedup", {}) for row in beside}
    fresh = [row for row in beside if "ms" not in results.rows.get(row, {}) or not set(ours) <= set(known[row])]
    if not fresh:
        return
    calls = {row: calling(one, given) for row, one in beside.items()}
    times = alternating(calls, rounds)
    for row in fresh:
        one, median, host = beside[row], spread(times[row])["median"], host_milliseconds(calls[row])
        found = {
            "ms": spread(times[row]),
            "int8_speedup": known[row] | {name: ratio(times[row], times[name]) for name in ours},
            "beside": list(beside),
            "relative_l2_from_fp32": one.off,
            "host_ms": host,
            "host_bound": host_bound(median, host),
            "weight_bytes": held_bytes(one.module),
            "peak_bytes": one.peak_bytes,
            "layers": [vars(layer) for layer in vars(one.module).get("ptq4dm_layers", ())],
        }
        results.keep(row, found)


def calling(one: Ready, given: Given) -> Callable[[int], Any]:
    """Calls by the number of their round, which rotates the inputs."""
    inputs = [inputs_for(one.kind, given, seed) for seed in range(3)]
    return lambda index: one(inputs[index % len(inputs)])


def held_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers; what lies in one place is counted once."""
    places = itertools.chain.from_iterable(storages(item) for item in (*module.parameters(), *module.buffers()))
    return sum({place.data_ptr(): place.nbytes() for place in places}.values())


def storages(item: Tensor) -> list[torch.UntypedStorage]:
    """Where a tensor's numbers lie: of a subclass that wraps others, as quantized weights do, where theirs do."""
    flatten = getattr(item, "__tensor_flatten__", None)
    if flatten is None:
        return [item.untyped_storage()]
    return [place for name in flatten()[0] for place in storages(getattr(item, name))]


def table(rows: dict[str, Any]) -> None:
    """The short table; memory of the weights beside compiled FP16's."""
    half = next((row["weight_bytes"] for name, row in rows.items() if name.startswith(COMPILED) and "ms" in row), None)
    for name, row in rows.items():
        if "install" in row:
            print(f"{name:48s} is missing: pip install {row['install']}")
        elif name != "correct" and "cannot" in row:
            print(f"{name:48s} cannot run: {row['cannot']}")
        elif "wrong" in row:
            print(f"{name:48s} WRONG: relative L2 {row['wrong']:.2e}, not timed")
        elif "ms" in row:
            print(line(name, row, half))


def line(name: str, row: dict[str, Any], half: int | None) -> str:
    """One contender's line of the table; half: bytes of the weights in FP16."""
    faster = "; ".join(f"{one['median']:.2f}x by {key}" for key, one in row["int8_speedup"].items() if key != name)
    share = f" ({row['weight_bytes'] / half:.3f} of FP16)" if half else ""
    bytes_of = [f"{row[key] / 2**20:7.1f} MiB" for key in ("weight_bytes", "peak_bytes")]
    return (
        f"{name:48s} {row['ms']['median']:9.3f} ms ({row['ms']['low']:.3f} to {row['ms']['high']:.3f})"
        f"{', host-bound' * row['host_bound']}  weights {bytes_of[0]}{share}, a call's peak {bytes_of[1]}  {faster}"
    )


if __name__ == "__main__":
    main()
