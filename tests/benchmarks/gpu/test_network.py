"""Whole networks beside their rivals, rehearsed: correct first, then timed in turns."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("triton")


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
