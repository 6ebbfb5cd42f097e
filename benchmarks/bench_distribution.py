"""Does the distribution change? Distances of 2,048 pictures from the training pictures, float and INT8, same seeds.

Beside it, what else would change it: the float pictures rounded as a PNG rounds them, and moved by half or minus the
difference d = INT8 - float: a direction that all pictures share changes sign with d, noise does not.

    python benchmarks/bench_distribution.py [--quick] [--count 2048] [--work DIR] [--inception WEIGHTS] [--weights-only]
                                            [--first-seed SEED]

--first-seed: other pictures than those that artifacts were compared by, in a result of their own.

--weights-only: in INT8's place its weights as they were rounded, with inputs in float, on the same engine as the float
network: what the rounding of weights does by itself.

Pictures and features are kept in --work, chunk by chunk: run it again after an interruption and it goes on. The float
pictures are drawn on an FP32 engine (--float-engine), which differs from eager PyTorch by float rounding.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from common import parser, save
from torch import nn

import ptq4dm
from ptq4dm.evaluation.baselines import float_engines
from ptq4dm.evaluation.distribution import feature_rows
from ptq4dm.evaluation.drawing import draw_resumable
from ptq4dm.evaluation.features import Extractor, Features, extract, make_extractor
from ptq4dm.evaluation.fidelity import mean_db, picture_psnr
from ptq4dm.files import fingerprint, read_tensors, write_tensors
from ptq4dm.quantization.dequantized import float_form
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.quantized_model import example_call
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.zoo import zoo

FIRST_SEED = 2_000_000


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--model", default="emoji-32")
    own.add_argument("--artifact", help="a quantized model's folder (default: the built-in one)")
    own.add_argument("--backend", default="openvino")
    own.add_argument("--first-seed", type=int, default=FIRST_SEED, help="the pictures' seeds count up from it")
    own.add_argument("--weights-only", action="store_true", help="round the weights and leave the inputs in float")
    own.add_argument("--float-engine", default="openvino", choices=("eager", "openvino", "onnxruntime"))
    own.add_argument("--scheduler", default="ddim")
    own.add_argument("--steps", type=int)
    own.add_argument("--count", type=int)
    own.add_argument("--batch-size", type=int, default=32)
    own.add_argument("--data", default="emoji-32", help="the built-in model whose training pictures are the reference")
    own.add_argument("--inception", type=Path, help="weights of the standard Inception network, for published names")
    own.add_argument("--work", type=Path, default=Path("benchmarks/work/distribution"))
    args = own.parse_args()
    args.count = args.count or (16 if args.quick else 2048)
    args.steps = args.steps or (5 if args.quick else 50)
    drawn = draw(args)
    reference = (zoo.pictures(args.data) / 2 + 0.5).clamp(0, 1)
    beside: dict[str, list] = {name: [] for name in changed(**drawn)}
    rows = []
    for extractor in [make_extractor()] + ([make_extractor(args.inception)] if args.inception else []):
        found = {
            name: cached_features(extractor, value, args.work)
            for name, value in {**drawn, "reference": reference}.items()
        }
        rows += feature_rows(extractor, found["float"], found["int8"], found["reference"], shown=sys.stderr.isatty())
        for name, pictures in changed(**drawn).items():
            own = extract(extractor, pictures, shown=sys.stderr.isatty())
            beside[name] += feature_rows(extractor, found["float"], own, found["reference"], shown=sys.stderr.isatty())
    for row in rows:
        print(f"{row['measure']}: float {row['float']:.5g}, INT8 {row['int8']:.5g} (n = {row['n']})")
        print(f"  difference {row['difference']:+.4g}{interval(row)}")
        if row["low"] is not None:
            print(f"  zero is {'inside' if row['low'] <= 0 <= row['high'] else 'OUTSIDE'} its interval; ", end="")
            print(f"smallest detectable difference {row['detectable']:.3g}")
    for name, found in beside.items():
        print(f"{name}: " + "; ".join(f"{row['measure']} {row['difference']:+.4g}{interval(row)}" for row in found))
    psnr = mean_db(picture_psnr(drawn["float"], drawn["int8"]))
    print(f"PSNR of the pictures: {psnr:.2f} dB" if psnr is not None else "the pictures are identical")
    shift = (drawn["int8"] - drawn["float"]).mean((0, 2, 3)).tolist()
    print("mean shift of R, G, B (of [0, 1]): " + ", ".join(f"{value:+.4f}" for value in shift))
    results = {
        "what": f"{args.model}, {args.scheduler} in {args.steps} steps",
        "reference": f"{len(reference)} training pictures of {args.data}",
        "n": args.count,
        "first_seed": args.first_seed,
        "backend": args.backend,
        "rounded": "weights" if args.weights_only else "weights and inputs",
        "float_engine": args.float_engine,
        "interval": "95 % paired bootstrap",
        "rows": rows,
        "beside": beside,
        "pictures_psnr_mean": psnr,
        "mean_shift_rgb": shift,
    }
    kind = "distribution-weights" if args.weights_only else "distribution"
    save(kind if args.first_seed == FIRST_SEED else f"{kind}-seeds-{args.first_seed}", args, results)


def draw(args) -> dict[str, torch.Tensor]:
    pipeline = ptq4dm.open_pipeline(args.model)
    model = ptq4dm.load(args.artifact or zoo.int8_folder(args.model))
    engines, notes = float_engines(pipeline.denoiser, example_call(pipeline))
    if args.float_engine not in engines:
        raise SystemExit("; ".join(notes))
    made = fingerprint(dict(model.network.state_dict()))
    if args.weights_only:
        alone, _ = float_engines(weights_only(model.network), example_call(pipeline))
        rounded, engine = alone[args.float_engine], f"weights alone, {args.float_engine}"
    else:
        rounded, engine = model.to_module(args.backend), args.backend
    seeds = range(args.first_seed, args.first_seed + args.count)
    shown = sys.stderr.isatty()
    drawn = {}
    for name, network, identity in (
        ("float", engines[args.float_engine], [pipeline.fingerprint, args.float_engine]),
        ("int8", rounded, [pipeline.fingerprint, made, engine]),
    ):
        folder = args.work / f"{name}-{fingerprint({}, identity, args.scheduler, args.steps, args.first_seed)}"
        drawn[name] = draw_resumable(
            network, pipeline, args.scheduler, args.steps, seeds, args.batch_size, folder, identity, shown
        )
    return drawn


def weights_only(network: nn.Module) -> nn.Module:
    """A quantized network with the rounded weights of its INT8 layers as floats, and their inputs not rounded."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, QuantizedLayer)}
    return with_layers(network, {name: float_form(layer, torch.float32) for name, layer in layers.items()})


def changed(float: torch.Tensor, int8: torch.Tensor) -> dict[str, torch.Tensor]:
    """The float pictures (n, c, h, w) in [0, 1] changed in other ways than by INT8."""
    difference = int8 - float
    return {
        "float rounded to 8 bits a channel": (float * 255).round() / 255,
        "float + d / 2": float + difference / 2,
        "float - d": (float - difference).clamp(0, 1),
    }


def interval(row: dict) -> str:
    return "" if row["low"] is None else f" [{row['low']:+.4g}, {row['high']:+.4g}]"


def cached_features(extractor: Extractor, pictures: torch.Tensor, work: Path) -> Features:
    """Features of pictures, read where they were extracted before."""
    path = work / f"features-{extractor.name}-{fingerprint({'pictures': pictures})}.safetensors"
    if path.exists():
        tensors, _ = read_tensors(path)
        return Features(**{name: tensors[name].numpy() for name in ("pooled", "spatial", "logits")})
    features = extract(extractor, pictures, shown=sys.stderr.isatty())
    arrays = {name: np.ascontiguousarray(value) for name, value in vars(features).items()}
    write_tensors(path, {name: torch.from_numpy(value) for name, value in arrays.items()})
    return features


if __name__ == "__main__":
    main()
