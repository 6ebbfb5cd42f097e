"""The GPU benchmarks as scripts and as modules, rehearsed on tiny shapes in Triton's interpreter."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch
from interpreted import quickly_interpreted

GPU = Path(__file__).parents[3] / "benchmarks" / "gpu"
MEASURING = ("check.py", "bench_kernels.py", "bench_network.py")
OF_GPU = {path.stem for path in GPU.glob("*.py")}


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a script in this process, its results in `tmp_path`; its exit status."""
    monkeypatch.syspath_prepend(GPU)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # the scripts set it: put back afterwards
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_FX_GRAPH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))

    for name in OF_GPU & set(sys.modules):  # others have these names too
        monkeypatch.delitem(sys.modules, name)

    def script(name, *args, rehearse=True):
        more = ["--out", str(tmp_path), "--rounds", "1"] if name in MEASURING else []
        monkeypatch.setattr(sys, "argv", [name, *args, *more, *(["--rehearse"] if rehearse else [])])
        try:
            runpy.run_path(str(GPU / name), run_name="__main__")
        except SystemExit as left:
            return left.code
        return 0

    yield script
    for name in OF_GPU & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def module(monkeypatch):
    """The scripts as modules, by name; `all` has the name of a function."""
    monkeypatch.syspath_prepend(GPU)
    for name in OF_GPU & set(sys.modules):  # others have these names too
        monkeypatch.delitem(sys.modules, name)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    yield load
    for name in OF_GPU & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def everything(module):
    """`all.py` as a module."""
    return module("all")
