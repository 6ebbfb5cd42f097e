"""What the GPU benchmarks share: no GPU is one line, and what a row holds for."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
GPU = Path(__file__).parents[3] / "benchmarks" / "gpu"


@pytest.mark.parametrize("command", [["check.py"], ["bench_kernels.py"], ["bench_network.py", "sd15"], ["all.py"]])
def test_without_a_gpu_they_leave_with_a_line(run, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = run(*command, rehearse=False)
    assert line.startswith("this benchmark runs on an NVIDIA GPU") and "\n" not in line


def test_rows_hold_for_the_source_of_package_and_benchmarks(module, monkeypatch, tmp_path):
    shared = module("on_gpu")
    hashed = {path.relative_to(folder).as_posix() for folder in shared.SOURCES for path in folder.rglob("*.py")}
    assert {"networks.py", "quantization/rewrite.py", "backends/triton_gpu/kernels/linear.py"} <= hashed
    (tmp_path / "one.py").write_text("1")
    monkeypatch.setattr(shared, "SOURCES", (tmp_path,))
    before = shared.stamp()
    (tmp_path / "one.py").write_text("2")
    shared.stamp.cache_clear()
    assert shared.stamp() != before


def test_the_host_is_said_to_be_timed_where_it_is(module):
    host_bound = module("on_gpu").host_bound
    assert host_bound(milliseconds=15.2, host=16.0)  # the GPU waits for it past the sleep of a millisecond
    assert not host_bound(milliseconds=20.0, host=5.0) and not host_bound(milliseconds=0.1, host=0.9)
