"""Choose which layers stay in float, for a number of layers or a fidelity, and write that as a recipe."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_json, positive, seed, show, table
from ptq4dm.errors import RecipeError
from ptq4dm.files import new_file
from ptq4dm.pipelines.picture_folder import read_pictures
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.recipe import load_recipe, preset_names
from ptq4dm.report.words import percent
from ptq4dm.studies.mixed_plan import MixedPlan, plan_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="emoji-32, a diffusers pipeline folder, or a hub id (unconditional pixel models)")
    parser.add_argument("--out", type=Path, required=True, help="the recipe file (TOML), for ptq4dm quantize --recipe")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--keep-float", type=positive, metavar="N", help="leave the N layers in float whose rounding harms most"
    )
    budget.add_argument(
        "--target-l2",
        type=float,
        metavar="X",
        help="relative L2 of a call to be met with the fewest multiply-adds in float, such as 0.01 for 1 %%",
    )
    parser.add_argument(
        "--recipe", default="w8a8", help=f"to start from: {', '.join(preset_names())}, or a file (default w8a8)"
    )
    parser.add_argument("--samples", type=positive, help="calibration samples, instead of the recipe's")
    parser.add_argument("--pictures", type=Path, help="folder of pictures, for the sources 'pictures' and 'diffused'")
    parser.add_argument("--work", type=Path, help="where to keep calibration and ranking (default: OUT.work)")
    parser.add_argument("--seed", type=seed, help="of the calibration, instead of the recipe's")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Plan, measure, write the recipe."""
    if args.out.suffix.lower() == ".json":
        raise RecipeError(f"--out {args.out}: the plan is written as TOML, with comments: name a .toml file")
    changes = {"samples": args.samples, "seed": args.seed}
    recipe = load_recipe(args.recipe)
    recipe = recipe.replace(calibration={key: value for key, value in changes.items() if value is not None})
    pipeline = open_pipeline(args.model)
    pictures = read_pictures(args.pictures, pipeline.picture_shape) * 2 - 1 if args.pictures else None
    work = args.work or Path(f"{args.out}.work")
    with new_file(args.out) as building:  # taken first, so that a place that cannot be written is told at once
        plan = plan_recipe(
            pipeline,
            recipe,
            keep_float=args.keep_float,
            target_l2=args.target_l2,
            pictures=pictures,
            work=work,
            progress=not args.json,
        )
        building.write_text(plan.text(), encoding="utf-8")
    data = {"out": str(args.out), "work": str(work), **plan.to_dict()}
    show(args, data, f"{plan_text(plan)}\nsaved to {args.out}\n{next_step(args, work)}")


def plan_text(plan: MixedPlan) -> str:
    """The layers in float and the figures of the plan."""
    known = plan.sensitivity
    rows = [(name, percent(known.share(name)), percent(known.cost([name]))) for name in plan.kept]
    lines = [table(rows, ("in float", "of the error", "of the multiply-adds"))] if rows else []
    return "\n".join(
        [
            *lines,
            f"relative L2 of a call: {percent(plan.measured)} measured ({percent(plan.predicted)} expected), "
            f"{percent(known.all_int8)} with all {len(known.shares)} layers in INT8",
            f"{percent(plan.float_macs)} of the multiply-adds in float",
        ]
    )


def next_step(args: argparse.Namespace, work: Path) -> str:
    """How to quantize by the plan, with the calibration that is there already."""
    pictures = f" --pictures {args.pictures}" if args.pictures else ""
    return f"next: ptq4dm quantize {args.model} --recipe {args.out} --out int8 --work {work}{pictures}"
