"""The paper's result table, filled here: FID, sFID and IS of float and W8A8 pictures beside the published rows.

    python benchmarks/paper_table.py CHECKPOINT --data cifar10 --reference DATA --inception WEIGHTS [--device cuda]

CHECKPOINT: cifar10_uncond_50M_500K.pt or imagenet64_uncond_100M_1500K.pt of improved-diffusion, or any unconditional
model. DATA: the data's statistics (.npz of guided-diffusion's evaluator) or a folder with its pictures. WEIGHTS: those
of the standard Inception network. 10,000 pictures a row with DDIM-100, DDIM-250 and DDPM in all steps, in float and
quantized by `w8a8-paper`, from equal seeds. Everything is kept in --work, so an interrupted run goes on; each row is
written as soon as it is known. --quick tries it all on few pictures and steps: its numbers mean nothing.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_distribution import cached_features, interval
from common import parser, save
from torch import Tensor, nn

import ptq4dm
from ptq4dm.backends.places import device_for, device_of_network
from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.bootstrap import Statistic, paired_difference
from ptq4dm.evaluation.class_score import class_score_splits, class_score_statistic
from ptq4dm.evaluation.data_statistics import DataStatistics, read_statistics, statistics_of
from ptq4dm.evaluation.drawing import draw_resumable
from ptq4dm.evaluation.features import Extractor, Features, make_extractor
from ptq4dm.evaluation.frechet import frechet_statistic
from ptq4dm.files import fingerprint
from ptq4dm.pipelines.picture_folder import read_pictures
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.quantized_model import QuantizedModel, compiled, pipeline_on
from ptq4dm.recipe import Recipe

MEASURES = ("FID", "sFID", "IS")
PUBLISHED: dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "cifar10": {
        "DDIM-100": ((10.05, 19.71, 9.18), (14.18, 22.59, 9.31)),
        "DDIM-250": ((8.91, 18.43, 9.19), (11.66, 19.71, 9.70)),
        "DDPM-4000": ((7.14, 17.09, 9.28), (7.10, 17.02, 9.55)),
    },
    "imagenet64": {
        "DDIM-100": ((21.70, 17.93, 15.38), (24.92, 17.36, 15.52)),
        "DDIM-250": ((21.63, 17.66, 14.88), (23.96, 17.67, 15.88)),
        "DDPM-4000": ((20.82, 17.42, 15.93), (23.64, 17.29, 15.28)),
    },
}
"""arXiv 2211.15736: FID / sFID / IS of 10,000 pictures, in float and quantized to 8 bits."""
FIRST_SEED = 3_000_000
SPLIT = 5000
"""Pictures a split of the Inception score, as guided-diffusion's evaluator takes them."""


def arguments() -> argparse.Namespace:
    own = parser(__doc__ or "")
    own.add_argument("model", help="checkpoint, diffusers folder, hub id or built-in name")
    own.add_argument("--data", choices=tuple(PUBLISHED), help="whose published rows stand beside")
    own.add_argument("--reference", type=Path, required=True, help="statistics of the data (.npz), or a folder of it")
    own.add_argument("--inception", type=Path, help="weights of the standard Inception network; needed but for --quick")
    own.add_argument("--recipe", default="w8a8-paper")
    own.add_argument("--backend", default="simulated", help="of the quantized network (default simulated)")
    own.add_argument("--device", help="of the networks (default: where the backend computes, else cpu)")
    own.add_argument("--count", type=int, help="pictures a row (default 10,000)")
    own.add_argument("--batch-size", type=int, default=100)
    own.add_argument("--replicates", type=int, default=200, help="of the paired bootstrap (default 200)")
    own.add_argument("--work", type=Path, default=Path("benchmarks/work/paper_table"))
    args = own.parse_args()
    if args.inception is None and not args.quick:
        own.error("--inception is missing: FID, sFID and IS are measured on the standard Inception network")
    args.count = args.count or (8 if args.quick else 10_000)
    return args


def main() -> None:
    args = arguments()
    shown = sys.stderr.isatty()
    arithmetic = recipe_of(args).arithmetic
    device = device_for(args.backend, args.device, arithmetic)
    pipeline = pipeline_on(ptq4dm.open_pipeline(args.model), device)
    extractor = make_extractor(args.inception)
    data = data_statistics(args, pipeline, extractor)
    model = quantized(args, pipeline, shown)
    there = device_of_network(args.backend, device, arithmetic)
    int8 = compiled(model, args.backend, shown, there, batch=args.batch_size)
    made = fingerprint(dict(model.network.state_dict()), args.backend)
    networks = {"float": (pipeline.denoiser, "float"), "int8": (int8, made)}
    rows: list[dict[str, Any]] = []
    for name, sampler, steps in samplers(pipeline, args.quick):
        found = {}
        for key, (network, identity) in networks.items():
            pictures = drawn(args, pipeline, network, [pipeline.fingerprint, identity], sampler, steps, shown)
            found[key] = cached_features(extractor, pictures, args.work)
        rows.append({"sampler": name, **row(found["float"], found["int8"], data, args.replicates)})
        print(table(rows[-1:], args.data, extractor))
        write(args, pipeline, model, extractor, data, rows)
    print(f"\n{table(rows, args.data, extractor)}")


def samplers(pipeline: Pipeline, quick: bool) -> list[tuple[str, str, int]]:
    """The paper's: DDIM with 100 and 250 steps, as improved-diffusion samples, and DDPM with all of them."""
    T = pipeline.num_train_timesteps
    few = [("ddim-clipped", 2), ("ddim-clipped", 3), ("ddpm", 4)]
    chosen = few if quick else [("ddim-clipped", 100), ("ddim-clipped", 250), ("ddpm", T)]
    return [(f"{name.split('-')[0].upper()}-{steps}", name, steps) for name, steps in chosen]


def recipe_of(args: argparse.Namespace) -> Recipe:
    recipe = ptq4dm.load_recipe(args.recipe)
    return recipe.replace(calibration={"samples": 4, "steps": 3}) if args.quick else recipe


def quantized(args: argparse.Namespace, pipeline: Pipeline, shown: bool) -> QuantizedModel:
    """The quantized model, read where it was made before."""
    recipe = recipe_of(args)
    folder = args.work / f"int8-{fingerprint({}, pipeline.fingerprint, recipe.to_dict())}"
    if not (folder / "ptq4dm.json").exists():
        ptq4dm.quantize(pipeline, recipe, work=args.work / "calibration", progress=shown).save(folder)
    return ptq4dm.load(folder)


def data_statistics(args: argparse.Namespace, pipeline: Pipeline, extractor: Extractor) -> DataStatistics:
    """The data's side, from its statistics file or its pictures."""
    if args.reference.suffix != ".npz":
        pictures = read_pictures(args.reference, pipeline.picture_shape)
        return statistics_of(cached_features(extractor, pictures, args.work), f"{len(pictures)} pictures")
    if not extractor.standard:
        raise EvaluationError(f"{args.reference} is of the standard Inception network: give --inception too")
    return read_statistics(args.reference)


def drawn(
    args: argparse.Namespace,
    pipeline: Pipeline,
    network: nn.Module,
    identity: Any,
    sampler: str,
    steps: int,
    shown: bool,
) -> Tensor:
    """The pictures of one network with one sampler, chunk by chunk."""
    folder = args.work / f"pictures-{fingerprint({}, identity, sampler, steps)}"
    seeds = range(FIRST_SEED, FIRST_SEED + args.count)
    return draw_resumable(network, pipeline, sampler, steps, seeds, args.batch_size, folder, identity, shown)


def row(float_: Features, int8: Features, data: DataStatistics, replicates: int) -> dict[str, Any]:
    """The three measures of both, and the paired interval of each difference."""
    statistics: dict[str, Callable[[Features], Statistic]] = {
        "FID": lambda features: frechet_statistic(features.pooled, data.pooled),
        "sFID": lambda features: frechet_statistic(features.spatial, data.spatial),
        "IS": lambda features: class_score_statistic(features.logits),
    }
    n = len(float_.pooled)
    found: dict[str, Any] = {"n": n}
    for name, make in statistics.items():
        first, second = make(float_), make(int8)
        change = paired_difference(first, second, n, replicates)
        values = {key: statistic(np.ones(n)) for key, statistic in (("float", first), ("int8", second))}
        if name == "IS":
            values = {key: split_score(features) for key, features in (("float", float_), ("int8", int8))}
        found[name] = {**values, "difference": change.value, "low": change.low, "high": change.high}
    return found


def split_score(features: Features) -> float:
    return class_score_splits(features.logits, max(1, round(len(features.logits) / SPLIT)))[0]


def table(rows: list[dict[str, Any]], data: str | None, extractor: Extractor) -> str:
    """The rows as text, the published ones beside them."""
    names = " / ".join(MEASURES) if extractor.standard else f"the like of {' / '.join(MEASURES)} on {extractor.name}"
    lines = [f"{'':12s}{'who':14s}float, W8A8: {names}"]
    for each in rows:
        here = [" / ".join(f"{each[name][key]:.2f}" for name in MEASURES) for key in ("float", "int8")]
        lines.append(f"{each['sampler']:12s}{'here':14s}{here[0]:24s}{here[1]:24s}(n = {each['n']})")
        changes = [f"{name} {each[name]['difference']:+.2f}{interval(each[name])}" for name in MEASURES]
        lines.append(f"{'':26s}difference: {'; '.join(changes)}")
        if each["sampler"] in PUBLISHED.get(data or "", {}):
            paper = [" / ".join(f"{value:.2f}" for value in values) for values in PUBLISHED[str(data)][each["sampler"]]]
            lines.append(f"{'':12s}{'the paper':14s}{paper[0]:24s}{paper[1]:24s}(n = 10000)")
    return "\n".join(lines)


def write(
    args: argparse.Namespace,
    pipeline: Pipeline,
    model: QuantizedModel,
    extractor: Extractor,
    data: DataStatistics,
    rows: list[dict[str, Any]],
) -> None:
    """Save what is known so far."""
    results = {
        "what": pipeline.name,
        "model": pipeline.fingerprint,
        "recipe": model.recipe.to_dict(),
        "backend": args.backend,
        "extractor": extractor.name,
        "reference": data.what,
        "first_seed": FIRST_SEED,
        "interval": "95 % paired bootstrap",
        "rows": rows,
        "published": PUBLISHED.get(args.data or ""),
    }
    save(f"paper-table-{args.data or 'own'}", args, results)


if __name__ == "__main__":
    main()
