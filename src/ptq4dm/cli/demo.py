"""The whole job on the built-in model: quantize, draw, measure, and a page that shows it."""

import argparse
import time
from pathlib import Path

from ptq4dm import workflow
from ptq4dm.backends.places import device_for
from ptq4dm.cli.options import add_backend, add_json, add_place, add_seed, float_type, note, positive, show
from ptq4dm.evaluation.commands import FIRST_SEED
from ptq4dm.evaluation.evaluate import evaluate
from ptq4dm.files import exclusive, require_writable
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.quantization.quantized_model import pipeline_on
from ptq4dm.recipe import load_recipe
from ptq4dm.report.report import OF_THE_DEMO, PAGE, build_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("--model", default="emoji-32", help="emoji-32 (default), a diffusers folder, or a hub id")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the artifact, results and page")
    parser.add_argument("--recipe", default="w8a8-quick", help="default w8a8-quick: 128 calibration samples")
    parser.add_argument("--count", type=positive, default=16, help="pictures (default 16)")
    parser.add_argument("--steps", type=positive, default=50, help="denoising steps (default 50)")
    add_backend(parser)
    add_place(parser)
    add_seed(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Quantize, evaluate, report."""
    page = args.out / PAGE
    require_writable(page)
    with exclusive(args.out):
        work_through(args, page)


def work_through(args: argparse.Namespace, page: Path) -> None:
    """The three steps, in `args.out`."""
    started = time.perf_counter()
    shown = not args.json
    recipe = load_recipe(args.recipe).replace(calibration={"seed": args.seed})
    pipeline = open_pipeline(args.model)
    there = pipeline_on(pipeline, device_for(args.backend, args.device, recipe.arithmetic))
    if shown:
        note(f"1/3 quantize {args.model} with the recipe {recipe.name} ({recipe.calibration.samples} samples)")
    model = workflow.quantize(there, recipe, work=args.out / "work", progress=shown)
    model.network.cpu()  # engines compile it there
    artifact = model.save(args.out / "int8")
    if shown:
        note(f"2/3 draw {args.count} pictures with both models and measure")
    evaluate(
        model,
        pipeline,
        args.out / OF_THE_DEMO,
        pictures=args.count,
        steps=args.steps,
        seed=FIRST_SEED + args.seed,
        backend=args.backend,
        device=args.device,
        torch_dtype=float_type(args),
        artifact=artifact,
        shown=shown,
    )
    if shown:
        note("3/3 draw the page")
    build_report(args.out / OF_THE_DEMO, page)
    seconds = time.perf_counter() - started
    show(args, {"report": str(page), "seconds": round(seconds, 1)}, f"open {page} (made in {seconds:.0f} s)")
