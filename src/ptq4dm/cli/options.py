"""Options that several verbs share, and how they print."""

import argparse
import json
import sys
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number of at least 1")
    return value


def seed(text: str) -> int:
    """A seed that every generator takes, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from 0 to 2**62 - 1")
    return value


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json: for scripts."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, no progress bars")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """--seed."""
    parser.add_argument("--seed", type=seed, default=0, help="of everything drawn (default 0)")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """--backend."""
    parser.add_argument(
        "--backend", default="auto", help="auto (measure, take the fastest), simulated, openvino, onnxruntime, triton"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device: where a model is quantized."""
    parser.add_argument("--device", default="cpu", help="torch device of the networks: cpu (default), cuda, ...")


def add_place(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype: where the networks run, and in which float type."""
    parser.add_argument(
        "--device",
        help="torch device of the networks: cpu, cuda, ... (default: where the backend computes, so cuda for triton, "
        "else cpu; openvino and onnxruntime compute on the CPU whatever it says)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="float type of the quantized network, and of the float one that it is timed beside (default: as saved)",
    )


def float_type(args: argparse.Namespace) -> Any:
    """The type that --dtype names, of torch's; None without it."""
    import torch  # takes a second, which a mistake in the arguments need not wait for

    return None if args.dtype is None else getattr(torch, args.dtype)


def add_sampling(parser: argparse.ArgumentParser, count: int) -> None:
    """--count, --scheduler, --steps, --batch-size."""
    from ptq4dm.pipelines.schedulers import SCHEDULERS  # imports diffusers, which not every verb needs

    parser.add_argument("--count", type=positive, default=count, help=f"pictures (default {count})")
    parser.add_argument("--scheduler", default="ddim", help=f"{', '.join(SCHEDULERS)} (default ddim)")
    parser.add_argument("--steps", type=positive, default=50, help="denoising steps (default 50)")
    parser.add_argument("--batch-size", type=positive, default=16, help="pictures drawn at once (default 16)")


def show(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Print `data` as JSON where --json was given, else `text`."""
    print(json.dumps(data, indent=2) if args.json else text)


def table(rows: list[tuple[Any, ...]], header: tuple[str, ...]) -> str:
    """Rows as aligned columns: the first to the left, the others to the right."""
    cells = [header, *[tuple(str(cell) for cell in row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr)
