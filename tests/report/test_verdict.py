from typing import Any

import pytest
from report.example import example_results

from ptq4dm.report.verdict import verdict


def with_ratio(value: float, low: float, high: float, confidence: float = 0.961) -> dict[str, Any]:
    results = example_results()
    results["speed"]["ratios"] = [
        {"name": "against FP32 in openvino", "baseline": "openvino", "value": value, "low": low, "high": high}
        | {"confidence": confidence}
    ]
    return results


def full(results: dict[str, Any]) -> dict[str, Any]:
    results["calibration"]["samples"] = 1024
    return results


def test_a_good_model_is_said_to_be_good_in_one_sentence() -> None:
    found = verdict(full(example_results()))
    assert found.tone == "good"
    assert found.sentence == (
        "emoji-32 in INT8 draws nearly the same pictures (30.4 dB at equal seeds), runs 2.18× as fast as PyTorch eager "
        "and 1.47× as fast as the fastest FP32 engine here, and is 3.88× smaller."
    )


def test_the_float_type_of_eager_is_named_unless_it_is_the_usual() -> None:
    results = full(example_results())
    results["speed"]["ratios"] = [{**results["speed"]["ratios"][0], "precision": "FP16"}]
    assert "runs 2.18× as fast as PyTorch eager in FP16, and is" in verdict(results).sentence


def test_a_small_calibration_is_said() -> None:
    found = verdict(example_results())
    assert found.tone == "mixed"
    assert "small calibration of 128 samples; the default is 1,024" in found.sentence


@pytest.mark.parametrize(
    ("ratio", "words", "never"),
    [
        ((0.8, 0.75, 0.85), "it is slower than FP32 in openvino", "as fast as the fastest"),
        ((1.02, 0.98, 1.06), "not measurably faster than FP32 in openvino", "as fast as the fastest"),
        ((1.2, 1.1, 1.3), "1.20× as fast as the fastest FP32 engine", "but"),
    ],
)
def test_speed_is_claimed_only_if_the_whole_interval_is_a_gain(ratio: tuple, words: str, never: str) -> None:
    found = verdict(full(with_ratio(*ratio)))
    assert words in found.sentence
    assert never not in found.sentence
    assert (found.tone == "good") == (ratio[1] > 1)


@pytest.mark.parametrize(("confidence", "sure"), [(0.75, False), (0.875, False), (0.9375, False), (0.96875, True)])
def test_speed_is_claimed_only_from_enough_rounds(confidence: float, sure: bool) -> None:
    """3, 4, 5 and 6 rounds: the extremes of fewer than 6 do not enclose the median in 95 % of runs."""
    found = verdict(full(with_ratio(1.2, 1.1, 1.3, confidence)))
    assert ("1.20× as fast as the fastest FP32 engine" in found.sentence) == sure
    assert ("too few rounds were timed to be sure that it is faster than FP32 in openvino" in found.sentence) != sure
    assert (found.tone == "good") == sure


def test_an_interval_without_its_confidence_is_not_relied_on() -> None:
    results = with_ratio(1.2, 1.1, 1.3)
    del results["speed"]["ratios"][0]["confidence"]
    assert "too few rounds" in verdict(full(results)).sentence


@pytest.mark.parametrize(
    ("level", "key", "value", "words"),
    [
        ("call", "relative_l2_mean", 0.0231, "the error of a call is 2.31 % (at most 2.30 %)"),
        ("call", "psnr_mean", 51.4, "the PSNR of a call is 51.4 dB (at least 51.5 dB)"),
        ("pictures", "psnr_mean", 17.0, "the PSNR of the pictures is 17.0 dB (at least 29.5 dB)"),
    ],
)
def test_a_missed_floor_is_said(level: str, key: str, value: float, words: str) -> None:
    results = full(example_results())
    results["fidelity"][level][key] = value
    found = verdict(results)
    assert f"but it is below its floor: {words}" in found.sentence
    assert found.tone == ("poor" if value == 17.0 else "mixed")


def test_different_pictures_are_not_called_the_same() -> None:
    results = full(example_results())
    results["fidelity"]["pictures"]["psnr_mean"] = 10.0
    del results["fidelity"]["floors"]
    assert "draws visibly different pictures (10.0 dB" in verdict(results).sentence


def test_layers_that_ran_in_float_are_said() -> None:
    results = full(example_results())
    results["executed"]["layers"][3]["int8"] = False
    found = verdict(results)
    assert "the engine ran 1 of 39 quantized layers in float" in found.sentence
    assert found.tone == "mixed"


def test_nothing_measured_is_not_praised() -> None:
    found = verdict({"model": {"name": "net"}})
    assert found.tone == "mixed"
    assert "neither its pictures nor its speed were measured" in found.sentence
