"""A plan from end to end: what it says is what `quantize` with its recipe gives."""

import itertools
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler
from tiny import tiny_unet

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.errors import ModelError, RecipeError
from ptq4dm.evaluation.fidelity import compare_calls
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.quantization.plan import planned
from ptq4dm.recipe import Recipe, recipe_from_dict
from ptq4dm.studies import mixed_plan
from ptq4dm.studies.mixed_plan import MEASURED, MixedPlan, Planner, plan_recipe

START = """
[calibration]
samples = 4
steps = 2
[weights]
error_feedback = false
"""


@pytest.fixture(scope="module")
def pipe() -> DDPMPipeline:
    """Few layers on small pictures: a plan quantizes the network twice, and each layer alone."""
    pipeline = DDPMPipeline(tiny_unet((8,), 8, attention=False, add_attention=False), DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_from_dict(tomllib.loads(START))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def two(pipe: DDPMPipeline, recipe: Recipe, work: Path) -> MixedPlan:
    return plan_recipe(pipe, recipe, keep_float=2, work=work)


def test_the_measured_figure_is_that_of_quantize_with_the_file(
    pipe: DDPMPipeline, two: MixedPlan, tmp_path: Path
) -> None:
    path = two.save(tmp_path / "mixed.toml")
    assert ptq4dm.load_recipe(path) == replace(two.recipe, name="mixed")
    model = ptq4dm.quantize(pipe, path)
    errors = compare_calls(open_pipeline(pipe), {"it": model.network}, "ddim", 2, MEASURED, 8).errors["it"]
    assert two.measured == pytest.approx(float(errors.relative_l2.mean()), rel=1e-3)
    inside = planned(model.plan)
    assert not set(two.kept) & set(inside) and len(inside) == len(two.sensitivity.shares) - 2
    macs = {layer.name: layer.macs or 0 for layer in model.plan}
    in_float = sum(macs[layer.name] for layer in model.plan if not layer.quantized)
    assert two.float_macs == pytest.approx(in_float / sum(macs.values()))


def test_the_file_says_what_was_found(two: MixedPlan) -> None:
    text = two.text()
    assert "2 of " in text and f"{100 * two.measured:.3g} % measured on 16 held-out calls" in text
    assert f"({100 * two.predicted:.3g} % expected)" in text
    for name in two.kept:
        share = f"{100 * two.sensitivity.share(name):.3g} % of the error"
        assert f'    "{name}",  # {share}' in text
    assert two.measured < two.sensitivity.all_int8
    best = sorted(two.sensitivity.shares.values())[-2:]
    assert sorted(two.sensitivity.shares[name] for name in two.kept) == best


def test_layers_are_added_until_the_measured_error_meets_the_target(
    two: MixedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans measure 1.3 times what is expected of them: the cheapest that should do does not."""
    tried: list[set[str]] = []

    def measured(self: Planner, names: list[str]) -> MixedPlan:
        tried.append(set(names))
        expected = self.sensitivity.predicted(names)
        return replace(two, kept=tuple(names), predicted=expected, measured=1.3 * expected)

    monkeypatch.setattr(Planner, "plan", measured)
    known = two.sensitivity
    planner = Planner(*[None] * 2, None, known, None, False)  # type: ignore[arg-type]
    assert planner.meet(1.3 * known.all_int8).kept == ()
    tried.clear()
    target = 0.9 * known.all_int8
    found = planner.meet(target)
    assert found.measured <= target and len(tried) > 1
    assert tried[0] == set(known.cheapest(target) or []) and all(a < b for a, b in itertools.pairwise(tried))
    with pytest.raises(RecipeError, match=r"cannot be reached: with all but one of the \d+ layers .* is 0.0"):
        planner.meet(known.floor * 0.5)


def test_budgets_that_no_plan_can_have_are_told_before_the_work(
    pipe: DDPMPipeline, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("calibrated")

    monkeypatch.setattr(mixed_plan, "collect", refuse)
    budgets: list[tuple[dict[str, Any], str]] = [
        ({}, "neither of keep_float and target_l2"),
        ({"keep_float": 1, "target_l2": 0.1}, "both of keep_float and target_l2"),
        ({"keep_float": 0}, "keep_float = 0"),
        ({"target_l2": 2.0}, "target_l2 = 2.0: accepted is a relative L2 between 0 and 1"),
        ({"keep_float": 999}, r"keep_float = 999, but the recipe rounds \d+ layers of .*: accepted are 1 to \d+"),
    ]
    for options, says in budgets:
        with pytest.raises(RecipeError, match=says):
            plan_recipe(pipe, recipe, **options)
    with pytest.raises(RecipeError, match="a callable, which no file can hold"):
        plan_recipe(pipe, recipe.replace(ranges={"metric": lambda *_: None}), keep_float=1)
    with pytest.raises(ModelError):
        plan_recipe("no-such-folder", recipe, keep_float=1)


def test_a_target_from_the_command_line_goes_on_from_the_ranking_that_is_there(
    pipe: DDPMPipeline,
    two: MixedPlan,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("ranked again")

    monkeypatch.setattr(mixed_plan, "measure_sensitivity", refuse)
    model, start, out = tmp_path / "model", tmp_path / "start.toml", tmp_path / "mixed.toml"
    pipe.save_pretrained(model)
    start.write_text(START)
    command = ["plan", str(model), "--out", str(out), "--recipe", str(start), "--work", str(work)]
    target = two.measured * 1.1
    assert main([*command, "--target-l2", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["measured"] <= target and f"# Relative L2 of a call: {100 * found['measured']:.3g} %" in out.read_text()
    )
    kept = [layer["layer"] for layer in found["kept"]]
    assert kept and list(ptq4dm.load_recipe(out).keep_float) == kept
    for wrong, says in (
        (command, "one of the arguments --keep-float --target-l2 is required"),
        ([*command, "--keep-float", "2", "--target-l2", "0.1"], "not allowed with"),
        ([*command, "--keep-float", "none"], "'none' should be a whole number of at least 1"),
        (["plan", str(model), "--out", "x.json", "--keep-float", "1"], "name a .toml file"),
    ):
        assert exit_code(wrong) == 2
        assert says in capsys.readouterr().err


def exit_code(command: list[str]) -> int:
    """What the command line ends with, mistakes of its parser too."""
    try:
        return main(command)
    except SystemExit as end:
        return int(end.code or 0)
