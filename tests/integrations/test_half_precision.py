"""Pipelines cast latents to the denoiser's dtype: the float32 scales of its first layer must not stand for it."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from families import FAMILIES, run
from families.proof import conditions
from int8_layers import quantized_copy
from tiny import tiny_unet

import ptq4dm
from ptq4dm.backends.registry import prepare
from ptq4dm.errors import BackendError, BackendWarning
from ptq4dm.integrations.marking import marked
from ptq4dm.pipelines.denoiser import call_on, network_on, placement
from ptq4dm.pipelines.sampling import sample
from ptq4dm.quantization.half_layers import HalfLinear

RECIPE = ptq4dm.load_recipe("w8a8").replace(
    min_channels=1,
    float_share=0.0,
    keep_float=("down_blocks", "mid_block", "up_blocks"),  # so that the test is quick
    calibration={"samples": 1, "steps": 2, "batch_size": 1},
)


def test_a_quantized_network_has_the_dtype_of_its_float_part(tmp_path):
    family = FAMILIES["stable-diffusion-image-to-image"]
    source = family.build().to(torch.bfloat16)
    model = ptq4dm.quantize(source, RECIPE, conditions=conditions(family))
    pipeline = model.to_pipeline("simulated")
    first = next(pipeline.unet.parameters())
    assert first is pipeline.unet.conv_in.weight_scale and first.dtype == torch.float32
    assert pipeline.unet.dtype == torch.bfloat16
    pipeline.set_progress_bar_config(disable=True)
    drawn = run(family, pipeline)
    assert torch.isfinite(drawn).all()
    again = ptq4dm.load(model.save(tmp_path / "int8")).to_pipeline("simulated")
    again.set_progress_bar_config(disable=True)
    assert again.unet.dtype == again.vae.dtype == again.text_encoder.dtype == torch.bfloat16
    assert torch.equal(run(family, again), drawn)
    for dtype in (torch.float16, torch.float32):
        assert UNet2DConditionModel.from_pretrained(tmp_path / "int8" / "unet", torch_dtype=dtype).dtype == dtype


def test_layers_with_weights_in_float16_do_not_stand_for_the_network(tmp_path):
    """The first parameters of Flux are those of its first layer of time."""
    family = FAMILIES["flux"]
    kept = RECIPE.replace(keep_float=("transformer_blocks", "single_transformer_blocks"), calibration={"steps": 2})
    ptq4dm.quantize(family.build(), kept, conditions=conditions(family)).save(tmp_path / "int8")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "int8", torch_dtype=torch.bfloat16)
    assert isinstance(pipeline.transformer.time_text_embed.timestep_embedder.linear_1, HalfLinear)
    assert pipeline.transformer.dtype == torch.bfloat16
    pipeline.set_progress_bar_config(disable=True)
    assert torch.isfinite(run(family, pipeline, steps=2)).all()


def test_an_engine_says_that_it_computes_in_float32(model):
    half = copy.deepcopy(model.network).to(torch.bfloat16)
    with pytest.raises(BackendError, match=r"is in torch\.bfloat16, and openvino computes in float32: cast it"):
        prepare(half, None, "openvino", "float-out")
    assert prepare(half, None, "simulated", "float-out") is not None


def test_a_quantized_network_in_half_precision_is_called_in_it(caplog):
    """Its first tensors are scales, which stay in float32."""
    whole = marked(quantized_copy(tiny_unet((8,))), "float-out")
    half = network_on(whole, None, torch.bfloat16)
    assert next(half.parameters()).dtype == torch.float32 and placement(half)[1] == torch.bfloat16
    assert network_on(half, "cpu", torch.bfloat16) is half and placement(whole)[1] == torch.float32
    assert not caplog.records  # diffusers has nothing to say of scales
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 999.0])
    call = call_on(half, ptq4dm.Call((x, t), {"labels": torch.tensor([[1]])}))
    types = [tensor.dtype for tensor in (*call.args, call.kwargs["labels"])]
    assert types == [torch.bfloat16, torch.float32, torch.long]
    assert call_on(whole, ptq4dm.Call((x.double(),))).args[0].dtype == torch.float64
    with pytest.warns(BackendWarning, match=r"passes over openvino: the network is in torch\.bfloat16"):
        chosen = prepare(half, ptq4dm.Call((x, t)), "auto", "float-out")  # which times a call of it
    assert chosen.ptq4dm_backend == "simulated"
    config = DDIMScheduler().config
    drawn = [sample(each, "ddim", config, (3, 16, 16), [1, 2], 3, 2, shown=False) for each in (whole, half)]
    assert 0 < float((drawn[0] - drawn[1]).abs().mean()) < 0.02


def test_layers_alone_have_the_type_that_they_keep():
    layers = quantized_copy(torch.nn.Sequential(torch.nn.Linear(8, 8)))
    assert placement(layers.half()) == (torch.device("cpu"), torch.float32)


def test_what_a_class_keeps_in_float32_is_not_cast():
    """As when diffusers and transformers load in half precision."""

    class Network(torch.nn.Module):
        _keep_in_fp32_modules = ("norm", "table")

        def __init__(self):
            super().__init__()
            self.norm, self.out = torch.nn.LayerNorm(4), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
            self.table = torch.nn.Parameter(torch.zeros(2))
            self.register_buffer("shift", torch.zeros(2))
            self.register_buffer("index", torch.zeros(2, dtype=torch.long))
            self.tied = self.out[0]

    network = Network()
    half = network_on(network, "cpu", torch.float16)
    wanted = {"out.0.weight", "out.0.bias", "shift", "tied.weight", "tied.bias"}
    assert {name for name, tensor in half.state_dict().items() if tensor.dtype == torch.float16} == wanted
    assert half.tied.weight is half.out[0].weight and half.index.dtype == torch.long
    assert placement(half)[1] == torch.float16 and network_on(half, None, torch.float16) is half
    assert placement(network)[1] == torch.float32
