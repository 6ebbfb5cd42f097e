"""The whole evaluation on a tiny model: what it writes is what an independent look at the same networks says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_pipeline
from torch import nn

import ptq4dm
from ptq4dm.errors import ArtifactError, EvaluationError, RecipeError
from ptq4dm.evaluation.drawing import draw_resumable
from ptq4dm.evaluation.evaluate import evaluate
from ptq4dm.evaluation.fidelity import picture_psnr
from ptq4dm.evaluation.layer_errors import layer_errors
from ptq4dm.evaluation.measure import limit_of, ratios_of, speed_tables
from ptq4dm.evaluation.sheet import sheet
from ptq4dm.evaluation.text import results_text, speed_lines
from ptq4dm.files import read_json, read_tensors
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.pipelines.sampling import sample
from ptq4dm.quantization.plan import LayerPlan

STEPS = 4


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return open_pipeline(tiny_pipeline())


@pytest.fixture(scope="module")
def model(pipeline: Pipeline) -> ptq4dm.QuantizedModel:
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 6, "steps": STEPS, "batch_size": 6})
    return ptq4dm.quantize(pipeline, recipe)


@pytest.fixture(scope="module")
def folder(model, pipeline, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "results"
    reference = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    evaluate(
        model,
        pipeline,
        out,
        seeds=[7, 8, 9],
        steps=STEPS,
        batch_size=2,
        backend="simulated",
        features=True,
        reference=reference,
        speed_rounds=1,
        shown=False,
    )
    return out


def test_the_figures_are_those_of_the_pictures_written(folder: Path, model, pipeline: Pipeline) -> None:
    results = read_json(folder / "results.json")
    raw, _ = read_tensors(folder / "pictures.safetensors")
    config, shape = pipeline.scheduler.config, pipeline.picture_shape
    for name, network in (("float", pipeline.denoiser), ("int8", model.network)):
        drawn = sample(network, "ddim", config, shape, [7, 8, 9], STEPS, 2, shown=False)
        torch.testing.assert_close(raw[name], drawn, rtol=0, atol=1e-6)
        pixels = np.asarray(Image.open(folder / f"{name}.png"))
        wanted = (drawn[1].permute(1, 2, 0).numpy() * 255).round()
        assert np.abs(pixels[:16, 16:32].astype(float) - wanted).max() <= 1
    pictures = results["fidelity"]["pictures"]
    assert pictures["psnr"] == pytest.approx(picture_psnr(raw["float"], raw["int8"]).tolist())
    assert pictures["psnr_mean"] == pytest.approx(np.mean(pictures["psnr"]))
    assert 0 < pictures["perceptual_mean"] < pictures["perceptual_between_pictures"]
    call = results["fidelity"]["call"]
    assert call["relative_l2_mean"] == pytest.approx(np.mean(call["curve"]["relative_l2"]))
    assert call["curve"]["t"] == [750, 500, 250, 0]
    assert "aims" not in results["fidelity"]


def test_every_section_of_the_report_is_there(folder: Path, model) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert results["format_version"] == 1
    assert {row["engine"] for row in results["speed"]["rows"]} >= {"eager", "simulated"}
    whole = results["speed"]["sampling"]
    assert whole["what"] == f"8 pictures, ddim in {STEPS} steps"
    assert [row["engine"] for row in whole["rows"]] == [row["engine"] for row in results["speed"]["rows"]]
    assert all(row["seconds_median"] > 0 for row in whole["rows"])
    assert {row["name"] for row in results["memory"]["rows"]} >= {"float, PyTorch eager", "INT8, simulated"}
    assert [layer["name"] for layer in results["layers"]] == [layer.name for layer in model.plan if layer.quantized]
    assert all(0 < layer["relative_l2"] < 0.2 for layer in results["layers"])
    rows = results["distribution"]["rows"]
    assert all(row["low"] is row["high"] is row["detectable"] is None for row in rows)  # 3 pictures: no interval
    assert [row["measure"].split(" (")[0] for row in rows] == [
        "Fréchet distance",
        "spatial Fréchet distance",
        "kernel distance",
        "class score",
    ]
    assert not any("FID" in row["measure"] for row in rows)
    for row in rows:
        assert row["difference"] == pytest.approx(row["int8"] - row["float"])
    text = results_text(results)
    assert "relative L2" in text
    assert "smaller than float" in text
    assert any(command.startswith("ptq4dm evaluate ") for command in results["commands"])


def test_networks_run_on_the_device_asked_for_in_copies(folder: Path, model, pipeline, tmp_path: Path) -> None:
    """`cpu:0` is the CPU by another name, so everything is placed anew and must draw the same pictures."""
    options = {
        "seeds": [7, 8],
        "steps": STEPS,
        "batch_size": 2,
        "backend": "simulated",
        "speed_rounds": 1,
        "shown": False,
    }
    results = evaluate(model, pipeline, tmp_path / "there", device="cpu:0", **options)
    raw, expected = (read_tensors(place / "pictures.safetensors")[0] for place in (tmp_path / "there", folder))
    for name in ("float", "int8"):
        torch.testing.assert_close(raw[name], expected[name][:2], rtol=0, atol=1e-6)
    assert any("ran on cpu:0" in note for note in results["notes"])
    assert "--device cpu:0" in results["commands"][1]
    assert results["speed"]["rows"][0]["engine"] == "eager"
    with pytest.raises(RecipeError, match=r"device 'warp9' cannot be used here .*: use cpu, or a device of torch's"):
        evaluate(model, pipeline, tmp_path / "nowhere", device="warp9", **options)
    assert not (tmp_path / "nowhere").exists()


def test_another_float_model_is_refused(model, tmp_path: Path) -> None:
    other = open_pipeline(tiny_pipeline(seed=1))
    with pytest.raises(EvaluationError, match="is not the float model that the artifact was made from"):
        evaluate(model, other, tmp_path / "out", pictures=1, steps=2, backend="simulated", shown=False)
    assert not (tmp_path / "out").exists()


def test_layer_errors_are_those_of_each_layer_alone() -> None:
    class Two(nn.Module):
        def __init__(self, first: float, second: float):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            for layer, factor in ((self.first, first), (self.second, second)):
                layer.weight = nn.Parameter(torch.eye(4) * factor)

        def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.second(self.first(x) + timestep),)

    plan = [LayerPlan("first", "Linear", True), LayerPlan("second", "Linear", True), LayerPlan("gone", "Conv", False)]
    calls = [(torch.randn(3, 4), torch.tensor(float(index))) for index in range(3)]
    errors = layer_errors(Two(1.0, 2.0), Two(1.5, 2.2), plan, calls)
    assert [error["name"] for error in errors] == ["first", "second"]
    assert [error["relative_l2"] for error in errors] == pytest.approx([0.5, 0.1], rel=1e-5)


def test_drawing_resumes_and_refuses_chunks_of_another_model(pipeline: Pipeline, tmp_path: Path) -> None:
    calls = 0

    class Counted(nn.Module):
        def forward(self, x_t: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
            nonlocal calls
            calls += len(x_t)
            return (x_t * 0.1,)

    def draw(seeds: range, identity: str) -> torch.Tensor:
        return draw_resumable(Counted(), pipeline, "ddim", 2, seeds, 4, tmp_path / "work", identity, chunk=3)

    first = draw(range(6), "a")
    assert calls == 12
    (tmp_path / "work" / "chunk-0001.safetensors").unlink()
    torch.testing.assert_close(draw(range(6), "a"), first, rtol=0, atol=0)
    assert calls == 18
    with pytest.raises(ArtifactError, match="was drawn with another model"):
        draw(range(6), "b")


def test_sheets_are_row_by_row_and_white_where_empty() -> None:
    pictures = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 3) / 5
    pixels = sheet(pictures, 2)
    assert pixels.shape == (6, 6, 3)
    assert pixels[::2, ::3, 0].tolist() == [[0, 51], [102, 153], [204, 255]]
    with pytest.raises(EvaluationError, match="0 columns"):
        sheet(pictures, 0)


def test_ratios_are_against_every_float_engine_and_the_fastest_is_marked() -> None:
    times = {
        ("eager", "FP32"): [4.0, 8.0, 4.0],
        ("openvino", "FP32"): [3.0, 6.0, 3.0],
        ("openvino", "INT8"): [1.0, 2.0, 1.0],
        ("simulated", "INT8"): [9.0, 9.0, 9.0],
    }
    ratios = {ratio["baseline"]: ratio for ratio in ratios_of(times)}
    assert ratios["eager"]["value"] == pytest.approx(4.0)
    assert ratios["openvino"]["value"] == pytest.approx(3.0)
    assert [name for name, ratio in ratios.items() if ratio["fastest_float"]] == ["openvino"]
    assert {ratio["confidence"] for ratio in ratios.values()} == {0.75}  # of 3 rounds: 1 - 2^-2
    tables = speed_tables(times, 3)
    assert [row["seconds"] for row in tables["rows"]] == list(times.values())
    assert tables["spread"].endswith("ratios: 75 % interval of the median of paired rounds")
    assert "(3.00 to 3.00, 75 % interval)" in "\n".join(speed_lines(tables))
    rows = tables["rows"]
    assert [row["ratio_to_eager"] for row in rows] == pytest.approx([1.0, 4 / 3, 4.0, 4 / 9])


def test_the_limit_counts_multiply_adds() -> None:
    plan = [LayerPlan("a", "Conv2d", True, "", 300), LayerPlan("b", "Linear", False, "kept", 100)]
    limit = limit_of(plan)
    if limit is not None:
        assert (limit["macs"], limit["int8_share"]) == (400, 0.75)
        assert limit["limit"] == pytest.approx(1 / (0.25 + 0.75 / limit["processor_ratio"]))
    assert limit_of([LayerPlan("a", "Conv2d", True)]) is None
