"""Blocks of DiT, whose time-step and label scale and shift what a normalisation gives: modulated and rounded at once.

    y = LayerNorm(x) (1 + scale[n]) + shift[n]

in front of queries, keys and values, and of the feed-forward. Source: Peebles, Xie, "Scalable diffusion models with
transformers", arXiv 2212.09748 (adaLN-Zero).
"""

from typing import Any, TypeGuard

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.normalization import AdaLayerNormZero
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu.blocks import put
from ptq4dm.backends.triton_gpu.residuals import as_kind
from ptq4dm.backends.triton_gpu.rounded_norms import RoundedForEach, RoundedNorm, modulated


class ModulatedTransformerBlock(BasicTransformerBlock):
    """A `BasicTransformerBlock` of type ada_norm_zero whose normalisations round what they have scaled and shifted."""

    norm1: Any
    norm3: Any

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """The block's output, (batch, places, channels)."""
        h, first = hidden_states, self.norm1
        embedding = first.emb(timestep, class_labels, hidden_dtype=h.dtype)
        modulation = first.linear(first.silu(embedding)).chunk(6, dim=1)
        shift, scale, gate, late_shift, late_scale, late_gate = modulation
        x = modulated(first.norm, h, scale, shift)
        further = {key: value for key, value in (cross_attention_kwargs or {}).items() if key != "gligen"}
        h = gate[:, None] * self.attn1(x, attention_mask=attention_mask, **further) + h
        x = self.ff(modulated(self.norm3, h, late_scale, late_shift))
        return late_gate[:, None] * x + h


def modulate_in_norms(network: nn.Module) -> None:
    """Put that form in place of every such block of which a normalisation rounds. After `round_in_norms`."""
    for name, module in list(network.named_modules()):
        if name and rounding(module):
            put(network, name, as_kind(ModulatedTransformerBlock, module))


def rounding(module: nn.Module) -> TypeGuard[BasicTransformerBlock]:
    """Whether a module is a block that modulates, and one of its normalisations rounds."""
    if type(module) is not BasicTransformerBlock or type(module.norm1) is not AdaLayerNormZero:
        return False
    return any(isinstance(norm, RoundedNorm | RoundedForEach) for norm in (module.norm1.norm, module.norm3))
