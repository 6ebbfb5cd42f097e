"""What was to be reached beside other tools, and whether these rows reach it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

SAME_LAYERS: Final = 0.9
"""A tool runs the same layers in INT8 if it has at least this part of our share of the multiply-adds."""
SIZE_MARGIN: Final = 1.02

Row = Mapping[str, Any]


def beaten(rows: Mapping[str, Row], simulated: Mapping[str, Row], ours: Sequence[str]) -> list[dict[str, Any]]:
    """For each tool that quantizes, ours aside: whether its error of a call is larger than that of our first row beyond
    the error bars, as deployed and simulated; None where that was not measured."""
    tools = [name for name, row in rows.items() if not row["float"] and name not in ours]
    return [
        {"name": name, "deployed": is_beaten(rows[name]), "simulated": is_beaten(simulated.get(name))} for name in tools
    ]


def is_beaten(row: Row | None) -> bool | None:
    """Whether the whole interval of a row's difference from ours lies above 0."""
    fidelity = row.get("fidelity") if row else None
    difference = fidelity["more_than_ours"] if fidelity else None
    return None if difference is None else difference["low"] > 0


def verdict(rows: Mapping[str, Row], ours: Sequence[str]) -> list[dict[str, Any]]:
    """The claims of each of our rows, which are not held against each other."""
    return [{"of": name, **claim} for name in ours if name in rows for claim in claims_of(name, rows, ours)]


def claims_of(name: str, rows: Mapping[str, Row], ours: Sequence[str]) -> list[dict[str, Any]]:
    """The claims of one row: each with the tools that break it, by name, and those that could not be judged; none of
    speed where nothing was timed.

    rows: by name; one with "reason" was not measured; "fidelity" is None where it was not.
    """
    own = rows[name]
    others = {name: row for name, row in rows.items() if name not in ours}
    tools = {name: row for name, row in others.items() if not row["float"]}
    same = {name: row for name, row in tools.items() if row.get("int8_share", 1) >= SAME_LAYERS * own["int8_share"]}
    smaller = judged(tools, lambda row: own["bytes"] > SIZE_MARGIN * row["bytes"])
    closer = judged(same, lambda row: is_closer(row, own))
    claims = [
        {"claim": "size within 2 % of the smallest quantized network", **smaller},
        {"claim": "ahead in fidelity of every tool that runs the same layers in W8A8", **closer},
    ]
    if "seconds" not in own:
        return claims
    level = judged(others, lambda row: keeps_up(row, own))
    both = judged(others, lambda row: is_faster(row, own) and is_closer(row, own))
    return [
        {"claim": "ahead of all in speed, beyond the quartiles", **level},
        *claims,
        {"claim": "no tool ahead in fidelity and speed at once", **both},
    ]


def judged(rows: Mapping[str, Row], breaks: Callable[[Row], bool | None]) -> dict[str, Any]:
    """Which rows break a claim, and which could not be judged: not measured, or without a figure that it needs."""
    found = {name: None if "reason" in row else breaks(row) for name, row in rows.items()}
    broken = [name for name, answer in found.items() if answer]
    return {
        "held": not broken,
        "broken_by": broken,
        "not_judged": [name for name, answer in found.items() if answer is None],
    }


def keeps_up(row: Row, own: Row) -> bool:
    """Whether the middle half of a tool's gains over eager reaches that of ours: then we are not ahead of it."""
    return row["over_eager"]["high"] >= own["over_eager"]["low"]


def is_faster(row: Row, own: Row) -> bool:
    """Whether a tool gains more over eager than we do, in the median round."""
    return row["over_eager"]["median"] > own["over_eager"]["median"]


def is_closer(row: Row, own: Row) -> bool | None:
    """Whether a tool's calls are nearer to float than ours; None where one of both was not compared."""
    if row["fidelity"] is None or own["fidelity"] is None:
        return None
    return row["fidelity"]["relative_l2_mean"] < own["fidelity"]["relative_l2_mean"]
