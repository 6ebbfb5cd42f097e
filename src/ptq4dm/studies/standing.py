"""How the default recipe stands among all rows of the same operations and bits.

Of many rows some beat it beyond a 95 % interval by chance alone. So intervals are also drawn wide enough for all
comparisons at once (Bonferroni's, by Student's t): a row beyond that is better than the default recipe.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scipy.stats import t as student_t

from ptq4dm.studies.comparisons import CALLS
from ptq4dm.studies.rows import difference
from ptq4dm.studies.store import Row

SAME: Final = ("sources", "timesteps", "auto", "metrics", "samples", "time_scales")
"""Questions whose 8-bit rows differ from the default recipe in calibration alone."""
FEWER: Final = ("A6", "A4")
"""How the variants begin that have fewer bits."""
CONFIDENCE: Final = 0.95


def standing(rows: Sequence[Row]) -> dict[str, Any]:
    """As JSON data: how many rows were `compared` with the default recipe by the error of a call; those that are
    `better` beyond their own 95 % interval, and `better_at_once`: beyond one that holds for all of them at once."""
    default = next((row for row in rows if row["question"] == "default"), None)
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for row in rows:
        estimate = against(row, default) if default else None
        if estimate is not None:
            found.setdefault(row["key"], (f"{row['question']}: {row['variant']}", estimate))
    own = [name for name, item in found.values() if item["high"] < 0]
    at_once = [name for name, item in found.values() if bound(item, len(found)) < 0]
    return {"compared": len(found), "better": own, "better_at_once": at_once}


def against(row: Row, default: Row) -> dict[str, Any] | None:
    """The difference of a row from the default recipe's in the error of a call; None where it is no rival of it."""
    known = row["question"] in SAME and not row["variant"].startswith(FEWER) and CALLS in row.get("per_picture", {})
    if not known or row["key"] == default["key"] or (row["sampler"], row["n"]) != (default["sampler"], default["n"]):
        return None
    return difference(row, default, CALLS)


def bound(estimate: Mapping[str, Any], comparisons: int) -> float:
    """The upper end of an interval that holds for so many comparisons at once."""
    tail = (1 - CONFIDENCE) / 2 / comparisons
    return estimate["value"] + estimate["standard_error"] * float(student_t.ppf(1 - tail, estimate["n"] - 1))


def standing_sentence(found: Mapping[str, Any]) -> str:
    """It in words; "" where nothing was compared."""
    if not found["compared"]:
        return ""
    own, at_once = found["better"], found["better_at_once"]
    alone = f"{len(own)} have a smaller error of a call beyond their own 95 % interval{in_brackets(own)}"
    together = f"{len(at_once) or 'none'} beyond one that holds for all of them at once{in_brackets(at_once)}"
    return f"Of {found['compared']} variants with the default recipe's operations and bits, {alone}, {together}."


def in_brackets(names: Sequence[str]) -> str:
    """The names in brackets; "" for none."""
    return f" ({'; '.join(names)})" if names else ""
