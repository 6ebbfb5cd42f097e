"""How the default recipe stands among many rows: chance alone makes some of them look better."""

from typing import Any

import numpy as np
import pytest

from ptq4dm.studies.standing import standing, standing_sentence


def row(question: str, variant: str, values: np.ndarray) -> dict[str, Any]:
    return {
        "question": question,
        "variant": variant,
        "key": f"{question}/{variant}",
        "sampler": "ddim",
        "n": len(values),
        "per_picture": {"relative_l2": values.tolist()},
    }


def rows_by_chance(rng: np.random.Generator, number: int, gain: float = 0.0) -> list[dict[str, Any]]:
    """A default row and others that differ from it by chance; the last is better by `gain` standard deviations."""
    base = rng.normal(1.0, 0.2, 16)
    found = [row("default", "default", base)]
    for index in range(number):
        better = gain if index == number - 1 else 0.0
        found.append(row("timesteps", f"law {index}", base + rng.normal(-better, 1.0, 16) * 1e-2))
    return found


def test_chance_is_told_from_a_better_row() -> None:
    """Of 40 rows by chance some are better beyond their own interval in most studies, but hardly ever at once."""
    rng = np.random.default_rng(0)
    found = [standing(rows_by_chance(rng, 40)) for _ in range(16)]
    assert {item["compared"] for item in found} == {40}
    assert sum(bool(item["better"]) for item in found) > 6
    assert sum(bool(item["better_at_once"]) for item in found) <= 2
    assert standing(rows_by_chance(rng, 40, gain=3.0))["better_at_once"] == ["timesteps: law 39"]


@pytest.mark.parametrize(
    "change",
    [
        {"question": "operations"},
        {"question": "bits"},
        {"question": "time_scales", "variant": "A6, 4 bands"},
        {"sampler": "unipc"},
        {"key": "default/default"},
    ],
)
def test_rows_that_are_no_rivals_are_left_out(change: dict[str, Any]) -> None:
    values = np.linspace(1, 2, 16)
    rival = row("metrics", "L1", values - 0.5 + 1e-3 * np.sin(values))
    rows = [row("default", "default", values)]
    assert standing([*rows, rival])["better"] == ["metrics: L1"]
    assert standing([*rows, {**rival, **change}])["compared"] == 0


def test_nothing_is_said_of_nothing() -> None:
    assert standing_sentence(standing([])) == ""
    assert "none beyond one that holds" in standing_sentence(standing(rows_by_chance(np.random.default_rng(1), 3)))
