"""Every tiny family is a working pipeline: it draws, repeats itself, obeys its conditions, and is saved and loaded."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from families import FAMILIES, TinyFamily, modules, reloaded, run
from families.traces import called_between_steps, traced

Built = tuple[TinyFamily, DiffusionPipeline]
CONDITIONS = {"prompt", "image", "class_labels", "ip_adapter_image"}


@pytest.fixture(scope="module", params=FAMILIES)
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    family = FAMILIES[request.param]
    yield family, family.build()


@pytest.mark.parametrize("batch", [1, 2])
def test_draws_as_many_pictures_as_asked(built: Built, batch: int) -> None:
    family, pipeline = built
    drawn = run(family, pipeline, batch)
    assert len(drawn) == batch
    assert torch.isfinite(drawn).all()
    assert drawn.std() > 1e-2
    assert batch == 1 or not torch.equal(drawn[0], drawn[1])


def test_the_seed_decides(built: Built) -> None:
    family, pipeline = built
    first = run(family, pipeline, seed=3)
    assert torch.equal(first, run(family, pipeline, seed=3))
    assert torch.equal(first, run(family, family.build(), seed=3))
    assert not torch.equal(first, run(family, pipeline, seed=4))


def test_saved_and_loaded_it_draws_the_same(built: Built, tmp_path: Path) -> None:
    family, pipeline = built
    assert torch.equal(run(family, pipeline, 2), run(family, reloaded(family, pipeline, tmp_path), 2))


def test_its_denoisers_are_called_between_steps(built: Built) -> None:
    family, pipeline = built
    with traced(pipeline) as events:
        run(family, pipeline, steps=4)
    assert called_between_steps(events) == {*family.denoisers, *family.beside}


def test_most_layers_of_its_denoisers_are_wide_enough_to_quantize(built: Built) -> None:
    family, pipeline = built
    for name in family.denoisers:
        layers = [layer for layer in modules(pipeline)[name].modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        wide = [layer for layer in layers if min(layer.weight.shape[:2]) >= 8]
        assert len(wide) >= 10
        assert len(wide) >= 0.8 * len(layers)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if CONDITIONS & set(family.inputs(1))])
def test_every_condition_reaches_the_picture(name: str) -> None:
    family = FAMILIES[name]
    pipeline = family.build()
    given, others = family.inputs(1), second_of(family.inputs(2))
    drawn = run(family, pipeline)
    for condition in CONDITIONS & set(given):
        changed = dataclasses.replace(family, inputs=lambda batch, key=condition: {**given, key: others[key]})
        assert not torch.equal(drawn, run(changed, pipeline)), condition


def test_builders_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    FAMILIES["ddpm"].build()
    assert torch.equal(before, torch.get_rng_state())


def second_of(inputs: dict[str, Any]) -> dict[str, Any]:
    """The conditions of the second picture of a batch of two, as inputs for one picture."""
    lists = {key: value for key, value in inputs.items() if key in CONDITIONS}
    return {key: value[1:] if len(value) == 2 else [value[0][1:]] for key, value in lists.items()}
