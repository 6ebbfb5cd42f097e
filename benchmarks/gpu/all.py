"""Everything that is to be measured on a GPU, one piece of ten minutes after the other, unattended.

    python benchmarks/gpu/all.py [--out DIR] [--minutes M] [--list] [--rehearse]

NOT YET RUN ON A GPU. Pieces come in the order of what they tell: are the kernels right, each kernel, the networks at
the batches of the goals, the other batches. Each is a process of its own that ends within ten minutes, writes its JSON
as it goes and goes on where it ended, so this command can be stopped at any time and run again; what is done is not
begun. With --minutes it ends after so many; its status is 0 when everything is measured, 3 when it is to be run again,
1 when something failed.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import bench_kernels
import bench_network
from on_gpu import AGAIN, RESULTS, Results, require_gpu

HERE = Path(__file__).parent
PIECE, GRACE, ATTEMPTS = 540.0, 50.0, 4
"""Seconds after which a piece begins nothing new; those it may take beyond to end; how often it is begun."""
CHECK = ["check.py"]
QUICK = ("INT8 (faster of both a layer)", "INT8 (strict)", "FP16 compiled")
UNETS = ("ddpm-cifar10", "imagenet64", "sd15")


def pieces(rehearse: bool) -> list[list[str]]:
    """The commands, in order."""
    if rehearse:
        return [CHECK, ["bench_kernels.py"], ["bench_network.py", "tiny"]]
    batches = {"ddpm-cifar10": (1, 2, 4, 8, 64), "imagenet64": (1, 2, 4, 8, 64, 256), "sd15": (1, 2, 4, 64, 256)}
    own = [["bench_network.py", name] for name in (*UNETS, "dit-xl")]
    others = [(batch, name) for name in UNETS for batch in batches[name]]
    small_first = [
        ["bench_network.py", name, "--batch", str(batch), "--contenders", *QUICK] for batch, name in sorted(others)
    ]
    return [CHECK, ["bench_kernels.py"], *own, *small_first]


def main() -> None:
    own = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    own.add_argument("--out", type=Path, default=RESULTS, help="folder of results (default benchmarks/gpu/results)")
    own.add_argument("--minutes", type=float, help="end after so many (default: when everything is measured)")
    own.add_argument("--rounds", type=int, default=20, help="alternating rounds (default 20)")
    own.add_argument("--list", action="store_true", help="print the pieces and end")
    own.add_argument("--rehearse", action="store_true", help="go through it on the CPU on tiny shapes; no real times")
    args = own.parse_args()
    if not args.list:
        require_gpu(args.rehearse)
    ends = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    left, failed = [], []
    for piece in pieces(args.rehearse):
        known = not args.list and done(piece, args)
        print("$", *piece, "(done)" * known, flush=True)
        if args.list or known:
            continue
        status = run(piece, args, ends)
        if status == AGAIN:
            left.append(" ".join(piece))
        elif status:
            failed.append(" ".join(piece))
            if piece == CHECK:
                sys.exit("the kernels are wrong here: what follows would mean nothing")
    for what, names in (("failed", failed), ("run this command again for", left)):
        if names:
            print(f"{what}:", *names, sep="\n  ")
    sys.exit(AGAIN if left else int(bool(failed)))


def done(piece: list[str], args: argparse.Namespace) -> bool:
    """Whether the results have all of a piece; what could not run counts, so that it is not tried at each time."""
    name, wanted = "check", ["check"]
    if piece[0] == "bench_kernels.py":
        name, wanted = "kernels", list(bench_kernels.pieces(args.rehearse))
    elif piece[0] == "bench_network.py":
        asked = bench_network.arguments(piece[1:])
        name, wanted = bench_network.name_of(asked), [*asked.contenders, "correct"]
    return set(wanted) <= set(Results(args, name).rows)


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
