"""Write an artifact's denoiser as standard QDQ ONNX, for other runtimes."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_json, note, show
from ptq4dm.quantization.artifact import load

QDQ = "qdq"
"""The arithmetic that standard runtimes compute in."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder")
    parser.add_argument("--out", type=Path, default=Path("model.onnx"), help="the file to write (default model.onnx)")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Export."""
    model = load(args.model)
    path = model.export_onnx(args.out)
    if model.recipe.arithmetic != QDQ:
        note(
            "this artifact's convolutions put out floats, and ONNX Runtime runs such ones in float: for INT8 there, "
            f"quantize with a recipe of arithmetic = {QDQ!r}"
        )
    show(args, {"out": str(path), "bytes": path.stat().st_size}, f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
