"""Ask the paper's questions of a model: which operations, calibration data, metric, bits, samplers."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_json, add_seed, show
from ptq4dm.pipelines.picture_folder import read_pictures
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.report.study_page import PAGE, build_study_page
from ptq4dm.report.study_text import study_text
from ptq4dm.studies.experiments import EXPERIMENTS
from ptq4dm.studies.run import run_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="emoji-32, a diffusers pipeline folder, or a hub id (unconditional pixel models)")
    parser.add_argument(
        "--out", type=Path, required=True, help="the study's folder; a run that finds rows there goes on"
    )
    parser.add_argument("--quick", action="store_true", help="fewer pictures, samples and variants: minutes, not hours")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help=f"these experiments only: {', '.join(EXPERIMENTS)}"
    )
    parser.add_argument("--pictures", type=Path, help="folder of pictures, for the sources that need some")
    add_seed(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Run the cases that have no row yet, and draw the page after each experiment."""
    pipeline = open_pipeline(args.model)
    pictures = read_pictures(args.pictures, pipeline.picture_shape) * 2 - 1 if args.pictures else None
    results = run_study(
        pipeline,
        args.out,
        quick=args.quick,
        only=args.only,
        seed=args.seed,
        pictures=pictures,
        shown=not args.json,
        after_each=lambda: build_study_page(args.out),
    )
    show(args, results, f"{study_text(results)}\nopen {args.out / PAGE}")
