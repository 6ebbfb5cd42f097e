"""Quantize a pretrained diffusion model to INT8 and save the artifact."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from ptq4dm import workflow
from ptq4dm.calibration.timesteps import AUTO
from ptq4dm.cli.conditions import add_conditions, check_together, read_conditions
from ptq4dm.cli.options import add_device, add_json, positive, seed, show
from ptq4dm.files import new_folder, require_writable
from ptq4dm.pipelines.picture_folder import read_pictures
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.pipelines.unconditional import why_not_unconditional
from ptq4dm.quantization.artifact import fill_folder
from ptq4dm.quantization.quantized_model import QuantizedModel, pipeline_on
from ptq4dm.quantization.summary import summary
from ptq4dm.recipe import load_recipe, preset_names

TIMESTEPS = ("ndtc", "uniform", AUTO)
"""The laws that need no options; others are told in a recipe."""
LAW_HELP = f"law of the time-steps to calibrate at: {', '.join(TIMESTEPS)} (measured: by what an error at each t does)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument(
        "model", help="emoji-32, a diffusers pipeline folder, a hub id, or a checkpoint file (see ptq4dm convert)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the artifact")
    parser.add_argument("--recipe", default="w8a8", help=f"{', '.join(preset_names())}, or a file (default w8a8)")
    parser.add_argument("--samples", type=positive, help="calibration samples, instead of the recipe's")
    parser.add_argument("--timesteps", metavar="LAW", choices=TIMESTEPS, help=f"{LAW_HELP}, instead of the recipe's")
    parser.add_argument("--pictures", type=Path, help="folder of pictures, for the sources 'pictures' and 'diffused'")
    add_conditions(parser)
    parser.add_argument("--work", type=Path, help="where to keep calibration set and ranges (default: OUT.work)")
    parser.add_argument("--seed", type=seed, help="of the calibration, instead of the recipe's")
    add_device(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Quantize and save."""
    check_together(args)
    recipe = load_recipe(args.recipe)
    changes = {"samples": args.samples, "seed": args.seed, "timesteps": args.timesteps}
    if args.timesteps not in (None, recipe.calibration.timesteps):  # the options are those of another law
        changes["law_options"] = {}
    recipe = recipe.replace(calibration={key: value for key, value in changes.items() if value is not None})
    recipe = load_recipe(recipe)  # which checks what was changed, before anything long is done
    pipeline = pipeline_on(open_pipeline(args.model), args.device)
    pictures = read_pictures(args.pictures, pipeline.picture_shape) * 2 - 1 if args.pictures else None
    out = Path(os.path.abspath(args.out))
    work = args.work or Path(f"{out}.work")
    require_writable(work / workflow.CALIBRATION_SET)
    conditions = read_conditions(args, pipeline, recipe.calibration.samples)
    with new_folder(args.out) as building:  # taken first, so that a place that cannot be written is told at once
        model = workflow.quantize(
            pipeline, recipe, conditions=conditions, work=work, progress=not args.json, pictures=pictures
        )
        fill_folder(with_pictures(model, args.pictures), building)
    data = {"out": str(args.out), "work": str(work), **summary(model)}
    text = (
        f"{data['quantized']} of {data['layers']} layers in INT8 "
        f"({100 * data['int8_share']:.1f} % of the multiply-adds), "
        f"{data['ratio']:.2f}x smaller ({data['float_bytes'] / 1e6:.1f} -> {data['int8_bytes'] / 1e6:.1f} MB)\n"
        f"saved to {args.out}; the calibration is kept in {work}\n"
        f"next: {next_step(args.out, pipeline)}"
    )
    show(args, data, text)


def with_pictures(model: QuantizedModel, folder: Path | None) -> QuantizedModel:
    """The model with the folder of its calibration pictures among its facts, for those who repeat the calibration."""
    if folder is None:
        return model
    calibration = {**model.facts["calibration"], "pictures": str(folder)}
    return replace(model, facts={**model.facts, "calibration": calibration})


def next_step(out: Path, pipeline: Pipeline) -> str:
    """What the user may do with the artifact."""
    if why_not_unconditional(pipeline.source):
        return f"ptq4dm.load({str(out)!r}).to_pipeline() in Python"
    return f"ptq4dm sample {out} | ptq4dm evaluate {out} --out results"
