"""What a conditional pipeline is called with, picture by picture: prompts, class labels, images, or anything else.

A condition is the keyword arguments of `pipe(...)` for one picture, such as `{"prompt": "a cat", "image": photo}`.
Pictures that can share one run of the pipeline are put together.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from PIL import Image
from torch import Tensor

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.unconditional import config_of

Condition = Mapping[str, Any]
OWN = ("generator", "num_inference_steps", "batch_size", "output_type", "return_dict")
"""Arguments that calibration itself sets."""


@dataclass(frozen=True)
class Combined(Sequence[Condition]):
    """Conditions of several kinds together, such as prompts and images: each kind is taken in turn, as often as the
    longest needs. Where two name one argument, the later one counts."""

    parts: tuple[Sequence[Condition], ...]

    def __len__(self) -> int:
        return max(map(len, self.parts)) if all(map(len, self.parts)) else 0

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        merged: dict[str, Any] = {}
        for part in self.parts:
            merged |= part[index % len(self) % len(part)]
        return merged


def accepted_arguments(source: DiffusionPipeline) -> tuple[str, ...]:
    """The names of the arguments of `source(...)`."""
    return tuple(inspect.signature(type(source).__call__).parameters)[1:]


def default_conditions(source: DiffusionPipeline, seed: int = 0) -> list[Condition]:
    """What to call a pipeline with where nothing was said: the package's own prompts, all class labels in a drawn
    order, or no arguments at all."""
    known = accepted_arguments(source)
    if "prompt" in known:
        return [{"prompt": prompt} for prompt in built_in_prompts()]
    classes = number_of_classes(source)
    if "class_labels" in known and classes:
        return [{"class_labels": int(label)} for label in np.random.default_rng(seed).permutation(classes)]
    return [{}]


def built_in_prompts() -> list[str]:
    """The prompts that the package carries, written for it (Apache-2.0)."""
    return read_lines((resources.files("ptq4dm") / "presets" / "prompts.txt").read_text())


def read_prompts(path: str | Path) -> Sequence[Condition]:
    """One prompt a line. Raises CalibrationError: no file, not text, no line."""
    try:
        prompts = read_lines(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path} cannot be read ({error}): give a text file with one prompt a line") from error
    if not prompts:
        raise CalibrationError(f"{path} holds no prompt: give a text file with one prompt a line")
    return [{"prompt": prompt} for prompt in prompts]


def read_lines(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def number_of_classes(source: DiffusionPipeline) -> int:
    """How many class labels the denoiser knows; 0 if none is named in a config."""
    found = [config_of(part) for part in source.components.values() if isinstance(part, ModelMixin)]
    counts = [config.get(key) for config in found for key in ("num_embeds_ada_norm", "num_class_embeds")]
    return next((count for count in counts if count), 0)


def check_conditions(source: DiffusionPipeline, conditions: Sequence[Condition]) -> None:
    """Raise CalibrationError: none, an argument that the pipeline does not have, or one that calibration sets."""
    if not hasattr(conditions, "__len__") or not hasattr(conditions, "__getitem__"):
        raise CalibrationError(
            f"calibration conditions are a {type(conditions).__name__}: give a list, since they are taken in turn and "
            "more than once"
        )
    if not len(conditions):
        raise CalibrationError("no calibration conditions: give at least one, such as {'prompt': 'a cat'}")
    known = accepted_arguments(source)
    for index, condition in enumerate(conditions):
        if not isinstance(condition, Mapping):
            raise CalibrationError(
                f"calibration condition {index} is a {type(condition).__name__}: it should be the keyword arguments of "
                "one picture, such as {'prompt': 'a cat'}"
            )
        for name in condition:
            if name in OWN:
                raise CalibrationError(f"calibration condition {index}: {name!r} is set by the recipe: leave it out")
            if name not in known:
                raise CalibrationError(
                    f"calibration condition {index}: {type(source).__name__} has no argument {name!r}; it has "
                    f"{', '.join(key for key in known if key not in OWN)}"
                )


def run_inputs(
    source: DiffusionPipeline, conditions: Sequence[Condition], seeds: Sequence[int], steps: int
) -> dict[str, Any] | None:
    """The arguments of one run that draws a picture for each condition; None if these cannot share a run.

    Every picture has a generator of its own, so that it does not depend on the others.
    """
    known = accepted_arguments(source)
    merged: dict[str, Any] = {}
    if any(set(condition) != set(conditions[0]) for condition in conditions):
        return None
    for name in conditions[0]:
        value = merge(name, [condition[name] for condition in conditions])
        if value is None:
            return None
        merged[name] = value[0]
    count = len(conditions)
    if "num_inference_steps" in known:
        merged["num_inference_steps"] = steps
    if "batch_size" in known:
        merged["batch_size"] = count
    elif count > 1 and not any(isinstance(value, list) or is_rows(value, count) for value in merged.values()):
        return None
    if "generator" in known:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        merged["generator"] = generators if count > 1 else generators[0]
    return merged


def merge(name: str, values: list[Any]) -> tuple[Any] | None:
    """The values of one argument for several pictures as one value, in a tuple; None if they cannot be."""
    if name == "class_labels" and all(isinstance(value, int) for value in values):
        return (values,)
    if len(values) == 1:
        return (values[0],)
    if "ip_adapter_image" in name:  # of several pictures every prompt would get all
        return (values[0],) if all(value is values[0] for value in values) else None
    if all(isinstance(value, str) for value in values) and name.startswith(("prompt", "negative_prompt")):
        return (values,)
    if all(isinstance(value, Image.Image) for value in values) and len({value.size for value in values}) == 1:
        return (values,)
    if all(isinstance(value, Tensor) and value.dim() > 1 and len(value) == 1 for value in values):
        same = len({(value.shape, value.dtype) for value in values}) == 1
        return (torch.cat(values),) if same else None
    first = values[0]
    plain = isinstance(first, bool | int | float | str | type(None) | tuple)
    return (first,) if plain and all(value == first for value in values) else None


def is_rows(value: Any, count: int) -> bool:
    """Whether a value is a tensor with one row a picture."""
    return isinstance(value, Tensor) and value.dim() > 1 and len(value) == count
