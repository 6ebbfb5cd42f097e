"""Everything that is to be measured on a GPU, one piece of ten minutes after the other, unattended.

    python benchmarks/gpu/all.py [--out DIR] [--minutes M] [--list] [--rehearse]

NOT YET RUN ON A GPU. Pieces come in the order of what they tell, because time on a GPU ends:
1. a minute of checks, of each kind of kernel one: where one is wrong, what follows means nothing, and this ends;
2. the three UNets at the batches of the goals: compiled FP16 and strict INT8 alone (mode "reduce-overhead");
3. the same with all contenders;
4. the same again in mode "max-autotune", the baseline that counts, which takes long to compile;
5. DiT-XL/2, in both modes;
6. all checks;
7. each kernel beside cuDNN and cuBLAS;
8. the UNets at other batches, small ones first.

Each is a process of its own that ends within ten minutes, writes its JSON as it goes and goes on where it ended, so
this command can be stopped at any time and run again; what is done is not begun. With --minutes it ends after so many.
Its status is 0 when everything is measured, 3 when it is to be run again, else 1: something is wrong, could not run,
or is not installed, and the last lines say what.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench_kernels
import bench_network
import check
from bench_network import COMPILED, INT8, MODES, STRICT
from on_gpu import AGAIN, RESULTS, Results, require_gpu

HERE = Path(__file__).parent
PIECE, GRACE, ATTEMPTS = 540.0, 50.0, 4
"""Seconds after which a piece begins nothing new; those it may take beyond to end; how often it is begun."""
SMOKE = ["check.py", "--smoke"]
UNETS = ("ddpm-cifar10", "imagenet64", "sd15")
BATCHES = {"ddpm-cifar10": (1, 2, 4, 8, 64), "imagenet64": (1, 2, 4, 8, 64, 256), "sd15": (1, 2, 4, 64, 256)}
"""The other batches, at which INT8 should not be slower."""


def pieces(rehearse: bool) -> list[list[str]]:
    """The commands, in order."""
    if rehearse:
        pair = of_network("tiny", "--contenders", *bench_network.PAIR)
        return [SMOKE, pair, of_network("tiny"), ["check.py"], ["bench_kernels.py"]]
    pairs = [of_network(name, "--contenders", *bench_network.PAIR) for name in UNETS]
    whole = [of_network(name, "--mode", mode) for mode in MODES for name in UNETS]
    dit = [of_network("dit-xl", "--mode", mode) for mode in MODES]
    others = sorted((batch, name) for name in UNETS for batch in BATCHES[name])
    small_first = [
        of_network(name, "--batch", str(batch), "--contenders", COMPILED, STRICT, INT8) for batch, name in others
    ]
    return [SMOKE, *pairs, *whole, *dit, ["check.py"], ["bench_kernels.py"], *small_first]


def of_network(name: str, *more: str) -> list[str]:
    return ["bench_network.py", name, *more]


def main() -> None:
    own = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    own.add_argument("--out", type=Path, default=RESULTS, help="folder of results (default benchmarks/gpu/results)")
    own.add_argument("--minutes", type=float, help="end after so many (default: when everything is measured)")
    own.add_argument("--rounds", type=int, default=20, help="alternating rounds (default 20)")
    own.add_argument("--list", action="store_true", help="print the pieces and end")
    own.add_argument("--rehearse", action="store_true", help="go through it on the CPU on tiny shapes; no real times")
    args = own.parse_args()
    if args.list:
        print(*(" ".join(piece) for piece in pieces(args.rehearse)), sep="\n")
        return
    require_gpu(args.rehearse)
    ends = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    left, wrong, missing = [], [], set()
    for piece in pieces(args.rehearse):
        known = done(piece, args) and not (piece == SMOKE and failures_of(piece, args))
        print("$", *piece, "(done)" * known, flush=True)
        status = 0 if known else run(piece, args, ends)
        failures = failures_of(piece, args)
        missing |= {row["install"] for row in failures.values() if "install" in row}
        wrong += [f"{' '.join(piece)}: {name}" for name, row in failures.items() if "install" not in row]
        wrong += [" ".join(piece)] if status not in (0, AGAIN) and not failures else []
        left += [" ".join(piece)] if status == AGAIN else []
        if piece == SMOKE and (status not in (0, AGAIN) or failures):
            sys.exit("the kernels are wrong here: what follows would mean nothing")
    sys.exit(told(left, wrong, missing))


def told(left: list[str], wrong: list[str], missing: set[str]) -> int:
    """Print what there is to tell at the end; the status."""
    for what, names in (("wrong, or could not run", wrong), ("run this command again for", left)):
        if names:
            print(f"{what}:", *names, sep="\n  ")
    for package in sorted(missing):
        what = "baseline (d)" if package == "torchao" else "a peer"
        print(f"{what} is missing: pip install {package}")
    return AGAIN if left else int(bool(wrong or missing))


def asked_of(piece: list[str], args: argparse.Namespace) -> tuple[Results, list[str]]:
    """The results that a piece writes, and the rows that it is to have written."""
    script, *more = piece
    if script == "check.py":
        return Results(args, "check"), list((check.smoke if more else check.checks)(args.rehearse))
    if script == "bench_kernels.py":
        return Results(args, "kernels"), list(bench_kernels.pieces(args.rehearse))
    asked = bench_network.arguments(more)
    rows = [bench_network.row_of(name, asked.mode) for name in asked.contenders]
    return Results(args, bench_network.name_of(asked)), [*rows, "correct"]


def done(piece: list[str], args: argparse.Namespace) -> bool:
    """Whether the results have all of a piece; what could not run counts, so that it is not tried at each time."""
    results, wanted = asked_of(piece, args)
    whole = piece[0] != "bench_network.py" or not bench_network.unfinished(
        bench_network.arguments(piece[1:]), results.rows
    )
    return whole and set(wanted) <= set(results.rows)


def failures_of(piece: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """The rows of a piece that say that something is wrong or could not run."""
    results, wanted = asked_of(piece, args)
    return {name: results.rows[name] for name in wanted if {"wrong", "cannot"} & set(results.rows.get(name, {}))}


def run(piece: list[str], args: argparse.Namespace, ends: float) -> int:
    """Run one piece until it is done or cannot go on: its status, AGAIN where time was too short."""
    command = [sys.executable, str(HERE / piece[0]), *piece[1:]]
    command += ["--rehearse"] if args.rehearse else []
    for _ in range(ATTEMPTS):
        deadline = min(PIECE, ends - time.monotonic() - GRACE)
        if deadline < GRACE:
            return AGAIN
        more = ["--out", str(args.out), "--deadline", f"{deadline:.0f}", "--rounds", str(args.rounds)]
        try:
            status = subprocess.run([*command, *more], timeout=deadline + GRACE).returncode
        except subprocess.TimeoutExpired:  # what it compiled is kept: the next attempt comes further
            status = AGAIN
        if status != AGAIN:
            return status
    return AGAIN


if __name__ == "__main__":
    main()
