"""The commands on the page, parsed by the command line itself, give back what was done."""

import contextlib
import functools
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_pipeline

from ptq4dm.cli.main import build_parser, main
from ptq4dm.evaluation.commands import RECIPE, commands
from ptq4dm.evaluation.evaluate import evaluate
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


def test_folders_of_pictures_and_the_float_model_are_named(tmp_path: Path) -> None:
    options = OPTIONS | {"float": "a model", "reference": tmp_path / "the data"}
    recipe = load_recipe("w8a8").replace(calibration={"source": "diffused"})
    first, second = commands(recipe, "a model", tmp_path, tmp_path, [1_000_000], options, pictures="my pictures")
    assert parsed(first).pictures == Path("my pictures")
    assert (parsed(second).float_model, parsed(second).reference) == ("a model", tmp_path / "the data")


def test_an_evaluation_on_the_command_line_is_repeated_with_what_it_was_given(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptq4dm.cli.evaluate.evaluate", functools.partial(evaluate, speed_rounds=0))
    tiny_pipeline().save_pretrained(tmp_path / "float")
    (tmp_path / "data").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "tiny.toml").write_text('[calibration]\nsamples = 4\nsource = "diffused"\n')
    made_by = ["quantize", "float", "--recipe", "tiny.toml", "--pictures", "data", "--out", "int8"]
    done_by = ["evaluate", "int8", "--float", "float", "--reference", "data", "--out", "results"]
    few = ["--count", "4", "--steps", "2", "--backend", "simulated"]
    with contextlib.chdir(tmp_path):
        for arguments in (made_by, [*done_by, *few]):
            assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
        first, second = json.loads((tmp_path / "results" / "results.json").read_text())["commands"]
    again = parsed(first)
    assert (again.model, again.pictures, again.out) == ("float", Path("data"), Path("int8"))
    again = parsed(second)
    assert (again.model, again.float_model, again.reference) == ("int8", "float", Path("data"))
