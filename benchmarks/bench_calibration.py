"""The full default calibration (1024 samples, DDIM-50): its time and its peak memory, which must stay below 2 GiB.

python benchmarks/bench_calibration.py [--quick] [--model emoji-32] [--recipe w8a8] [--save DIR]
"""

import sys
import time
from pathlib import Path

from common import parser, save

import ptq4dm
from ptq4dm.calibration.collect import collect
from ptq4dm.evaluation.hardware import peak_memory, reset_peak_memory, resident_memory

LIMIT = 2 * 2**30


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--model", default="emoji-32")
    own.add_argument("--recipe", default="w8a8")
    own.add_argument("--save", type=Path, help="keep the artifact here")
    args = own.parse_args()
    recipe = ptq4dm.load_recipe(args.recipe)
    if args.quick:
        recipe = recipe.replace(calibration={"samples": 8, "steps": 5})
    pipeline = ptq4dm.open_pipeline(args.model)
    before, peaks, seconds = resident_memory(), {}, {}

    started = time.perf_counter()
    reset_peak_memory()
    calibration_set = collect(pipeline, recipe.calibration, None, sys.stderr.isatty(), None)
    peaks["collect"], seconds["collect"] = peak_memory(), time.perf_counter() - started

    started = time.perf_counter()
    reset_peak_memory()
    model = ptq4dm.quantize(pipeline, recipe, calibration_set=calibration_set, progress=sys.stderr.isatty())
    peaks["ranges and weights"], seconds["ranges and weights"] = peak_memory(), time.perf_counter() - started
    if args.save:
        model.save(args.save)

    facts = calibration_set.facts
    print(
        f"{args.model}, {recipe.calibration.samples} samples, {recipe.calibration.sampler}-{recipe.calibration.steps}"
    )
    for what, taken in seconds.items():
        print(f"  {what:20s} {taken:8.1f} s   peak {peaks[what] / 2**20:7.0f} MiB (before: {before / 2**20:.0f} MiB)")
    print(f"  network calls made {facts['calls_made']}, saved {facts['calls_saved']}")
    worst = max(peaks.values())
    print(f"  peak {worst / 2**30:.2f} GiB of 2 GiB: {'met' if worst < LIMIT else 'MISSED'}")
    results = {
        "what": f"calibration of {args.model}",
        "recipe": recipe.to_dict(),
        "seconds": seconds,
        "peak_bytes": peaks,
        "resident_before_bytes": before,
        "limit_bytes": LIMIT,
        "calls_made": facts["calls_made"],
        "calls_saved": facts["calls_saved"],
    }
    save("calibration", args, results)


if __name__ == "__main__":
    main()
