"""The comparison with other tools: shares, ratios, claims and the page, without the tools themselves."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bench_peers
import numpy as np
import pytest
import torch
from peers import PEERS, in_openvino, in_torch, onnxruntime_int8
from peers.measure import Effort, fidelity_row, speed_row
from peers.page import page, read_results
from peers.peer import Deployed, Peer, Simulation, Subject, require, share_of, share_shown
from peers.rows import measured
from peers.verdict import beaten, verdict
from scipy.stats import ttest_rel
from tiny import tiny_pipeline
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ptq4dm.calibration.collect import collect
from ptq4dm.errors import EvaluationError, MissingDependencyError
from ptq4dm.evaluation.fidelity import CallErrors
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.recipe import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def subject() -> Subject:
    pipeline = open_pipeline(tiny_pipeline())
    recipe = load_recipe("w8a8").replace(calibration={"samples": 3, "steps": 3})
    return Subject(pipeline, collect(pipeline, recipe.calibration, None, False), vnni=True)


def test_samples_come_paired_and_alone_with_a_bare_time_step(subject: Subject) -> None:
    alone = list(subject.calls(1))
    assert [int(t) for _, t in alone] == subject.samples.timesteps.tolist() and all(t.dim() == 0 for _, t in alone)
    assert torch.equal(torch.cat([x for x, _ in alone]), subject.samples.x_t)
    assert [tuple(t.shape) for _, t in subject.calls(2)] == [(2,), (1,)]


def test_the_share_is_weighed_by_multiply_adds() -> None:
    macs = {"a": 600, "b": 300, "c": 100}
    assert share_of({"a", "c", "attention"}, macs) == pytest.approx(0.7)
    assert share_shown({"a": True, "b": False, "c": True, "attention": True}, macs) == pytest.approx(0.7)
    with pytest.raises(EvaluationError, match=r"no node for 1 of 3 layers \(b\)"):
        share_shown({"a": True, "c": True}, macs)


def test_int8_products_are_counted_by_the_shapes_that_the_profiler_saw() -> None:
    a, b = torch.ones((17, 32), dtype=torch.int8), torch.ones((32, 24), dtype=torch.int8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        torch._int_mm(a, b)
        torch._int_mm(a[:8], b)
        torch.mm(a.float(), b.float())
    events = seen.events()
    assert in_torch.int8_macs(events) == (17 + 8) * 32 * 24
    assert in_torch.operators(events) == {"aten::_int_mm": 2, "aten::mm": 1}


def test_an_operator_within_its_like_is_not_seen_twice() -> None:
    outer = SimpleNamespace(name="aten::convolution", cpu_parent=None)
    between = SimpleNamespace(name="aten::_convolution", cpu_parent=outer)
    inner = SimpleNamespace(name="aten::convolution", cpu_parent=between)
    assert [in_torch.within_its_like(event) for event in (outer, between, inner)] == [False, False, True]


@pytest.mark.parametrize(
    ("origins", "layer"),
    [
        ("__module.network.conv_in/aten::_convolution/Convolution,Multiply_4", "conv_in"),
        ("Multiply_7,__module.network.a.to_out.0/aten::linear/MatMul/DequantizationMultiply", "a.to_out.0"),
        ("__module.network.a.conv2/aten::_convolution/Add,__module.network.a.conv1/aten::_convolution/Add", "a.conv2"),
        ("__module.network.a.attention/aten::scaled_dot_product_attention/MatMul", None),
        ("Multiply_12", None),
    ],
)
def test_a_node_of_openvino_tells_its_layer(origins: str, layer: str | None) -> None:
    assert in_openvino.layer_of(origins) == layer


def test_a_layer_of_onnx_is_int8_only_if_all_its_nodes_are() -> None:
    nodes = [
        ("QLinearConv", "/network/mid_block/resnets.0/conv1/Conv_token_737"),
        ("QLinearConv", "/network/twice/Conv_token_1"),
        ("Conv", "/network/twice/Conv"),
        ("MatMul", "/network/attentions.0/to_out.0/MatMul"),
        ("Mul", "/network/act/Mul"),
    ]
    found = onnxruntime_int8.multiplying_layers(nodes)
    assert found == {"mid_block.resnets.0.conv1": True, "twice": False, "attentions.0.to_out.0": False}


@pytest.mark.parametrize(
    ("name", "low", "high"), [("eager", 0, 0), ("openvino", 0, 0), ("ptq4dm", 0.85, 1), ("ptq4dm-fast", 0.95, 1)]
)
def test_the_runtimes_here_show_every_layer(name: str, low: float, high: float, subject: Subject, tmp_path) -> None:
    x_t, timestep = torch.randn((2, *subject.pipeline.picture_shape)), torch.tensor(500)
    PEERS[name].ship(subject, tmp_path / "shipped")
    deployed = PEERS[name].deploy(subject, tmp_path / "shipped", x_t, timestep)
    expected = subject.network(x_t, timestep).sample
    assert low <= deployed.int8_share <= high
    assert distance(deployed.run(x_t, timestep), expected) < (0.15 if high else 1e-5)
    simulation = PEERS[name].simulation
    assert (simulation is not None) == name.startswith("ptq4dm")
    if simulation is not None:
        in_float = simulation.deploy(subject, tmp_path / "shipped", x_t, timestep)
        assert in_float.int8_share == 0 and in_float.executed["aten::convolution"] > 0
        inputs = torch.randn((9, *x_t.shape))
        apart = sorted(distance(deployed.run(x, timestep), in_float.run(x, timestep)) for x in inputs)
        assert apart[2] < 1e-5 and apart[-1] < 0.05  # the same arithmetic, but for roundings that fall the other way


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative L2."""
    return float((found - expected).norm() / expected.norm())


def test_ratios_are_taken_round_by_round() -> None:
    rng = np.random.default_rng(0)
    weather = rng.uniform(1, 9, 21)
    own, other, eager = rng.uniform(1, 2, (3, 21)) * weather
    row = speed_row(list(other), list(eager), list(own))
    for key, values in (("seconds", other), ("over_eager", eager / other), ("ours_faster", other / own)):
        assert list(row[key].values()) == pytest.approx([np.median(values), *np.quantile(values, (0.25, 0.75))])


def test_errors_are_compared_picture_by_picture() -> None:
    """Against the interval of a paired t-test: hard pictures are hard for both, and cancel."""
    hard = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)[:, None]
    more = 0.02 + 0.001 * torch.randn((16, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, other = (CallErrors(torch.tensor([1.0]), errors, hard, hard) for errors in (hard, hard + more))
    row = fidelity_row(other, ours)
    exact = ttest_rel((hard + more).flatten(), hard.flatten()).confidence_interval(0.95)
    found = row["more_than_ours"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx((float(more.mean()), *exact), abs=1e-4)
    assert row["per_picture"] == pytest.approx((hard + more).flatten().tolist())


def fake(factor: float, share: float, simulated: float | None = None, **facts: bool) -> Peer:
    """A tool whose network is the float one times a factor, and times another where it is simulated."""

    def times(factor: float, share: float):
        def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
            return Deployed(lambda x, t: factor * subject.network(x, t).sample, share, {})

        return deploy

    simulation = None if simulated is None else Simulation("in float", times(simulated, 0.0))
    return Peer(f"times {factor}", "", (), lambda subject, folder: None, times(factor, share), simulation, **facts)


EFFORT = Effort(pictures=2, steps=2, batch=2, rounds=2)


def test_measured_rows(subject: Subject, tmp_path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))
    eager, ours, b = fake(1.0, 0.0, float=True), fake(1.01, 1.0, 1.02), fake(0.97, 0.5, 1.01, stock_openvino=True)
    absent = Peer("absent", "", ("no_such_package",), b.ship, b.deploy)
    tools = {"eager": eager, "ptq4dm": ours, "b": b, "absent": absent}
    folders = dict.fromkeys(tools, tmp_path)
    tables = measured(tools, subject, folders, EFFORT, capped=False, timed=True)
    rows, simulated = tables["rows"], tables["simulated"]
    errors = [rows[name]["fidelity"]["relative_l2_mean"] for name in ("eager", "ptq4dm", "b")]
    assert errors == pytest.approx([0, 0.01, 0.03], abs=1e-6)
    assert rows["eager"]["over_eager"] == {"median": 1, "low": 1, "high": 1} and rows["b"]["bytes"] == 1000
    assert "no_such_package" in rows["absent"]["reason"] and "pip install" in rows["absent"]["reason"]
    assert [row["fidelity"]["relative_l2_mean"] for row in simulated.values()] == pytest.approx([0.02, 0.01], abs=1e-6)
    assert rows["b"]["fidelity"]["more_than_ours"]["value"] == pytest.approx(0.02, abs=1e-6)
    assert simulated["b"]["fidelity"]["more_than_ours"]["value"] == pytest.approx(-0.01, abs=1e-6)
    capped = measured(tools, subject, folders, EFFORT, capped=True, timed=False)
    assert capped["rows"]["b"]["fidelity"] is None and capped["simulated"]["b"]["fidelity"] is None
    assert capped["rows"]["ptq4dm"]["fidelity"] is not None and "seconds" not in capped["rows"]["ptq4dm"]


def test_a_tool_that_answers_nan_is_not_compared(subject: Subject, tmp_path) -> None:
    """As torch.compile's float network does under ONEDNN_MAX_CPU_ISA=AVX2."""
    tools = {"eager": fake(1.0, 0.0, float=True), "ptq4dm": fake(1.01, 1.0, 1.0), "b": fake(float("nan"), 0.5)}
    tables = measured(tools, subject, dict.fromkeys(tools, tmp_path), EFFORT, capped=False, timed=False)
    rows = tables["rows"]
    assert rows["b"]["fidelity"] is None and not rows["b"]["finite"]
    assert rows["ptq4dm"]["finite"] and rows["ptq4dm"]["fidelity"] is not None
    json.dumps(tables, allow_nan=False)


def test_what_still_runs_in_int8_is_no_simulation(subject: Subject, tmp_path) -> None:
    b = fake(0.9, 1.0)
    tools = {
        "eager": fake(1.0, 0.0, float=True),
        "ptq4dm": fake(1.01, 1.0, 1.0),
        "b": replace(b, simulation=Simulation("not at all", b.deploy)),
    }
    tables = measured(tools, subject, dict.fromkeys(tools, tmp_path), EFFORT, capped=False, timed=False)
    assert "100.0 % of its multiply-adds still run in INT8" in tables["simulated"]["b"]["reason"]
    assert beaten(tables["rows"], tables["simulated"], ["ptq4dm"]) == [
        {"name": "b", "deployed": True, "simulated": None}
    ]


def test_a_fake_quantized_graph_is_computed_in_float(tmp_path) -> None:
    """A convolution of OpenVINO on rounded inputs, against the same in float64."""
    import openvino
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    kernel = np.round(40 * rng.standard_normal((8, 3, 3, 3))).clip(-127, 127)
    low, high = np.float32(-2), np.float32(2 - 4 / 256)
    x = ops.parameter([-1, 3, 6, 6], np.float32, name="x")
    t = ops.parameter([], np.int64, name="t")
    rounded = ops.fake_quantize(x, low, high, low, high, 256)
    weights = ops.convert(ops.constant(kernel.astype(np.int8)), "f32")
    conv = ops.convolution(rounded, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    conv.set_friendly_name(f"{in_openvino.ROOT}conv/aten::_convolution/Convolution")
    graph = openvino.Model([conv, ops.convert(t, "f32")], [x, t])
    openvino.save_model(graph, str(tmp_path / "g.xml"), False)
    one = SimpleNamespace(macs={"conv": 1})
    found = in_openvino.simulated(one, tmp_path / "g.xml")  # type: ignore[arg-type]
    x_t = torch.from_numpy(rng.uniform(-2.5, 2.5, (2, 3, 6, 6)).astype(np.float32))
    levels = ((x_t.double() + 2) * 64).round().clip(0, 255) / 64 - 2
    expected = torch.nn.functional.conv2d(levels, torch.from_numpy(kernel), padding=1)
    assert found.int8_share == 0 and found.executed
    assert float((found.run(x_t, torch.tensor(1)) - expected).abs().max() / expected.abs().max()) < 1e-5


def row(share: float, relative: float | None, time: float, size: int, **facts) -> dict:
    more = {"value": (relative or 0) - 0.01, "low": (relative or 0) - 0.012, "high": (relative or 0) - 0.008}
    fidelity = None if relative is None else {"relative_l2_mean": relative, "psnr_mean": 50.0, "more_than_ours": more}
    one, gain = ({"median": value, "low": value, "high": value} for value in (time, 1 / time))
    return {"title": "T", "settings": "s", "float": False, "int8_share": share, "fidelity": fidelity, "bytes": size,
            "seconds": one, "over_eager": gain, "ours_faster": one, **facts}  # fmt: skip


def broken(rows: dict) -> list[list[str]]:
    return [claim["broken_by"] for claim in verdict(rows, ["ours"])]


def test_claims_name_who_breaks_them() -> None:
    ours, worse = row(1.0, 0.01, 1.0, 100), row(1.0, 0.02, 1.1, 99)
    assert broken({"ours": ours, "a": worse}) == [[], [], [], []]
    assert broken({"ours": ours, "a": row(1.0, 0.02, 0.9, 100)}) == [["a"], [], [], []]
    assert broken({"ours": ours, "a": row(1.0, 0.02, 1.1, 97)}) == [[], ["a"], [], []]
    assert broken({"ours": ours, "a": row(0.95, 0.005, 1.1, 100)}) == [[], [], ["a"], []]
    assert broken({"ours": ours, "a": row(0.03, 0.005, 1.1, 100)}) == [[], [], [], []]
    assert broken({"ours": ours, "a": row(0.03, 0.005, 0.9, 100)}) == [["a"], [], [], ["a"]]
    level = row(1.0, 0.02, 1.01, 100) | {"over_eager": {"median": 0.99, "low": 0.98, "high": 1.0}}
    assert broken({"ours": ours, "a": level}) == [["a"], [], [], []]
    float_row = row(0.0, 0.0, 2.0, 50, float=True)
    assert broken({"ours": ours, "float": float_row, "a": worse}) == [[], [], [], []]


def test_the_claims_are_judged_for_each_row_of_ours_and_never_against_another_of_them() -> None:
    rows = {"ours": row(0.9, 0.01, 1.0, 100), "fast": row(1.0, 0.02, 0.7, 100), "a": row(1.0, 0.05, 0.9, 100)}
    found = [(claim["of"], claim["broken_by"]) for claim in verdict(rows, ["ours", "fast", "absent"])]
    assert found == [("ours", ["a"]), *[("ours", [])] * 3, *[("fast", [])] * 4]
    assert [item["name"] for item in beaten(rows, {}, ["ours", "fast"])] == ["a"]


def test_what_was_not_measured_is_not_taken_for_held() -> None:
    rows = {"ours": row(1.0, 0.01, 1.0, 100), "a": {"float": False, "reason": "absent"}, "b": row(1.0, None, 1.1, 100)}
    claims = verdict(rows, ["ours"])
    assert [claim["not_judged"] for claim in claims] == [["a"], ["a"], ["a", "b"], ["a"]]
    rows["b"]["over_eager"]["median"] = 1.1
    assert verdict(rows, ["ours"])[3]["not_judged"] == ["a", "b"]


def test_claims_of_speed_are_not_made_without_times() -> None:
    rows = {name: {"float": False, "int8_share": 1.0, "fidelity": None, "bytes": 1} for name in ("ours", "a")}
    assert not [claim for claim in verdict(rows, ["ours"]) if "speed" in claim["claim"]]


def test_a_tool_is_beaten_only_if_the_whole_interval_says_so() -> None:
    rows = {
        "float": row(0.0, 0.0, 1.0, 1, float=True),
        "ours": row(1.0, 0.01, 1.0, 1),
        "beaten": row(1.0, 0.03, 1.0, 1),
        "alike": row(1.0, 0.011, 1.0, 1),
        "better": row(1.0, 0.001, 1.0, 1),
        "absent": {"float": False, "reason": "it needs more"},
    }
    found = beaten(rows, {"beaten": rows["alike"], "better": rows["beaten"]}, ["ours"])
    assert {item["name"]: (item["deployed"], item["simulated"]) for item in found} == {
        "beaten": (True, False), "alike": (False, None), "better": (False, True), "absent": (None, None),
    }  # fmt: skip


def test_the_page_shows_every_row_and_says_who_breaks_a_claim() -> None:
    rows = {
        "ours": row(0.997, 0.0101, 1.0, 7_350_000, title="ours"),
        "a": row(1.0, 0.005, 1.1, 7_350_000, title="rival", settings="best"),
        "b": {"title": "absent", "settings": "", "float": False, "reason": "it needs more"},
    }
    simulated = {
        "a": {"title": "rival", "settings": "best", "how": "in float", "fidelity": row(1, 0.05, 1, 1)["fidelity"]}
    }
    result = {
        "network": "net", "isa": "native", "rows": rows, "claims": verdict(rows, ["ours"]), "notes": ["a note"],
        "effort": {"pictures": 2, "steps": 3, "batch": 4, "rounds": 5}, "samples": {"count": 6, "law": "ndtc"},
        "versions": {"rival": "1.0"}, "simulated": simulated, "beaten": beaten(rows, simulated, ["ours"]),
        "environment": {"processor": "P", "cores": 2, "threads": 2, "date": "2026-01-01", "int8_instructions": "I"},
    }  # fmt: skip
    text = page([result])
    assert (
        "| ours | s | 99.7 % | 1.01 % | 50.0 dB | +0.01 (-0.19 to +0.21) | 1000 ms (1000 to 1000)"
        " | 1.00x (1.00 to 1.00) |  | 7.35 MB |"
    ) in text
    assert "1.10x (1.10 to 1.10) faster" in text and "not measured: it needs more" in text and "- a note" in text
    assert "- ours (s): ahead in fidelity of every tool that runs the same layers in W8A8: **no**: rival (best)" in text
    older = [{key: value for key, value in claim.items() if key != "of"} for claim in result["claims"]]
    assert "- Ahead in fidelity of every tool that runs the same layers" in page([{**result, "claims": older}])
    assert "| rival | best | in float | 5.00 % | 50.0 dB | +4.00 (+3.80 to +4.20) |" in text
    assert "rival (best, 100.0 % in INT8) beaten beyond the error bars: as deployed **no**, simulated yes." in text
    assert "absent () beaten beyond the error bars: as deployed not judged, simulated not judged." in text
    columns = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert columns == [9, 9, 9, 9, 5, 5]
    untimed = page([{**result, "timed": False, "simulated": {}}])
    assert {line.count(" | ") for line in untimed.splitlines() if line.startswith("| ")} == {6}
    assert "## net, I, fidelity only" in untimed and "rounds" not in untimed.split("## net")[1]


def test_the_page_in_docs_is_that_of_the_saved_results() -> None:
    assert (ROOT / "docs/peers.md").read_text() == page(read_results(ROOT / "benchmarks/results"))


def test_the_tools_that_are_asked_for() -> None:
    def asked(peers: str | None, quick: bool) -> list[str]:
        return bench_peers.chosen(SimpleNamespace(peers=peers, quick=quick))  # type: ignore[arg-type]

    assert asked("nncf", False) == ["eager", "ptq4dm", "nncf"]
    assert asked(None, False) == list(PEERS) and "compiled" not in asked(None, True)
    with pytest.raises(SystemExit, match=r"--peers ncf: accepted are eager"):
        asked("ncf", False)


def test_a_tool_that_is_not_installed_is_an_error_with_the_pip_line() -> None:
    peer = Peer("Tool", "", ("no_such_package",), lambda *_: None, lambda *_: Deployed(lambda x, t: x, 0.0, {}))
    with pytest.raises(MissingDependencyError, match=r"Tool needs no_such_package .*pip install .*\[peers\]"):
        require(peer)


def test_every_tool_of_the_extra_is_pinned_and_nothing_is_pinned_twice() -> None:
    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}

    own, others = pins(ROOT / "benchmarks/peers/constraints.txt"), pins(ROOT / "constraints.txt")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["peers"]
    tools = {re.split(r"[\[>]", item)[0] for item in extra} - {"ptq4dm"}
    assert tools == {"nncf", "optimum-quanto", "torchao"} and tools <= set(own)
    assert not set(own) & set(others)
