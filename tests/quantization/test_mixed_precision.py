"""The choice of layers against brute force over all subsets."""

import itertools
import random

import pytest

from ptq4dm.quantization.mixed_precision import Sensitivity

FOUR = Sensitivity(
    {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.25}, {"a": 60, "b": 10, "c": 5, "d": 20, "other": 5}, 0.04, 0.004
)


def predicted(known: Sensitivity, subset: tuple[str, ...]) -> float:
    total = sum(known.shares.values())
    left = sum(share for name, share in known.shares.items() if name not in subset) / total
    return (known.floor**2 + (known.all_int8**2 - known.floor**2) * left) ** 0.5


def subsets(known: Sensitivity) -> list[tuple[str, ...]]:
    """All that leave a layer in INT8."""
    return [chosen for size in range(len(known.shares)) for chosen in itertools.combinations(known.shares, size)]


def random_network(seed: int) -> Sensitivity:
    draw = random.Random(seed)
    names = [f"layer {index}" for index in range(8)]
    return Sensitivity(
        {name: draw.random() ** 3 for name in names}, {name: draw.randint(1, 1000) for name in names}, 0.03, 0.001
    )


def test_the_expected_error_of_every_subset_is_the_formulas() -> None:
    for subset in subsets(FOUR):
        assert FOUR.predicted(subset) == pytest.approx(predicted(FOUR, subset))
    assert FOUR.predicted([]) == pytest.approx(0.04) and FOUR.predicted("abcd") == pytest.approx(0.004)
    assert FOUR.cost(["a", "c"]) == 0.65


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_number_of_layers_is_the_subset_with_the_least_error(number: int) -> None:
    for known in (FOUR, *map(random_network, range(5))):
        best = min(itertools.combinations(known.shares, number), key=lambda subset: predicted(known, subset))
        assert set(known.most_sensitive(number)) == set(best)


@pytest.mark.parametrize("target", [0.039, 0.035, 0.03, 0.025, 0.02, 0.0165])
def test_a_target_is_met_by_the_cheapest_subset(target: float) -> None:
    fit = [subset for subset in subsets(FOUR) if predicted(FOUR, subset) <= target]
    chosen = FOUR.cheapest(target)
    assert (chosen is None) == (not fit)
    if chosen is not None:
        assert predicted(FOUR, tuple(chosen)) <= target * (1 + 1e-6)
        assert FOUR.cost(chosen) == pytest.approx(min(FOUR.cost(subset) for subset in fit))


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_are_solved_exactly(seed: int) -> None:
    known = random_network(seed)
    for target in (0.028, 0.02, 0.01):
        fit = [subset for subset in subsets(known) if predicted(known, subset) <= target]
        chosen = known.cheapest(target)
        assert (chosen is None) == (not fit)
        if chosen is not None:
            assert known.cost(chosen) == pytest.approx(min(known.cost(subset) for subset in fit), abs=1e-6)


def test_what_is_in_float_already_stays_there() -> None:
    alone = FOUR.cheapest(0.035)
    assert alone is not None and "a" not in alone
    with_a = FOUR.cheapest(0.035, ["a"])
    assert with_a == ["a"]


def test_a_target_above_int8_needs_no_layer_and_one_below_the_floor_has_none() -> None:
    assert FOUR.cheapest(0.05) == [] and FOUR.cheapest(0.04) == []
    assert FOUR.cheapest(0.0039) is None
    assert FOUR.cheapest(0.012) is None  # all but `c` leave 0.0145


def test_of_equal_costs_the_fewest_layers() -> None:
    known = Sensitivity({"one": 0.5, "half": 0.25, "other half": 0.25, "rest": 0.5}, dict.fromkeys(
        ["half", "other half"], 10) | {"one": 20, "rest": 1000}, 0.02, 0.0)  # fmt: skip
    assert known.cheapest(0.02 * (2 / 3) ** 0.5 * 1.0001) == ["one"]
