"""One call of a ddpm-cifar10-shaped UNet2DModel, batch 8: INT8 beside FP32 on every engine, alternating in one run.

    python benchmarks/bench_network.py [--quick] [--isa native|avx2|both] [--engines openvino,onnxruntime]

The weights are random (the speed does not depend on them). It runs once as the processor is, and once limited to AVX2,
which imitates a processor without VNNI for OpenVINO and PyTorch. What it must reach without VNNI: 1.7x the fastest
FP32 engine and 2.1x diffusers eager; the processor's limit is 2x.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import AVX2, CAP_NOTE, add_isa, parser, print_speed, save, under_each_isa
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import ptq4dm
from ptq4dm.evaluation.hardware import peak_memory
from ptq4dm.evaluation.measure import network_speed, prepare_engines
from ptq4dm.quantization.quantized_model import example_call

AIMS = {"fastest FP32 engine": 1.7, "eager": 2.1}


def main() -> None:
    own = parser(__doc__ or "")
    add_isa(own)
    own.add_argument("--engines", default="openvino", help="INT8 engines, comma-separated (default openvino)")
    own.add_argument("--batch", type=int, default=8)
    own.add_argument("--rounds", type=int)
    own.add_argument(
        "--float-share",
        type=float,
        default=0.0,
        help="share of the multiply-adds that sensitive layers may take in float (default 0: which layers of a network "
        "with random weights are sensitive means nothing; the default recipe allows 0.1)",
    )
    own.add_argument("--artifact", type=Path, help="the quantized network (made and saved there if it is missing)")
    args = own.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = args.artifact or Path(folder) / "int8"
        if not artifact.exists():
            quantized(args.quick, args.float_share).save(artifact)
        if not under_each_isa(args, ("--artifact", str(artifact))):
            measure(args, artifact)


def measure(args, artifact: Path) -> None:
    model = ptq4dm.load(artifact)
    pipeline = ptq4dm.open_pipeline(cifar_shaped())
    example = example_call(pipeline, args.batch)
    builds = {engine: partial(model.to_module, engine) for engine in args.engines.split(",")}
    engines = prepare_engines(pipeline.denoiser, builds, example, rewritten=True)
    rounds = args.rounds or (4 if args.quick else 15)
    speed = network_speed(engines.networks, example, model.plan, rounds, shown=sys.stderr.isatty())
    print_speed(speed)
    notes = [*engines.notes, CAP_NOTE] if args.isa == "avx2" else engines.notes
    results = {
        "what": "one call of a ddpm-cifar10-shaped UNet2DModel, random weights",
        "isa": args.isa,
        "isa_settings": AVX2 if args.isa == "avx2" else {},
        "aims_without_vnni": AIMS,
        "in_float": {layer.name: layer.reason for layer in model.plan if not layer.quantized},
        "speed": speed,
        "memory": engines.memory,
        "process_peak_bytes": peak_memory(),
        "notes": notes,
    }
    save("network" if not args.float_share else "network-sensitive-in-float", args, results)


def cifar_shaped() -> DDPMPipeline:
    """google/ddpm-cifar10-32 as its config.json has it, with random weights, always the same.

    That config leaves `attention_head_dim` null: one head of all channels, where diffusers' default gives 8 a head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=32,
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )
    return DDPMPipeline(network.eval().requires_grad_(False), DDPMScheduler())


def quantized(quick: bool, float_share: float = 0.0) -> ptq4dm.QuantizedModel:
    """W8A8 by a short calibration: speed does not depend on the ranges."""
    short = {"samples": 8 if quick else 16, "steps": 5, "batch_size": 8}
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration=short, float_share=float_share)
    return ptq4dm.quantize(cifar_shaped(), recipe, progress=sys.stderr.isatty())


if __name__ == "__main__":
    main()
