"""The whole of a calibration calls the denoiser no more than running the pipeline for the same pictures does."""

from typing import Any

import torch
from families import FAMILIES
from torch import nn

import ptq4dm
from ptq4dm.calibration.cost import batch_within, calls_left, counting_rows, rows_of, steps_of_runs
from ptq4dm.cli.main import main
from ptq4dm.pipelines.denoiser import Call

SAMPLES, STEPS = 12, 6
PROMPTS = ["a cat", "a dog", "a tree"]


def counted(network, work):
    """Rows that entered the network while `work` ran, by a hook of the test's own."""
    rows = []
    handle = network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
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


def test_rows_and_what_is_left_of_them():
    network = nn.Linear(3, 3)
    with counting_rows({"net": network}) as rows:
        network(torch.zeros(5, 3))
        network(input=torch.zeros(2, 3))
    network(torch.zeros(9, 3))
    assert rows == {"net": 7} and not network._forward_pre_hooks
    assert rows_of([Call((torch.zeros(2, 3),)), Call((torch.tensor(1), torch.zeros(4, 3)))]) == 4
    assert [calls_left(10, made, 2) for made in (0, 7, 10, 13)] == [5, 1, 0, 0]


def test_few_pictures_share_no_run_that_would_cost_more_than_they_do_alone():
    ends = [0, 3, 5, 9]  # of 10 visits
    assert [steps_of_runs(ends, size) for size in (1, 2, 4)] == [1 + 4 + 6 + 10, 2 * 4 + 2 * 10, 4 * 10]
    assert batch_within(ends, 4, 10) == 1  # 28 + 10 + 6 are more than 40
    assert batch_within(ends, 2, 20) == 2
    many = list(range(10)) * 20
    assert batch_within(sorted(many), 32, 10) == 32
    assert batch_within([9, 9], 2, 10) == 1  # nothing is skipped: no batch keeps it within
