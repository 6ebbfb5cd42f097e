"""What the rows of `auto` say: is a law that is weighted by what errors do better than uniform and published ones?

The pictures decide: they are what w(t) is about. The error of a call, averaged over all time-steps alike, cannot: there
uniform time-steps win by construction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ptq4dm.studies.rows import difference, verdict_of
from ptq4dm.studies.store import Row

AUTO, PUBLISHED, UNIFORM = "auto: p ∝ w(t)²", "NDTC as published", "uniform"
DRAWS: Final = ("the default law, few samples", "the default law, few samples, other trajectories")
"""Rows that tell what the draw of the samples does."""
MEASURE: Final = "picture_psnr"


def auto_sentence(rows: Sequence[Row]) -> str:
    """w(t) in numbers, each law against the two that it has to beat, and what follows."""
    facts = next((row["facts"] for row in rows if "facts" in row), None)
    known = {row["variant"]: row for row in rows if "per_picture" in row}
    parts = [shape_words(facts["weights"])] if facts else []
    if AUTO not in known:
        return " ".join([*parts, "The law that follows from it was not measured."])
    found = {other: estimate(known, AUTO, other) for other in (PUBLISHED, UNIFORM) if other in known}
    against = [f"{decibels(item)} against {name}" for name, item in found.items() if item]
    if against:
        parts.append(f"By the PSNR of pictures, p in proportion to w(t)² gives {' and '.join(against)}.")
    parts.append(conclusion(known))
    return " ".join(parts)


def shape_words(weights: Mapping[str, Any]) -> str:
    """Where an error does most and least."""
    pairs = sorted(zip(weights["weights"], weights["timesteps"], strict=True))
    (low, at_low), (high, at_high) = pairs[0], pairs[-1]
    return (
        f"An error of a call changes the picture most at t = {at_high:.0f}, by {high:.3g} per unit, and least at "
        f"t = {at_low:.0f}, by {low:.3g}."
    )


def conclusion(known: Mapping[str, Row]) -> str:
    """Whether the law, or another that was made of w(t), is better than both laws that need no measurement."""
    needed = [name for name in (PUBLISHED, UNIFORM) if name in known]
    if len(needed) < 2:
        return "Not all laws that it has to beat were measured."
    made = [name for name in known if name not in (*needed, *DRAWS)]
    outcomes = {name: [outcome(known, name, other) for other in needed] for name in made}
    winners = [name for name, found in outcomes.items() if set(found) == {"better"}]
    losers = [name for name, found in outcomes.items() if "worse" in found]
    if AUTO in winners:
        verdict = "That is better than both beyond the 95 % intervals"
    elif AUTO in losers:
        verdict = "That is worse than one of them beyond the 95 % intervals"
    else:
        verdict = "That is not better than both beyond the 95 % intervals"
    others = [name for name in winners if name != AUTO]
    number = len(made) - (AUTO in made)
    more = f"of the {number} other laws made of w(t) that were measured {', '.join(others) or 'none'} "
    more += "are" if len(others) > 1 else "is"
    return f"{verdict}, over {known[AUTO]['n']} pictures; {more}."


def estimate(known: Mapping[str, Row], first: str, second: str) -> dict[str, Any] | None:
    """The paired difference in the PSNR of pictures."""
    return difference(known[first], known[second], MEASURE)


def outcome(known: Mapping[str, Row], first: str, second: str) -> str:
    """`better`, `worse`, `no difference` or `unknown`, by the PSNR of pictures."""
    return verdict_of(estimate(known, first, second), True)


def decibels(item: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    value, low, high = (f"{item[key]:+.2f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} dB [{low}, {high}]"
