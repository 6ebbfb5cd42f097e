"""Draw pictures with a quantized model (or a float one) and save them as one sheet."""

import argparse
import time
from pathlib import Path

from ptq4dm.cli.options import add_backend, add_json, add_place, add_sampling, add_seed, float_type, note, show
from ptq4dm.cli.subject import open_subject
from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.sections import executed
from ptq4dm.evaluation.sheet import write_sheet
from ptq4dm.evaluation.text import executed_line
from ptq4dm.files import require_writable
from ptq4dm.pipelines.picture_folder import SUFFIXES
from ptq4dm.pipelines.sampling import sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder, or any float model that `quantize` takes with --float")
    parser.add_argument("--out", type=Path, default=Path("pictures.png"), help="the sheet to write (PNG)")
    parser.add_argument("--float", action="store_true", dest="is_float", help="draw with the float model instead")
    add_sampling(parser, 16)
    add_backend(parser)
    add_place(parser)
    add_seed(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Draw and save."""
    if args.out.suffix.lower() in SUFFIXES[1:]:
        raise EvaluationError(f"--out {args.out}: the sheet is written as PNG: name a .png file")
    require_writable(args.out)
    sampler = (args.scheduler, args.steps)
    dtype, batch = float_type(args), min(args.batch_size, args.count)
    subject = open_subject(
        args.model, args.is_float, args.backend, sampler, args.device, dtype, batch, shown=not args.json
    )
    started = time.perf_counter()
    pictures = sample(
        subject.network,
        args.scheduler,
        subject.pipeline.scheduler.config,
        subject.pipeline.picture_shape,
        seeds=range(args.seed, args.seed + args.count),
        steps=args.steps,
        batch_size=args.batch_size,
        shown=not args.json,
    )
    seconds = time.perf_counter() - started
    for line in (*subject.notes, executed_line(executed(subject.network, subject.backend))):
        if line:
            note(line)
    write_sheet(args.out, pictures, columns=min(8, args.count))
    data = {"out": str(args.out), "pictures": args.count, "backend": subject.backend, "seconds": round(seconds, 3)}
    show(args, data, f"{args.count} pictures in {seconds:.1f} s on the {subject.backend} backend -> {args.out}")
