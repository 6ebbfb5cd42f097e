"""The whole of a calibration calls the denoiser no more than running the pipeline for the same pictures does."""

from itertools import product
from typing import Any

import pytest
import torch
from families import FAMILIES
from families.proof import conditions
from torch import nn

import ptq4dm
from ptq4dm.calibration.cost import Cost, calls_left, costs_of, counting_rows, rows_of, runs_within
from ptq4dm.cli.main import main
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.denoisers import Run, Visit
from ptq4dm.quantization.macs import count_macs

SAMPLES, STEPS = 12, 6
PROMPTS = ["a cat", "a dog", "a tree"]


def counted(network, work):
    """Rows that entered the network while `work` ran, by a hook of the test's own."""
    rows = []
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len((*args, *kwargs.values())[0])), with_kwargs=True
    )
    result = work()
    handle.remove()
    return sum(rows), result


def test_all_calls_together_are_at_most_those_of_running_it(tmp_path, capsys):
    pipeline: Any = FAMILIES["stable-diffusion"].build()
    asked = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": SAMPLES, "steps": STEPS, "batch_size": SAMPLES})
    plain = {"num_inference_steps": STEPS, "output_type": "latent"}
    running, _ = counted(pipeline.unet, lambda: pipeline(prompt=PROMPTS * (SAMPLES // 3), **plain))
    given = [{"prompt": prompt} for prompt in PROMPTS]
    made, model = counted(pipeline.unet, lambda: ptq4dm.quantize(pipeline, asked, conditions=given))
    facts = model.facts["calibration"]
    assert facts["rows_made"] == {"unet": made} and facts["rows_of_running"] == {"unet": running}
    assert facts["sensitivity_calls"] > 0
    assert made <= running == 2 * SAMPLES * (STEPS + 1)  # its scheduler makes one step more
    assert main(["inspect", str(model.save(tmp_path / "int8"))]) == 0
    assert f"in all {made} rows through the denoisers, and {running} if the pipeline were" in capsys.readouterr().out


def test_rows_of_batches():
    network = nn.Linear(3, 3)
    with counting_rows({"net": network}) as rows:
        network(torch.zeros(5, 3))
        network(input=torch.zeros(2, 3))
    network(torch.zeros(9, 3))
    assert rows == {"net": 7} and not network._forward_pre_hooks
    assert rows_of([Call((torch.zeros(2, 3),)), Call((torch.tensor(1), torch.zeros(4, 3)))]) == 4


@pytest.mark.parametrize(("pictures", "law"), [(4, "ndtc"), (20, "ndtc"), (4, "single")])
def test_two_denoisers_together_cost_no_more_than_running_them(pictures, law):
    family = FAMILIES["wan-two-stages"]
    pipeline: Any = family.build()
    options = {"t": 0} if law == "single" else {}  # the last time-step of all: no step can be skipped
    asked = ptq4dm.load_recipe("w8a8").replace(
        calibration={"samples": pictures, "steps": 4, "batch_size": 8, "timesteps": law, "law_options": options}
    )
    given = conditions(family, pictures)

    def run_all():
        for one in given:
            pipeline(**one, num_inference_steps=4, output_type="latent")

    def of_both(work):
        first, (second, result) = counted(pipeline.transformer, lambda: counted(pipeline.transformer_2, work))
        return {"transformer": first, "transformer_2": second}, result

    running, _ = of_both(run_all)
    made, model = of_both(lambda: ptq4dm.quantize(pipeline, asked, conditions=given))
    facts = model.facts["calibration"]
    assert facts["rows_made"] == made and facts["rows_of_running"] == running
    assert sum(made.values()) <= sum(running.values())
    assert len(facts["visited_timesteps"]["transformer"]) == pictures
    assert facts["pictures_drawn"] >= pictures - 2


def test_multiply_adds_counted_in_the_first_run_are_those_of_a_call():
    pipeline: Any = FAMILIES["stable-diffusion"].build()
    asked = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 2, "steps": 2, "batch_size": 2})
    model = ptq4dm.quantize(pipeline, asked, conditions=[{"prompt": "a cat"}])
    example = model.denoisers["unet"].example
    assert example is not None
    assert {layer.name: layer.macs for layer in model.plan if layer.macs} == count_macs(pipeline.unet, example)


def test_what_is_left_is_divided_among_those_that_wait():
    running, macs = {"a": 100, "b": 300}, {"a": 1, "b": 1}
    assert calls_left(running, {"a": 120, "b": 200}, macs, ("a", "b"), 2) == 10  # a quarter of 80 rows
    assert calls_left(running, {"a": 140, "b": 200}, macs, ("b",), 2) == 30
    assert calls_left(running, {"a": 200, "b": 200}, macs, ("a", "b"), 2) == 0
    assert calls_left(running, {"a": 201, "b": 200}, macs, ("a", "b"), 2) == 0
    # a row of a costs three of b: 60 multiply-adds are left, all for a, though 60 rows are
    assert calls_left(running, {"a": 120, "b": 180}, {"a": 3, "b": 1}, ("a",), 2) == 10


def spent(cost, ends, size, spared):
    """What runs of `size` pictures cost, drawn one by one."""
    kept = [end for place, end in enumerate(ends) if not len(ends) - 1 - spared <= place < len(ends) - 1]
    total = cost.beside
    while kept:
        group, kept = kept[:size], kept[size:]
        total += sum(cost.until[max(group)] for _ in group)
    return total


def test_the_largest_runs_are_taken_that_cost_no_more_than_running_it():
    cost = Cost(range(1, 11), beside=16, search=4)
    many = sorted(list(range(10)) * 20)
    assert runs_within(many, 32, [cost]) == (32, 0)
    assert runs_within([0, 3, 5, 9], 4, [cost]) == (1, 0)  # 21 + 16 of 40; two in a run would make 28
    assert runs_within([9] * 6, 4, [cost]) == (4, 2)  # nothing is skipped: two pay for what is beside
    assert runs_within([9, 9], 2, [cost]) == runs_within([3], 8, [cost]) == (1, 0)  # nothing pays for it
    for ends, largest in product(([1, 2, 4, 4, 8, 9], [8] * 5, [2, 2, 9], [7, 8, 9, 9]), (1, 2, 8)):
        size, spared = runs_within(ends, largest, [cost])
        assert spent(cost, ends, size, spared) <= 10 * len(ends)
        assert not spared or min(spent(cost, ends, each, spared - 1) for each in (1, 2, 8)) > 10 * len(ends)


def test_what_a_run_costs_by_visit():
    """Two stages of unlike size: two calls of `a` a visit, then one of `b`; one picture's rows are 4 and 3."""
    visits = (Visit("s", 9.0, ("a",)), Visit("s", 5.0, ("b",)), Visit("s", 2.0, ("b",)), Visit("s", 1.0, ("b",)))
    example = {name: Call((torch.zeros(1, 3),)) for name in "ab"}
    run = Run(visits, example, rows={"a": 4, "b": 3})
    (only_b, _), (in_rows, in_macs) = (costs_of(run, {"a": 2}, of) for of in ({"b": 1}, {"a": 100, "b": 1}))
    assert list(only_b.until) == [0, 1, 2, 3] and only_b.beside == 3  # a stays in float
    assert list(in_rows.until) == [4, 5, 6, 7] and in_rows.beside == 7 + 2
    assert list(in_macs.until) == [400, 401, 402, 403] and in_macs.beside == 403 + 200
