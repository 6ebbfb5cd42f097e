"""docs/peers.md: the saved results of `bench_peers.py` as tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "tool", "settings", "multiply-adds in INT8", "relative L2 of a call", "PSNR of a call", "one call",
    "against eager", "ptq4dm is", "size",
)  # fmt: skip
GUIDE = """\
# Beside other tools

Made by `python benchmarks/bench_peers.py --page docs/peers.md` from the files `benchmarks/results/peers-*.json`; not
typed. Every tool got the same float network and the same calibration samples, wrote the files that one would ship, and
was measured on what it runs from them, in the same process as all others.

How to read it:

- *multiply-adds in INT8*: of all convolutions and linear layers, what the runtime itself shows as INT8: OpenVINO's
  compiled graph, the graph as ONNX Runtime rewrote it, INT8 matrix products in PyTorch's profiler. A tool that leaves
  most of them in float is near to float and gains no speed: its fidelity is no feat.
- *relative L2* and *PSNR of a call*: against the float network in PyTorch, mean over calls on the x_t of the float
  trajectory, which errors of earlier calls do not reach. Every network got the same x_t.
- *one call*: median and quartiles, all taking turns in one run; *against eager* and *ptq4dm is*: ratios round by round,
  with quartiles; *ptq4dm is* 1.50x faster means that the tool's call takes 1.50 times as long as ours.
- *size*: all files that hold the network.
"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page of several results: one section each, in the order of network and processor."""
    ordered = sorted(results, key=lambda result: (result["network"], result["isa"] != "native", machine_of(result)))
    return "\n".join([GUIDE, *("\n".join(section(result)) for result in ordered)])


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The saved results of full runs."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("peers-*.json"))]
    return [result for result in found if not result["quick"]]


def section(result: Mapping[str, Any]) -> list[str]:
    """One run: where, on what, the table, the claims, the notes."""
    rows = result["rows"]
    return [
        f"## {result['network']}, {result['environment']['int8_instructions']}",
        "",
        where(result),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row)) + " |" for row in rows.values()),
        "",
        *(claim_line(claim, rows) for claim in result["claims"]),
        *(f"- {note}" for note in result["notes"]),
        "",
    ]


def where(result: Mapping[str, Any]) -> str:
    """The sentence above a table."""
    effort, samples, facts = result["effort"], result["samples"], result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{machine_of(result)}, {facts['threads']} threads, {facts['date']}; {samples['count']} calibration samples"
        f" ({samples['law']}); fidelity over {effort['pictures']} pictures, DDIM in {effort['steps']} steps; a call of"
        f" batch {effort['batch']}, {effort['rounds']} rounds. {versions}."
    )


def machine_of(result: Mapping[str, Any]) -> str:
    """The processor in words."""
    return f"{result['environment']['processor']}, {result['environment']['cores']} cores"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the table in words; a tool that was not measured says why."""
    names = [row["title"], row["settings"]]
    if "reason" in row:
        return [*names, f"not measured: {row['reason']}", *[""] * (len(COLUMNS) - 3)]
    seconds, faster = row["seconds"], row["ours_faster"]
    call = f"{1e3 * seconds['median']:.0f} ms ({1e3 * seconds['low']:.0f} to {1e3 * seconds['high']:.0f})"
    return [
        *names,
        f"{100 * row['int8_share']:.1f} %",
        *fidelity_cells(row["fidelity"]),
        call,
        ratio(row["over_eager"]),
        "" if faster["low"] == faster["high"] == 1 else f"{ratio(faster)} faster",
        f"{row['bytes'] / 1e6:.2f} MB",
    ]


def fidelity_cells(fidelity: Mapping[str, Any] | None) -> list[str]:
    """Relative L2 and PSNR in words."""
    if fidelity is None:
        return ["not compared", "not compared"]
    psnr = fidelity["psnr_mean"]
    return [percent(fidelity["relative_l2_mean"]), "identical" if psnr is None else f"{psnr:.1f} dB"]


def percent(value: float) -> str:
    """A share with three figures that count; what is float rounding only as a power."""
    return f"{100 * value:.2f} %" if value >= 1e-4 or value == 0 else f"{100 * value:.0e} %"


def ratio(spread: Mapping[str, float]) -> str:
    """A ratio with its quartiles."""
    return f"{spread['median']:.2f}x ({spread['low']:.2f} to {spread['high']:.2f})"


def claim_line(claim: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One claim: held, or broken by whom; and who could not be judged."""

    def named(names: Sequence[str]) -> str:
        return ", ".join(f"{rows[name]['title']} ({rows[name]['settings']})" for name in names)

    answer = "yes" if claim["held"] else f"**no**: {named(claim['broken_by'])}"
    unknown = f"; not judged: {named(claim['not_judged'])}" if claim["not_judged"] else ""
    return f"- {claim['claim'][0].upper()}{claim['claim'][1:]}: {answer}{unknown}."
