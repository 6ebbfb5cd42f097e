"""`sample` on emoji-32 end to end: the same pictures with the same scheduler, INT8 beside FP32 on every engine.

    python benchmarks/bench_sample.py [--quick] [--isa native|avx2|both] [--scheduler ddim] [--steps 50] [--count 16]

What it must reach: 1.4x the fastest FP32 engine and 2x diffusers eager.
"""

import sys
from functools import partial

from common import AVX2, CAP_NOTE, add_isa, add_model, open_pair, parser, print_speed, save, under_each_isa

from ptq4dm.evaluation.hardware import peak_memory
from ptq4dm.evaluation.measure import limit_of, prepare_engines, sampling_speed
from ptq4dm.quantization.quantized_model import example_call

AIMS = {"fastest FP32 engine": 1.4, "eager": 2.0}
FIRST_SEED = 1_000_000


def main() -> None:
    own = parser(__doc__ or "")
    add_isa(own)
    add_model(own)
    own.add_argument("--engines", default="openvino", help="INT8 engines, comma-separated (default openvino)")
    own.add_argument("--scheduler", default="ddim")
    own.add_argument("--steps", type=int)
    own.add_argument("--count", type=int, default=16)
    own.add_argument("--batch-size", type=int, default=16)
    own.add_argument("--rounds", type=int)
    args = own.parse_args()
    if not under_each_isa(args):
        measure(args)


def measure(args) -> None:
    pipeline, model = open_pair(args)
    steps = args.steps or (5 if args.quick else 50)
    rounds = args.rounds or (3 if args.quick else 9)
    example = example_call(pipeline, args.batch_size)
    builds = {engine: partial(model.to_module, engine) for engine in args.engines.split(",")}
    engines = prepare_engines(pipeline.denoiser, builds, example, rewritten=True)
    seeds = list(range(FIRST_SEED, FIRST_SEED + args.count))
    speed = sampling_speed(
        engines.networks, pipeline, args.scheduler, steps, seeds, args.batch_size, rounds, shown=sys.stderr.isatty()
    )
    speed["predicted_limit"] = limit_of(model.plan)
    print_speed(speed)
    results = {
        "what": f"sample on {args.model}, end to end",
        "isa": args.isa,
        "isa_settings": AVX2 if args.isa == "avx2" else {},
        "aims": AIMS,
        "speed": speed,
        "memory": engines.memory,
        "process_peak_bytes": peak_memory(),
        "notes": [*engines.notes, CAP_NOTE] if args.isa == "avx2" else engines.notes,
    }
    save(f"sample-{args.scheduler}", args, results)


if __name__ == "__main__":
    main()
