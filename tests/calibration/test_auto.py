"""The law `auto`: measured on the model, followed by the calibration, told by the artifact."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from families import FAMILIES
from tiny import tiny_unet

import ptq4dm
from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.cli.main import main
from ptq4dm.errors import PTQ4DMError, RecipeError
from ptq4dm.report.law import law_density

STEPS, SAMPLES = 4, 160
CHANGES = {"timesteps": "auto", "law_options": {}, "samples": SAMPLES, "steps": STEPS}
RECIPE = ptq4dm.load_recipe("w8a8").replace(
    calibration=CHANGES,
    ranges={"metric": "minmax"},
    weights={"error_feedback": False},
    float_share=0.0,
    keep_float=("up_blocks.*",),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auto")


@pytest.fixture(scope="module")
def model(pipe: DDPMPipeline, work: Path) -> ptq4dm.QuantizedModel:
    return ptq4dm.quantize(pipe, RECIPE, work=work)


def test_samples_are_drawn_as_often_as_the_square_of_what_an_error_there_does(model: ptq4dm.QuantizedModel) -> None:
    facts = model.facts["calibration"]
    measured = facts["step_weights"]
    assert facts["law"] == "auto" and measured["power"] == 2
    assert measured["timesteps"] == [750, 500, 250, 0] and measured["measured"] == [0, 1, 2, 3]
    assert measured["calls_made"] == 8 * (4 + 3 + 2 + 1) and 0 < measured["draft_calls"] < 64 * 4
    squares = torch.tensor(measured["weights"]).square()
    drawn = torch.tensor(facts["drawn_timesteps"])
    assert set(drawn.tolist()) <= {750, 500, 250, 0}
    for timestep, share in zip(measured["timesteps"], (squares / squares.sum()).tolist(), strict=True):
        found = int((drawn == timestep).sum())
        assert abs(found - SAMPLES * share) <= 5 * (SAMPLES * share * (1 - share)) ** 0.5 + 1


def test_the_calibration_set_names_the_law_by_its_numbers(model: ptq4dm.QuantizedModel, work: Path) -> None:
    kept = CalibrationSet.load(work / "calibration_set.safetensors")
    assert kept.facts["law"] == "weighted" and kept.facts["law_options"]["timesteps"] == [750, 500, 250, 0]
    assert len(list((work / "step_weights").iterdir())) == 1


def test_the_artifact_tells_what_was_measured(model: ptq4dm.QuantizedModel, tmp_path: Path) -> None:
    loaded = ptq4dm.load(model.save(tmp_path / "int8"))
    assert loaded.recipe.calibration.timesteps == "auto"
    assert loaded.facts["calibration"]["step_weights"] == model.facts["calibration"]["step_weights"]
    density = law_density(loaded.facts["calibration"])
    assert density is not None
    middles = dict(zip(density.t, density.density, strict=True))
    assert sum(middles.values()) * 999 / (len(middles) - 1) == pytest.approx(1, abs=0.2)


def test_pipelines_with_conditions_are_refused() -> None:
    family = FAMILIES["stable-diffusion"]
    with pytest.raises(RecipeError, match=r"timesteps = 'auto': only an unconditional model .* choose another law"):
        ptq4dm.quantize(family.build(), RECIPE)


def test_options_of_another_law_are_refused(pipe: DDPMPipeline) -> None:
    with pytest.raises(RecipeError, match=r"'auto' takes no law_options, got \['location'\]: leave them out"):
        ptq4dm.quantize(pipe, RECIPE.replace(calibration={"law_options": {"location": 0.4}}))


def test_bare_modules_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"timesteps = 'auto': a bare module .* leave it out of the recipe"):
        ptq4dm.quantize_module(tiny_unet(), [((torch.zeros(1, 3, 16, 16), torch.tensor(1)), {})], RECIPE)


@pytest.mark.parametrize(
    ("options", "law", "left"),
    [
        ([], "ndtc", {"location": 0.4, "scale": 0.4, "shape": 0.0, "overflow": "clip"}),
        (["--timesteps", "ndtc"], "ndtc", {"location": 0.4, "scale": 0.4, "shape": 0.0, "overflow": "clip"}),
        (["--timesteps", "uniform"], "uniform", {}),
        (["--timesteps", "auto"], "auto", {}),
    ],
)
def test_the_command_line_names_the_law(
    options: list[str], law: str, left: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def told(model: object, recipe: ptq4dm.Recipe, **more: object) -> None:
        seen.append(recipe.calibration)
        raise PTQ4DMError("enough")

    monkeypatch.setattr("ptq4dm.workflow.quantize", told)
    assert main(["quantize", "emoji-32", "--out", str(tmp_path / "out"), *options]) == 2
    assert (seen[0].timesteps, seen[0].law_options) == (law, left)
