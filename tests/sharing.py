"""How pytest-xdist deals tests out: tests that share a costly fixture go to one worker together, the longest first."""

from typing import Final

FOLDERS: Final = ("tests/studies/",)
"""Folders whose files share a fixture: one unit."""
APART: Final = ("tests/families/test_quantized.py", "tests/benchmarks/test_peers_at_work.py")
"""Long files whose tests share nothing: each test is a unit, so that no worker is left alone with them."""
LONGEST: Final = (
    "tests/studies/",
    "tests/cli/test_demo.py",
    "tests/contracts/test_backends.py",
    "tests/backends/cpu/test_openvino_exact.py",
    "tests/families/test_quantized.py",
)
"""What is dealt out first."""


def unit_of(nodeid: str) -> str:
    """The unit that a test goes to a worker with: its folder or file, or itself alone."""
    path = nodeid.split("::", 1)[0]
    folder = next((folder for folder in FOLDERS if path.startswith(folder)), None)
    return folder or (nodeid if path in APART else path)


def turn_of(nodeid: str) -> int:
    """Where a test stands in the order of units."""
    return next((turn for turn, start in enumerate(LONGEST) if nodeid.startswith(start)), len(LONGEST))
