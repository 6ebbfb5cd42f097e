"""Fidelity of emoji-32 as deployed, W8A8, DDIM-50, with the aims and floors beside.

    python benchmarks/bench_fidelity.py [--quick] [--count 64] [--backend openvino] [--artifact DIR]

The second declared arithmetic, `qdq`, on ONNX Runtime and beside its own simulated twin, in a result file of its own.
No artifact of it is built in: make one of the released weights with the default recipe but for its arithmetic ::

    echo 'arithmetic = "qdq"' > qdq.toml
    ptq4dm quantize emoji-32 --recipe qdq.toml --out emoji-int8-qdq
    python benchmarks/bench_fidelity.py --arithmetic qdq --artifact emoji-int8-qdq

The aims and floors are those of the default arithmetic.
"""

import sys
import tempfile
from pathlib import Path

from common import parser, save

import ptq4dm
from ptq4dm.evaluation.evaluate import evaluate
from ptq4dm.evaluation.sections import AIMED_AT, AIMS, FLOORS
from ptq4dm.zoo import zoo

FIRST_SEED = 1_000_000
ENGINES = {"float-out": "openvino", "qdq": "onnxruntime"}
FILES = {"float-out": "fidelity", "qdq": "fidelity-qdq"}


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--model", default="emoji-32")
    own.add_argument("--artifact", help="a quantized model's folder (default: the built-in one, of float-out)")
    own.add_argument(
        "--arithmetic", choices=tuple(ENGINES), default="float-out", help="the artifact's (default float-out)"
    )
    own.add_argument("--backend", help="default: openvino for float-out, onnxruntime for qdq")
    own.add_argument("--count", type=int)
    args = own.parse_args()
    if args.arithmetic == "qdq" and not args.artifact:
        own.error(
            "--arithmetic qdq: none is built in: make one (this file's head says how) and name it with --artifact"
        )
    model = ptq4dm.load(args.artifact or zoo.int8_folder(args.model))
    if model.recipe.arithmetic != args.arithmetic:
        own.error(f"--arithmetic {args.arithmetic}: the artifact's is {model.recipe.arithmetic!r}, which goes there")
    _, sampler, steps = AIMED_AT
    with tempfile.TemporaryDirectory() as folder:
        results = evaluate(
            model,
            ptq4dm.open_pipeline(args.model),
            Path(folder) / "results",
            pictures=args.count or (4 if args.quick else 64),
            steps=5 if args.quick else steps,
            sampler=sampler,
            seed=FIRST_SEED,
            backend=args.backend or ENGINES[args.arithmetic],
            speed_rounds=0,
            shown=sys.stderr.isatty(),
        )
    fidelity = results["fidelity"]
    for name, got in (("deployed", deployed(fidelity)), ("simulated", simulated(fidelity))):
        print(f"{name} ({fidelity['backend'] if name == 'deployed' else 'torch'}), n = {fidelity['call']['n']}")
        for key, (value, better) in got.items():
            met = (value <= FLOORS[key] if better == "lower" else value >= FLOORS[key]) if value is not None else True
            print(f"  {key:20s} {shown(value)}   aim {AIMS[key]}, floor {FLOORS[key]}: {'met' if met else 'MISSED'}")
    curve = fidelity["call"]["curve"]
    gain, t = max(zip(curve["gain"], curve["t"], strict=True), key=lambda pair: abs(pair[0]))
    print(f"largest gain of an answer over the float one, mean of the pictures: {gain:+.5f} at t = {t:g}")
    if args.quick:
        print(f"a quick try: 5 steps and few pictures; the aims and floors are for {sampler} in {steps} steps")
    kept = {key: results[key] for key in ("model", "recipe", "fidelity", "layers", "executed", "size", "notes")}
    what = f"{args.model}, W8A8 as deployed, arithmetic {args.arithmetic}"
    name = model.recipe.name
    file = f"fidelity-{name}" if args.arithmetic == "float-out" and name != "w8a8" else FILES[args.arithmetic]
    save(file, args, {"what": what, "aims": AIMS, "floors": FLOORS, **kept})


def deployed(fidelity) -> dict[str, tuple[float | None, str]]:
    call, pictures = fidelity["call"], fidelity["pictures"]
    return figures(call["relative_l2_mean"], call["psnr_mean"], pictures["psnr_mean"])


def simulated(fidelity) -> dict[str, tuple[float | None, str]]:
    own = fidelity["simulated"]
    return figures(own["relative_l2_mean"], own["psnr_mean"], own["pictures_psnr_mean"])


def figures(relative, call_psnr, picture_psnr) -> dict[str, tuple[float | None, str]]:
    return {
        "relative_l2_mean": (relative, "lower"),
        "psnr_mean": (call_psnr, "higher"),
        "pictures_psnr_mean": (picture_psnr, "higher"),
    }


def shown(value: float | None) -> str:
    return "  identical" if value is None else f"{value:11.4f}"


if __name__ == "__main__":
    main()
