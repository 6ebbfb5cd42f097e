"""Every raw result is named in the log of experiments, with a command that exists."""

import re
from fnmatch import fnmatch

import pytest
from common import RESULTS
from readme import ROOT

from ptq4dm.files import read_json

LOG = (ROOT / "docs" / "experiments.md").read_text()
ROWS = dict(re.findall(r"^\| `(\S+\.json)` \| `python (benchmarks/\w+\.py)", LOG, re.MULTILINE))


def row_of(name: str) -> str:
    """The row of a result file: the longest pattern that fits."""
    return max((pattern for pattern in ROWS if fnmatch(name, pattern)), key=len, default="")


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.name)
def test_a_result_is_named_beside_the_command_that_writes_it(path):
    assert row_of(path.name), f"docs/experiments.md names no command for {path.name}"
    benchmark = read_json(path)["benchmark"]
    assert row_of(path.name) == f"{benchmark}-*.json"
    assert not read_json(path)["quick"]


@pytest.mark.parametrize("script", sorted(set(ROWS.values())))
def test_a_command_runs_a_file_that_exists(script):
    assert (ROOT / script).exists()
    assert "save(" in (ROOT / script).read_text()
