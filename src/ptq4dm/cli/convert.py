"""Write a checkpoint of improved-diffusion, guided-diffusion or the DDIM code as a diffusers folder."""

import argparse
from pathlib import Path
from typing import Any

from ptq4dm.cli.options import add_json, show
from ptq4dm.files import new_folder
from ptq4dm.pipelines.originals.convert import convert_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("checkpoint", type=Path, help="the file: .pt, .pth, .ckpt or .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument(
        "--config",
        help="what the weights do not tell: a TOML or JSON file with the flags of the run, or the name of a published "
        "checkpoint such as cifar10_uncond_50M_500K (default: CHECKPOINT with .toml or .json, else its name)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Convert and save."""
    pipeline: Any = convert_checkpoint(args.checkpoint, args.config)
    with new_folder(args.out) as building:
        pipeline.save_pretrained(building)
    unet, scheduler = pipeline.unet.config, pipeline.scheduler.config
    data = {
        "out": str(args.out),
        "class": type(pipeline.unet).__name__,
        "parameters": sum(value.numel() for value in pipeline.unet.parameters()),
        "picture_shape": [unet["in_channels"], unet["sample_size"], unet["sample_size"]],
        "learned_variance": unet["out_channels"] == 2 * unet["in_channels"],
        "num_train_timesteps": scheduler["num_train_timesteps"],
        "beta_schedule": scheduler["beta_schedule"],
    }
    text = (
        f"a {data['class']} of {data['parameters'] / 1e6:.1f} million parameters for "
        f"{unet['sample_size']}x{unet['sample_size']} pictures, {data['num_train_timesteps']} time-steps "
        f"({data['beta_schedule']}){', learned variance' if data['learned_variance'] else ''}\nsaved to {args.out}; "
        f"next: ptq4dm quantize {args.out} --out int8"
    )
    show(args, data, text)
