"""Alternation, ratios and their intervals, the predicted limit, the processor's facts."""

import time

import numpy as np
import pytest
from scipy.stats import binom

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.hardware import (
    INSTRUCTIONS,
    Processor,
    cpuinfo_flags,
    int8_over_fp32,
    peak_memory,
    this_processor,
)
from ptq4dm.evaluation.speed import (
    alternate,
    fastest,
    median_confidence,
    median_ranks,
    predicted_limit,
    speedup,
    spread,
)


def test_contestants_take_turns_and_warm_up_untimed() -> None:
    order: list[str] = []
    times = alternate({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warm_up=1, pause=0.0)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = ["".join(order[index : index + 3]) for index in range(0, len(order), 3)]
    assert rounds == ["cba", "abc", "cba", "abc"]


def test_times_are_seconds() -> None:
    times = alternate({"slow": lambda: time.sleep(0.03), "quick": lambda: None}, rounds=3, warm_up=0, pause=0.0)
    assert 0.03 <= spread(times["slow"]).median < 0.3
    assert fastest(times) == "quick"


@pytest.mark.parametrize("n", range(1, 40))
def test_the_ranks_enclose_the_median_as_often_as_promised(n: int) -> None:
    low, high = median_ranks(n, 0.95)
    covered = 1 - 2 * binom.cdf(low, n, 0.5)
    assert high == n - 1 - low
    if n >= 6:
        assert covered >= 0.95
        assert 1 - 2 * binom.cdf(low + 1, n, 0.5) < 0.95
    else:
        assert low == 0
    times = list(range(1, n + 1))
    found = speedup(times, [1.0] * n)
    assert (found.low, found.high) == (low + 1, high + 1)
    assert found.confidence == pytest.approx(covered, abs=1e-12)
    assert median_confidence(n) == found.confidence


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_the_confidence_is_how_often_the_interval_encloses_the_median(n: int) -> None:
    ratios = np.random.default_rng(n).lognormal(0.5, 0.3, (2000, n))
    found = [speedup(list(row), [1.0] * n) for row in ratios]
    covered = np.mean([each.low < np.exp(0.5) < each.high for each in found])
    assert covered == pytest.approx(found[0].confidence, abs=0.035)  # three standard errors of the least sure


def test_a_slow_spell_of_the_machine_leaves_the_ratio_alone() -> None:
    weather = np.random.default_rng(0).uniform(1, 10, 25)
    ratio = speedup(list(2.0 * weather), list(weather))
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 and 3 rounds"):
        speedup([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(EvaluationError, match="0 contestants"):
        alternate({}, rounds=1)


def test_the_limit_is_amdahls() -> None:
    assert predicted_limit(1.0, 2.0) == pytest.approx(2.0)
    assert predicted_limit(0.0, 4.0) == pytest.approx(1.0)
    assert predicted_limit(0.5, 2.0) == pytest.approx(100 / (50 + 25))
    with pytest.raises(EvaluationError, match=r"share = 1\.1"):
        predicted_limit(1.1, 2.0)


@pytest.mark.parametrize(
    ("flags", "cap", "ratio", "words"),
    [
        (("avx2", "fma"), "", 2.0, "AVX2, no VNNI"),
        (("avx2", "avx512f"), "", 2.0, "AVX-512, no VNNI"),
        (("avx2", "avx512f", "avx512_vnni"), "", 4.0, "AVX-512 with VNNI"),
        (("avx2", "avx512f", "avx512_vnni"), "AVX2", 2.0, "AVX2, no VNNI (limited by ONEDNN_MAX_CPU_ISA=AVX2)"),
        (("avx2", "avx_vnni"), "", 4.0, "AVX2 with VNNI"),
        ((), "", None, "unknown"),
    ],
)
def test_the_processors_ratio_follows_its_instructions(flags, cap, ratio, words) -> None:
    processor = Processor("a processor", 2, flags, cap)
    assert processor.int8_ratio == ratio
    assert processor.instructions == words
    assert processor.to_dict()["int8_ratio"] == ratio


def test_arm_is_known_too() -> None:
    assert int8_over_fp32({"asimddp"}) == 4.0
    assert int8_over_fp32({"asimddp", "i8mm"}) == 8.0
    assert cpuinfo_flags("processor\t: 0\nFeatures\t: fp asimd asimddp\n") == {"fp", "asimd", "asimddp"}


def test_this_processor_has_a_name_and_cores() -> None:
    processor = this_processor()
    assert processor.name
    assert processor.cores >= 1
    assert set(processor.flags) <= set(INSTRUCTIONS)


def test_peak_memory_rises_with_what_is_held() -> None:
    before = peak_memory()
    held = np.ones(64 * 1024 * 1024 // 8)
    held += 1
    assert peak_memory() >= before
    assert peak_memory() > held.nbytes
