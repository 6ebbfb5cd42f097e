"""What a worker of pytest-xdist gets as one unit."""

import pytest
from readme import ROOT
from sharing import APART, FOLDERS, LONGEST, turn_of, unit_of


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/studies/test_run.py::test_it", "tests/studies/"),
        ("tests/studies/test_parts.py::test_it[a/b::c]", "tests/studies/"),
        ("tests/test_files.py::test_it", "tests/test_files.py"),
        (f"{APART[0]}::test_it[ddpm]", f"{APART[0]}::test_it[ddpm]"),
    ],
)
def test_units_are_folders_files_or_single_tests(nodeid, unit):
    assert unit_of(nodeid) == unit


def test_the_longest_come_first():
    ordered = sorted(
        ["tests/test_files.py::a", "tests/cli/test_demo.py::b", "tests/studies/test_run.py::c"], key=turn_of
    )
    assert [nodeid[-1] for nodeid in ordered] == ["c", "b", "a"]


@pytest.mark.parametrize("name", sorted({*FOLDERS, *APART, *LONGEST}))
def test_all_that_is_named_exists(name):
    assert (ROOT / name).exists()
