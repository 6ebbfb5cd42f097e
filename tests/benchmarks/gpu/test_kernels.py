"""Each kernel beside its rival, rehearsed."""

import argparse
import json
import runpy
from pathlib import Path

import pytest

pytest.importorskip("triton")
GPU = Path(__file__).parents[3] / "benchmarks" / "gpu"


def test_kernels_are_checked_timed_written_and_not_timed_again(run, tmp_path):
    assert run("bench_kernels.py", "--deadline", "0") == 3  # out of time
    assert run("bench_kernels.py") == 0
    path = tmp_path / "kernels-rehearsal.json"
    data = json.loads(path.read_text())
    assert data["hardware"]["gpu"] == "rehearsal" and data["hardware"]["triton"]
    kinds = {" ".join(name.split(" (")[0].split()) for name in data["rows"]}
    assert kinds == {
        "peaks",
        "convolution",
        "linear",
        "norm",
        "norm of two",
        "gate",
        "activation",
        "upsampled convolution",
        "convolution in other axes",
        "layer norm",
        "rounding",
        "fused convolution",
        "convolution in bfloat16",
        "convolution to INT8",
    }
    for name, row in data["rows"].items():
        assert name == "peaks" or row["speedup"]["median"] > 0
        assert row.get("error", 0) < 1e-5 and row.get("largest_difference_in_steps", 0) <= 1
    data["rows"]["peaks"]["int8_tops"] = 7.0
    path.write_text(json.dumps(data))
    assert run("bench_kernels.py") == 0
    assert json.loads(path.read_text())["rows"] == data["rows"]


def test_what_crashed_or_was_measured_of_other_code_is_measured_again(run, everything, tmp_path, monkeypatch):
    from ptq4dm.backends.triton_gpu.kernels import group_norm, layer_norm

    args = argparse.Namespace(out=tmp_path, rehearse=True)
    assert not everything.done(["bench_kernels.py"], args)
    right = layer_norm.layer_norm_quantize
    monkeypatch.setattr(group_norm, "group_norm_quantize", lambda *arguments, **named: 1 / 0)
    monkeypatch.setattr(layer_norm, "layer_norm_quantize", lambda *arguments: right(*arguments) + 1)
    assert run("bench_kernels.py") == 0
    path = tmp_path / "kernels-rehearsal.json"
    rows = json.loads(path.read_text())["rows"]
    crashed = [name for name in rows if name.startswith("norm")]
    assert next(row for name, row in rows.items() if name.startswith("layer norm"))["wrong"] > 0.9
    assert all(rows[name]["cannot"].startswith("ZeroDivisionError: ") for name in crashed)
    assert len(crashed) == 2 and everything.done(["bench_kernels.py"], args)
    monkeypatch.undo()
    rows["peaks"] |= {"stamp": "of another version", "int8_tops": -1.0}
    path.write_text(json.dumps({"rows": rows}))
    assert not everything.done(["bench_kernels.py"], args)
    again = runpy.run_path(str(GPU / "on_gpu.py"))["Results"](args, "kernels")
    assert again.missing(rows) == ["peaks", *crashed] and "peaks" not in again.rows
    assert not everything.done(["check.py"], args) and not everything.done(["bench_network.py", "tiny"], args)
