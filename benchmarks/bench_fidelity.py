"""Fidelity of emoji-32 as deployed, W8A8, DDIM-50, with the aims and floors beside.

python benchmarks/bench_fidelity.py [--quick] [--count 64] [--backend openvino] [--artifact DIR]
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


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--model", default="emoji-32")
    own.add_argument("--artifact", help="a quantized model's folder (default: the built-in one)")
    own.add_argument("--backend", default="openvino")
    own.add_argument("--count", type=int)
    args = own.parse_args()
    model = ptq4dm.load(args.artifact or zoo.int8_folder(args.model))
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
            backend=args.backend,
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
    save("fidelity", args, {"what": f"{args.model}, W8A8 as deployed", "aims": AIMS, "floors": FLOORS, **kept})


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
