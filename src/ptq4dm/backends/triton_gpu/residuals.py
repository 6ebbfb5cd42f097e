"""Transformers that add their residuals in the kernels of the last layers of attention, feed-forward and themselves.

Left to torch, the sum reads two tensors and writes one, after the layer has written one of them; here the last product
reads the residual and writes the sum. The blocks are subclasses of diffusers' own that differ in these sums alone.
"""

from typing import Any, TypeGuard, TypeVar

from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu.attention import adds_for_its_block, in_int8
from ptq4dm.backends.triton_gpu.blocks import hooked, put
from ptq4dm.backends.triton_gpu.layers import TritonConv, channels_last, channels_second, plus

Module = TypeVar("Module", bound=nn.Module)


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
        if hooked(self.ff):
            return self.ff(self.norm3(h)) + h
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


def add_in_kernels(network: nn.Module) -> None:
    """Let the last layers in INT8 of a network's transformers and their blocks add. After `round_in_norms`."""
    for name, module in list(network.named_modules()):
        if name and adding_block(module):
            put(network, name, as_kind(AddingTransformerBlock, module))
        elif name and adding_transformer(module):
            put(network, name, as_kind(AddingTransformer2DModel, module))


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


def as_kind(kind: type[Module], module: nn.Module) -> Module:
    """A module of a subclass of its kind, with all that it holds."""
    new = kind.__new__(kind)
    vars(new).update(vars(module))
    return new
