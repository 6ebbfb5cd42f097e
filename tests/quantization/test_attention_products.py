import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.models.attention_processor import Attention, SlicedAttnProcessor
from tiny import tiny_pipeline, tiny_unet

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.errors import ArtifactError, BackendError, BackendWarning, RecipeError
from ptq4dm.quantization.attention_products import (
    OPERANDS,
    AttentionProducts,
    Operand,
    attention_plan,
    product_names,
    put_products,
)

RECIPE = ptq4dm.load_recipe("w8a8-paper").replace(calibration={"samples": 4, "steps": 3, "batch_size": 4})
GENERATOR = torch.Generator().manual_seed(0)


def attention(**options):
    torch.manual_seed(0)
    made = Attention(16, heads=2, dim_head=8, bias=True, **options).double().eval().requires_grad_(False)
    return made


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 2.0}, [normal(2, 16, 3, 5)]),
        ({}, [normal(2, 7, 16)]),
        ({"cross_attention_dim": 12}, [normal(2, 7, 16), normal(2, 5, 12)]),
        ({"cross_attention_dim": 12}, [normal(2, 7, 16), normal(2, 5, 12), normal(2, 1, 5)]),
    ],
    ids=["pictures", "rows", "cross", "mask"],
)
def test_it_computes_what_diffusers_computes(options, inputs):
    own = attention(**options)
    expected = own(*inputs)
    own.set_processor(AttentionProducts(rounded=False))
    torch.testing.assert_close(own(*inputs), expected, rtol=1e-12, atol=1e-12)


def rounded(x, scale, zero_point):
    """An operand as 256 steps show it, from the definition."""
    return (np.clip(np.rint(x / scale) + zero_point, 0, 255) - zero_point) * scale


def test_both_products_are_of_rounded_operands():
    own, x = attention(), normal(2, 7, 16)
    products = AttentionProducts(rounded=True)
    own.set_processor(products)
    settings = {"query": (0.05, 120), "key": (0.03, 131), "weights": (1 / 255, 0), "value": (0.04, 127)}
    for name, (scale, zero_point) in settings.items():
        operand = products.get_submodule(name)
        assert isinstance(operand, Operand)
        operand.input_scale.fill_(scale)
        operand.input_zero_point.fill_(zero_point)
    settings = {name: (float(np.float32(scale)), zero_point) for name, (scale, zero_point) in settings.items()}
    query, key, value = (layer(x).view(2, 7, 2, 8).transpose(1, 2).numpy() for layer in (own.to_q, own.to_k, own.to_v))
    scores = rounded(query, *settings["query"]) @ rounded(key, *settings["key"]).swapaxes(2, 3) / np.sqrt(8)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = rounded(weights, *settings["weights"]) @ rounded(value, *settings["value"])
    expected = own.to_out[0](torch.from_numpy(mixed).transpose(1, 2).reshape(2, 7, 16))
    torch.testing.assert_close(own(x), expected, rtol=1e-6, atol=1e-7)
    assert products.half().query.input_scale.dtype == torch.float32


@pytest.fixture(scope="module")
def quantized():
    return ptq4dm.quantize(tiny_pipeline(attention=True), RECIPE)


def test_the_paper_preset_rounds_every_layer_and_product(quantized):
    network = quantized.network
    assert RECIPE.attention_products and (RECIPE.ranges.metric, RECIPE.ranges.metric_options) == ("lp", {"p": 2.4})
    names = list(attention_plan(tiny_unet(attention=True)))
    assert product_names(network) == names and len(names) == 4
    facts = quantized.denoiser().facts
    assert facts["attention_products"] == dict.fromkeys(names, "")
    assert facts["float_by_method"]["softmax"] == 4
    assert all(layer.quantized for layer in quantized.plan)
    for name in names:
        products = network.get_submodule(f"{name}.processor")
        scales = [products.get_submodule(operand).input_scale for operand in OPERANDS]
        assert all(0 < float(scale) < 1 for scale in scales)
        assert (
            0.5 < 255 * float(products.weights.input_scale) * 8 * 8 < 255
        )  # attention weights of 64 places, in [0, 1]


def test_rounding_the_products_changes_the_answer_a_little(quantized):
    without = ptq4dm.quantize(tiny_pipeline(attention=True), RECIPE.replace(attention_products=False)).network
    float_ = tiny_pipeline(attention=True).unet
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def answer(network):
        return network(x, torch.tensor(400)).sample

    assert not torch.equal(answer(quantized.network), answer(without))
    error = float((answer(quantized.network) - answer(float_)).norm() / answer(float_).norm())
    assert error < 0.1


@pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
def test_it_is_saved_and_opened_by_both(quantized, tmp_path, capsys):
    folder = quantized.save(tmp_path / "int8")
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor(300)
    expected = quantized.network(x, t).sample
    assert torch.equal(ptq4dm.load(folder).network(x, t).sample, expected)
    unet = DiffusionPipeline.from_pretrained(folder).unet
    assert torch.equal(unet(x, t).sample, expected)
    assert main(["inspect", str(folder)]) == 0
    assert "4 of 4 attentions multiply their matrices in 8 bits" in capsys.readouterr().out
    tiny_pipeline(attention=True).save_pretrained(tmp_path / "float")
    with pytest.raises(ArtifactError, match="attention_products"):
        UNet2DModel.from_pretrained(
            tmp_path / "float" / "unet", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder)
        )


def test_engines_refuse_it_and_auto_passes_over_them(quantized, tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(BackendError, match=r"openvino multiplies attention's matrices in float.*backend='simulated'"):
        quantized.to_module("openvino")
    with pytest.warns(BackendWarning, match="passes over openvino"):
        assert quantized.to_module("auto").ptq4dm_backend == "simulated"
    with pytest.raises(BackendError, match="the ONNX export multiplies attention's matrices in float"):
        quantized.export_onnx(tmp_path / "model.onnx")


def test_what_cannot_be_is_said():
    with pytest.raises(RecipeError, match="attention_products = true goes with arithmetic = 'float-out' only"):
        ptq4dm.load_recipe(RECIPE.replace(arithmetic="qdq"))
    with pytest.raises(ArtifactError, match="no attention 'conv_in'"):
        put_products(tiny_unet(attention=True), ["conv_in"])
    network = tiny_unet(attention=True)
    network.mid_block.attentions[0].norm_q = torch.nn.Identity()
    network.up_blocks[0].attentions[0].set_processor(SlicedAttnProcessor(1))
    reasons = attention_plan(network)
    assert reasons["mid_block.attentions.0"] == "it has norm_q, which have no 8-bit form here"
    assert "SlicedAttnProcessor" in reasons["up_blocks.0.attentions.0"]
    model = ptq4dm.quantize_module(network, [((torch.randn(1, 3, 16, 16), torch.tensor(3)), {})], RECIPE)
    assert model.denoiser().facts["attention_products"] == reasons
