"""Attention, feed-forwards and transformers that add their residual in the kernel of their last layer.

Left to torch, the sum reads two tensors and writes one, after the layer has written one of them; here the last product
reads the residual and writes the sum. diffusers' own places for it are used: a processor of attention, and subclasses
of its blocks that differ in these sums alone.
"""

from typing import Any, TypeGuard, TypeVar

import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu.blocks import hooked
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLayer, channels_last, channels_second
from ptq4dm.backends.triton_gpu.rounded_norms import self_contained

Module = TypeVar("Module", bound=nn.Module)


class AddingProcessor:
    """`AttnProcessor2_0`, with the residual added by `to_out`, which is in INT8."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """The output of `attn`, plus `added`, (batch, places, channels), where its block adds that.

        hidden_states: (batch, places, channels) or (batch, channels, height, width), floats, or integers where a
        normalisation rounds for queries, keys and values.
        """
        residual, x = hidden_states if attn.residual_connection else added, tokens(hidden_states)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x
        if encoder_hidden_states is not None:
            context = encoder_hidden_states
            context = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
        query, key, value = (
            layer(read).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, read in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(x))
            attention_mask = mask.view(len(x), attn.heads, -1, mask.shape[-1])
        met = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        y = plus(attn.to_out[0], met.transpose(1, 2).flatten(2).to(query.dtype), residual)
        if hidden_states.dim() == 4:
            y = y.transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        return y if attn.rescale_output_factor == 1 else y / attn.rescale_output_factor


class AddingTransformerBlock(BasicTransformerBlock):
    """A `BasicTransformerBlock` whose attentions and feed-forward add what goes past them."""

    norm1: Any
    norm2: Any
    norm3: Any

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """The block's output, (batch, places, channels); diffusers' own way where the call asks for more than that."""
        if cross_attention_kwargs or self._chunk_size is not None or hidden_states.dim() != 3:
            further: tuple[Any, ...] = (encoder_attention_mask, timestep, cross_attention_kwargs, *args)
            return super().forward(hidden_states, attention_mask, encoder_hidden_states, *further, **kwargs)
        h = hidden_states
        read = encoder_hidden_states if self.only_cross_attention else None
        h = attended(self.attn1, self.norm1(h), read, attention_mask, h)
        if self.attn2 is not None:
            h = attended(self.attn2, self.norm2(h), encoder_hidden_states, encoder_attention_mask, h)
        gate, _, last = self.ff.net  # between them what trains, and does nothing here
        return plus(last, gate(self.norm3(h)), h)


class AddingTransformer2DModel(Transformer2DModel):
    """A `Transformer2DModel` of pictures whose last layer adds its input, and leaves channels last in memory."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        past = channels_last(residual)
        y = plus(self.proj_out, hidden_states, past.flatten(1, 2))
        return channels_second(y.view(past.shape))


def attended(attention: Attention, x: Tensor, context: Tensor | None, mask: Tensor | None, past: Tensor) -> Tensor:
    """attention(x) + past, both (batch, places, channels)."""
    if adds_for_its_block(attention):
        return attention(x, encoder_hidden_states=context, attention_mask=mask, added=past)
    return attention(x, encoder_hidden_states=context, attention_mask=mask) + past


def plus(layer: nn.Module, x: Tensor, residual: Tensor | None) -> Tensor:
    """layer(x) + residual, (batch, places, channels) each or, of the residual, as a picture; in one kernel in INT8."""
    residual = None if residual is None else tokens(residual)
    if isinstance(layer, TritonLayer) and (residual is None or layer.out_type(x) == residual.dtype):
        return layer.product(layer.integers(x), layer.out_type(x), residual=residual)
    return layer(x) if residual is None else layer(x) + residual


def tokens(x: Tensor) -> Tensor:
    """(batch, channels, height, width) as (batch, places, channels), which stays as it is."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def adds_for_its_block(attention: Attention) -> bool:
    """Whether an attention takes what its block adds: asked at each call, since a pipeline may set other processors."""
    return type(attention.processor) is AddingProcessor and not attention.residual_connection


def add_in_kernels(network: nn.Module) -> None:
    """Let the last layers in INT8 of a network's attentions and transformers add. After `round_in_norms`."""
    for name, module in list(network.named_modules()):
        if type(module) is Attention and adding(module):
            module.set_processor(AddingProcessor())  # pyright: ignore[reportArgumentType] (a processor of our own)
        elif name and adding_block(module):
            put(network, name, as_kind(AddingTransformerBlock, module))
        elif name and adding_transformer(module):
            put(network, name, as_kind(AddingTransformer2DModel, module))


def adding(attention: Attention) -> bool:
    """Whether an attention's last layer is in INT8 and all else is as `AddingProcessor` knows it."""
    if type(attention.processor) is not AttnProcessor2_0 or not self_contained(attention) or not attention.to_out:
        return False
    rescaled = attention.rescale_output_factor != 1 and not attention.residual_connection
    return in_int8(attention.to_out[0]) and type(attention.to_out[1]) is nn.Dropout and not rescaled


def adding_block(module: nn.Module) -> TypeGuard[BasicTransformerBlock]:
    """Whether a module is a transformer block of plain normalisations whose feed-forward ends in INT8."""
    if type(module) is not BasicTransformerBlock or module.norm_type != "layer_norm" or hooked(module):
        return False
    net = module.ff.net
    plain = type(module.ff) is FeedForward and not hooked(module.ff) and len(net) == 3 and type(net[1]) is nn.Dropout
    return plain and in_int8(net[2]) and module.pos_embed is None


def adding_transformer(module: nn.Module) -> TypeGuard[Transformer2DModel]:
    """Whether a module is a transformer of pictures whose last layer is in INT8 and reaches each place by itself."""
    if type(module) is not Transformer2DModel or not module.is_input_continuous or not in_int8(module.proj_out):
        return False
    return not isinstance(module.proj_out, TritonConv) or module.proj_out.pointwise


def in_int8(layer: nn.Module) -> bool:
    """Whether a layer is on the kernels and nothing watches it."""
    return isinstance(layer, TritonLayer) and not hooked(layer)


def as_kind(kind: type[Module], module: nn.Module) -> Module:
    """A module of a subclass of its kind, with all that it holds."""
    new = kind.__new__(kind)
    vars(new).update(vars(module))
    return new


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of that name."""
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, module)
