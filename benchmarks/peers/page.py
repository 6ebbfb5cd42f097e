"""docs/peers.md: the saved results of `bench_peers.py` as tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FIDELITY = ("relative L2 of a call", "PSNR of a call", "more than ptq4dm")
SPEED = ("one call", "against eager", "ptq4dm is")
GUIDE = """\
# Beside other tools

Made by `python benchmarks/bench_peers.py --page docs/peers.md` from the files `benchmarks/results/peers-*.json`; not
typed. Every tool got the same float network and the same calibration samples, wrote the files that one would ship, and
was measured on what it runs from them, in the same process as all others. Where a tool has two rows, *defaults* are its
own settings and the other is what it recommends for such a network.

How to read it:

- *multiply-adds in INT8*: of all convolutions and linear layers, what the runtime itself shows as INT8: OpenVINO's
  compiled graph, the graph as ONNX Runtime rewrote it, INT8 matrix products in PyTorch's profiler. A tool that leaves
  most of them in float is near to float and gains no speed: its fidelity is no feat.
- *relative L2* and *PSNR of a call*: against the float network in PyTorch, mean over calls on the x_t of the float
  trajectory, which errors of earlier calls do not reach. Every network got the same x_t.
- *more than ptq4dm*: the relative L2 less ours in the same table, in points of percent, with its 95 % interval by a
  paired bootstrap over the pictures, widened by Student's t. A tool is *beaten beyond the error bars* if the whole
  interval lies above 0. It tells what other pictures could change, not what other calibration samples could.
- *simulated*: the same files computed in float, by the tool's own ranges and rounding, so that its scheme is judged
  apart from its engine; each row says how. A runtime that shows a product in INT8 there is refused. optimum-quanto
  computes convolutions in float when deployed, too: only its linear layers differ.
- *one call*: median and quartiles, all taking turns in one run; *against eager* and *ptq4dm is*: ratios round by round,
  with quartiles; *ptq4dm is* 1.50x faster means that the tool's call takes 1.50 times as long as ours.
- *size*: all files that hold the network.
- *ptq4dm* has two rows where the recipe `w8a8-fast` was measured: it leaves no layer in float for its sensitivity. The
  claims are judged for each of them; *more than ptq4dm*, *ptq4dm is* and *beaten* are against the default recipe.
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
    only = "" if is_timed(result) else ", fidelity only"
    return [
        f"## {result['network']}, {result['environment']['int8_instructions']}{only}",
        "",
        where(result),
        "",
        *tables_and_claims(result),
        *(f"- {note}" for note in result["notes"]),
        "",
    ]


def is_timed(result: Mapping[str, Any]) -> bool:
    """Whether a run measured speed."""
    return result.get("timed", True)


def tables_and_claims(result: Mapping[str, Any]) -> list[str]:
    """What was deployed, what was simulated (not in results from before there were simulations), the claims."""
    rows, simulated, timed = result["rows"], result.get("simulated", {}), is_timed(result)
    columns = ("tool", "settings", "multiply-adds in INT8", *FIDELITY, *(SPEED if timed else ()), "size")
    in_float = table(("tool", "settings", "simulated by", *FIDELITY), map(simulated_cells, simulated.values()))
    return [
        *table(columns, [deployed_cells(row, timed) for row in rows.values()]),
        *(in_float if simulated else []),
        *(claim_line(claim, rows) for claim in result["claims"]),
        *(beaten_line(item, rows) for item in result.get("beaten", [])),
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, and an empty line after it; short rows are filled up."""
    full = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {' | '.join(row)} |" for row in full), ""]


def where(result: Mapping[str, Any]) -> str:
    """The sentence above a table."""
    effort, samples, facts = result["effort"], result["samples"], result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    timing = f"; a call of batch {effort['batch']}, {effort['rounds']} rounds" if is_timed(result) else ""
    return (
        f"{machine_of(result)}, {facts['threads']} threads, {facts['date']}; {samples['count']} calibration samples"
        f" ({samples['law']}); fidelity over {effort['pictures']} pictures, DDIM in {effort['steps']} steps{timing}."
        f" {versions}."
    )


def machine_of(result: Mapping[str, Any]) -> str:
    """The processor in words."""
    return f"{result['environment']['processor']}, {result['environment']['cores']} cores"


def deployed_cells(row: Mapping[str, Any], timed: bool) -> list[str]:
    """One row of what is deployed in words; a tool that was not measured says why."""
    names = [row["title"], row["settings"]]
    if "reason" in row:
        return [*names, f"not measured: {row['reason']}"]
    share, size = f"{100 * row['int8_share']:.1f} %", f"{row['bytes'] / 1e6:.2f} MB"
    return [*names, share, *fidelity_cells(row["fidelity"]), *(speed_cells(row) if timed else []), size]


def simulated_cells(row: Mapping[str, Any]) -> list[str]:
    """One row of what is simulated in words."""
    names = [row["title"], row["settings"]]
    if "reason" in row:
        return [*names, f"not simulated: {row['reason']}"]
    return [*names, row["how"], *fidelity_cells(row["fidelity"])]


def fidelity_cells(fidelity: Mapping[str, Any] | None) -> list[str]:
    """Relative L2, PSNR and the difference from ours in words."""
    if fidelity is None:
        return ["not compared"] * 3
    psnr, more = fidelity["psnr_mean"], fidelity["more_than_ours"]
    return [
        percent(fidelity["relative_l2_mean"]),
        "identical" if psnr is None else f"{psnr:.1f} dB",
        "" if more is None or more["low"] == more["high"] == 0 else difference(more),
    ]


def difference(more: Mapping[str, float]) -> str:
    """A difference of two shares with its interval, in points of percent."""
    value, low, high = (f"{100 * more[key]:+.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def speed_cells(row: Mapping[str, Any]) -> list[str]:
    """Time of a call, gain over eager and how far we are ahead, in words."""
    seconds, faster = row["seconds"], row["ours_faster"]
    return [
        f"{1e3 * seconds['median']:.0f} ms ({1e3 * seconds['low']:.0f} to {1e3 * seconds['high']:.0f})",
        ratio(row["over_eager"]),
        "" if faster["low"] == faster["high"] == 1 else f"{ratio(faster)} faster",
    ]


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
    whose = f"{named([claim['of']])}: " if "of" in claim else ""  # older results have one row of ours
    words = f"{whose}{claim['claim']}"
    return f"- {words if whose else words[0].upper() + words[1:]}: {answer}{unknown}."


def beaten_line(item: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether a tool is beaten beyond the error bars, deployed and simulated."""
    row, words = rows[item["name"]], {True: "yes", False: "**no**", None: "not judged"}
    share = f", {100 * row['int8_share']:.1f} % in INT8" if "int8_share" in row else ""
    deployed, simulated = words[item["deployed"]], words[item["simulated"]]
    return (
        f"- {row['title']} ({row['settings']}{share}) beaten beyond the error bars:"
        f" as deployed {deployed}, simulated {simulated}."
    )
