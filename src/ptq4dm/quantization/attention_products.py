"""The two matrix products of attention in 8 bits: queries by keys, and attention weights by values.

Each operand is quantized per tensor, asymmetric, with a static scale, as the inputs of layers are (`ptq4dm.numerics`)::

    scores = s_q s_k (q_q - z_q)(q_k - z_k)ᵀ / √d        mixed = s_p s_v (q_p - z_p)(q_v - z_v)

with p = softmax(scores) in float. The sums of the products of integers are exact in float32 up to 2**24. Only the
simulated backend computes this: engines multiply here in float, which cost less time than INT8 where it was measured.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, BackendError
from ptq4dm.numerics import quantize
from ptq4dm.pipelines.denoiser import TimedCall, placement
from ptq4dm.quantization.layers import FixedTypes
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe

OPERANDS: Final = ("query", "key", "weights", "value")
FEATURES: Final = ("spatial_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim")
"""Parts of diffusers' attention that are not computed here."""


class Operand(FixedTypes):
    """One side of a product. Buffers: `input_scale` float32 (); `input_zero_point` uint8 (). As it is made, it lets its
    input through; `rounded`, it gives the centred integers."""

    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, rounded: bool):
        super().__init__()
        self.rounded = rounded
        if rounded:
            self.register_buffer("input_scale", torch.ones(()))
            self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """The input, or q_x - z_x in its dtype."""
        if not self.rounded:
            return x
        zero_point = self.input_zero_point.to(x.dtype)
        return quantize(x, self.input_scale.to(x.dtype), zero_point) - zero_point


class AttentionProducts(nn.Module):
    """Takes the place of a processor of diffusers' `Attention` and computes what it computes, product by product."""

    def __init__(self, rounded: bool):
        super().__init__()
        self.query, self.key, self.weights, self.value = (Operand(rounded) for _ in OPERANDS)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Named arguments, by which diffusers finds out what a processor takes."""
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """(batch, channels, height, width) or (batch, places, channels), attended to."""
        rows = hidden_states.flatten(2).transpose(1, 2) if hidden_states.dim() == 4 else hidden_states
        if attn.group_norm is not None:
            rows = attn.group_norm(rows.transpose(1, 2)).transpose(1, 2)
        others = rows if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, rows), (attn.to_k, others), (attn.to_v, others))
        )
        scores = product(self.query, self.key, query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, others.shape[1], len(rows))
            scores = scores + mask.view(len(rows), attn.heads, -1, mask.shape[-1])
        mixed = product(self.weights, self.value, scores.softmax(-1), value)
        mixed = attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))
        if hidden_states.dim() == 4:
            mixed = mixed.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed / attn.rescale_output_factor


def product(left: Operand, right: Operand, x: Tensor, y: Tensor) -> Tensor:
    """x y, in 8 bits where the operands are rounded, in the dtype of `x`."""
    if not left.rounded:
        return left(x) @ right(y)
    wide = torch.promote_types(x.dtype, torch.float32)
    step = (left.input_scale.float() * right.input_scale.float()).to(wide)
    return (left(x.to(wide)) @ right(y.to(wide)) * step).to(x.dtype)


def attention_plan(network: nn.Module) -> dict[str, str]:
    """Every attention of diffusers in a network, with the reason why its products stay in float ("": they need not)."""
    return {name: reason_for_float(module) for name, module in network.named_modules() if isinstance(module, Attention)}


def reason_for_float(attention: Attention) -> str:
    """Why the products of an attention cannot be quantized, "" if they can."""
    kind = type(attention.processor)
    if kind not in (AttnProcessor, AttnProcessor2_0):
        return f"its processor is a {kind.__name__}: only diffusers' plain ones have an 8-bit form here"
    found = [name for name in FEATURES if getattr(attention, name, None)]
    return f"it has {', '.join(found)}, which have no 8-bit form here" if found else ""


def quantize_products(
    network: nn.Module, calls: Iterable[TimedCall], recipe: RangeRecipe, shown: bool = False
) -> nn.Module:
    """A copy of a network in which the products of all attentions that can be are quantized, with ranges chosen over
    `calls` as those of layers' inputs. One that is never called is left as it is. Raises CalibrationError."""
    names = [name for name, reason in attention_plan(network).items() if not reason]
    if not names:
        return network
    watched = copy.deepcopy(network)
    put_products(watched, names, rounded=False)
    operands = [f"{name}.processor.{operand}" for name in names for operand in OPERANDS]
    table = choose_ranges(observe(watched, operands, calls, shown=shown), recipe, shown=shown)
    rounded = copy.deepcopy(network)
    put_products(rounded, [name for name in names if f"{name}.processor.query" in table.ranges])
    for name, chosen in table.ranges.items():
        operand = rounded.get_submodule(name)
        assert isinstance(operand, Operand)
        operand.input_scale.fill_(chosen.scale)
        operand.input_zero_point.fill_(chosen.zero_point)
    return rounded.eval()


def put_products(network: nn.Module, names: Sequence[str], rounded: bool = True, where: str = "the network") -> None:
    """Give the named attentions a processor that holds nothing yet. Raises ArtifactError that names `where`."""
    modules = dict(network.named_modules())
    for name in names:
        attention = modules.get(name)
        if not isinstance(attention, Attention):
            raise ArtifactError(f"{where}: there is no attention {name!r} in the network: quantize the model again")
        attention.set_processor(AttentionProducts(rounded).to(placement(attention)[0]))  # pyright: ignore[reportArgumentType] (any callable)


def product_names(network: nn.Module) -> list[str]:
    """The attentions of a network whose products are in 8 bits."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, Attention) and is_rounded(module.processor)
    ]


def is_rounded(processor: object) -> bool:
    """Whether a processor of attention multiplies in 8 bits."""
    return isinstance(processor, AttentionProducts) and processor.query.rounded


def refuse_products(network: nn.Module, what: str) -> None:
    """Raise BackendError where `what`, which multiplies in attention in float, is asked for a network that rounds."""
    names = product_names(network)
    if names:
        raise BackendError(
            f"{what} multiplies attention's matrices in float, and {len(names)} attentions of this network do it in 8 "
            "bits: use backend='simulated', or quantize with attention_products = false"
        )
