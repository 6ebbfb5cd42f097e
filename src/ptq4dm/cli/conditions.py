"""Options that say what a conditional pipeline is calibrated with: prompts, a dataset, images and masks."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.condition_datasets import DEFAULT_SPLIT, dataset_conditions
from ptq4dm.pipelines.condition_folders import folder_conditions
from ptq4dm.pipelines.conditions import Condition, read_prompts
from ptq4dm.pipelines.pipeline import Pipeline


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """--prompts or --dataset, --images, --masks, --size."""
    group = parser.add_argument_group("what a conditional pipeline is calibrated with (default: own prompts, or all "
                                      "class labels)")  # fmt: skip
    group.add_argument("--prompts", type=Path, help="text file, one prompt a line")
    group.add_argument("--dataset", help="prompts of a Hugging Face dataset: a hub id, a folder, or a parquet, csv, "
                       "json file; needs ptq4dm[datasets]")  # fmt: skip
    group.add_argument("--column", help="the dataset's column with the prompts")
    group.add_argument("--split", help="part of the dataset, such as train[:1000] (default train)")
    group.add_argument("--images", type=Path, help="folder of images to start from, paint in, follow or resemble")
    group.add_argument("--masks", type=Path, help="folder of masks, named as the images (white: paint anew)")
    group.add_argument("--size", type=width_and_height, help="WIDTHxHEIGHT to draw and to fit images to (default: "
                       "the pipeline's own)")  # fmt: skip


def width_and_height(text: str) -> tuple[int, int]:
    """A size such as 512x768, for argparse."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} should be WIDTHxHEIGHT, such as 512x768")
    return int(found[1]), int(found[2])


def check_together(args: argparse.Namespace) -> None:
    """Raise CalibrationError for options that do not go together."""
    for needed, given in (("images", "masks"), ("images", "size"), ("dataset", "column"), ("dataset", "split")):
        if getattr(args, given) and not getattr(args, needed):
            raise CalibrationError(f"--{given} is given without --{needed}: give both")
    if args.dataset and not args.column:
        raise CalibrationError("--column is missing: name the column of the dataset that holds the prompts")
    if args.prompts and args.dataset:
        raise CalibrationError("--prompts and --dataset are both given: choose one")


def read_conditions(args: argparse.Namespace, pipeline: Pipeline, samples: int) -> Sequence[Condition] | None:
    """The conditions that the options name, None if they name none. Raises CalibrationError.

    samples: as many images or rows as are of use.
    """
    prompts = read_prompts(args.prompts) if args.prompts else None
    if args.dataset:
        prompts = dataset_conditions(args.dataset, args.column, args.split or DEFAULT_SPLIT, samples)
    if not args.images:
        return prompts
    return folder_conditions(pipeline.source, args.images, args.masks, prompts=prompts, size=args.size, count=samples)
