"""The GPU benchmarks rehearsed: all their steps but the GPU's own, on tiny shapes in Triton's interpreter."""

import argparse
import importlib.util
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"
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


@pytest.mark.parametrize("command", [["check.py"], ["bench_kernels.py"], ["bench_network.py", "sd15"], ["all.py"]])
def test_without_a_gpu_they_leave_with_a_line(run, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = run(*command, rehearse=False)
    assert line.startswith("this benchmark runs on an NVIDIA GPU") and "\n" not in line


def test_every_check_is_a_row_of_its_own_that_is_not_checked_again(run, capsys, tmp_path):
    assert run("check.py", "--deadline", "0") == 3  # out of time
    assert run("check.py", "--smoke") == 0
    assert capsys.readouterr().out.endswith("8 checks are right on cpu\n")
    path = tmp_path / "check-rehearsal.json"
    asked = set(json.loads(path.read_text())["rows"])
    assert run("check.py") == 0
    printed, rows = capsys.readouterr().out, json.loads(path.read_text())["rows"]
    assert all(row["off"] == 0 for row in rows.values())
    assert len(printed.splitlines()) == len(rows) - len(asked) + 1
    assert not any(f"  {name}\n" in printed for name in asked)
    for word in ("in bfloat16", "strewn", "dilated", "1d", "3d", "several bands", "3 splits"):
        assert any(word in name for name in rows)


def test_the_check_finds_a_kernel_that_is_wrong(run, monkeypatch, capsys):
    from ptq4dm.backends.triton_gpu import packing

    right = packing.tap_sums
    monkeypatch.setattr(packing, "tap_sums", lambda *arguments: right(*arguments) + 1)
    assert run("check.py", "--smoke").endswith("2 checks of kernels failed on cpu")
    printed = capsys.readouterr().out
    assert "WRONG (off by 128)  convolution 17 channels (5, 3) k3 zero point -128\n" in printed
    assert "convolution k3 with the tile 16x16x32, 4 warps, 3 stages\n" in printed
    monkeypatch.setattr(packing, "tap_sums", lambda *arguments: 1 / 0)
    said = run("check.py", "--smoke", "--again")  # and the others are looked at
    assert "CRASHED (ZeroDivisionError: division by zero)  convolution k3 with the tile" in said
    assert capsys.readouterr().out.count("right  ") == 6


def test_a_tile_that_a_card_has_no_room_for_is_not_wrong(module):
    from triton.runtime.errors import OutOfResources

    def too_large(device):
        raise OutOfResources(300, 200, "shared memory")

    check = module("check")
    row = check.checked(too_large, torch.device("cpu"))
    assert list(row) == ["left_out"] and check.said(row).startswith("left out (OutOfResources")
    assert check.checked(lambda device: float("inf"), torch.device("cpu")) == {"wrong": float("inf")}


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


def test_a_network_is_compared_with_the_simulated_one_and_then_timed(run, tmp_path, capsys):
    eager = ["--contenders", "FP16 eager", "torchao INT8 dynamic"]
    assert run("bench_network.py", "tiny", *eager) == 0
    path = tmp_path / "network-tiny-batch2-rehearsal.json"
    rows = json.loads(path.read_text())["rows"]
    correct, strict = rows["correct"], "INT8 (strict), reduce-overhead"
    assert correct["passed"] and correct["layers"] == 12 and correct["worst_layer_in_float32"][1] < 1e-6
    assert correct["simulated"] > 0.005
    assert correct["int8_with_the_time_step_on_the_cpu"] == pytest.approx(correct["simulated"], rel=0.2, abs=0.005)
    assert all(layer["int8"] for layer in rows[strict]["layers"]) and len(rows[strict]["layers"]) == 12
    both = {strict, "INT8 (faster of both a layer), reduce-overhead"}
    for name in (*both, "FP16 compiled, reduce-overhead", "FP16 eager"):
        assert set(rows[name]["int8_speedup"]) == both and rows[name]["ms"]["median"] > 0
    printed = capsys.readouterr().out
    assert "of FP16), a call's peak" in printed
    assert "torchao INT8 dynamic, reduce-overhead            is missing: pip install torchao" in printed
    assert run("bench_network.py", "tiny", *eager) == 0
    assert json.loads(path.read_text())["rows"] == rows  # nothing is measured twice


class One(nn.Module):
    """One convolution as a network, on the kernels or not."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, sample):
        return self.layer(sample)


def test_a_layer_that_is_wrong_at_one_corner_is_found(module, monkeypatch):
    from ptq4dm.backends.triton_gpu import layers

    bench = module("bench_network")
    from networks import rounded, smoothing_of

    torch.manual_seed(0)
    conv, x = nn.Conv2d(32, 16, 3, padding=1), torch.randn(2, 32, 16, 16) + 3
    network = One(rounded(conv, smoothing_of(conv, 0), x.amin(), x.amax()))
    off = bench.layer_distances(network, {"sample": x})
    assert all(off[dtype]["layer"] <= most for dtype, most in bench.LAYERS_OFF.items())
    right = layers.tap_sums

    def wrong(*arguments):
        sums = right(*arguments)
        sums[10] = sums[0]  # where the window hangs over the upper left corner, as if it did not
        return sums

    monkeypatch.setattr(layers, "tap_sums", wrong)
    off = bench.layer_distances(network, {"sample": x})
    assert all(off[dtype]["layer"] > most for dtype, most in bench.LAYERS_OFF.items())
    network.layer.weight_scale.data[:] = float("nan")
    assert bench.layer_distances(network, {"sample": x})[torch.float32]["layer"] == float("inf")


def test_int8_may_be_a_fifth_farther_from_float_than_the_simulated_network_or_is_not_timed(module, monkeypatch):
    bench = module("bench_network")
    network = One(nn.Conv2d(3, 3, 1).requires_grad_(False))

    def scaled(by):
        one = One(nn.Conv2d(3, 3, 1).requires_grad_(False))
        one.load_state_dict({key: by * item for key, item in network.state_dict().items()})
        return one

    args, call = bench.arguments(["tiny", "--rehearse"]), {"sample": torch.ones(2, 3, 4, 4)}
    given = bench.Given("tiny", 2, network, scaled(1.02))
    monkeypatch.setattr(bench, "inputs_of", lambda *arguments, **more: call)
    monkeypatch.setattr(bench, "answer", lambda network, call: network(**call).double())
    results = SimpleNamespace(rows={}, keep=lambda name, row: results.rows.update({name: row}))

    def attempted(name, by):
        one = scaled(by)
        if name == bench.STRICT:
            vars(one)["ptq4dm_layers"] = ()
        kind = replace(bench.CONTENDERS[name], make=lambda given: one, dtype=bench.FULL)
        monkeypatch.setattr(one, "forward", lambda sample: (one.layer(sample),))
        monkeypatch.setitem(bench.CONTENDERS, name, kind)
        return bool(bench.attempt(name, args, given, lambda dtype: answer, results))

    answer = network(**call).double()
    assert attempted(bench.STRICT, 1.028) and not results.rows  # 1.2 times 0.02, and 0.005
    assert not attempted(bench.STRICT, 1.030) and results.rows["INT8 (strict), reduce-overhead"]["wrong"] > 0.029
    assert attempted("FP32 eager", 1.009) and not attempted("FP32 eager", 1.011)
    assert not attempted("FP32 eager", float("nan")) and "wrong" in results.rows["FP32 eager"]
    monkeypatch.setattr(bench, "made_ready", lambda *arguments: 1 / 0)
    results.rows["FP32 eager"] = {"ms": {}}
    for name in (bench.STRICT, "FP32 eager"):
        assert not bench.attempt(name, args, given, lambda dtype: answer, results)
    assert results.rows["FP32 eager"] == {"ms": {}}  # what was measured is not lost
    assert results.rows["INT8 (strict), reduce-overhead"] == {"cannot": "ZeroDivisionError: division by zero"}


def test_the_pair_comes_first_whatever_the_clock_says_and_rows_get_both_ratios(module, monkeypatch, tmp_path):
    bench = module("bench_network")
    built, timed = [], []
    for name in ("built", "quantized", "inputs_of", "require_correct"):
        monkeypatch.setattr(bench, name, lambda *arguments, **more: None)

    def attempt(name, args, *others):
        built.append(name)
        module = nn.Linear(1, 1)
        vars(module).update({"ptq4dm_layers": ()} if name in bench.OURS else {})
        return {bench.row_of(name, args.mode): bench.Ready(bench.CONTENDERS[name], module, module)}

    def alternating(calls, rounds):
        timed.append(list(calls))
        return {name: [1.0 + len(name), 2.0] for name in calls}

    monkeypatch.setattr(bench, "attempt", attempt)
    monkeypatch.setattr(bench, "calling", lambda *arguments: lambda index: None)
    monkeypatch.setattr(bench, "alternating", alternating)

    def resumed(over, *contenders, mode="reduce-overhead"):
        built.clear()
        args = bench.arguments(
            ["tiny", "--out", str(tmp_path), "--mode", mode, "--rehearse", "--contenders", *contenders]
        )
        results = bench.Results(args, bench.name_of(args))
        bench.run(args, SimpleNamespace(over=lambda share: over), results, None)
        return built[:], results.rows, bench.unfinished(args, results.rows)

    pair, ours = list(bench.PAIR), {f"{name}, reduce-overhead" for name in bench.OURS}
    order, rows, left = resumed(True, *pair)  # for these two there is always time
    assert order == pair and not left
    assert all(list(row["int8_speedup"]) == ["INT8 (strict), reduce-overhead"] for row in rows.values())
    order, rows, left = resumed(True, *bench.CONTENDERS)
    assert order == pair and left == [*pair, bench.INT8, *list(bench.CONTENDERS)[3:]]  # both lack a ratio
    order, rows, left = resumed(False, bench.INT8, "FP32 eager")
    assert order == [*pair, bench.INT8, "FP32 eager"] and not left
    assert all(set(row["int8_speedup"]) == ours for row in rows.values())
    order, rows, left = resumed(False, "FP16 eager")
    assert order == [*pair, bench.INT8, "FP16 eager"] and set(rows["FP16 eager"]["int8_speedup"]) == ours
    order, rows, left = resumed(False, *pair, bench.INT8, "FP16 eager", mode="max-autotune")
    tuned = {f"{name}, max-autotune" for name in bench.OURS}
    assert set(rows["FP16 eager"]["int8_speedup"]) == ours | tuned and not left
    assert set(rows["FP16 compiled, max-autotune"]["int8_speedup"]) == tuned
    assert timed[-1][:3] == [f"{name}, max-autotune" for name in (*pair, bench.INT8)]


def test_fp32_lies_as_torch_makes_it_and_the_others_with_channels_last(module):
    bench = module("bench_network")
    given = bench.Given("tiny", 2, nn.Linear(1, 1), nn.Linear(1, 1))
    layouts = {
        name: bench.inputs_for(kind, given)["sample"].is_contiguous(memory_format=torch.channels_last)
        for name, kind in bench.CONTENDERS.items()
    }
    assert [name for name, last in layouts.items() if not last] == ["FP32 eager, TF32", "FP32 eager"]


def test_bytes_are_those_that_quantized_tensors_hold(module):
    from torch.testing._internal.two_tensor import TwoTensor

    layer = nn.Linear(8, 4)
    layer.weight = nn.Parameter(TwoTensor(torch.zeros(4, 8), torch.zeros(4, 8)), requires_grad=False)
    layer.again = nn.Parameter(layer.bias.detach()[:2])  # lies where the bias lies
    assert module("bench_network").held_bytes(layer) == 2 * 4 * 32 + 4 * 4


def test_each_layer_in_int8_has_a_smoothing_of_its_own_folded_into_its_weight(module):
    module("bench_network")
    from networks import NETWORKS, built, quantized

    from ptq4dm.quantization.dequantized import float_form
    from ptq4dm.quantization.layers import QuantizedLayer

    network = built("tiny", torch.device("cpu"))
    few = NETWORKS["tiny"].inputs(2, torch.Generator().manual_seed(0), torch.device("cpu"), torch.float32)
    layers = {
        name: layer for name, layer in quantized(network, few).named_modules() if isinstance(layer, QuantizedLayer)
    }
    assert len(layers) == 12 and len({tuple(layer.smoothing.tolist()) for layer in layers.values()}) == 12
    for name, layer in layers.items():
        assert layer.smoothing.min() >= 0.7 and layer.smoothing.max() <= 1.4
        away = (float_form(layer, torch.float32).weight - network.get_submodule(name).weight).abs()
        assert away.amax() <= layer.weight_scale.max() / 2 / 0.7 + 1e-6


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


def test_all_pieces_are_there_in_the_order_of_what_they_tell(everything):
    lines = [" ".join(piece) for piece in everything.pieces(rehearse=False)]
    unets, pair = ("ddpm-cifar10", "imagenet64", "sd15"), "--contenders FP16 compiled INT8 (strict)"
    first = [f"bench_network.py {name} {pair}" for name in unets]
    then = [f"bench_network.py {name} --mode {mode}" for mode in ("reduce-overhead", "max-autotune") for name in unets]
    assert lines[:10] == ["check.py --smoke", *first, *then] and len(lines) == len(set(lines))
    assert lines[10].startswith("bench_network.py dit-xl") and lines[12:14] == ["check.py", "bench_kernels.py"]
    for name, default in (("ddpm-cifar10", 256), ("imagenet64", 128), ("sd15", 8)):
        for batch in {1, 2, 4, 8, 64, 256} - {default}:
            assert any(line.startswith(f"bench_network.py {name} --batch {batch} ") for line in lines[14:])
    assert everything.PIECE + everything.GRACE < 600


def test_what_is_not_installed_is_said_last_and_is_no_success(everything, capsys):
    assert everything.told([], [], set()) == 0
    assert everything.told([], [], {"torchao", "optimum-quanto"}) == 1
    assert capsys.readouterr().out.endswith("baseline (d) is missing: pip install torchao\n")
    assert everything.told([], ["a.py"], set()) == 1 and everything.told(["b.py"], ["a.py"], {"torchao"}) == 3


def test_a_piece_is_begun_again_until_it_is_done(everything, monkeypatch):
    answers, asked = [3, subprocess.TimeoutExpired("", 1), 0, 3, 1], []

    def answer(command, timeout):
        asked.append(Path(command[1]).name)
        status = answers[len(asked) - 1]
        if isinstance(status, Exception):
            raise status
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(sys, "argv", ["all.py", "--rehearse"])
    monkeypatch.setattr(everything, "done", lambda piece, args: piece == ["done.py"])
    monkeypatch.setattr(everything, "failures_of", lambda piece, args: {})
    monkeypatch.setattr(everything, "pieces", lambda rehearse: [["a.py"], ["done.py"], ["b.py", "c"]])
    with pytest.raises(SystemExit, match="1"):
        everything.main()
    assert asked == ["a.py"] * 3 + ["b.py"] * 2
    answers[:] = [1]
    asked.clear()
    monkeypatch.setattr(everything, "pieces", lambda rehearse: [["check.py", "--smoke"], ["a.py"]])
    with pytest.raises(SystemExit, match="the kernels are wrong here"):
        everything.main()
    assert asked == ["check.py"]


def test_the_prediction_counts_the_products_of_the_network(module):
    """6.05 billion multiply-adds a sample, as counted for this network elsewhere; a little of it stays in float."""
    predict = module("predict")
    half, int8 = predict.predicted("ddpm-cifar10", 1)
    assert 5.9e9 < sum(kernel.operations for kernel in int8 if kernel.in_int8) / 2 <= 6.05e9
    assert sum(kernel.operations for kernel in half) == sum(kernel.operations for kernel in int8)
    card = predict.Card(fp16=1e12, int8=2e12, bandwidth=1e30)  # bound by arithmetic alone
    products = {kernel.name: kernel.seconds(card) for kernel in int8 if kernel.in_int8}
    assert sum(kernel.seconds(card) for kernel in half if kernel.name in products) == 2 * sum(products.values())


def test_the_prediction_is_what_one_counts_by_hand(module):
    """The tiny network at batch 1: 64 places; 8 channels, 16 where a skip connection comes beside them."""
    predict = module("predict")
    half, int8 = predict.predicted("tiny", 1)
    n, wide, nine, one = 512, 1024, 9 * 64, 64  # numbers of a picture, of two; weights of convolutions 8 -> 8
    in_float = 2 * (192 + 216 + n) + 2 * (n + 216 + 192)  # first and last convolution
    in_float += 2 * (8 + 256 + 32) + 2 * (32 + 1024 + 32) + 3 * 2 * (32 + 256 + 8)  # layers of time
    in_float += 2 * 8 * 4 * 64 + 6 * n  # attention: queries, keys, values, result; the last normalisation
    floats = 2 * (n + nine + n) * 4 + 2 * (n + one + n) * 4  # convolutions 8 -> 8; q, k, v and the last of attention
    floats += 2 * 2 * (wide + 2 * nine + n) + 2 * 2 * (wide + 2 * one + n)  # 16 -> 8, and shortcuts
    floats += 6 * n * 5 + 6 * wide * 2  # normalisations
    floats += 4 * wide * 2 + 2 * n * 4  # skip connections copied; residuals of three blocks and of attention
    assert sum(kernel.moved for kernel in half) == in_float + floats
    integers = (n + nine + 2 * n) + 3 * (n + nine + 4 * n)  # three of the convolutions 8 -> 8 add a residual
    integers += 3 * (n + one + 2 * n) + (n + one + 4 * n) + 3 * n  # and the last of attention, which rounds for itself
    integers += 2 * (wide + 2 * nine + 2 * n) + 2 * (wide + 2 * one + 2 * n)
    integers += 5 * n * 4 + (4 + 3) * n + (4 + 2) * wide * 2  # normalisations round for one layer, for three, for two
    assert sum(kernel.moved for kernel in int8) == in_float + integers
    assert sum(kernel.again for kernel in int8) == 2 * n * 5 + 2 * wide * 2
    products = 2 * 64 * (nine * 4 + one * 4 + 2 * 2 * nine + 2 * 2 * one)
    assert sum(kernel.operations for kernel in int8 if kernel.in_int8) == products
    slow = predict.Card(fp16=1e30, int8=1e30, bandwidth=1.0)
    assert sum(kernel.seconds(slow, cached=True) for kernel in int8) == in_float + integers - 2 * n * 5 - 2 * wide * 2


def test_the_prediction_prints_a_table_for_a_card(module, monkeypatch, capsys):
    predict = module("predict")
    from networks import built

    monkeypatch.setattr(
        predict, "NETWORKS", {"tiny": predict.NETWORKS["tiny"], "dit-xl": replace(predict.NETWORKS["tiny"], batch=2)}
    )
    monkeypatch.setattr(predict, "built", lambda name, device: built("tiny", device))
    monkeypatch.setattr(sys, "argv", ["predict.py", "--card", "h200", "--bandwidth", "1e-3"])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.count("|") == 9 for line in lines)
    assert lines[3].startswith("| dit-xl, 2 | 0.00 | ") and " | 100 % | " in lines[3]
