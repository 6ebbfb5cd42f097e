"""One case at a time: its key, what its row says of its time and place, and what an interruption leaves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline

from ptq4dm.errors import MissingDependencyError
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.ranges.laws import sweep_edges
from ptq4dm.studies import Settings, cases, extractor, float_walk, pool, sensitive
from ptq4dm.studies.cases import SWEEP, Case, default_case, key_of, row_of
from ptq4dm.studies.rows import measured
from ptq4dm.studies.store import Store
from ptq4dm.studies.study import Study


def no_facts() -> dict[str, Any]:
    return {"facts": {}}


def test_the_time_of_shared_parts_is_told_apart_and_memory_is_the_rise(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(cases.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cases, "environment", lambda: {"ptq4dm": "9", "threads": 3, "date": "today"})
    held = torch.ones(1 << 24)  # 64 MB before the row begins

    def share() -> None:
        now[0] += 5

    def run() -> dict[str, Any]:
        now[0] += 2
        return {"facts": {"sum": float(torch.ones(1 << 24).sum())}}

    row = row_of(study, Store(tmp_path), Case("q", "v", {}, run, shared=share))
    assert (row["seconds"], row["shared_seconds"]) == (2.0, 5.0)
    assert row["peak_bytes"] is None or 0.9 * (1 << 26) < row["peak_bytes"] < 1.6 * (1 << 26)
    assert row["environment"] == {"ptq4dm": "9", "threads": 3}
    assert "law_distance" not in row and len(held)


def test_a_row_says_how_far_its_law_is_from_those_that_the_sweep_gives_exactly(
    study: Study, results: dict[str, Any], tmp_path: Path
) -> None:
    swept = [row for row in results["rows"] if "law_distance" in row]
    assert {row["question"] for row in swept} >= {"default", "timesteps", "metrics", "bits"}
    assert all(row["law_distance"] == pytest.approx(0, abs=1e-12) for row in swept)
    coarse = replace(study)
    sweep = replace(study.sweep, edges=sweep_edges(study.pool.timesteps, 3))
    coarse.__dict__.update(pool=study.pool, sweep=sweep)
    recipe = study.recipe.replace(calibration={"timesteps": "single", "law_options": {"t": 0.5}})
    case = Case("q", "v", {"calibration": SWEEP, "recipe": recipe.to_dict()}, no_facts)
    # the two visits in the middle share a band: one of them has the law's whole mass, half of it in the mixture
    assert row_of(coarse, Store(tmp_path), case)["law_distance"] == pytest.approx(0.5)


def test_the_search_for_sensitive_layers_is_of_one_recipe(study: Study) -> None:
    other = replace(study)
    recipe = study.recipe.replace(float_share=0.0)
    other.__dict__.update(pool=study.pool, sweep=study.sweep, recipe=recipe, rounded_layers=study.rounded_layers)
    assert study.sensitive["left_in_float"] and other.sensitive["left_in_float"] == {}
    again = replace(study)
    again.__dict__.update(pool=study.pool, sweep=study.sweep)
    assert again.sensitive == study.sensitive and "rounded_layers" not in vars(again)


def test_without_an_extractor_rows_are_others_and_have_no_perceptual_distance(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("needs efficientnet")

    assert study.extractor is not None
    monkeypatch.setattr(extractor, "make_extractor", missing)
    assert extractor.find_extractor(3) == (None, "needs efficientnet")
    assert extractor.find_extractor(4) == (None, "the extractor sees pictures of 1 or 3 channels, and these have 4")
    blind, case = replace(study), default_case(study)
    assert blind.extractor is None
    assert key_of(blind, case) != key_of(study, case)
    facts = Case("q", "v", {}, no_facts)
    assert key_of(blind, facts) == key_of(study, facts)
    pictures = torch.rand(2, 3, 8, 8)
    assert measured(None, pictures, pictures, None)["picture"].keys() == {"psnr"}
    assert measured(None, pictures, pictures, study.extractor)["picture"]["perceptual"]["identical"] == 2


def test_an_interruption_anywhere_loses_no_finished_part(
    pipe: DDPMPipeline, sizes: Settings, results: dict[str, Any], tmp_path: Path
) -> None:
    """Each run is stopped in another part of the work; the next goes on, and makes none of the parts before again."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    def run() -> dict[str, Any]:
        study = Study(open_pipeline(pipe), sizes, tmp_path)
        return row_of(study, Store(tmp_path), default_case(study))

    saved = [(pool, "walked"), (sensitive, "shares_within"), (float_walk, "walk")]
    for index, (module, name) in enumerate([*saved, (cases, "errors_along"), (cases, "sample_with")]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, stop)
            for done, made in saved[: max(0, index - 1)]:
                patch.setattr(done, made, lambda *args, **kwargs: pytest.fail("made again"))
            with pytest.raises(KeyboardInterrupt):
                run()
        assert not list(tmp_path.glob("rows/*/*"))
    (wanted,) = (row for row in results["rows"] if row["question"] == "default")
    assert run()["per_picture"]["relative_l2"] == pytest.approx(wanted["per_picture"]["relative_l2"], rel=1e-5)


def test_trajectories_that_were_walked_before_an_interruption_are_not_walked_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, walked = pool.walked, []

    def second_stops(*args: Any) -> Any:
        walked.append(args[3])
        if len(walked) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(pool, "walked", second_stops)
    own = Study(study.pipeline, study.settings, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _ = own.pool
    found = own.pool
    assert len(walked) == 3 and walked[1] == walked[2] != walked[0]
    assert torch.allclose(found.x_t, study.pool.x_t, atol=1e-5)
