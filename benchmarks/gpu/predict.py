"""What INT8 can gain on a GPU, before anything is measured: operations and bytes of every layer, and the two limits.

    python benchmarks/gpu/predict.py [--fp16 TFLOPS] [--int8 TOPS] [--bandwidth TB/S]

Needs no GPU and moves no data (the networks are on torch's meta device). A layer takes the larger of its operations
over the rate and its bytes over the bandwidth; a network the sum. Counted alike for both sides, each read and written
once: FP16: a normalisation with SiLU reads twice and writes 2 bytes a number, a product reads and writes 2 bytes, an
addition is fused. INT8: the normalisation writes 1 byte; where none stands in front, a kernel of its own reads 2 and
writes 1. Once more with the normalisation's second read from the L2 cache in INT8 alone, whose programs read what they
have just read (a group of a sample); FP16 normalises in two passes over everything, which at large batches is too much.
"""

import argparse
from dataclasses import dataclass

import torch
from networks import NETWORKS, built, of_time, to_quantize
from torch import nn

FUSED = ("conv1", "conv2")
"""The convolutions of residual blocks, which have their normalisation in front."""


@dataclass
class Sum:
    """Seconds of the FP16 and of the INT8 network."""

    operations: float = 0.0
    half: float = 0.0
    int8: float = 0.0
    second_reads: float = 0.0
    bound_by_bytes: float = 0.0


def main() -> None:
    own = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    own.add_argument("--fp16", type=float, default=990.0, help="dense FP16 TFLOP/s (default 990: H100 SXM, data sheet)")
    own.add_argument("--int8", type=float, default=1979.0, help="dense INT8 TOP/s (default 1979)")
    own.add_argument("--bandwidth", type=float, default=3.35, help="memory bandwidth, TB/s (default 3.35)")
    args = own.parse_args()
    print("network, batch: GMAC a sample in INT8; limits of FP16 and INT8 in ms; ratio; share of INT8 bound by bytes; "
          "ratio with second reads from L2; INT8 weights over FP16's")  # fmt: skip
    for name, subject in NETWORKS.items():
        if name == "tiny":
            continue
        for batch in sorted({1, 8, 64, subject.batch}):
            one = predicted(name, batch, args.fp16 * 1e12, args.int8 * 1e12, args.bandwidth * 1e12)
            multiplied, bound = one.operations / 2e9 / batch, 100 * one.bound_by_bytes / one.int8
            limits = f"{1e3 * one.half:8.3f}  {1e3 * one.int8:8.3f}  {one.half / one.int8:.2f}x"
            cached = one.half / (one.int8 - one.second_reads)
            share = weights_share(built(name, torch.device("meta")))
            print(
                f"{name:14s} {batch:4d}: {multiplied:7.2f} GMAC  {limits}  {bound:3.0f} %  {cached:.2f}x  {share:.3f}"
            )


def weights_share(network: nn.Module) -> float:
    """Bytes of the weights with all layers in INT8, with scales and tables of sums, over those in FP16."""
    wanted, saved = set(to_quantize(network)), 0.0
    total = 2.0 * sum(item.numel() for item in network.parameters())
    for name in wanted:
        weight = network.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        patterns = 16 if weight.dim() > 2 and weight[0, 0].numel() > 1 else 1
        saved += weight.numel() - weight.shape[0] * (4 * patterns + 4 + 2)  # sums, scale, and the bias in float32
    for name in of_time(network):
        weight = network.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        saved += weight.numel() - weight.shape[0] * (4 + 2)
    return 1 - saved / total


@torch.no_grad()
def predicted(name: str, batch: int, fp16: float, int8: float, bandwidth: float) -> Sum:
    """The limits of one network at a batch."""
    meta = torch.device("meta")
    network = built(name, meta)
    wanted, total = set(to_quantize(network)), Sum()

    def product(layer_name: str, module: nn.Module):
        def count(layer: nn.Module, args: tuple, output: torch.Tensor) -> None:
            x = args[0]
            weight = layer.weight
            taps = weight[0, 0].numel() if weight.dim() > 2 else 1
            operations = 2.0 * output.numel() * weight.shape[1] * taps
            moved = 2.0 * (x.numel() + weight.numel() + output.numel())
            floats = max(operations / fp16, moved / bandwidth)
            total.half += floats
            if layer_name not in wanted:
                total.int8 += floats
                return
            total.operations += operations
            apart = 0.0 if layer_name.endswith(FUSED) else 3.0 * x.numel() / bandwidth
            bytes_time = (x.numel() + weight.numel() + 2.0 * output.numel()) / bandwidth
            total.int8 += max(operations / int8, bytes_time) + apart
            total.bound_by_bytes += (bytes_time if bytes_time > operations / int8 else 0.0) + apart

        return count

    def norm(norm_name: str):
        def count(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            total.half += 6.0 * output.numel() / bandwidth
            written = 1.0 if norm_name.endswith(("norm1", "norm2")) and "resnets" in norm_name else 2.0
            total.int8 += (4.0 + written) * output.numel() / bandwidth
            total.bound_by_bytes += (4.0 + written) * output.numel() / bandwidth
            total.second_reads += 2.0 * output.numel() / bandwidth if written == 1.0 else 0.0

        return count

    for layer_name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(product(layer_name, module))
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_hook(norm(layer_name))
    inputs = NETWORKS[name].inputs(batch, torch.Generator(), meta, torch.float32)
    network(**inputs)
    return total


if __name__ == "__main__":
    main()
