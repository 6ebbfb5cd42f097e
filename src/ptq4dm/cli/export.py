"""Write an artifact's denoiser as standard QDQ ONNX, for other runtimes."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_json, show
from ptq4dm.quantization.artifact import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder")
    parser.add_argument("--out", type=Path, default=Path("model.onnx"), help="the file to write (default model.onnx)")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Export."""
    path = load(args.model).export_onnx(args.out)
    show(args, {"out": str(path), "bytes": path.stat().st_size}, f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
