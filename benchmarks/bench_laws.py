"""One pass for all laws: ranges of every layer under 1,000 laws of time-steps, which must take less than 60 seconds.

python benchmarks/bench_laws.py [--quick] [--model emoji-32] [--work DIR]

The sweep is made once and timed apart. Of a few laws the ranges are also chosen alone, to tell how much is lost.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import parser, save

from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.ranges.laws import band_shares, under_law
from ptq4dm.ranges.many_laws import ranges_of_laws
from ptq4dm.ranges.metrics import mse
from ptq4dm.ranges.mixture import mixture_of
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.ranges.search import best_of
from ptq4dm.studies.law_grid import skew_normal_visits
from ptq4dm.studies.settings import FULL, QUICK
from ptq4dm.studies.study import Study

LIMIT = 60.0
CHECKED = 3


def laws(number: int) -> list[dict[str, float]]:
    """Skew normals over location, scale and shape."""
    side = round(number ** (1 / 3))
    locations, scales, shapes = (torch.linspace(*ends, side).tolist() for ends in ((0, 1), (0.05, 1), (-6, 6)))
    return [
        {"location": location, "scale": scale, "shape": shape}
        for location, scale, shape in itertools.product(locations, scales, shapes)
    ]


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--model", default="emoji-32")
    own.add_argument("--work", type=Path, help="where the sweep is kept (default: a temporary folder)")
    args = own.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args, args.work or Path(temporary))


def measure(args, work: Path) -> None:
    study = Study(open_pipeline(args.model), QUICK if args.quick else FULL, work, sys.stderr.isatty())
    there = (work / "sweep").exists()
    started = time.perf_counter()
    sweep = study.sweep
    seconds = {"reading the sweep" if there else "sweep": time.perf_counter() - started}
    options = laws(27 if args.quick else 1000)

    started = time.perf_counter()
    visits = skew_normal_visits(options, sweep.visited, study.pipeline.num_train_timesteps)
    shares = torch.stack([band_shares(item, sweep.visited, sweep.edges) for item in visits])
    seconds["shares of laws"] = time.perf_counter() - started
    found = ranges_of_laws(sweep.statistics, shares, study.recipe.ranges, sys.stderr.isatty())
    seconds["laws"] = time.perf_counter() - started

    worst = 1.0
    for index in range(0, len(options), len(options) // CHECKED):
        under = {name: under_law(item, shares[index]) for name, item in sweep.statistics.items()}
        alone = choose_ranges(under, study.recipe.ranges).ranges
        for name, item in under.items():
            mixture, chosen = mixture_of(item).split(4), found[name][index]
            losses = [
                best_of(mixture, torch.tensor([each.scale]), torch.tensor([float(each.zero_point)]), mse(), 255).loss
                for each in (chosen, alone[name])
            ]
            worst = max(worst, losses[0] / losses[1] if losses[1] else 1.0)
    print(f"{args.model}: {len(sweep.statistics)} layers, {len(options)} laws, {len(sweep.edges) - 1} bands")
    for what, taken in seconds.items():
        print(f"  {what:16s} {taken:8.1f} s")
    print(f"  largest loss over that of a search law by law: {worst:.4f}")
    print(f"  {seconds['laws']:.1f} s of {LIMIT:.0f} s: {'met' if seconds['laws'] < LIMIT else 'MISSED'}")
    results = {
        "what": f"ranges of {args.model} under many laws of time-steps",
        "laws": len(options),
        "layers": len(sweep.statistics),
        "bands": len(sweep.edges) - 1,
        "trajectories": study.settings.trajectories,
        "seconds": seconds,
        "limit_seconds": LIMIT,
        "largest_loss_ratio": worst,
    }
    save("laws", args, results)
    if seconds["laws"] >= LIMIT and not args.quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
