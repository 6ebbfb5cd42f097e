"""Recipes: presets load, and every wrong key or value is named."""

import json
from typing import Any, cast

import numpy as np
import pytest

from ptq4dm.errors import RecipeError
from ptq4dm.recipe import CalibrationRecipe, Recipe, WeightRecipe, load_recipe, preset_names, recipe_from_dict


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_json(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_the_default_preset_is_what_the_paper_released():
    calibration = load_recipe("w8a8").calibration
    assert (calibration.samples, calibration.sampler, calibration.steps) == (1024, "ddim", 50)
    assert (calibration.timesteps, calibration.law_options["location"], calibration.law_options["scale"]) == (
        "ndtc",
        0.4,
        0.4,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample = 3", r"unknown key 'sample' in .*: accepted are"),
        ("[calibration]\nsample = 3", r"unknown key 'sample' in .*\[calibration\]: accepted are batch_size, .*samples"),
        ("[calibration]\nsamples = 0", "samples = 0 should be at least 1"),
        ("[calibration]\nsamples = 1000000000000", "samples = 1000000000000 should be at most 1000000"),
        ("[calibration]\nsteps = 100001", "steps = 100001 should be at most 100000"),
        ("[calibration]\nbatch_size = 1000001", "batch_size = 1000001 should be at most 1000000"),
        ("[ranges]\nbands = 10001", "bands = 10001 should be at most 10000"),
        ("[calibration]\nsamples = 'many'", "samples = 'many' should be a whole number such as"),
        ("[weights]\nportable = 1", "portable = 1 should be true or false"),
        ("arithmetic = 'fp4'", "arithmetic = 'fp4'; accepted are 'float-out' and 'qdq'"),
        ("keep_float = 'conv_in'", "keep_float = 'conv_in' should be a list of patterns"),
        ("keep_float = 5", "keep_float = 5 should be a list of patterns"),
        ("[calibration]\nlaw_options = 5", "law_options = 5 should be a table of options"),
        ("[ranges]\nmetric_options = 5", "metric_options = 5 should be a table of options"),
        ("calibration = 3", "calibration = 3 should be a table"),
        ("this is not toml", "is no TOML file"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(calibration={"samples": 4}), r"calibration = .* should be a CalibrationRecipe; recipe\.replace\(cal"),
        (
            Recipe().replace(calibration={"samples": "8"}),
            r"\[calibration\]: samples = '8' should be a whole number",
        ),
        (Recipe(keep_float="conv_in"), r"keep_float = 'conv_in' should be a list of patterns"),
        (Recipe().replace(ranges={"bands": 2.5}), r"\[ranges\]: bands = 2.5 should be a whole number such as"),
        (Recipe(weights=WeightRecipe(portable="no")), r"portable = 'no' should be true or false"),
        (Recipe(min_channels=True), "min_channels = True should be a whole number such as"),
        (Recipe(calibration=CalibrationRecipe(law_options=[1])), r"law_options = \[1\] should be a table"),
        (Recipe(name=None), "name = None should be a name such as w8a8"),
    ],
)
def test_a_wrong_recipe_built_in_python_is_named(recipe, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(recipe)
    assert "\n" not in str(caught.value)


def test_the_most_of_everything_is_accepted():
    most = {"samples": 1_000_000, "steps": 100_000, "batch_size": 1_000_000}
    recipe = Recipe().replace(calibration=most, ranges={"bands": 10_000}, min_channels=10**9)
    assert load_recipe(recipe) == recipe


def test_replace_names_a_wrong_key():
    for changes in ({"calibration": {"sample": 3}}, {"calibratoin": {}}):
        with pytest.raises(RecipeError, match=r"unknown key '(sample|calibratoin)' in the recipe.*: accepted are"):
            Recipe().replace(**changes)


def test_what_python_has_for_numbers_and_lists_is_accepted():
    recipe = load_recipe(Recipe(keep_float=["conv_in"]).replace(calibration={"samples": np.int64(4)}))
    assert recipe.keep_float == ("conv_in",) and recipe.to_dict()["calibration"]["samples"] == 4


def test_an_unknown_recipe_lists_the_presets():
    with pytest.raises(RecipeError, match=r"no recipe 'None': name a TOML file or one of .*w8a8"):
        load_recipe(cast(Any, None))
    with pytest.raises(RecipeError, match=r"no recipe 'w9a9': name a TOML file or one of .*w8a8"):
        load_recipe("w9a9")


def test_replace_changes_only_the_keys_given():
    recipe = Recipe().replace(calibration={"samples": 7}, keep_float=("a",))
    assert recipe.calibration.samples == 7 and recipe.calibration.steps == Recipe().calibration.steps
    assert recipe.keep_float == ("a",) and Recipe().calibration.samples == 1024


def test_a_recipe_survives_a_json_file(tmp_path):
    recipe = Recipe(name="mine").replace(keep_float=("conv_*",), calibration={"samples": 3})
    (tmp_path / "mine.json").write_text(json.dumps(recipe.to_dict()))
    assert load_recipe(tmp_path / "mine.json") == recipe


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON file"), ("[1]", "holds a list")])
def test_a_wrong_json_file_is_named(tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "mine.json")


def test_numpy_values_become_json():
    options = {"timesteps": range(3), "more": np.arange(2), "one": np.int64(4)}
    recipe = Recipe().replace(calibration={"law_options": options})
    assert json.loads(json.dumps(recipe.to_dict()))["calibration"]["law_options"] == {
        "timesteps": [0, 1, 2], "more": [0, 1], "one": 4}  # fmt: skip
