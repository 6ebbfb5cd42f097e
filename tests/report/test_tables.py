"""Rows of the report's tables that need no model."""

from ptq4dm.report.tables import choice_rows


def test_rows_of_the_choice_between_int8_and_float():
    timed = {"layer": "a", "type": "TritonConv", "int8": True, "int8_ms": 0.01234, "float_ms": 0.02, "tile": "16x64"}
    rows = choice_rows([timed, {**timed, "layer": "b", "tile": ""}, {**timed, "layer": "c", "int8_ms": None}])
    assert rows == [["a", "TritonConv", "0.0123", "0.0200", "16x64"], ["b", "TritonConv", "0.0123", "0.0200", ""]]
