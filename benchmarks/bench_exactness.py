"""How far an engine is from the simulated network, beside how far float32 is from float64, on the same calls.

    python benchmarks/bench_exactness.py [--quick] [--count 32] [--steps 10] [--isa native|avx2|both] [--bands 4]

Both networks get the float trajectory's x_t. Where no integer flips, two float networks differ by 1e-7; one flip
makes 1e-3 of it: so the distances of calls span orders of magnitude, and both their mean and the mean of their
logarithms are given. Intervals are paired and over pictures. A ratio of 1 or less means: no farther.
--bands: the same network with time-step-dependent scales, on OpenVINO (`bench_time_scales.with_bands`).
"""

import copy
import sys
from typing import Any

import torch
from bench_time_scales import with_bands
from common import AVX2, add_isa, add_model, open_pair, parser, save, under_each_isa
from torch import Tensor

from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.evaluation.bootstrap import mean_difference
from ptq4dm.pipelines.denoiser import predict
from ptq4dm.pipelines.sampling import seeded_start, trajectory
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import progress
from ptq4dm.quantization.quantized_model import example_call

FIRST_SEED = 1_000_000
SMALLEST = 1e-9
"""What a distance of 0 counts as in a logarithm."""


def main() -> None:
    own = parser(__doc__ or "")
    add_isa(own)
    add_model(own)
    own.add_argument("--backend", default="openvino")
    own.add_argument("--count", type=int)
    own.add_argument("--steps", type=int)
    own.add_argument("--bands", type=int, default=1)
    args = own.parse_args()
    if not under_each_isa(args):
        measure(args)


def measure(args) -> None:
    pipeline, model = open_pair(args)
    count, steps = args.count or (4 if args.quick else 32), args.steps or (3 if args.quick else 10)
    if args.bands > 1:
        simulated = with_bands(model.network, args.bands, pipeline.num_train_timesteps)
        engine = OpenVINOBackend().prepare(simulated, example_call(pipeline))
    else:
        simulated, engine = model.to_module("simulated"), model.to_module(args.backend)
    exact = copy.deepcopy(simulated).double()
    x_T, generators = seeded_start(pipeline.picture_shape, range(FIRST_SEED, FIRST_SEED + count))
    scheduler = make_scheduler("ddim", pipeline.scheduler.config)
    distances: dict[str, list[Tensor]] = {"float32 to float64": [], "engine to float32": [], "engine to float64": []}
    with progress("calls", steps, sys.stderr.isatty()) as done:
        for step in trajectory(pipeline.denoiser, scheduler, steps, x_T, generators):
            double = predict(exact, step.x_t.double(), step.timestep)
            single = predict(simulated, step.x_t, step.timestep).double()
            got = predict(engine, step.x_t, step.timestep).double()
            distances["float32 to float64"].append(relative_l2(single, double))
            distances["engine to float32"].append(relative_l2(got, single))
            distances["engine to float64"].append(relative_l2(got, double))
            done(1)
    table = {name: torch.stack(rows, dim=1) for name, rows in distances.items()}
    results = {
        "what": f"{args.model} on {args.backend}, {count} pictures, DDIM-{steps}, every call"
        + (f", {args.bands} bands of time-steps" if args.bands > 1 else ""),
        "isa": args.isa,
        "isa_settings": AVX2 if args.isa == "avx2" else {},
        "relative_l2": {name: summary(rows) for name, rows in table.items()},
        "beside_float32_to_float64": {name: compared(rows, table["float32 to float64"])
                                      for name, rows in table.items() if name.startswith("engine")},
    }  # fmt: skip
    report(results)
    kind = f"exactness-{args.steps}-steps" if args.steps else "exactness"  # other calls than those always compared
    save(f"{kind}-{args.backend}" + (f"-{args.bands}-bands" if args.bands > 1 else ""), args, results)


def relative_l2(got: Tensor, reference: Tensor) -> Tensor:
    """||got - reference|| / ||reference|| of each picture, (pictures,)."""
    return (got - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def summary(distances: Tensor) -> dict[str, float]:
    return {
        "mean": float(distances.mean()),
        "median": float(distances.median()),
        "share_without_a_flip": float((distances < 1e-5).double().mean()),
    }


def compared(distances: Tensor, yardstick: Tensor) -> dict[str, Any]:
    """The difference of the means and the ratio of the geometric means, with 95 % intervals over pictures."""
    own, other = distances.mean(1).numpy(), yardstick.mean(1).numpy()
    difference = mean_difference(own, other)
    logs = (distances.clamp(min=SMALLEST).log() - yardstick.clamp(min=SMALLEST).log()).mean(1)
    centre, half = logs.mean(), 1.96 * logs.std() / len(logs) ** 0.5
    return {
        "ratio_of_means": float(own.mean() / other.mean()),
        "difference_of_means": difference.to_dict(),
        "geometric_ratio": {"value": float(centre.exp()), "low": float((centre - half).exp()),
                            "high": float((centre + half).exp()), "n": len(logs)},
    }  # fmt: skip


def report(results: dict[str, Any]) -> None:
    print(results["what"])
    for name, row in results["relative_l2"].items():
        clean = 100 * row["share_without_a_flip"]
        print(f"  {name:20s} mean {row['mean']:.5f}, median {row['median']:.5f}, no flip in {clean:.0f} % of calls")
    for name, row in results["beside_float32_to_float64"].items():
        ratio, difference = row["geometric_ratio"], row["difference_of_means"]
        print(
            f"  {name}: {row['ratio_of_means']:.2f} of float32 to float64 in the mean (difference "
            f"{difference['value']:+.5f}, {difference['low']:+.5f} to {difference['high']:+.5f}), "
            f"{ratio['value']:.2f} in the geometric mean ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )


if __name__ == "__main__":
    main()
