"""A study from end to end, interrupted and resumed, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline
from scipy.stats import ttest_rel
from torch import nn

import ptq4dm
from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.features import Extractor, feature_distance
from ptq4dm.evaluation.fidelity import compare_calls, mean_db, picture_psnr
from ptq4dm.pipelines.sampling import sample
from ptq4dm.studies import EXPERIMENTS, Settings, run_study
from ptq4dm.studies.run import RESULTS
from ptq4dm.studies.study import Study
from ptq4dm.studies.variants import AS_MANY, NAIVE, OTHER
from ptq4dm.studies.variants import DEFAULT_CALIBRATION as DEFAULT

ONES = ("start: t = 0", "end: t = 999")


def rows_of(results: dict[str, Any], question: str) -> dict[str, dict[str, Any]]:
    return {row["variant"]: row for row in results["rows"] if row["question"] == question}


def test_every_question_has_rows_and_the_file_holds_what_is_returned(
    pipe: DDPMPipeline, sizes: Settings, results: dict[str, Any], folder: Path
) -> None:
    assert {row["question"] for row in results["rows"]} == {*EXPERIMENTS, "default"}
    again = run_study(pipe, folder, settings=sizes)
    assert json.loads((folder / RESULTS).read_text()) == json.loads(json.dumps(again))
    assert again["rows"] == results["rows"]
    for row in results["rows"]:
        assert "facts" in row or "not_applicable" in row or row["n"] == 3
        assert row["seconds"] >= 0


def test_the_default_row_is_what_the_evaluation_measures(
    results: dict[str, Any], study: Study, coarse: Extractor
) -> None:
    """With all calls kept, `compare_calls` and `sample` on the same network say the same."""
    row = rows_of(results, "default")["default"]
    seeds, network = list(study.settings.test_seeds), study.under_law(study.recipe)
    walk = compare_calls(study.pipeline, {"it": network}, "ddim", 4, seeds, 2)
    kept = [0, 2, 3]
    assert row["curve"]["t"] == walk.errors["it"].timesteps[kept].tolist()
    wanted = walk.errors["it"].relative_l2[:, kept]
    assert row["per_picture"]["relative_l2"] == pytest.approx(wanted.mean(1).tolist(), rel=1e-4)
    wanted = [mean_db(column) for column in walk.errors["it"].psnr[:, kept].unbind(1)]
    assert row["curve"]["psnr"] == pytest.approx(wanted, abs=1e-2)
    config, shape = study.pipeline.scheduler.config, study.pipeline.picture_shape
    drawn = sample(network, "ddim", config, shape, seeds, 4, 2, shown=False)
    assert row["picture"]["psnr"]["mean"] == pytest.approx(mean_db(picture_psnr(walk.pictures, drawn)), abs=1e-3)
    distances = feature_distance(coarse, walk.pictures, drawn)
    assert row["per_picture"]["perceptual"] == pytest.approx(distances.tolist(), rel=1e-2) and distances.min() > 0
    assert row["picture"]["perceptual"]["mean"] == pytest.approx(distances.mean(), rel=1e-2)
    others = feature_distance(coarse, walk.pictures, walk.pictures[[2, 0, 1]]).mean()
    assert results["perceptual"]["between_pictures"] == pytest.approx(others, rel=1e-3)


def test_differences_are_paired_bootstrap_estimates_against_the_default(results: dict[str, Any]) -> None:
    default, row = rows_of(results, "default")["default"], rows_of(results, "metrics")["L1"]
    assert row["baseline"] == default["key"]
    first, second = (each["per_picture"]["relative_l2"] for each in (default, row))
    found = row["call"]["relative_l2"]["difference"]
    assert found["value"] == pytest.approx(sum(second) / 3 - sum(first) / 3)
    wanted = ttest_rel(second, first).confidence_interval(0.95)
    half = (wanted.high - wanted.low) / 2  # of 3 pictures, resampling leaves a seventh of it out
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=0.25 * half)


def test_samplers_are_compared_with_one_calibration_on_as_many_samples(results: dict[str, Any]) -> None:
    """Under the study's own sampler its calibration is that sampler's own: two rows there, three elsewhere."""
    rows = rows_of(results, "samplers")
    assert list(rows) == [
        *(f"ddim-4: {variant}" for variant in (DEFAULT, NAIVE)),
        *(f"unipc-3: {variant}" for variant in (DEFAULT, OTHER, NAIVE)),
    ]
    for name, row in rows.items():
        first = rows[f"{name.split(':')[0]}: {DEFAULT}"]
        assert row is first or row["baseline"] == first["key"]
    few = rows_of(results, "timesteps")[AS_MANY]
    assert few["key"] == rows[f"ddim-4: {DEFAULT}"]["key"]
    assert {rows_of(results, "timesteps")[name]["baseline"] for name in ONES} == {few["key"]}


def test_rows_are_compared_with_what_their_question_compares(results: dict[str, Any]) -> None:
    """Sources with the denoising trajectory, numbers of samples with the most: these are rows of the same samples."""
    sources, samples = rows_of(results, "sources"), rows_of(results, "samples")
    first, most = sources["denoising trajectory"], samples["6"]
    default = rows_of(results, "default")["default"]
    assert first["key"] == most["key"] and first["baseline"] == most["baseline"] == default["key"]
    assert sources["pure noise"]["baseline"] == samples["4"]["baseline"] == first["key"]
    values = [sum(row["per_picture"]["relative_l2"]) / 3 for row in (first, samples["4"])]
    found = samples["4"]["call"]["relative_l2"]["difference"]["value"]
    assert found == pytest.approx(values[1] - values[0])


def test_the_papers_preset_is_what_quantize_makes(results: dict[str, Any], study: Study) -> None:
    rows = rows_of(results, "operations")
    assert rows["w8a8-paper"]["sampler"] == "ddim" and rows["w8a8-paper, ddpm-4"]["sampler"] == "ddpm"
    recipe = ptq4dm.load_recipe("w8a8-paper").replace(calibration={"samples": 6, "sampler": "ddim", "steps": 4})
    own = recipe.calibration
    samples = study.pool.under(own.timesteps, own.law_options, 6, 0, 1000)
    network = ptq4dm.quantize(study.pipeline, recipe, calibration_set=samples).to_module("simulated")
    walk = compare_calls(study.pipeline, {"it": network}, "ddim", 4, list(study.settings.test_seeds), 2)
    wanted = walk.errors["it"].relative_l2[:, [0, 2, 3]].mean(1).tolist()
    assert rows["w8a8-paper"]["per_picture"]["relative_l2"] == pytest.approx(wanted, rel=1e-4)


def test_a_row_that_was_compared_with_another_before_is_compared_anew(
    pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]
) -> None:
    row = rows_of(results, "samples")["4"]
    (path,) = folder.glob(f"rows/samples/4-{row['key']}.json")
    written = path.read_text()
    path.write_text(written.replace(row["baseline"], "another").replace('"note": ""', '"note": "old"', 1))
    again = rows_of(run_study(pipe, folder, settings=sizes, only=["samples"]), "samples")["4"]
    path.write_text(written)
    assert again == row


def test_a_variant_that_is_the_default_is_not_measured_again(results: dict[str, Any]) -> None:
    default = rows_of(results, "default")["default"]
    assert rows_of(results, "metrics")["MSE"]["key"] == rows_of(results, "bits")["W8A8"]["key"] == default["key"]


def test_a_finished_study_calls_no_network_and_a_part_of_it_holds_all_rows(
    pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was called")

    monkeypatch.setattr(type(pipe.unet), "forward", refuse)
    after: list[list[dict[str, Any]]] = []

    def note() -> None:
        after.append(json.loads((folder / RESULTS).read_text())["rows"])

    again = run_study(pipe, folder, settings=sizes, only=["metrics", "bits"], after_each=note)
    assert again["rows"] == results["rows"] and len(again["rows"]) > 20
    assert again["verdicts"] == results["verdicts"]
    assert after == [json.loads(json.dumps(results["rows"]))] * 2


def test_an_interrupted_study_keeps_its_rows_and_ends_the_same(
    pipe: DDPMPipeline, sizes: Settings, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, count = Study.network, [0]

    def interrupted(self: Study, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return network(self, *args, **kwargs)

    monkeypatch.setattr(Study, "network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(pipe, tmp_path, settings=sizes, only=["drift", "metrics"])
    assert [row["question"] for row in json.loads((tmp_path / RESULTS).read_text())["rows"]] == ["drift"]
    before = sorted(tmp_path.glob("rows/*/*.json"))
    assert len(before) >= 2
    stamps = [path.stat().st_mtime_ns for path in before]
    again = run_study(pipe, tmp_path, settings=sizes, only=["metrics"])
    assert [path.stat().st_mtime_ns for path in before] == stamps
    for variant, row in rows_of(again, "metrics").items():
        wanted = rows_of(results, "metrics")[variant]
        assert row["per_picture"]["relative_l2"] == pytest.approx(wanted["per_picture"]["relative_l2"], rel=1e-5)


def test_a_damaged_row_is_measured_again(
    pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]
) -> None:
    row = rows_of(results, "metrics")["min-max"]
    (path,) = folder.glob(f"rows/metrics/*-{row['key']}.json")
    path.write_text(path.read_text()[:40])
    again = rows_of(run_study(pipe, folder, settings=sizes, only=["metrics"]), "metrics")["min-max"]
    assert again["per_picture"] == row["per_picture"]


def test_an_unknown_experiment_is_refused(pipe: DDPMPipeline, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no experiment 'metric': accepted are drift, operations"):
        run_study(pipe, tmp_path / "out", only=["metric"])
    assert not (tmp_path / "out").exists()


def test_sizes_that_no_study_can_have_are_refused(sizes: Settings) -> None:
    with pytest.raises(EvaluationError, match="pictures = 1: an interval needs at least 2"):
        replace(sizes, pictures=1)
    with pytest.raises(EvaluationError, match="steps = 0"):
        replace(sizes, steps=0)


def test_the_network_of_a_row_leaves_the_float_one_as_it_was(pipe: DDPMPipeline, results: dict[str, Any]) -> None:
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.unet.modules())
    assert all(
        isinstance(parameter, nn.Parameter) and parameter.dtype == torch.float32 for parameter in pipe.unet.parameters()
    )


def test_a_row_whose_pictures_are_damaged_is_measured_again(
    pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]
) -> None:
    row = rows_of(results, "metrics")["KL"]
    sheet = folder / row["sheet"]
    whole = sheet.read_bytes()
    sheet.write_bytes(whole[: len(whole) // 2])
    again = rows_of(run_study(pipe, folder, settings=sizes, only=["metrics"]), "metrics")["KL"]
    assert sheet.read_bytes() == whole and again["per_picture"] == row["per_picture"]
