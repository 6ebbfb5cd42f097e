"""The commands on the page, parsed by the command line itself, give back what was done."""

import json
import shlex
from pathlib import Path

from ptq4dm.cli.main import build_parser
from ptq4dm.evaluation.commands import RECIPE, commands
from ptq4dm.recipe import load_recipe

OPTIONS = {
    "steps": 7,
    "scheduler": "euler",
    "batch-size": 3,
    "backend": "simulated",
    "features": True,
    "inception": None,
}


def parsed(line: str):
    words = shlex.split(line)
    assert words[0] == "ptq4dm"
    return build_parser().parse_args(words[1:])


def test_samples_and_seed_of_a_preset_are_repeated(tmp_path: Path) -> None:
    recipe = load_recipe("w8a8-quick").replace(calibration={"samples": 9, "seed": 4})
    folder, out = tmp_path / "an int8", tmp_path / "my results"
    first, second = commands(recipe, "emoji-32", folder, out, range(1_000_005, 1_000_008), OPTIONS)
    args = parsed(first)
    assert (args.verb, args.model, args.recipe, args.samples, args.seed) == ("quantize", "emoji-32", "w8a8-quick", 9, 4)
    assert args.out == folder
    args = parsed(second)
    assert (args.verb, Path(args.model), args.out, args.count, args.seed) == ("evaluate", folder, out, 3, 5)
    assert (args.steps, args.scheduler, args.batch_size, args.backend) == (7, "euler", 3, "simulated")
    assert args.features and args.inception is None


def test_a_preset_as_it_is_needs_no_more(tmp_path: Path) -> None:
    first, _ = commands(load_recipe("w8a8"), "emoji-32", tmp_path / "int8", tmp_path, [1_000_000], OPTIONS)
    args = parsed(first)
    assert (args.recipe, args.samples, args.seed) == ("w8a8", None, None)


def test_any_other_recipe_is_written_down_and_named(tmp_path: Path) -> None:
    recipe = load_recipe("w8a8").replace(name="my recipe", keep_float=("mid_block.*",), ranges={"bands": 3})
    first, _ = commands(recipe, "emoji-32", None, tmp_path, [1_000_000], OPTIONS)
    (tmp_path / RECIPE).write_text(json.dumps(recipe.to_dict()))  # as `evaluate` does
    again = load_recipe(parsed(first).recipe)
    assert again == recipe


def test_the_built_in_artifact_is_not_overwritten(tmp_path: Path) -> None:
    first, second = commands(load_recipe("w8a8"), "emoji-32", Path("emoji-32"), tmp_path, [1_000_000], OPTIONS)
    assert parsed(first).out == Path("emoji-32-int8") and parsed(second).model == "emoji-32-int8"
