"""Recipe: what to quantize and how to calibrate. Frozen; read from TOML; an unknown key is an error."""

import dataclasses
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any

from ptq4dm.errors import RecipeError


@dataclass(frozen=True)
class CalibrationRecipe:
    """Which (x_t, t) the ranges are measured on.

    samples: how many (x_t, t). source: `denoising` (the method: x_t of the float model's own reverse process),
    `pictures` (raw x_0), `diffused` (training-style x_t of pictures) or `noise`. sampler and steps: the calibration
    trajectory. timesteps: the law of t by name (see `ptq4dm.calibration.timesteps.LAWS`) with its `law_options`, or
    any callable of that type, or `auto`: by what an error at each t does to the picture, measured on the model.
    batch_size: trajectories denoised at once. seed: of everything drawn.
    """

    samples: int = 1024
    source: str = "denoising"
    sampler: str = "ddim"
    steps: int = 50
    timesteps: str | Callable[..., Any] = "ndtc"
    law_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class RangeRecipe:
    """How scale and zero point are chosen: `metric` by name (`ptq4dm.ranges.metrics.METRICS`) or any callable of that
    type, with its options; bands: how many bands of time-steps the statistics are kept in."""

    metric: str | Callable[..., Any] = "mse"
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    bands: int = 20


@dataclass(frozen=True)
class WeightRecipe:
    """How weights are rounded. portable: exact on processors that add pairs of products in int16 (no VNNI) too;
    weighted: minimise the layer's output error under the calibration data instead of the error of the weights.
    error_feedback: what rounding a weight does to the output is taken back by the weights rounded after it (GPTQ, arXiv
    2210.17323), and then each is chosen again beside all others, where the calibration calls are at hand: not for
    conditional pipelines. gain_correction: scales with which no layer answers a little less than in float, where those
    calls are at hand. bits: integers of fewer than 8 bits are stored in 8, and run as such."""

    portable: bool = True
    weighted: bool = True
    bias_correction: bool = True
    error_feedback: bool = True
    gain_correction: bool = True
    bits: int = 8


@dataclass(frozen=True)
class ActivationRecipe:
    """Time-step-dependent scales of activations. time_bands: bands of time-steps with a scale and zero point of their
    own, at most; 1 for one scale at all time-steps. band_gain: as few bands are taken as bring this share of what the
    most would bring to the error of the rounding; 1 takes them all."""

    time_bands: int = 1
    band_gain: float = 0.9


@dataclass(frozen=True)
class SmoothingRecipe:
    """How differences between input channels are moved to the weights (SmoothQuant, arXiv 2211.10438).

    alpha: how far, from 0 to 1. threshold: a channel that reaches more than so many times the median one is an outlier,
    and its factors are folded into the layer in front where that can be.
    """

    enabled: bool = True
    alpha: float = 0.75
    threshold: float = 20.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a quantized model, apart from the model itself.

    keep_float: patterns (fnmatch) of layer names that stay in float. min_channels: layers with fewer input or output
    channels stay in float: the first and last convolutions, which carry the picture itself, cost little. float_share:
    the share of the multiply-adds that the layers whose rounding harms most may take in float; 0 for none.
    time_in_float: linear layers that follow the time-step alone have float inputs, and weights in 8 bits.
    attention_products: attention's two matrix products in 8 bits too, on the simulated backend only. arithmetic:
    `float-out` (INT8 in, int32 sums, float out) or `qdq` (outputs rounded as well, as ONNX Runtime's QLinearConv must).
    """

    name: str = "w8a8"
    arithmetic: str = "float-out"
    keep_float: tuple[str, ...] = ()
    min_channels: int = 8
    float_share: float = 0.1
    time_in_float: bool = True
    attention_products: bool = False
    calibration: CalibrationRecipe = field(default_factory=CalibrationRecipe)
    ranges: RangeRecipe = field(default_factory=RangeRecipe)
    weights: WeightRecipe = field(default_factory=WeightRecipe)
    smoothing: SmoothingRecipe = field(default_factory=SmoothingRecipe)
    activations: ActivationRecipe = field(default_factory=ActivationRecipe)

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with changes; a mapping given for a section changes only the keys in it. Raises RecipeError."""
        require_known(Recipe, changes, "the recipe")
        for key, kind in SECTIONS.items():
            if isinstance(changes.get(key), Mapping):
                require_known(kind, changes[key], f"the recipe [{key}]")
        merged = {
            key: dataclasses.replace(getattr(self, key), **value)
            if key in SECTIONS and isinstance(value, Mapping)
            else value
            for key, value in changes.items()
        }
        return dataclasses.replace(self, **merged)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data; callables are named. Without `activations` where they are those of every time-step, as in
        the artifacts of a version that knew no others."""
        values = plain(dataclasses.asdict(self))
        return values if self.activations.time_bands > 1 else {k: v for k, v in values.items() if k != "activations"}


WORDS = {bool: "true or false,", int: "a whole number", float: "a number", str: "a name"}
"""What a value should be, by the type of its default."""

MOST_SAMPLES = 1_000_000
"""Calibration samples, and trajectories denoised at once: a thousand times the default."""
MOST_STEPS = 100_000
"""Of the calibration trajectory: more than any model was trained with."""
MOST_BANDS = 10_000
"""Each layer keeps a histogram for each band."""

SECTIONS = {
    "calibration": CalibrationRecipe,
    "ranges": RangeRecipe,
    "weights": WeightRecipe,
    "smoothing": SmoothingRecipe,
    "activations": ActivationRecipe,
}


def plain(value: Any) -> Any:
    """JSON data of nested mappings, sequences and callables."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
    if isinstance(value, range):
        return list(value)
    if callable(value):
        return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', repr(value))}"
    return value


def from_mapping(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Build one frozen section; raises RecipeError at a key it does not know or a value of another type."""
    require_known(kind, values, where)
    section = kind(**values)
    check_types(section, where)
    return section


def require_known(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError at a key that the section does not have."""
    known = sorted(item.name for item in dataclasses.fields(kind))
    for key in values:
        if key not in known:
            raise RecipeError(f"unknown key {key!r} in {where}: accepted are {', '.join(known)}")


def check_types(section: Any, where: str) -> None:
    """Raise RecipeError at a value of a section (or of a Recipe, its sections included) that is of another type."""
    for item in dataclasses.fields(section):
        key, value, default = item.name, getattr(section, item.name), item.default
        if key in SECTIONS:
            if not isinstance(value, SECTIONS[key]):
                raise RecipeError(
                    f"{where}: {key} = {value!r} should be a {SECTIONS[key].__name__}; "
                    f"recipe.replace({key}={{...}}) changes some of its values"
                )
            check_types(value, f"{where} [{key}]")
        elif key == "keep_float":
            if not isinstance(value, list | tuple) or not all(isinstance(pattern, str) for pattern in value):
                raise RecipeError(f"{where}: {key} = {value!r} should be a list of patterns such as ['conv_in']")
        elif item.default_factory is dict:
            if not isinstance(value, Mapping):
                raise RecipeError(f"{where}: {key} = {value!r} should be a table of options")
        elif not accepts(default, value):
            raise RecipeError(f"{where}: {key} = {value!r} should be {WORDS[type(default)]} such as {plain(default)}")


def accepts(default: Any, value: Any) -> bool:
    """Whether `value` may stand where `default` stands (bool is no int; a name may be a callable)."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, str) and callable(value):
        return True
    if isinstance(default, int | float):
        return isinstance(value, Integral) or (isinstance(default, float) and isinstance(value, float))
    return isinstance(value, type(default))


def recipe_from_dict(values: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Build a recipe of nested plain data (TOML, JSON). Raises RecipeError."""
    values = dict(values)
    for key, kind in SECTIONS.items():
        if key in values:
            if not isinstance(values[key], Mapping):
                raise RecipeError(f"{where}: {key} = {values[key]!r} should be a table")
            values[key] = from_mapping(kind, values[key], f"{where} [{key}]")
    return validated(from_mapping(Recipe, values, where), where)


def validated(recipe: Recipe, where: str) -> Recipe:
    """The recipe, its keep_float as a tuple. Raises RecipeError for values that no run can use."""
    check_types(recipe, where)
    recipe = dataclasses.replace(recipe, keep_float=tuple(recipe.keep_float))
    if recipe.arithmetic not in ("float-out", "qdq"):
        raise RecipeError(f"{where}: arithmetic = {recipe.arithmetic!r}; accepted are 'float-out' and 'qdq'")
    if recipe.activations.time_bands > 1 and recipe.arithmetic != "float-out":
        raise RecipeError(
            f"{where}: [activations] time_bands = {recipe.activations.time_bands} goes with arithmetic = 'float-out' "
            "only: set it to 1 for 'qdq'"
        )
    if recipe.attention_products and recipe.arithmetic != "float-out":
        raise RecipeError(f"{where}: attention_products = true goes with arithmetic = 'float-out' only")
    for name, value, most in (
        ("samples", recipe.calibration.samples, MOST_SAMPLES),
        ("steps", recipe.calibration.steps, MOST_STEPS),
        ("batch_size", recipe.calibration.batch_size, MOST_SAMPLES),
        ("bands", recipe.ranges.bands, MOST_BANDS),
        ("time_bands", recipe.activations.time_bands, None),
        ("min_channels", recipe.min_channels, None),
    ):
        if value < 1:
            raise RecipeError(f"{where}: {name} = {value} should be at least 1")
        if most is not None and value > most:
            raise RecipeError(f"{where}: {name} = {value} should be at most {most}")
    if recipe.activations.time_bands > recipe.ranges.bands:
        raise RecipeError(
            f"{where}: [activations] time_bands = {recipe.activations.time_bands} should be at most [ranges] bands = "
            f"{recipe.ranges.bands}, in which the statistics are kept: raise that"
        )
    if not 0 < recipe.activations.band_gain <= 1:
        raise RecipeError(f"{where}: band_gain = {recipe.activations.band_gain} should be above 0, and at most 1")
    if not 2 <= recipe.weights.bits <= 8:
        raise RecipeError(f"{where}: [weights] bits = {recipe.weights.bits} should be from 2 to 8")
    if not 0 <= recipe.float_share <= 1:
        raise RecipeError(f"{where}: float_share = {recipe.float_share} should be from 0 to 1")
    if not 0 <= recipe.smoothing.alpha <= 1:
        raise RecipeError(f"{where}: alpha = {recipe.smoothing.alpha} should be from 0 to 1")
    if not recipe.smoothing.threshold >= 1:
        raise RecipeError(f"{where}: threshold = {recipe.smoothing.threshold} should be at least 1")
    return recipe


def preset_names() -> list[str]:
    """The names of the recipes that the package carries."""
    folder = resources.files("ptq4dm") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_recipe(recipe: "Recipe | str | Path") -> Recipe:
    """A recipe as it is, by preset name (`w8a8`), or from a TOML or JSON file. Raises RecipeError."""
    if isinstance(recipe, Recipe):
        return validated(recipe, "the recipe")
    if str(recipe) in preset_names():
        text = (resources.files("ptq4dm") / "presets" / f"{recipe}.toml").read_text()
        return recipe_from_dict({"name": str(recipe), **tomllib.loads(text)}, f"preset {recipe}")
    if not isinstance(recipe, str | Path) or not os.path.isfile(path := Path(recipe)):
        raise RecipeError(f"no recipe {str(recipe)!r}: name a TOML file or one of {', '.join(preset_names())}")
    read = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        values = read(path.read_text())
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}: name a file that you may read") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no {'JSON' if read is json.loads else 'TOML'} file: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds a {type(values).__name__}: a recipe is a table of keys and values")
    return recipe_from_dict({"name": path.stem, **values}, str(path))
