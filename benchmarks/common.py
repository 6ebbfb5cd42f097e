"""What all benchmarks share: arguments, the file their results go to, running again under another instruction set."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ptq4dm.evaluation.environment import environment
from ptq4dm.evaluation.hardware import this_processor
from ptq4dm.files import write_json
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.quantization.artifact import load
from ptq4dm.quantization.quantized_model import QuantizedModel
from ptq4dm.zoo import zoo

RESULTS = Path(__file__).parent / "results"
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Imitates a processor with AVX2 and no VNNI, for OpenVINO and PyTorch (oneDNN, ATen, MKL)."""
IGNORES_CAP = ("onnxruntime",)
CAP_NOTE = "ONNX Runtime has no such switch: its rows under AVX2 still use everything this processor has"


def parser(description: str) -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(description=description.split("\n")[0])
    own.add_argument("--quick", action="store_true", help="a small try of the benchmark, not saved beside real results")
    own.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default benchmarks/results)")
    return own


def add_isa(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--isa", choices=("native", "avx2", "both"), default="both", help="instruction sets to run under (default both)"
    )


def add_model(own: argparse.ArgumentParser) -> None:
    own.add_argument("--model", default="emoji-32")
    own.add_argument("--artifact", help="a quantized model's folder (default: the built-in one)")


def open_pair(args: argparse.Namespace) -> tuple[Pipeline, QuantizedModel]:
    """The float model and its artifact, as `add_model` asked for them."""
    return open_pipeline(args.model), load(args.artifact or zoo.int8_folder(args.model))


def under_each_isa(args: argparse.Namespace, extra: tuple[str, ...] = ()) -> bool:
    """Run this very script once per instruction set in processes of their own; False if this process is to run it."""
    settings = {"native": {}, "avx2": AVX2}
    if args.isa != "both" and {name: os.environ[name] for name in AVX2 if name in os.environ} == settings[args.isa]:
        return False
    for isa in settings if args.isa == "both" else (args.isa,):
        arguments = [*sys.argv[1:], "--isa", isa, *extra]
        freed = {name: value for name, value in os.environ.items() if name not in AVX2}  # a shell may have set them
        subprocess.run([sys.executable, sys.argv[0], *arguments], env={**freed, **settings[isa]}, check=True)
    return True


def save(name: str, args: argparse.Namespace, results: dict[str, Any]) -> Path:
    """Write the results with the environment; a quick run gets a name of its own."""
    path = args.out / f"{name}-{machine()}{'-quick' if args.quick else ''}.json"
    write_json(path, {"benchmark": name, "quick": args.quick, "environment": environment(), **results})
    print(f"written to {path}")
    return path


def machine() -> str:
    """This processor as a part of a file name: its name, cores and what INT8 runs on."""
    processor = this_processor()
    words = f"{processor.name} {processor.cores} cores {processor.instructions.split(' (')[0]}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def ratio_interval(ratio: dict[str, Any]) -> str:
    """The interval of a ratio and its confidence, in brackets."""
    return f"({ratio['low']:.2f} to {ratio['high']:.2f}, {100 * ratio['confidence']:.3g} %)"


def print_speed(speed: dict[str, Any]) -> None:
    """The table of a speed section: times, ratios with intervals, the limit."""
    processor = this_processor()
    print(f"{processor.name}, {processor.cores} cores, {speed['threads']} threads, {processor.instructions}")
    print(f"{speed['what']}, batch {speed['batch']}, {speed['rounds']} alternating rounds")
    for row in speed["rows"]:
        low, high = 1000 * row["seconds_low"], 1000 * row["seconds_high"]
        median = f"{1000 * row['seconds_median']:9.1f} ms ({low:.1f} to {high:.1f})"
        print(f"  {row['engine']:22s} {row['precision']:5s} {median:36s} {row['ratio_to_eager']:5.2f}x eager")
    for ratio in speed["ratios"]:
        mark = "  <- fastest FP32 engine" if ratio["fastest_float"] else ""
        print(f"  INT8 {ratio['name']:34s} {ratio['value']:.2f}x {ratio_interval(ratio)}{mark}")
    limit = speed.get("predicted_limit")
    if limit:
        share = f"{100 * limit['int8_share']:.1f} % of {limit['macs'] / 1e9:.2f} GMAC a sample in INT8"
        print(f"  predicted limit {limit['limit']:.2f}x ({share}, processor {limit['processor_ratio']:.0f}x)")
    if processor.isa_cap:
        print(f"  {CAP_NOTE}")
