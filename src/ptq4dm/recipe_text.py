"""A recipe as a TOML file with comments, which `load_recipe` reads as the same recipe again."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ptq4dm.errors import RecipeError
from ptq4dm.recipe import SECTIONS, Recipe


def recipe_text(recipe: Recipe, head: Sequence[str] = (), beside: Mapping[str, str] | None = None) -> str:
    """The recipe as TOML; its name is left out: the file's is taken.

    head: lines of comment on top. beside: a comment for each pattern of `keep_float`. Raises RecipeError for a law or a
    metric that is a callable: a file can only name one.
    """
    for place, value in (("timesteps", recipe.calibration.timesteps), ("metric", recipe.ranges.metric)):
        if not isinstance(value, str):
            raise RecipeError(f"{place} = {value!r} is a callable, which no file can hold: give one by its name")
    values = recipe.to_dict()
    lines = [f"# {line}" for line in head]
    for key, value in values.items():
        if key == "keep_float":
            lines += kept_lines(value, beside or {})
        elif key not in SECTIONS and key != "name":
            lines.append(f"{key} = {toml(value)}")
    for section in (section for section in SECTIONS if section in values):
        lines += ["", f"[{section}]", *(f"{key} = {toml(value)}" for key, value in values[section].items())]
    return "\n".join(lines) + "\n"


def kept_lines(patterns: Sequence[str], beside: Mapping[str, str]) -> list[str]:
    """`keep_float`, one pattern a line, with its comment."""
    if not patterns:
        return ["keep_float = []"]
    items = [f"    {toml(name)},{f'  # {beside[name]}' if name in beside else ''}" for name in patterns]
    return ["keep_float = [", *items, "]"]


def bare(key: str) -> str:
    """A key without quotes where it needs none."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml(key)


def toml(value: Any) -> str:
    """A value of plain data in TOML, on one line."""
    if isinstance(value, Mapping):
        items = ", ".join(f"{bare(key)} = {toml(item)}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
