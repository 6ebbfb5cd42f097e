"""Rows of the report's tables that need no model."""

from ptq4dm.report.tables import choice_rows, memory_rows, untimed_words


def test_rows_of_the_choice_between_int8_and_float():
    timed = {"layer": "a", "type": "TritonConv", "int8": True, "int8_ms": 0.01234, "float_ms": 0.02, "tile": "16x64"}
    left = {"layer": "c", "type": "simulated", "int8": False, "int8_ms": None, "float_ms": None, "reason": "2 groups"}
    assert choice_rows([timed, {**timed, "layer": "b", "tile": "", "reason": "float is faster"}, left]) == [
        ["a", "TritonConv", "0.0123", "0.0200", "16x64", ""],
        ["b", "TritonConv", "0.0123", "0.0200", "", "float is faster"],
        ["c", "simulated", "", "", "", "2 groups"],
    ]
    assert untimed_words([timed, left]) == ""


def test_why_no_layer_was_timed():
    rows = [{"layer": name, "type": "TritonConv", "int8": True, "reason": "no call is known"} for name in "ab"]
    rows += [{"layer": "c", "type": "simulated", "int8": False, "reason": "2 groups"}]
    assert choice_rows(rows) == []
    assert untimed_words(rows) == "no call is known (2 layers); 2 groups (1 layer)"
    assert untimed_words([{"layer": "a", "type": "Convolution", "int8": True}]) == "" == untimed_words([])


def test_memory_on_a_gpu_says_so():
    memory = {"rows": [{"name": "INT8, triton", "peak_bytes": 2e6, "device": "cuda:0"}]}
    assert memory_rows({"rows": [{"name": "float", "peak_bytes": 3e6}, *memory["rows"]]}) == [
        ["float", "3.0 MB"], ["INT8, triton on cuda:0", "2.0 MB"]]  # fmt: skip
