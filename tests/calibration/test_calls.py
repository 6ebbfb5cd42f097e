"""Which of many calibration calls are looked at."""

from itertools import pairwise

from ptq4dm.calibration.calls import evenly_spread


def test_evenly_spread():
    assert evenly_spread(range(8), 4) == [0, 2, 4, 6]  # type: ignore[arg-type]  # any sequence
    assert evenly_spread(range(3), 32) == [0, 1, 2]  # type: ignore[arg-type]
    assert evenly_spread([], 32) == []
    found = evenly_spread(range(100), 32)  # type: ignore[arg-type]
    assert len(found) == 32 and {b - a for a, b in pairwise(found)} == {3, 4}
