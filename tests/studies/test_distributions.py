"""Which networks are set against the data: the default and the extremes of each question, each once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import DDPMPipeline
from torch import nn

from ptq4dm.studies import Settings, run_study
from ptq4dm.studies.cases import Case
from ptq4dm.studies.distributions import extremes_of


def row(question: str, variant: str, error: float, sampler: str = "ddim") -> dict[str, Any]:
    call = {"relative_l2": {"mean": error}}
    return {"question": question, "variant": variant, "key": f"{variant} {error}", "sampler": sampler, "steps": 50,
            "call": call, "per_picture": {"relative_l2": [error]}}  # fmt: skip


def test_extremes_are_the_best_and_the_worst_row_of_each_question_once() -> None:
    rows = [
        row("default", "default", 0.01),
        row("metrics", "MSE", 0.01),
        row("metrics", "KL", 0.5),
        row("metrics", "L1", 0.2),
        row("bits", "W4A4", 0.4),
        row("bits", "W6A6", 0.3),
        row("samplers", "unipc", 0.9, sampler="unipc"),
        row("operations", "x_{t-1}", 0.0001),
        row("operations", "SiLU", 0.1),
    ]
    rows[1]["key"] = rows[0]["key"]
    cases = {(item["question"], item["variant"]): Case(item["question"], item["variant"], {}, dict, build=nn.Identity)
             for item in rows}  # fmt: skip
    cases["operations", "x_{t-1}"] = replace(cases["operations", "x_{t-1}"], build=None)
    wanted = [("metrics", "KL"), ("bits", "W6A6"), ("bits", "W4A4"), ("operations", "SiLU")]
    assert extremes_of(rows, cases) == wanted


def test_a_model_without_pictures_says_so(
    pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]
) -> None:
    own = replace(sizes, distribution=4)
    found = run_study(pipe, folder, settings=own, only=["samples"])
    distances = [item for item in found["rows"] if item["question"] == "distribution"]
    assert {item["variant"] for item in distances} >= {"default", "samples: 4"}
    assert all("give some (--pictures FOLDER)" in item["not_applicable"] for item in distances)
