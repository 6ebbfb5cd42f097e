"""One network quantized by every tool, in one run: share in INT8, fidelity, speed and size of what each deploys, and
the fidelity of what it means to compute, simulated in float.

    pip install -c constraints.txt -c benchmarks/peers/constraints.txt -e '.[peers]'
    python benchmarks/bench_peers.py [--quick] [--network emoji-32|cifar10] [--isa native|avx2|both] [--peers NAME,NAME]
                                     [--no-speed] [--page docs/peers.md]

Each tool first writes the files that one would ship, without limits on the instruction set; then, once a set, all are
loaded in one process and take turns.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench_network import cifar_shaped
from common import AVX2, CAP_NOTE, add_isa, parser, save, under_each_isa
from diffusers import DDPMPipeline
from peers import EAGER, FAST, OURS, PEERS
from peers.measure import Effort
from peers.page import page, read_results, tables_and_claims
from peers.peer import Peer, Subject, require
from peers.rows import SIMULATED, measured
from peers.verdict import beaten, verdict

import ptq4dm
from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.collect import collect
from ptq4dm.errors import PTQ4DMError
from ptq4dm.evaluation.environment import installed_version
from ptq4dm.evaluation.hardware import this_processor, usable_flags
from ptq4dm.files import new_folder
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline

SAMPLES = "samples.safetensors"
PACKAGES = ("optimum-quanto", "torchao", "nncf", "openvino", "onnxruntime", "torch")
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
STOCK_NOTE = (
    "OpenVINO's own float graph computes wrong numbers under ONEDNN_MAX_CPU_ISA=AVX2 on a processor with AVX-512, and "
    "NNCF's graph keeps these parts: their fidelity is not compared here"
)
NAN_NOTE = "answers with NaN or infinity here, so its fidelity is not compared"


@dataclass(frozen=True)
class Setting:
    """A network of the benchmark: how it comes, how many samples all tools calibrate on, how much is measured."""

    open: Callable[[], str | DDPMPipeline]
    samples: int
    effort: Effort


NETWORKS = {
    "emoji-32": Setting(lambda: "emoji-32", 256, Effort(pictures=16, steps=50, batch=16, rounds=15)),
    "cifar10": Setting(cifar_shaped, 64, Effort(pictures=8, steps=10, batch=8, rounds=15)),
}
QUICK = Effort(pictures=2, steps=2, batch=2, rounds=2)


def main() -> None:
    own = parser(__doc__ or "")
    add_isa(own)
    own.add_argument("--network", choices=tuple(NETWORKS), default="emoji-32")
    own.add_argument("--peers", help=f"tools, comma-separated (default: all of {', '.join(PEERS)})")
    own.add_argument("--samples", type=int, help="calibration samples, the same for all (default: by the network)")
    own.add_argument("--law", choices=("ndtc", "uniform"), default="ndtc", help="law of their time-steps")
    own.add_argument("--no-speed", action="store_true", help="fidelity and size only, saved beside what was timed")
    own.add_argument("--rounds", type=int, help="of timing (default 15)")
    own.add_argument("--steps", type=int, help="of the float trajectories (default: by the network)")
    own.add_argument("--work", type=Path, help="keeps what the tools ship; what is there already is not made again")
    own.add_argument("--page", type=Path, help="write the page of all saved results, too")
    args = own.parse_args()
    names = chosen(args)
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        pipeline = open_pipeline(NETWORKS[args.network].open())
        samples = collected(args, pipeline, work)
        for vnni in {"native": {has_vnni()}, "avx2": {False}, "both": {has_vnni(), False}}[args.isa]:
            ship_all(Subject(pipeline, samples, vnni), names, work)
        if not under_each_isa(args, ("--work", str(work))):
            report(args, Subject(pipeline, samples, has_vnni()), names, work)
    if args.page:
        args.page.write_text(page(read_results(args.out)))


def chosen(args: argparse.Namespace) -> list[str]:
    """The tools asked for, eager and ours always among them."""
    asked = args.peers.split(",") if args.peers else [n for n in PEERS if not (args.quick and PEERS[n].slow_start)]
    unknown = [name for name in asked if name not in PEERS]
    if unknown:
        raise SystemExit(f"--peers {unknown[0]}: accepted are {', '.join(PEERS)}")
    return [name for name in PEERS if name in {EAGER, OURS, *asked}]


def has_vnni() -> bool:
    """Whether INT8 products do not saturate here, as the tools ask it (Arm's never do)."""
    usable = usable_flags(this_processor().flags, this_processor().isa_cap)
    return bool(usable & VNNI) or "avx2" not in usable


def collected(args: argparse.Namespace, pipeline: Pipeline, work: Path) -> CalibrationSet:
    """The calibration samples in `work`, collected by the float network if they are not there."""
    path = work / SAMPLES
    if not path.exists():
        count = args.samples or (4 if args.quick else NETWORKS[args.network].samples)
        law = {"timesteps": "uniform", "law_options": {}} if args.law == "uniform" else {}
        recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": count, **law})
        if args.quick:
            recipe = recipe.replace(calibration={"steps": 5})
        collect(pipeline, recipe.calibration, None, sys.stderr.isatty()).save(path)
    return CalibrationSet.load(path)


def ship_all(subject: Subject, names: list[str], work: Path) -> None:
    """Let each tool write its files, where they are not there yet and the tool is."""
    for name in names:
        folder = shipped(name, subject.vnni, work)
        try:
            require(PEERS[name])
            if not folder.exists():
                print(f"{PEERS[name].title}, {PEERS[name].settings}: quantizing", flush=True)
                ship(PEERS[name], subject, folder)
        except PTQ4DMError as error:
            print(f"{PEERS[name].title} is left out: {error}")


def ship(peer: Peer, subject: Subject, folder: Path) -> None:
    """Write a tool's files, all or none."""
    with new_folder(folder) as building:
        peer.ship(subject, building)


def shipped(name: str, vnni: bool, work: Path) -> Path:
    """Where a tool's files lie."""
    return work / (f"{name}-no-vnni" if PEERS[name].tuned and not vnni else name)


def report(args: argparse.Namespace, subject: Subject, names: list[str], work: Path) -> None:
    """Measure, print and save."""
    effort = QUICK if args.quick else NETWORKS[args.network].effort
    effort = replace(effort, rounds=args.rounds or effort.rounds, steps=args.steps or effort.steps)
    capped = bool(this_processor().isa_cap)
    folders = {name: shipped(name, subject.vnni, work) for name in names}
    tables = measured(PEERS, subject, folders, effort, capped, timed=not args.no_speed)
    rows, simulated = tables["rows"], tables["simulated"]
    broken = [
        f"{row['title']}, {row['settings']}{kind}: {NAN_NOTE}"
        for kind, table in (("", rows), (SIMULATED, simulated))
        for row in table.values()
        if not row.get("finite", True)
    ]
    results = {
        "what": "one network quantized by several tools, each as deployed and simulated",
        "network": args.network,
        "isa": args.isa,
        "isa_settings": AVX2 if capped else {},
        "samples": {"count": len(subject.samples), "law": subject.samples.facts["law"]},
        "timed": not args.no_speed,
        "effort": asdict(effort),
        "versions": {name: installed_version(name) for name in PACKAGES},
        **tables,
        "claims": verdict(rows, (OURS, FAST)),
        "beaten": beaten(rows, simulated, (OURS, FAST)),
        "notes": [*([STOCK_NOTE, CAP_NOTE] if capped else []), *broken],
    }
    print("\n".join(tables_and_claims(results)))
    save(f"peers-{args.network}{'-fidelity' if args.no_speed else ''}", args, results)


if __name__ == "__main__":
    main()
