"""Operations of a network that predicts variances: its variance row is measured where a sampler follows them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from tiny import tiny_unet

from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.studies import Settings, run_study
from ptq4dm.studies.operations import VARIANCE, why_not
from ptq4dm.studies.study import Study
from ptq4dm.studies.verdict import outputs_do_no_harm


@pytest.fixture(scope="module")
def learned() -> UNet2DModel:
    config: dict[str, Any] = dict(tiny_unet((4,), 8, attention=False, add_attention=False).config)
    return UNet2DModel.from_config(config | {"out_channels": 6}).eval().requires_grad_(False)


def test_the_variance_is_rounded_where_a_sampler_follows_it(
    learned: UNet2DModel, sizes: Settings, tmp_path: Path
) -> None:
    pipeline = DDPMPipeline(learned, DDPMScheduler(variance_type="learned_range"))
    own = replace(sizes, pictures=2, steps=3, kept_calls=3, trajectories=2, batch_size=2)
    results = run_study(pipeline, tmp_path, settings=own, only=["operations"])
    rows = {row["variant"]: row for row in results["rows"] if row["question"] == "operations"}
    row = rows[VARIANCE]
    assert row["sampler"] == "ddpm" and row["baseline"] == rows["default recipe, ddpm-3"]["key"]
    assert 0 < row["call"]["relative_l2"]["mean"] < 0.1 and row["call"]["relative_l2"]["difference"]
    assert row["picture"]["psnr"]["mean"] < 100 and row["picture"]["psnr"]["identical"] == 0
    assert rows["output ε"]["sampler"] == "ddim"
    found = {(row["question"], row["variant"]): row for row in results["rows"]}
    compared = [(item.first, item.second) for item in outputs_do_no_harm(found)[1]]
    under_ddpm = ("x_{t-1}, ddpm-3", VARIANCE, "posterior mean μ")
    assert compared[:4] == [("x_{t-1}", "w8a8-paper"), *((name, "w8a8-paper, ddpm-3") for name in under_ddpm)]
    assert compared[4:] == [("x_{t-1}", "default"), *((name, "default recipe, ddpm-3") for name in under_ddpm)]


def test_a_variance_that_no_scheduler_follows_is_not_applicable(
    learned: UNet2DModel, sizes: Settings, tmp_path: Path
) -> None:
    study = Study(open_pipeline(DDPMPipeline(learned, DDPMScheduler())), sizes, tmp_path)
    assert why_not(study, VARIANCE).endswith("follows no predicted variance (variance_type = 'fixed_small')")
    assert why_not(study, "softmax") == "the network has no softmax" and why_not(study, "SiLU") == ""
