import pytest
import torch
from diffusers.models.attention_processor import Attention, CustomDiffusionAttnProcessor
from tiny import tiny_unet
from torch import nn

from ptq4dm.errors import RecipeError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.plan import float_by_method, leave_out, make_plan


class Quiet(nn.Conv2d):
    """A subclass that computes what its base does."""


class Loud(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, input):
        return super().forward(input) * 2


def zoo() -> nn.Module:
    network = nn.Module()
    network.conv1, network.conv3 = nn.Conv1d(2, 2, 3), nn.Conv3d(2, 2, 1)
    network.ring = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
    network.up, network.table = nn.ConvTranspose2d(2, 2, 2), nn.Embedding(4, 2)
    network.quiet, network.loud = Quiet(2, 2, 1), Loud(2, 2)
    network.attention = nn.MultiheadAttention(4, 2)
    network.hooked = nn.Linear(2, 2)
    network.hooked.register_forward_hook(lambda *_: None)
    network.norm, network.act = nn.GroupNorm(1, 2), nn.SiLU()
    network.twin = network.again = nn.Linear(3, 3)
    return network


def reasons(plan) -> dict[str, str]:
    return {item.name: item.reason for item in plan}


def test_everything_is_quantized_or_has_a_reason():
    plan = make_plan(zoo())
    found = reasons(plan)
    assert {item.name for item in plan if item.quantized} == {"conv1", "conv3", "up", "quiet", "twin"}
    assert all(bool(item.reason) != item.quantized for item in plan)
    for name, word in (
        ("ring", "circular"),
        ("table", "Embedding has no INT8"),
        ("loud", "Loud computes something of its own"),
        ("attention", "MultiheadAttention has no INT8"),
        ("attention.out_proj", "read by MultiheadAttention"),
        ("hooked", "hooks"),
    ):
        assert word in found[name]
    assert not {"norm", "act", "again"} & set(found)


def test_a_unet_is_quantized_whole_attention_too():
    network = tiny_unet()
    plan = make_plan(network)
    expected = {name for name, module in network.named_modules() if type(module) in (nn.Conv2d, nn.Linear)}
    assert {item.name for item in plan if item.quantized} == expected
    assert any("to_q" in name for name in expected)
    found = float_by_method(network)
    assert found["GroupNorm"] == sum(isinstance(module, nn.GroupNorm) for module in network.modules())
    assert found["attention products and softmax"] > 0 and "Conv2d" not in found


def test_patterns_keep_layers_and_blocks():
    network = tiny_unet()
    found = reasons(make_plan(network, ("conv_in", "time_embedding", "*.to_q")))
    kept = {name for name, reason in found.items() if reason}
    assert kept == {"conv_in", *(n for n in found if n.startswith("time_embedding.") or n.endswith(".to_q"))}
    assert found["conv_in"] == "kept in float by the pattern 'conv_in'"
    assert "again" in reasons(make_plan(zoo(), ("again",)))["twin"]
    with pytest.raises(RecipeError, match=r"'conv_inn' matches no layer: did you mean conv_in\b"):
        make_plan(network, ("conv_inn",))


def test_layers_never_called_and_layers_a_backend_cannot_express():
    network = tiny_unet()
    called = [item.name for item in make_plan(network)][1:]
    plan = make_plan(network, statistics=called)
    assert reasons(plan)["conv_in"] == "never called during calibration" and not reasons(plan)["conv_out"]
    left = leave_out(plan, {"conv_out": "the engine cannot"})
    assert reasons(left)["conv_out"] == "the engine cannot" and not left[-1].quantized


def test_a_network_that_is_one_layer_cannot_be_rewritten():
    (item,) = make_plan(nn.Linear(2, 2))
    assert not item.quantized and "one layer" in item.reason


def test_macs_of_known_layers():
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        nn.Flatten(2),
        nn.Linear(25, 6),
        nn.Linear(6, 6, bias=False),
        nn.ConvTranspose1d(8, 4, 3, stride=2, groups=2),
    )
    for batch in (1, 3):
        macs = count_macs(network, Call((torch.randn(batch, 4, 10, 10),)))
        assert macs == {"0": 8 * 25 * 2 * 9, "2": 8 * 6 * 25, "3": 8 * 6 * 6, "4": 6 * 8 * 2 * 3}
    plan = make_plan(network, macs=macs)
    assert [item.macs for item in plan] == list(macs.values())


def test_macs_against_the_flop_counter_of_torch():
    from torch.utils.flop_counter import FlopCounterMode

    network, x, t = tiny_unet(attention=False), torch.randn(2, 3, 16, 16), torch.tensor([3, 5])
    with FlopCounterMode(display=False) as counter:
        network(x, t)
    assert sum(count_macs(network, Call((x, t))).values()) * 2 * 2 == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_layers_whose_weights_an_attention_processor_reads_stay_in_float():
    processor = CustomDiffusionAttnProcessor(hidden_size=16, cross_attention_dim=8)
    attention = Attention(16, cross_attention_dim=8, heads=2, dim_head=8, processor=processor)
    plan = make_plan(nn.ModuleDict({"attn": attention}))
    reasons = {layer.name.removeprefix("attn."): layer.reason for layer in plan}
    told = "its weight is read by CustomDiffusionAttnProcessor directly"
    assert reasons == {
        **dict.fromkeys(("to_k", "to_v", "to_out.0"), ""),
        **dict.fromkeys(("to_q", "processor.to_k_custom_diffusion", "processor.to_v_custom_diffusion"), told),
        **dict.fromkeys(("processor.to_q_custom_diffusion", "processor.to_out_custom_diffusion.0"), ""),
    }


def test_narrow_layers_stay_in_float_with_the_reason():
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Linear(16, 16), nn.Linear(16, 7))
    plan = make_plan(network, min_channels=8)
    assert [layer.quantized for layer in plan] == [False, True, True, False]
    assert plan[0].reason.startswith("only 3 channels (min_channels = 8)") and plan[3].reason.startswith("only 7")
    assert all(layer.quantized for layer in make_plan(network))
