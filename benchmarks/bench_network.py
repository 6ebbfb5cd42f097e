"""One call of a ddpm-cifar10-shaped UNet2DModel, batch 8: INT8 beside FP32 on every engine, alternating in one run.

    python benchmarks/bench_network.py [--quick] [--isa native|avx2|both] [--recipe default|float-share-0|both]
                                       [--engines openvino,onnxruntime]

The weights are random (the speed does not depend on them). `float-share-0` has every layer but the first and the last
convolution in INT8; `default` is the default recipe, with up to a tenth of the multiply-adds in float: which of the
layers means nothing where weights are random, how many does. A result file each, with the bytes of the float pipeline
and of the artifact on the disk. It runs once as the processor is, and once limited to AVX2,
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
from ptq4dm.quantization.summary import summary

AIMS = {"fastest FP32 engine": 1.7, "eager": 2.1}
RECIPES = {"float-share-0": "w8a8-fast", "default": "w8a8"}
"""The preset of each."""
FILES = {"float-share-0": "network", "default": "network-default-recipe"}


def main() -> None:
    own = parser(__doc__ or "")
    add_isa(own)
    own.add_argument("--engines", default="openvino", help="INT8 engines, comma-separated (default openvino)")
    own.add_argument("--batch", type=int, default=8)
    own.add_argument("--rounds", type=int)
    own.add_argument(
        "--recipe", choices=(*RECIPES, "both"), default="both", help="which layers in float (default both)"
    )
    own.add_argument("--artifacts", type=Path, help="folder of the networks (made and saved there if they are missing)")
    args = own.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = args.artifacts or Path(folder)
        recipes = tuple(RECIPES) if args.recipe == "both" else (args.recipe,)
        if not (place / "float").exists():
            cifar_shaped().save_pretrained(place / "float")
        for name in recipes:
            if not (place / name).exists():
                quantized(args.quick, name).save(place / name)
        if not under_each_isa(args, ("--artifacts", str(place))):
            for name in recipes:
                measure(args, name, place)


def measure(args, name: str, place: Path) -> None:
    """One recipe's network beside FP32, saved."""
    model = ptq4dm.load(place / name)
    pipeline = ptq4dm.open_pipeline(cifar_shaped())
    example = example_call(pipeline, args.batch)
    builds = {engine: partial(model.to_module, engine) for engine in args.engines.split(",")}
    engines = prepare_engines(pipeline.denoiser, builds, example, rewritten=True)
    rounds = args.rounds or (4 if args.quick else 15)
    speed = network_speed(engines.networks, example, model.plan, rounds, shown=sys.stderr.isatty())
    print(f"recipe: {name}")
    print_speed(speed)
    size = sizes(place / "float", place / name, model)
    before, after = size["float_bytes_on_disk"], size["int8_bytes_on_disk"]
    print(f"  {before:,} bytes in float, {after:,} in INT8: {size['ratio_on_disk']:.2f}x smaller")
    notes = [*engines.notes, CAP_NOTE] if args.isa == "avx2" else engines.notes
    results = {
        "what": "one call of a ddpm-cifar10-shaped UNet2DModel, random weights",
        "recipe": {"which": name, **model.recipe.to_dict()},
        "size": size,
        "isa": args.isa,
        "isa_settings": AVX2 if args.isa == "avx2" else {},
        "aims_without_vnni": AIMS,
        "in_float": {layer.name: layer.reason for layer in model.plan if not layer.quantized},
        "speed": speed,
        "memory": engines.memory,
        "process_peak_bytes": peak_memory(),
        "notes": notes,
    }
    save(FILES[name], args, results)


def sizes(plain: Path, artifact: Path, model: ptq4dm.QuantizedModel) -> dict[str, float]:
    """Bytes of the tensors and of the folders, float and INT8, and how many times smaller INT8 is."""
    tensors = {key: summary(model)[key] for key in ("float_bytes", "int8_bytes", "ratio")}
    float_disk, int8_disk = (
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in (plain, artifact)
    )
    return {
        **tensors,
        "float_bytes_on_disk": float_disk,
        "int8_bytes_on_disk": int8_disk,
        "ratio_on_disk": float_disk / int8_disk,
    }


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


def quantized(quick: bool, name: str) -> ptq4dm.QuantizedModel:
    """W8A8 by a short calibration: speed does not depend on the ranges."""
    short = {"samples": 8 if quick else 16, "steps": 5, "batch_size": 8}
    recipe = ptq4dm.load_recipe(RECIPES[name]).replace(calibration=short)
    return ptq4dm.quantize(cifar_shaped(), recipe, progress=sys.stderr.isatty())


if __name__ == "__main__":
    main()
