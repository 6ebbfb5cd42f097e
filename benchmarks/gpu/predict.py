"""What INT8 can gain on a GPU, before anything is measured: operations and bytes of every kernel, and the two limits.

    python benchmarks/gpu/predict.py [--card h100|h200] [--fp16 TFLOPS] [--int8 TOPS] [--bandwidth TB/S]

Needs no GPU and moves no data (the networks are on torch's meta device). A kernel takes the larger of its operations
over the rate and its bytes over the bandwidth; a network the sum. Bytes are those that kernels hand to one another
through memory, each read and written once a kernel. Both sides are counted as they run:

- A product reads its input and weights and writes its output: 2 bytes each in FP16, in INT8 1, 1 and 2. Its bias, its
  time embedding and activations are fused on both sides.
- GroupNorm with SiLU reads its input twice. FP16 writes 2 bytes a number; INT8 a byte for each layer that it rounds
  for: a convolution, its shortcut, the three of attention. LayerNorm reads a row once, on both sides. Where nobody
  rounds in front, a kernel of its own reads 2 and writes 1.
- Skip connections: FP16 copies both side by side (reads 2, writes 2); in INT8 the residual block reads them where they
  are.
- Residual sums: FP16 adds in the normalisation that follows, which reads 2 more; in INT8 the last product reads 2, but
  not in DiT, whose sums are gated: there both sides do as FP16.
- Enlarged pictures: FP16 reads the small one and writes the large one; INT8 reads the small one by its index.
- Gates: two numbers read and one written, GELU (DiT): one read and one written; INT8 writes a byte.
- A downsampler that pads on one side copies its input in FP16; in INT8 it pads by the index.
- Attention itself is FP16 on both sides: queries, keys and values read and the result written, at the FP16 rate.
- Layers of time, first and last layers are FP16 on both sides. What is smaller than pictures is not counted.

Once more with the second reads of normalisations from the L2 cache in INT8 alone, whose programs read what they have
just read (groups of a sample); FP16 normalises in two passes over everything, which at large batches is too much.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.activations import GEGLU, GELU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from networks import NETWORKS, built, of_time, to_quantize
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu.blocks import TWICE, known_block, rounded_in_front, upsampled_by_index
from ptq4dm.backends.triton_gpu.layers import triton_form
from ptq4dm.backends.triton_gpu.rounded_gates import reader_of
from ptq4dm.backends.triton_gpu.rounded_norms import places, plain, self_contained
from ptq4dm.backends.triton_gpu.up_blocks import FUSED
from ptq4dm.quantization.layers import quantized_form
from ptq4dm.quantization.weight_only import empty_weight_only_form

BATCHES = (1, 8, 64)
"""Besides that of the goals."""


@dataclass(frozen=True)
class Card:
    """Multiply-adds twice a second in FP16 and in INT8, dense, and bytes a second."""

    fp16: float
    int8: float
    bandwidth: float


CARDS = {"h100": Card(990e12, 1979e12, 3.35e12), "h200": Card(990e12, 1979e12, 4.8e12)}
"""By their data sheets (SXM)."""


@dataclass(frozen=True)
class Kernel:
    """What one kernel does: bytes that it moves, operations of a product, in INT8 or in FP16, and how many of the bytes
    are read a second time."""

    name: str
    moved: float
    operations: float = 0.0
    in_int8: bool = False
    again: float = 0.0

    def seconds(self, card: Card, cached: bool = False) -> float:
        """At its limit; cached: second reads from the L2 cache, for nothing."""
        return max(self.operations / (card.int8 if self.in_int8 else card.fp16), self.of_bytes(card, cached))

    def of_bytes(self, card: Card, cached: bool = False) -> float:
        """The seconds of its bytes alone."""
        return (self.moved - (self.again if cached else 0.0)) / card.bandwidth


Sides = tuple[list[Kernel], list[Kernel]]
"""Kernels in FP16, and in INT8."""


@dataclass(frozen=True)
class Structure:
    """Who is in INT8, rounds, joins, adds and enlarges in a network, by names.

    rounds_for: of normalisations, the layers that they round for. handed: the layers that are given integers. gates:
    those that round. adding: layers whose output a residual is added to, and whether they add it in INT8. joining:
    residual blocks of two tensors, and whether they read them where they are. enlarged: layers that read an enlarged
    picture, in INT8 by its index.
    """

    in_int8: frozenset[str]
    rounds_for: dict[str, list[str]]
    handed: frozenset[str]
    gates: frozenset[str]
    adding: dict[str, bool]
    joining: dict[str, bool]
    enlarged: frozenset[str]


def main() -> None:
    own = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    own.add_argument("--card", choices=CARDS, default="h100", help="whose data sheet (default h100)")
    own.add_argument("--fp16", type=float, help="dense FP16 TFLOP/s, in place of the data sheet's")
    own.add_argument("--int8", type=float, help="dense INT8 TOP/s")
    own.add_argument("--bandwidth", type=float, help="memory bandwidth, TB/s")
    args = own.parse_args()
    given = {name: getattr(args, name) for name in ("fp16", "int8", "bandwidth")}
    card = Card(**vars(CARDS[args.card]) | {name: value * 1e12 for name, value in given.items() if value})
    print("| network, batch | INT8 GMAC a sample | FP16, ms | INT8, ms | ratio | with second reads from the L2 cache | "
          "INT8 bound by bytes | weights, strict |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, subject in NETWORKS.items():
        if name != "tiny":
            share = weights_share(built(name, torch.device("meta")))
            for batch in sorted({*BATCHES, subject.batch}):
                print(line(name, batch, card, share))


def line(name: str, batch: int, card: Card, share: float) -> str:
    """One line of the table; share: of the weights' bytes in FP16."""
    half, int8 = predicted(name, batch)
    floats, integers = (sum(kernel.seconds(card) for kernel in kernels) for kernels in (half, int8))
    cached = sum(kernel.seconds(card, cached=True) for kernel in int8)
    bound = sum(kernel.seconds(card) for kernel in int8 if kernel.seconds(card) == kernel.of_bytes(card))
    multiplied = sum(kernel.operations for kernel in int8 if kernel.in_int8) / 2e9 / batch
    limits = f"{1e3 * floats:.3f} | {1e3 * integers:.3f} | {floats / integers:.2f}x | {floats / cached:.2f}x"
    return f"| {name}, {batch} | {multiplied:.2f} | {limits} | {100 * bound / integers:.0f} % | {share:.3f} |"


def weights_share(network: nn.Module) -> float:
    """Bytes of the weights with all layers in INT8, with scales, steps and tables of sums, over those in FP16; of a
    network on the meta device."""
    total, saved = bytes_in_half(network), 0
    with torch.device("meta"):
        for name in to_quantize(network):
            layer, new = network.get_submodule(name), quantized_form(network.get_submodule(name))
            new.smoothing = torch.empty(new.weight.shape[1])
            saved += bytes_in_half(layer) - bytes_of(triton_form(new))
        for name in of_time(network):
            layer = network.get_submodule(name)
            saved += bytes_in_half(layer) - bytes_of(empty_weight_only_form(layer))
    return 1 - saved / total


def bytes_in_half(layer: nn.Module) -> int:
    return 2 * sum(item.numel() for item in layer.parameters())


def bytes_of(layer: nn.Module) -> int:
    return sum(item.numel() * item.element_size() for item in layer.state_dict().values())


def predicted(name: str, batch: int) -> Sides:
    """The kernels of a call of one network."""
    meta = torch.device("meta")
    inputs = NETWORKS[name].inputs(batch, torch.Generator(), meta, torch.float32)
    return counted(built(name, meta), inputs)


@torch.no_grad()
def counted(network: nn.Module, call: dict[str, Any]) -> Sides:
    """The kernels of that call."""
    structure = structure_of(network)
    half: list[Kernel] = []
    int8: list[Kernel] = []

    def noting(count: Callable[..., Sides], name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            floats, integers = count(structure, name, module, args, kwargs, output)
            half.extend(floats)
            int8.extend(integers)

        return note

    for name, module in network.named_modules():
        for kind, count in COUNTS.items():
            if isinstance(module, kind):
                module.register_forward_hook(noting(count, name), with_kwargs=True)
    network(**call)
    return half, int8


def product(structure: Structure, name: str, layer: Any, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """A convolution or linear layer, what is added to it, and a rounding of its own."""
    x, weight, out = args[0].numel(), layer.weight.numel(), output.numel()
    operations, small = 2.0 * out * layer.weight[0].numel(), x
    half = [Kernel(name, 2.0 * (x + weight + out), operations)]
    added = [Kernel(f"{name}: sum", 2.0 * out)] if name in structure.adding else []
    if name in structure.enlarged:
        small = x // TWICE**2
        half.append(Kernel(f"{name}: enlarged", 2.0 * (small + x)))
    if name not in structure.in_int8:
        return [*half, *added], [*half, *added]
    in_kernel = structure.adding.get(name, False)
    moved = small + weight + 2.0 * out + (2.0 * out if in_kernel else 0.0)
    int8 = [Kernel(name, moved, operations, in_int8=True)]
    int8 += [] if name in structure.handed else [Kernel(f"{name}: rounded", 3.0 * small)]
    return [*half, *added], [*int8, *([] if in_kernel else added)]


def norm(structure: Structure, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """A normalisation, in INT8 with the bytes that it writes for each layer that it rounds for."""
    numbers, twice = float(output.numel()), isinstance(module, nn.GroupNorm)
    read, again = (4.0, 2.0) if twice else (2.0, 0.0)
    half, readers = Kernel(name, (read + 2.0) * numbers), structure.rounds_for.get(name, [])
    return [half], [Kernel(name, (read + len(readers)) * numbers, again=again * numbers) if readers else half]


def joined(structure: Structure, name: str, block: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """What a residual block of two tensors is given side by side."""
    if name not in structure.joining:
        return [], []
    copied = [Kernel(f"{name}: joined", 4.0 * args[0].numel())]
    return copied, [] if structure.joining[name] else copied


def gate(structure: Structure, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """Two numbers read and one written."""
    half = [Kernel(f"{name}: gate", 6.0 * output.numel())]
    return half, [Kernel(f"{name}: gate", 5.0 * output.numel())] if name in structure.gates else half


def alone(structure: Structure, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """An activation that no gate and no normalisation takes in."""
    half = [Kernel(f"{name}: activation", 4.0 * output.numel())]
    return half, [Kernel(f"{name}: activation", 3.0 * output.numel())] if name in structure.gates else half


def padded(structure: Structure, name: str, module: Any, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """A copy of the input with a row and a column more."""
    half = [Kernel(f"{name}: padded", 4.0 * args[0].numel())] if module.use_conv and module.padding == 0 else []
    return half, [] if f"{name}.conv" in structure.in_int8 else half


def attended(structure: Structure, name: str, module: Any, args: tuple, kwargs: dict, output: Tensor) -> Sides:
    """The two products of attention, which write nothing between."""
    x = args[0] if args else kwargs["hidden_states"]
    context = kwargs.get("encoder_hidden_states")
    samples, queries = x.shape[0], x[0].numel() // x.shape[1 if x.dim() == 4 else 2]
    keys, width = queries if context is None else context.shape[1], module.to_q.out_features
    moved = 2.0 * samples * width * (2 * queries + 2 * keys)
    one = [Kernel(f"{name}: attention", moved, 4.0 * samples * queries * keys * width)]
    return one, one


COUNTS: dict[Any, Callable[..., Sides]] = {
    nn.Conv2d | nn.Linear: product,
    nn.GroupNorm | nn.LayerNorm: norm,
    ResnetBlock2D: joined,
    GEGLU: gate,
    GELU: alone,
    Downsample2D: padded,
    Attention: attended,
}
"""(structure, name, module, args, kwargs, output) -> kernels in FP16, kernels in INT8."""


def structure_of(network: nn.Module) -> Structure:
    """Of a float network that nothing watches yet, as the backend fuses it where all of `to_quantize` is in INT8."""
    names = {id(module): name for name, module in network.named_modules()}
    in_int8 = frozenset(to_quantize(network))
    rounds_for = rounding_in_blocks(network, in_int8) | rounding_in_places(network, names, in_int8)
    gates = {
        f"{names[id(module)]}.ff.net.0": names[id(reader)]
        for module in network.modules()
        if (reader := reader_of(module)) is not None and names[id(reader)] in in_int8
    }
    resnets = [
        names[id(resnet)]
        for module in network.modules()
        if type(module) in FUSED
        for resnet in module.get_submodule("resnets").children()
    ]
    return Structure(
        in_int8,
        rounds_for,
        frozenset(gates.values()) | {layer for layers in rounds_for.values() for layer in layers},
        frozenset(gates),
        {name: fused and name in in_int8 for name, fused in sums_of(network).items()},
        {name: f"{name}.conv_shortcut" in rounds_for.get(f"{name}.norm1", ()) for name in resnets},
        frozenset(upsampled_by_index(network)),
    )


def rounding_in_blocks(network: nn.Module, in_int8: frozenset[str]) -> dict[str, list[str]]:
    """The normalisations of residual blocks, and the layers that they round for: the shortcut beside the first
    convolution."""
    handed = rounded_in_front(network) & in_int8
    found: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        if known_block(module):
            first = [f"{name}.{layer}" for layer in ("conv1", "conv_shortcut") if f"{name}.{layer}" in handed]
            found[f"{name}.norm1"] = first if f"{name}.conv1" in first else []
            found[f"{name}.norm2"] = [layer for layer in (f"{name}.conv2",) if layer in handed]
    return found


def rounding_in_places(network: nn.Module, names: dict[int, str], in_int8: frozenset[str]) -> dict[str, list[str]]:
    """The other normalisations whose readers are all in INT8, and these."""
    found: dict[str, list[str]] = {}
    for module in network.modules():
        for owner, attribute, readers, *_ in places(module):
            layers = [names[id(reader)] for reader in readers]
            if plain(getattr(owner, attribute)) and in_int8.issuperset(layers):
                found[names[id(getattr(owner, attribute))]] = layers
    return found


def sums_of(network: nn.Module) -> dict[str, bool]:
    """The layers to whose output a residual is added, and whether they add it themselves where they are in INT8."""
    found: dict[str, bool] = {}
    for name, module in network.named_modules():
        if isinstance(module, ResnetBlock2D):
            found[f"{name}.conv2"] = known_block(module) and module.output_scale_factor == 1
        elif isinstance(module, Attention) and module.residual_connection:
            found[f"{name}.to_out.0"] = self_contained(module)
        elif isinstance(module, BasicTransformerBlock):
            attentions = ("attn1",) if module.attn2 is None else ("attn1", "attn2")
            last = [*(f"{attention}.to_out.0" for attention in attentions), "ff.net.2"]
            found |= {f"{name}.{layer}": module.norm_type == "layer_norm" for layer in last}
        elif isinstance(module, Transformer2DModel) and module.is_input_continuous:
            found[f"{name}.proj_out"] = True
    return found


if __name__ == "__main__":
    main()
