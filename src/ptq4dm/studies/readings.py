"""How rows are read: which of some is extreme, which of its differences decides, and in what words."""

from collections.abc import Mapping, Sequence
from typing import Any

from ptq4dm.studies.rows import verdict_of
from ptq4dm.studies.store import Row


def named(rows: Sequence[Row], worst: bool) -> str:
    """The extreme of some rows, in brackets."""
    extreme = extreme_of(rows, worst)
    if extreme is None:
        return ""
    return f" ({'the worst' if worst else 'the best'}: {extreme['variant']}, {value_words(extreme)})"


def extreme_of(rows: Sequence[Row], worst: bool) -> Row | None:
    """The row with the largest (smallest) error of a call, of those that have one; else by pictures."""
    by_call = [row for row in rows if "relative_l2" in row["per_picture"]]
    if by_call:
        pick = max if worst else min
        return pick(by_call, key=lambda row: row["call"]["relative_l2"]["mean"])
    by_picture = [row for row in rows if row["picture"]["psnr"]["mean"] is not None]
    pick = min if worst else max
    return pick(by_picture, key=lambda row: row["picture"]["psnr"]["mean"]) if by_picture else None


def value_words(row: Row) -> str:
    """A row's error of a call, or the PSNR of its pictures."""
    call = row["call"].get("relative_l2")
    if call:
        return f"{100 * call['mean']:.3g} % a call"
    return f"{row['picture']['psnr']['mean']:.1f} dB a picture"


def estimate_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The difference that decides about a row: of calls, or of pictures where no call differs."""
    level, key = ("call", "relative_l2") if "relative_l2" in row["per_picture"] else ("picture", "psnr")
    return row[level][key]["difference"]


def outcome_of(row: Mapping[str, Any]) -> str:
    """`better`, `worse` or `no difference` from the row's baseline."""
    return verdict_of(estimate_of(row), "relative_l2" not in row["per_picture"])


def pictures_of(rows: Sequence[Row]) -> str:
    """Over how many pictures rows are: `16`, or `4 to 16`."""
    numbers = sorted({row["n"] for row in rows})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def sampler_of(row: Row) -> str:
    """Such as `ddim-20`."""
    return row["variant"].split(":")[0]
