"""A recipe written as TOML is read as the same recipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from ptq4dm.errors import RecipeError
from ptq4dm.recipe import load_recipe, preset_names
from ptq4dm.recipe_text import recipe_text


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_comes_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(recipe_text(recipe))
    assert load_recipe(path) == recipe


def test_unusual_values_come_back_with_their_comments(tmp_path: Path) -> None:
    recipe = load_recipe("w8a8").replace(
        keep_float=("a.b", 'quoted "name" ü'),
        calibration={"timesteps": "explicit", "law_options": {"timesteps": [3, 5]}},
        smoothing={"threshold": 1e30},
    )
    path = tmp_path / "mixed.toml"
    path.write_text(recipe_text(recipe, ["first", "second"], {"a.b": "why # it stays"}), encoding="utf-8")
    assert load_recipe(path) == replace(recipe, name="mixed")
    text = path.read_text()
    assert text.startswith("# first\n# second\n") and '    "a.b",  # why # it stays\n' in text


def test_a_callable_has_no_place_in_a_file() -> None:
    with pytest.raises(RecipeError, match=r"metric = .* is a callable, which no file can hold"):
        recipe_text(load_recipe("w8a8").replace(ranges={"metric": lambda *_: None}))
