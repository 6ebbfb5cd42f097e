"""Time the float network in every engine here and the INT8 one, alternating in one run: ratios and spread."""

import argparse
from pathlib import Path
from typing import Any

from ptq4dm.backends.places import device_for, device_of_network
from ptq4dm.cli.options import add_backend, add_json, add_place, float_type, note, positive, show
from ptq4dm.evaluation.environment import environment
from ptq4dm.evaluation.evaluate import check_pair
from ptq4dm.evaluation.measure import network_speed, prepare_engines, run_notes, sampling_speed
from ptq4dm.evaluation.sections import executed
from ptq4dm.evaluation.text import executed_line, speed_lines
from ptq4dm.files import require_writable, write_json
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.pipelines.schedulers import require_steps
from ptq4dm.quantization.artifact import load
from ptq4dm.quantization.quantized_model import compiled, example_call

STEPS = 50
"""Of DDIM, in which pictures are drawn."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder")
    parser.add_argument("--float", dest="float_model", help="the float model (default: the one it was made from)")
    parser.add_argument("--batch", type=positive, default=8, help="pictures in a call (default 8)")
    parser.add_argument("--rounds", type=positive, default=12, help="alternating rounds (default 12)")
    parser.add_argument("--pictures", type=positive, help="also time drawing so many pictures end to end (DDIM-50)")
    parser.add_argument("--out", type=Path, help="save the results as JSON too")
    add_backend(parser)
    add_place(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    shown = not args.json
    if args.out:
        require_writable(args.out)
    model = load(args.model)
    pipeline = open_pipeline(args.float_model or model.facts["model"]["name"])
    check_pair(model, pipeline)
    dtype, arithmetic = float_type(args), model.recipe.arithmetic
    device = device_for(args.backend, args.device, arithmetic)
    there = device_of_network(args.backend, device, arithmetic)
    if args.pictures:
        require_steps("ddim", pipeline.scheduler.config, STEPS)
    example = example_call(pipeline, args.batch)
    deployed = compiled(model, args.backend, shown, there, dtype, args.batch)
    engine = str(deployed.ptq4dm_backend)
    builds = {engine: lambda: compiled(model, engine, False, there, dtype, args.batch)}
    engines = prepare_engines(pipeline.denoiser, builds, example, device=device, dtype=dtype, shown=shown)
    ran = executed(deployed, engine)
    ran_there = engine if there == device else ""
    notes = [*deployed.ptq4dm_notes, *engines.notes, *run_notes(device, ran_there, dtype)]
    data: dict[str, Any] = {"call": network_speed(engines.networks, example, model.plan, args.rounds, shown)}
    if args.pictures:
        seeds = range(args.pictures)
        data["sampling"] = sampling_speed(engines.networks, pipeline, "ddim", STEPS, seeds, args.batch, shown=shown)
    data |= {"executed": ran, "memory": {"rows": engines.memory}, "environment": environment(device), "notes": notes}
    if args.out:
        write_json(args.out, data)
    lines = [f"one network call of {args.batch} pictures", *speed_lines(data["call"])]
    if args.pictures:
        lines += [data["sampling"]["what"], *speed_lines(data["sampling"])]
    for line in (*notes, executed_line(ran)):
        if line:
            note(line)
    show(args, data, "\n".join(lines))
