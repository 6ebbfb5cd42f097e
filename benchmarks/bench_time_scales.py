"""What time-step-dependent scales cost on OpenVINO: one scale, a graph for each band, a lookup in one graph.

    python benchmarks/bench_time_scales.py [--quick] [--model emoji-32] [--artifact DIR] [--batch 8] [--bands 4]

All are the same network and weights; the contestants alternate, and their calls go down in t, as those of a sampler do,
CALLS to a band. The bands' scales are the artifact's own, spread by a factor: speed does not depend on them. Also told:
how long each takes to prepare, and how far the resident memory rose.

The lookup (`looked_up`) is made for this comparison only: every band has the zero point of the first, since a
FakeQuantize whose ends are no constants runs in float, and its outputs are rounded twice, s_w in the convolution, s_x
after it. So it could not hold zero points of the bands' own, as the product does. Here all have the same, and the two
forms must agree before they are timed.
"""

import copy
import sys
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
import torch
from common import add_model, open_pair, parser, save
from torch import nn

from ptq4dm.backends.cpu.binding import bind
from ptq4dm.backends.cpu.openvino.batches import BatchRunner, shapes_of
from ptq4dm.backends.cpu.openvino.executed import executed_layers
from ptq4dm.backends.cpu.openvino.lower import lower, quantized_layers
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.evaluation.hardware import release_free_memory, resident_memory
from ptq4dm.evaluation.speed import alternate, speedup, spread
from ptq4dm.pipelines.denoiser import Call, output_tensor
from ptq4dm.quantization.quantized_model import example_call
from ptq4dm.quantization.time_bands import at_band, bands_of, set_bands
from ptq4dm.ranges.search import InputRange

SPREAD = 1.3
"""Between the scales of neighbouring bands."""
AGREE = 0.01
"""How far the two forms may be apart: single roundings fall otherwise, no more."""
CALLS = 5
"""One after the other in the same band."""


def main() -> None:
    own = parser(__doc__ or "")
    add_model(own)
    own.add_argument("--batch", type=int, default=8)
    own.add_argument("--bands", type=int, default=4)
    own.add_argument("--rounds", type=int)
    args = own.parse_args()
    pipeline, model = open_pair(args)
    example, steps = example_call(pipeline, args.batch), pipeline.num_train_timesteps
    banded = with_bands(model.network, args.bands, steps)
    times = torch.linspace(steps - 1, 0, CALLS * args.bands).long()
    builds: dict[str, Callable[[], Any]] = {
        "one scale": lambda: OpenVINOBackend().prepare(model.network, example),
        f"{args.bands} bands, a graph each": lambda: OpenVINOBackend().prepare(banded, example),
        f"{args.bands} bands, looked up in one graph": lambda: looked_up(banded, example),
    }
    made, prepared = {}, {}
    for name, build in builds.items():
        release_free_memory()
        before, started = resident_memory(), time.perf_counter()
        made[name] = build()
        for t in times[::CALLS]:
            made[name](example.args[0], t)
        rise = resident_memory() - before if before else None
        prepared[name] = {"seconds": time.perf_counter() - started, "resident_bytes": rise}
    apart = [distance(*list(made.values())[1:], example, t) for t in times[::CALLS]]
    if max(apart) > AGREE:
        raise SystemExit(f"the lookup and a graph for each band are {max(apart):.2g} apart: their times mean nothing")
    with torch.no_grad():
        taken = alternate(
            {name: caller(network, example, times) for name, network in made.items()},
            args.rounds or (8 if args.quick else 40),
            shown=sys.stderr.isatty(),
        )
    report(args, taken, prepared, max(apart))


def distance(one: Callable[..., Any], other: Callable[..., Any], example: Call, t: torch.Tensor) -> float:
    """Relative L2 of the answers of two forms of a network."""
    first, second = (output_tensor(network(example.args[0], t)).double() for network in (one, other))
    return float((first - second).norm() / first.norm())


def with_bands(network: nn.Module, bands: int, steps: int) -> nn.Module:
    """A copy of a quantized network with bands of equal length, their scales spread around its own."""
    result = copy.deepcopy(network)
    ranges = {}
    for name, layer in quantized_layers(result).items():
        scale, zero = float(layer.input_scale), int(layer.input_zero_point)
        ranges[name] = [InputRange(scale * SPREAD ** (band - bands / 2), zero, 0.0, 0.0, 0.0) for band in range(bands)]
    set_bands(result, "timestep", [steps * band / bands for band in range(1, bands)], ranges)
    return result


def looked_up(network: nn.Module, example: Call) -> Callable[..., Any]:
    """The network as one graph that gathers its input scales by the band of t, which one number tells."""
    from openvino import opset13 as ops

    bands, bound = bands_of(network), bind(network, example)
    assert bands is not None
    with at_band(bands, 0):
        lowered = lower(network, bound)
    timestep = lowered.model.get_parameters()[bound.names.index(bands.argument)]
    passed = ops.greater_equal(ops.convert(timestep, np.float32), ops.constant(np.array(bands.cuts, np.float32)))
    index = ops.reduce_sum(ops.convert(passed, np.int32), ops.constant([0]), keep_dims=False)
    layers = quantized_layers(network)
    for node in lowered.model.get_ordered_ops():
        name = node.get_friendly_name()
        if name not in layers or len(node.inputs()) < 2:
            continue
        scales = layers[name].input_scale.numpy()
        divide = next(above for above in upwards(node) if above.get_type_name() == "Divide")
        divisor = divide.input_value(1).get_node()
        if divisor.get_type_name() == "Constant":  # layers with one input and scale share what rounds it
            step = divisor.get_data()  # type: ignore[attr-defined]  # a Constant has it
            steps = np.stack([step * (scale / scales[0]) for scale in scales]).astype(np.float32)
            divide.input(1).replace_source_output(gathered(steps, index))
        targets = node.output(0).get_target_inputs()
        product = ops.multiply(node, gathered(scales / scales[0], index))
        for target in targets:
            target.replace_source_output(product.output(0))
    lowered.model.validate_nodes_and_infer_types()
    run = BatchRunner(lowered.model, shapes_of(bound.tensors), lowered.independent)
    float_layers = [layer.layer for layer in executed_layers(run.first, layers) if not layer.int8]
    if float_layers:
        print(f"looked up: {len(float_layers)} of {len(layers)} layers do not run in INT8", file=sys.stderr)
    return lambda x, t: run(bind(network, Call((x, t))).tensors)[0]


def upwards(node: Any) -> Any:
    """The nodes in front of one, along first inputs."""
    while node.inputs():
        node = node.input_value(0).get_node()
        yield node


def gathered(table: np.ndarray, index: Any) -> Any:
    """One entry of a table by the band."""
    from openvino import opset13 as ops

    return ops.gather(ops.constant(table.astype(np.float32)), index, ops.constant(0)).output(0)


def caller(network: Any, example: Call, times: torch.Tensor) -> Callable[[], Any]:
    """Calls a network at the next time-step, all in turn."""
    turn = cycle(times)
    return lambda: network(example.args[0], next(turn))


def report(args: Any, taken: Mapping[str, list[float]], prepared: Mapping[str, dict[str, Any]], apart: float) -> None:
    """Print the table and save it."""
    rows, first = [], next(iter(taken))
    for name, seconds in taken.items():
        time_of, ratio = spread(seconds), speedup(taken[first], seconds)
        rows.append({"name": name, "seconds": vars(time_of), "speed": vars(ratio), **prepared[name]})
        rise = prepared[name]["resident_bytes"]
        print(
            f"  {name:34s} {1000 * time_of.median:8.1f} ms ({1000 * time_of.low:.1f} to {1000 * time_of.high:.1f})  "
            f"{ratio.median:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})  ready after {prepared[name]['seconds']:.1f} s"
            + (f", {rise / 2**20:.0f} MiB" if rise is not None else "")
        )
    settings = {"model": args.model, "batch": args.batch, "bands": args.bands, "rounds": len(taken[first])}
    settings |= {"forms_apart": apart}
    print(f"  a graph for each band and the lookup are {apart:.2g} apart (relative L2 of a call)")
    save("time-scales", args, {"what": "one call on OpenVINO", **settings, "rows": rows})


if __name__ == "__main__":
    main()
