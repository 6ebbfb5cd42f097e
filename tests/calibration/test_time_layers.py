"""Layers that follow the time-step alone are counted at every visited time-step, whatever was drawn."""

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from families import FAMILIES
from torch import nn

import ptq4dm
from ptq4dm.calibration.in_pipeline import statistics_in_pipeline
from ptq4dm.calibration.time_layers import layers_of_time, mixed
from ptq4dm.pipelines.conditions import run_inputs
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.denoisers import watch_run, with_found
from ptq4dm.quantization.plan import make_plan, planned
from ptq4dm.recipe import CalibrationRecipe

STEPS = 4


def calibrated(name, recipe):
    """Run, statistics and facts of a tiny family."""
    source = FAMILIES[name].build()
    conditions = [{key: value for key, value in FAMILIES[name].inputs(1).items() if key != "output_type"}]
    pipeline = ptq4dm.open_pipeline(source)
    run = watch_run(pipeline, run_inputs(source, conditions, [0], recipe.steps) or {})
    pipeline = with_found(pipeline, run)
    layers = {key: planned(make_plan(network, min_channels=8)) for key, network in pipeline.denoisers.items()}
    return run, *statistics_in_pipeline(pipeline, run, conditions, recipe, layers, 4, shown=False)


LATE = CalibrationRecipe(samples=2, steps=STEPS, batch_size=2, timesteps="single", law_options={"t": 999})


def test_the_embedding_of_every_visited_time_step_is_counted():
    run, statistics, facts = calibrated("stable-diffusion-image-to-image", LATE)
    times = torch.tensor([visit.timestep for visit in run.visits])
    assert len(times) == STEPS and set(facts["visited_timesteps"]["unet"]) == {float(times.max())}
    embedded = get_timestep_embedding(times, 16, flip_sin_to_cos=True, downscale_freq_shift=0)  # as diffusers' UNets
    item = statistics["unet"]["time_embedding.linear_1"]
    assert float(item.low.min()) == pytest.approx(float(embedded.min()), abs=1e-6)
    assert float(item.high.max()) == pytest.approx(float(embedded.max()), abs=1e-6)
    # guided: two rows a visit of the first run, and of each of the two pictures at its own time-step
    assert int(item.positions.sum()) == 2 * STEPS + 2 * 2
    wanted = 2 * embedded.double().sum(0) + 4 * embedded[times.argmax()].double()
    torch.testing.assert_close(item.channel_sum.sum(0), wanted, rtol=1e-5, atol=1e-5)
    picture = statistics["unet"]["down_blocks.0.resnets.0.conv1"]
    assert int(picture.positions.sum()) == 2 * 2 * 8 * 8  # only where its pictures are looked at


@pytest.mark.parametrize(
    ("name", "component", "found", "others"),
    [
        (
            "stable-diffusion-xl",
            "unet",
            ("time_embedding.linear_1", "time_embedding.linear_2", "mid_block.resnets.0.time_emb_proj"),
            ("add_embedding.linear_1", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"),
        ),
        ("dit", "transformer", ("transformer_blocks.0.norm1.linear",), ("transformer_blocks.0.attn1.to_q",)),
        ("stable-cascade-prior", "prior", ("down_blocks.0.1.mapper",), ("clip_txt_mapper",)),
    ],
)
def test_which_layers_follow_the_time_step(name, component, found, others):
    _, _, facts = calibrated(name, LATE)
    layers = facts["layers_of_time"][component]
    assert set(found) <= set(layers) and not set(others) & set(layers)


class Net(nn.Module):
    """One layer of each kind: of the time-step, of the picture, of both, of a prompt."""

    def __init__(self):
        super().__init__()
        self.time, self.picture, self.both, self.prompt = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x, t, prompt):
        embedding = torch.sin(t.reshape(-1, 1) * torch.arange(1, 5))
        self.picture(x)
        return self.both(x + self.time(embedding)) + self.prompt(prompt)


def test_what_follows_the_picture_or_nothing_is_no_layer_of_time():
    torch.manual_seed(0)
    prompt = torch.randn(2, 4)
    first = Call((torch.randn(2, 4), torch.tensor(900.0)), {"prompt": prompt})
    last = Call((torch.randn(2, 4), torch.tensor(100.0)), {"prompt": prompt.clone()})
    assert layers_of_time(Net(), first, last, ("time", "picture", "both", "prompt")) == ("time",)
    assert layers_of_time(Net(), first, first, ("time", "picture")) == ()
    assert mixed(first, Call((torch.randn(3, 4), last.args[1]), last.kwargs)) is None  # a batch of another size
    taken = mixed(first, last)
    assert taken is not None and taken.args[0] is last.args[0] and taken.args[1] is first.args[1]
