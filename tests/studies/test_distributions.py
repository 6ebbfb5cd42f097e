"""Which rows are set against the data: the default and the extremes of each question, once; what is measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline

from ptq4dm.evaluation.distribution import distribution
from ptq4dm.evaluation.features import Extractor
from ptq4dm.pipelines.sampling import sample
from ptq4dm.studies import Settings, cases, distributions, run_study
from ptq4dm.studies.distributions import extremes_of
from ptq4dm.studies.study import Study


def row(question: str, variant: str, error: float | None, psnr: float = 30.0, n: int = 16) -> dict[str, Any]:
    call = {} if error is None else {"relative_l2": {"mean": error}}
    return {"question": question, "variant": variant, "key": f"{variant} {error}", "n": n, "call": call,
            "picture": {"psnr": {"mean": psnr}}, "per_picture": {"picture_psnr": [psnr], **call}}  # fmt: skip


def test_extremes_are_the_best_and_the_worst_row_of_each_question_once() -> None:
    rows = [
        row("default", "default", 0.01),
        row("metrics", "MSE", 0.01),
        row("metrics", "KL", 0.5),
        row("metrics", "L1", 0.2),
        row("bits", "W4A4", 0.4),
        row("bits", "W6A6", 0.3),
        row("samplers", "unipc", 0.9),
        row("samplers", "ddpm of few pictures", 0.95, n=4),
        row("operations", "x_{t-1}", None, 20.0),
        row("operations", "posterior mean μ", None, 25.0),
        row("operations", "SiLU", 0.1),
        row("operations", "w8a8-paper", 0.05),
        {"question": "drift", "variant": "inputs", "key": "d", "facts": {}},
    ]
    rows[1]["key"] = rows[0]["key"]
    assert extremes_of(rows) == [
        ("default", "default"),
        ("operations", "w8a8-paper"),
        ("metrics", "KL"),
        ("bits", "W6A6"),
        ("bits", "W4A4"),
        ("samplers", "unipc"),
        ("operations", "SiLU"),
        ("operations", "posterior mean μ"),
        ("operations", "x_{t-1}"),
    ]


def test_a_model_without_pictures_says_so(
    pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]
) -> None:
    own = replace(sizes, distribution=4)
    found = run_study(pipe, folder, settings=own, only=["samples"])
    distances = [item for item in found["rows"] if item["question"] == "distribution"]
    assert {item["variant"] for item in distances} >= {"default", "samples: 4"}
    assert all("give some (--pictures FOLDER)" in item["not_applicable"] for item in distances)


def test_distances_are_those_of_pictures_of_equal_seeds_and_survive_an_interruption(
    pipe: DDPMPipeline,
    sizes: Settings,
    folder: Path,
    results: dict[str, Any],
    study: Study,
    coarse: Extractor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    own, count, whole = replace(sizes, distribution=4), [0], cases.sample_with

    def third_stops(*args: Any) -> torch.Tensor:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(distributions, "CHUNK", 2)
    monkeypatch.setattr(cases, "sample_with", third_stops)
    with pytest.raises(KeyboardInterrupt):
        run_study(pipe, folder, settings=own, only=["operations"], pictures=data)
    chunks = {path: path.stat().st_mtime_ns for path in folder.glob("distribution/*/*.safetensors")}
    assert len(chunks) == 2
    damaged = sorted(chunks)[0]
    chunks.pop(damaged)
    damaged.write_bytes(damaged.read_bytes()[:50])  # drawn again
    found = run_study(pipe, folder, settings=own, only=["operations"], pictures=data)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in chunks.items())
    distances = {row["variant"]: row for row in found["rows"] if row["question"] == "distribution"}
    assert {"default", "operations: x_{t-1}, ddpm-4", "operations: posterior mean μ"} <= distances.keys()

    verdicts = {item["claim"]: item["verdict"] for item in found["verdicts"]}
    assert verdicts["8 bits lose little or nothing."] == "not decided"  # of 4 pictures no interval is known

    config, shape = study.pipeline.scheduler.config, study.pipeline.picture_shape
    first = sizes.test_seeds[0]

    def drawn(network: Any, sampler: str) -> torch.Tensor:
        return sample(network, sampler, config, shape, range(first, first + 4), 4, 2, shown=False)

    plain, other = (drawn(network, "ddim") for network in (study.pipeline.denoiser, study.default_network))
    wanted = distribution(coarse, plain, other, data / 2 + 0.5, "pictures")
    for got, expected in zip(distances["default"]["facts"]["rows"], wanted["rows"], strict=True):
        assert got["float"] == pytest.approx(expected["float"], rel=1e-3)
        assert got["int8"] == pytest.approx(expected["int8"], rel=1e-3)
    of_mean = distances["operations: posterior mean μ"]["facts"]["rows"]
    plain = drawn(study.pipeline.denoiser, "ddpm")
    wanted = distribution(coarse, plain, plain, data / 2 + 0.5, "pictures")
    assert of_mean[0]["float"] == pytest.approx(wanted["rows"][0]["float"], rel=1e-3)
    assert of_mean[0]["int8"] != of_mean[0]["float"]
