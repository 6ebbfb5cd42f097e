"""Compare an artifact with its float model: the same noise, call by call and picture by picture."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_backend, add_json, add_place, add_sampling, add_seed, float_type, show
from ptq4dm.evaluation.commands import FIRST_SEED
from ptq4dm.evaluation.evaluate import evaluate
from ptq4dm.evaluation.text import results_text
from ptq4dm.pipelines.picture_folder import read_pictures
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.quantization.artifact import load
from ptq4dm.report.report import build_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder")
    parser.add_argument("--float", dest="float_model", help="the float model (default: the one it was made from)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for results, pictures and page")
    parser.add_argument("--features", action="store_true", help="distribution measures too (needs ptq4dm[eval])")
    parser.add_argument("--inception", type=Path, help="weights file of the standard Inception network: FID and others")
    parser.add_argument("--reference", type=Path, help="folder of pictures, the data to measure distances from")
    add_sampling(parser, 16)
    add_backend(parser)
    add_place(parser)
    add_seed(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, save, draw the page."""
    model = load(args.model)
    pipeline = open_pipeline(args.float_model or model.facts["model"]["name"])
    reference = read_pictures(args.reference, pipeline.picture_shape) if args.reference else None
    results = evaluate(
        model,
        pipeline,
        args.out,
        pictures=args.count,
        steps=args.steps,
        sampler=args.scheduler,
        batch_size=args.batch_size,
        seed=FIRST_SEED + args.seed,
        backend=args.backend,
        device=args.device,
        torch_dtype=float_type(args),
        features=args.features or args.reference is not None,
        inception=args.inception,
        reference=reference,
        artifact=Path(args.model),
        float_model=args.float_model,
        reference_folder=args.reference,
        shown=not args.json,
    )
    page = build_report(args.out)
    show(args, results, f"{results_text(results)}\nopen {page}")
