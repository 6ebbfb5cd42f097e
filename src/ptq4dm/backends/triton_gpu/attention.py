"""Attention around layers in INT8: queries, keys and values of integers, and a residual that the last product adds.

A processor of attention is diffusers' own place for this. It reads what a normalisation in front gives: integers for
all three layers, or, where they round apart, integers for each (`rounded_norms`).
"""

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu.blocks import hooked
from ptq4dm.backends.triton_gpu.layers import TritonLayer, plus, tokens
from ptq4dm.errors import BackendError

Read = Tensor | tuple[Tensor, Tensor, Tensor]
"""What queries, keys and values are made of: one tensor for all, or one for each."""


class Int8AttnProcessor:
    """`AttnProcessor2_0` for layers in INT8."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Read,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """The output of `attn`, plus `added`, (batch, places, channels), where its block adds that.

        hidden_states: (batch, places, channels) or (batch, channels, height, width), floats, or integers where a
        normalisation rounds for queries, keys and values.
        """
        query, key, value = (
            in_heads(layer(read), attn.heads)
            for layer, read in zip(
                (attn.to_q, attn.to_k, attn.to_v), read_by(attn, hidden_states, encoder_hidden_states)
            )
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, key.shape[2], len(key))
            attention_mask = mask.view(len(key), attn.heads, -1, mask.shape[-1])
        met = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        residual = hidden_states if attn.residual_connection and isinstance(hidden_states, Tensor) else added
        y = plus(attn.to_out[0], met.transpose(1, 2).flatten(2).to(query.dtype), residual)
        if isinstance(hidden_states, Tensor) and hidden_states.dim() == 4:
            y = y.transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        return y if attn.rescale_output_factor == 1 else y / attn.rescale_output_factor


def in_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, places, channels) as (batch, heads, places, channels of a head). torch refuses a batch of no samples, as
    in diffusers' own processor."""
    return x.view(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2)


def read_by(attn: Any, hidden_states: Read, context: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What the layers of queries, keys and values read, (batch, places, channels) each. context: other keys, if any."""
    if isinstance(hidden_states, tuple):
        return hidden_states
    read = tokens(hidden_states)
    if attn.group_norm is not None:
        normalised: Read = attn.group_norm(read.transpose(1, 2))
        if isinstance(normalised, tuple):
            query, key, value = normalised
            return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        read = normalised.transpose(1, 2)
    if context is None:
        return read, read, read
    if len(context) != len(read):
        raise BackendError(f"attention of {len(read)} samples was called with the states of {len(context)}")
    context = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
    return read, context, context


def adds_for_its_block(attention: Attention) -> bool:
    """Whether an attention takes what its block adds: asked at each call, since others may set processors and hooks."""
    return on_kernels(attention) and not attention.residual_connection


def on_kernels(attention: Attention) -> bool:
    """Whether an attention has the processor for layers in INT8 now, and nothing watches what it is given."""
    return type(attention.processor) is Int8AttnProcessor and not hooked(attention)


def attend_on_kernels(network: nn.Module) -> None:
    """Give the processor to every attention of a network that it fits and that has a layer in INT8."""
    for module in network.modules():
        if type(module) is Attention and fitting(module) and any(map(in_int8, layers_of(module))):
            module.set_processor(Int8AttnProcessor())  # pyright: ignore[reportArgumentType] (a processor of our own)


def fitting(attention: Attention) -> bool:
    """Whether `Int8AttnProcessor` does what an attention's own processor does."""
    if type(attention.processor) is not AttnProcessor2_0 or not self_contained(attention) or not attention.to_out:
        return False
    rescaled = attention.rescale_output_factor != 1 and not attention.residual_connection
    return not rescaled and type(attention.to_out[1]) is nn.Dropout and not any(map(hooked, layers_of(attention)))


def layers_of(attention: Attention) -> list[nn.Module]:
    """What makes queries, keys and values, and the last layer."""
    return [*inputs_of(attention), *([attention.to_out[0]] if attention.to_out else [])]


def inputs_of(attention: Attention) -> list[nn.Module]:
    """What makes queries, keys and values."""
    return [layer for layer in (attention.to_q, attention.to_k, attention.to_v) if layer is not None]


def self_contained(attention: Attention) -> bool:
    """Whether an attention reads what it is given in those layers alone."""
    known = type(attention.processor) in (AttnProcessor, AttnProcessor2_0, Int8AttnProcessor)
    return known and attention.spatial_norm is None and not hooked(attention)


def in_int8(layer: nn.Module) -> bool:
    """Whether a layer is on the kernels and nothing watches it."""
    return isinstance(layer, TritonLayer) and not hooked(layer)
