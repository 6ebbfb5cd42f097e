"""Comparisons of rows, and what several of them make of a claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptq4dm.studies.rows import difference, verdict_of
from ptq4dm.studies.store import Row

SUPPORTED, CONTRADICTED, UNDECIDED, MISSING = "supported", "contradicted", "not decided", "not measured"
CALLS, PICTURES = "relative_l2", "picture_psnr"
Rows = Mapping[tuple[str, str], Row]


@dataclass(frozen=True)
class Comparison:
    """Two rows and which is better: `first` is `better`, `worse`, or there is `no difference` (or `unknown`); `mixed`
    where calls and pictures say the opposite of each other. estimate: the paired difference in `measure`. pictures:
    that in the PSNR of pictures, where it is not `measure`. words: what was found, where no rows are compared."""

    first: str
    second: str
    outcome: str
    measure: str
    estimate: dict[str, Any] | None
    pictures: dict[str, Any] | None = None
    words: str = ""


def compare(rows: Rows, first: tuple[str, str], second: tuple[str, str]) -> Comparison | None:
    """The first row against the second; None where one is missing, not applicable, or of other pictures."""
    one, other = rows.get(first), rows.get(second)
    if one is None or other is None or "per_picture" not in one or "per_picture" not in other:
        return None
    if (one["sampler"], one["steps"], one["n"]) != (other["sampler"], other["steps"], other["n"]):
        return None
    both = one["per_picture"].keys() & other["per_picture"].keys()
    pictures = difference(one, other, PICTURES) if PICTURES in both else None
    seen = verdict_of(pictures, True)
    if CALLS not in both:
        return Comparison(first[1], second[1], seen, PICTURES, pictures)
    estimate = difference(one, other, CALLS)
    outcome = verdict_of(estimate, False)
    opposite = {outcome, seen} == {"better", "worse"}
    return Comparison(first[1], second[1], "mixed" if opposite else outcome, CALLS, estimate, pictures)


def found_in(rows: Rows, question: str, start: str) -> list[tuple[str, str]]:
    """The rows of a question whose variant starts so."""
    return [key for key in rows if key[0] == question and key[1].startswith(start)]


def better_than_each(
    rows: Rows, first: tuple[str, str], others: Sequence[tuple[str, str]]
) -> tuple[str, list[Comparison]]:
    """Whether the first row is better than every other."""
    made = [item for item in (compare(rows, first, other) for other in others) if item]
    outcomes = [item.outcome for item in made]
    if len(made) < len(others) or not made:
        return (CONTRADICTED if "worse" in outcomes else MISSING), made
    if "worse" in outcomes:
        return CONTRADICTED, made
    return (SUPPORTED if all(outcome == "better" for outcome in outcomes) else UNDECIDED), made
