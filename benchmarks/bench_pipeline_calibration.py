"""What calibrating a conditional pipeline costs beside running it for the same pictures, in one run, by turns.

    python benchmarks/bench_pipeline_calibration.py [--quick]

A Stable Diffusion pipeline of real diffusers classes with random weights, its UNet wide enough that the network, not
Python, takes the time. Running ends with the latents: the VAE would only make it longer. Quantizing is all of it:
watching, finding the sensitive layers, searching ranges, rounding weights; each of these parts is timed, and those that
do not grow with the pictures (ranges, weights) are told apart.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import parser, save
from diffusers import StableDiffusionPipeline

import ptq4dm
from ptq4dm import workflow
from ptq4dm.pipelines.conditions import default_conditions
from ptq4dm.quantization import network

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

STEPS, BATCH, SIZE = 20, 8, 64
PARTS = {
    "the first run": (workflow, "watch_run"),
    "checks of smoothing": (workflow, "smoothing_of"),
    "the watched runs": (workflow, "statistics_in_pipeline"),
    "ranges": (network, "choose_ranges"),
    "weights": (network, "quantize_layers"),
    "sensitive layers": (network, "shares_within"),
}
"""The parts of quantizing a pipeline, and the function that is each of them."""


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    samples, rounds = (8, 1) if args.quick else (32, 3)
    pipeline = wide_pipeline()
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": samples, "steps": STEPS, "batch_size": BATCH})
    prompts = [condition["prompt"] for condition in default_conditions(pipeline)][:samples]
    given = [{"prompt": prompt, "height": SIZE, "width": SIZE} for prompt in prompts]
    running, quantizing, parts, facts = [], [], [], {}
    for _ in range(rounds):
        running.append(seconds(lambda: run_plainly(pipeline, prompts)))

        def quantize() -> None:
            facts.update(ptq4dm.quantize(pipeline, recipe, conditions=given).facts["calibration"])

        with timed_parts() as taken:
            quantizing.append(seconds(quantize))
        parts.append({**taken, "all else": quantizing[-1] - sum(taken.values())})
    ratios = [one / other for one, other in zip(quantizing, running, strict=True)]
    rows = {key: sum(facts[key].values()) for key in ("rows_made", "rows_of_running")}
    print(f"{samples} pictures, {STEPS} steps, batch {BATCH}: quantizing over running, by turns: "
          + ", ".join(f"{ratio:.2f}" for ratio in ratios))  # fmt: skip
    print(f"rows through the UNet: {rows['rows_made']} of {rows['rows_of_running']}")
    for name in parts[0]:
        print(f"{name}: " + ", ".join(f"{one[name] / plain:.2f}" for one, plain in zip(parts, running, strict=True)))
    save("pipeline-calibration", args, {
        "samples": samples, "steps": STEPS, "batch_size": BATCH, "running_seconds": running,
        "quantizing_seconds": quantizing, "ratio_median": statistics.median(ratios), "ratios": ratios, **rows,
        "parts_seconds": parts,
        "sensitivity_calls": facts["sensitivity_calls"], "calls_made": facts["calls_made"],
        "calls_saved": facts["calls_saved"],
    })  # fmt: skip


def wide_pipeline() -> StableDiffusionPipeline:
    """Stable Diffusion with a UNet of 64 and 128 channels."""
    from families.stable_diffusion import common, unet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = unet(block_out_channels=(64, 128), attention_head_dim=8, sample_size=32)
        pipeline = StableDiffusionPipeline(**common(unet=network.eval().requires_grad_(False)))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_plainly(pipeline: StableDiffusionPipeline, prompts: list[str]) -> None:
    """Draw a picture for each prompt, as many at once as in the calibration."""
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        generators = [torch.Generator().manual_seed(first + index) for index in range(len(part))]
        pipeline(prompt=part, height=SIZE, width=SIZE, num_inference_steps=STEPS, generator=generators,
                 output_type="latent")  # fmt: skip


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """While open, the seconds that each of `PARTS` takes are added up."""
    taken = dict.fromkeys(PARTS, 0.0)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            result = work(*args, **kwargs)
            taken[name] += time.process_time() - started
            return result

        return run

    originals = {name: getattr(*place) for name, place in PARTS.items()}
    for name, place in PARTS.items():
        setattr(*place, timed(name, originals[name]))
    try:
        yield taken
    finally:
        for name, place in PARTS.items():
            setattr(*place, originals[name])


def seconds(work: Callable[[], None]) -> float:
    """How long it takes: of the processor, on one thread, so that other programs on the machine do not count."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
