"""A results folder such as an evaluation writes, with plausible numbers and drawn pictures. Nothing was measured."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CONFIDENCE = 1 - 2 * (1 + 12 + 66) / 2**12
"""Of the interval from the third of 12 rounds to the tenth."""
TILE, COLUMNS, COUNT = 32, 8, 16


def example_results() -> dict[str, Any]:
    """Every section filled."""
    rng = np.random.default_rng(0)
    drawn = np.rint(rng.normal(400, 400, 128)).clip(0, 999).astype(int)
    t = list(range(981, 0, -20))
    blocks = [
        f"{side}_blocks.{i}.resnets.{j}.{conv}"
        for side in ("down", "up")
        for i in range(3)
        for j in range(2)
        for conv in ("conv1", "conv2", "time_emb_proj")
    ]
    layers = blocks + [f"mid_block.attentions.0.to_{part}" for part in ("q", "k", "v")]
    errors = 0.004 + 0.012 * rng.random(len(layers)) ** 2
    kinds = ["Linear" if "proj" in name or "to_" in name else "Conv2d" for name in layers]
    in_float = [("conv_in", "Conv2d", 1769472), ("conv_out", "Conv2d", 1769472)]
    return {
        "format_version": 1,
        "model": {
            "name": "emoji-32",
            "class": "UNet2DModel",
            "parameters": 7201987,
            "fingerprint": "0123456789abcdef",
            "picture_shape": [3, 32, 32],
            "artifact": "demo/int8",
        },
        "recipe": {
            "name": "w8a8-quick",
            "arithmetic": "float-out",
            "keep_float": ["conv_in", "conv_out"],
            "calibration": {"samples": 128, "source": "denoising", "law_options": {}},
            "weights": {"portable": True},
        },
        "calibration": {
            "samples": 128,
            "source": "denoising",
            "law": "ndtc",
            "sampler": "ddim",
            "steps": 50,
            "seed": 0,
            "law_options": {"location": 0.4, "scale": 0.4, "shape": 0.0, "overflow": "clip"},
            "num_train_timesteps": 1000,
            "drawn_timesteps": drawn.tolist(),
            "visited_timesteps": (np.rint((drawn - 1) / 20) * 20 + 1).clip(1, 981).astype(int).tolist(),
            "calls_made": 3712,
            "calls_saved": 2688,
            "sensitivity_calls": 4096,
            "seconds": 64.0,
        },
        "plan": [
            {"name": name, "kind": kind, "quantized": True, "reason": "", "macs": 28_000_000}
            for name, kind in zip(layers, kinds)
        ]
        + [
            {
                "name": name,
                "kind": kind,
                "quantized": False,
                "reason": f"kept in float by the pattern {name!r}",
                "macs": macs,
            }
            for name, kind, macs in in_float
        ],
        "float_by_method": {"GroupNorm": 30, "SiLU": 31},
        "executed": {
            "engine": "openvino",
            "layers": [
                {
                    "layer": name,
                    "type": "FullyConnected" if kind == "Linear" else "Convolution",
                    "int8": True,
                    "primitive": "jit_gemm_i8" if kind == "Linear" else "brgconv_avx2_i8",
                    "precision": "i8",
                }
                for name, kind in zip(layers, kinds)
            ],
        },
        "size": {"float_bytes": 28807948, "int8_bytes": 7421000, "ratio": 3.882},
        "memory": {
            "rows": [
                {"name": "float, PyTorch eager", "peak_bytes": 212e6},
                {"name": "INT8, openvino", "peak_bytes": 140e6},
            ]
        },
        "fidelity": {
            "backend": "openvino",
            "sampler": "ddim",
            "steps": 50,
            "call": {
                "n": 16,
                "relative_l2_mean": 0.0216,
                "psnr_mean": 52.31,
                "curve": {
                    "t": t,
                    "relative_l2": [0.008 + 0.04 * math.exp(-x / 120) for x in t],
                    "psnr": [47 + 9 * x / 1000 for x in t],
                },
            },
            "pictures": {
                "n": COUNT,
                "psnr_mean": 30.42,
                "psnr": (26 + 9 * rng.random(COUNT)).tolist(),
                "identical": 0,
                "perceptual_mean": 0.0123,
                "perceptual_name": "feature distance (efficientnet-lite0)",
            },
            "simulated": {"relative_l2_mean": 0.0214, "psnr_mean": 52.4, "pictures_psnr_mean": 30.5},
            "aims": {"relative_l2_mean": 0.022, "psnr_mean": 52.0, "pictures_psnr_mean": 30.0},
            "floors": {"relative_l2_mean": 0.023, "psnr_mean": 51.5, "pictures_psnr_mean": 29.5},
        },
        "layers": [
            {"name": name, "kind": kind, "relative_l2": float(error)}
            for name, kind, error in zip(layers, kinds, errors)
        ],
        "activation_ranges": [activation(name, index) for index, name in enumerate(layers[:6])],
        "distribution": {
            "extractor": "efficientnet-lite0",
            "reference": "439 training pictures",
            "n": 256,
            "interval": "95 % paired bootstrap",
            "rows": [
                {
                    "measure": "Fréchet distance (efficientnet-lite0)",
                    "float": 12.11,
                    "int8": 12.2,
                    "difference": 0.09,
                    "low": -0.2,
                    "high": 0.38,
                    "detectable": 0.41,
                    "lower_is_better": True,
                },
                {
                    "measure": "kernel distance (efficientnet-lite0)",
                    "float": 0.021,
                    "int8": 0.024,
                    "difference": 0.003,
                    "low": 0.001,
                    "high": 0.005,
                    "detectable": 0.002,
                    "lower_is_better": True,
                },
            ],
        },
        "speed": {
            "batch": 8,
            "what": "one network call",
            "threads": 2,
            "rounds": 12,
            "spread": "quartiles of 12 alternating rounds; ratios: 96.1 % interval of the median of paired rounds",
            "rows": [
                timed("eager", "FP32", 0.1204),
                timed("onnxruntime", "FP32", 0.0893),
                timed("openvino", "FP32", 0.0812),
                timed("openvino", "INT8", 0.0553),
            ],
            "ratios": [
                {
                    "name": "against diffusers eager",
                    "baseline": "eager",
                    "value": 2.18,
                    "low": 2.1,
                    "high": 2.25,
                    "confidence": CONFIDENCE,
                },
                {
                    "name": "against FP32 in onnxruntime",
                    "baseline": "onnxruntime",
                    "value": 1.61,
                    "low": 1.55,
                    "high": 1.68,
                    "confidence": CONFIDENCE,
                },
                {
                    "name": "against FP32 in openvino",
                    "baseline": "openvino",
                    "value": 1.47,
                    "low": 1.43,
                    "high": 1.52,
                    "confidence": CONFIDENCE,
                },
            ],
            "predicted_limit": {"macs": 1.2e9, "int8_share": 0.985, "processor_ratio": 2.0, "limit": 1.97},
            "sampling": {
                "batch": 8,
                "what": "8 pictures, ddim in 10 steps",
                "threads": 2,
                "rounds": 3,
                "spread": "quartiles of 3 alternating rounds; ratios: 75 % interval of the median of paired rounds",
                "rows": [timed("eager", "FP32", 1.31), timed("openvino", "INT8", 0.593)],
                "ratios": [
                    {
                        "name": "against diffusers eager",
                        "baseline": "eager",
                        "value": 2.21,
                        "low": 2.2,
                        "high": 2.3,
                        "confidence": 0.75,
                    }
                ],
            },
        },
        "pictures": {
            "float": "float.png",
            "int8": "int8.png",
            "tile": [TILE, TILE],
            "columns": COLUMNS,
            "count": COUNT,
            "seeds": list(range(1_000_000, 1_000_000 + COUNT)),
            "sampler": "ddim",
            "steps": 50,
        },
        "environment": {
            "processor": "AMD EPYC 7B13",
            "cores": 2,
            "int8_instructions": "AVX2, no VNNI",
            "python": "3.11.2",
            "processor_flags": "sse4_2 avx avx2 fma f16c",
            "torch": "2.13.0+cpu",
            "date": "2026-11-22",
        },
        "commands": [
            "ptq4dm quantize emoji-32 --recipe w8a8-quick --out demo/int8",
            "ptq4dm evaluate demo/int8 --count 16 --steps 50 --scheduler ddim --backend openvino --seed 0",
        ],
        "notes": ["An engine that is not installed was left out: <onnxruntime> & others."],
    }


def activation(name: str, index: int) -> dict[str, Any]:
    """A range that narrows or widens with t."""
    t = [25 + 50 * band for band in range(20)]
    spread = [1.5 + index + 3 * math.exp(-x / 200) + 0.002 * (index % 3) * x for x in t]
    return {
        "layer": name,
        "t": t,
        "min": [-0.28 - 0.1 * s for s in spread],
        "max": [s * (1 + 0.1 * math.sin(x)) for s, x in zip(spread, t)],
        "p01": [-0.2 for _ in t],
        "p99": [0.5 * s for s in spread],
        "low": -0.3,
        "high": 0.75 * max(spread),
    }


def timed(engine: str, precision: str, seconds: float) -> dict[str, Any]:
    """A row of the speed table."""
    return {
        "engine": engine,
        "precision": precision,
        "seconds_median": seconds,
        "seconds_low": 0.97 * seconds,
        "seconds_high": 1.05 * seconds,
        "ratio_to_eager": 0.1204 / seconds,
    }


def write_example(folder: Path, results: dict[str, Any] | None = None) -> Path:
    """Write the example (or other results) and its two sheets into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results if results is not None else example_results()))
    sheet = faces()
    Image.fromarray(sheet).save(folder / "float.png")
    noise = np.random.default_rng(1).normal(0, 6, sheet.shape)
    Image.fromarray((sheet + noise * (sheet < 250)).clip(0, 255).astype(np.uint8)).save(folder / "int8.png")
    return folder


def faces() -> np.ndarray:
    """A sheet of smiling discs, each of its own colour, uint8."""
    image = Image.new("RGB", (COLUMNS * TILE, COUNT // COLUMNS * TILE), "white")
    draw = ImageDraw.Draw(image)
    for index in range(COUNT):
        x, y = index % COLUMNS * TILE, index // COLUMNS * TILE
        draw.ellipse((x + 2, y + 2, x + 29, y + 29), fill=f"hsl({index * 360 // COUNT}, 85%, 60%)")
        draw.arc((x + 9, y + 10, x + 22, y + 23), 20, 160, fill="black", width=2)
    return np.asarray(image)
