"""Each other tool on a tiny network, where it is installed; the whole quick run, where all are."""

import sys
from pathlib import Path

import bench_peers
import pytest
import torch
from peers import PEERS
from peers.peer import Subject
from tiny import tiny_pipeline
from torch import nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.files import read_json
from ptq4dm.pipelines.pipeline import open_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # the tools' own
TOOLS = {
    "nncf-default": "nncf",
    "nncf": "nncf",
    "onnxruntime-default": "onnxruntime",
    "onnxruntime": "onnxruntime",
    "quanto": "optimum.quanto",
    "torchao": "torchao",
}


def share_of_linears(subject: Subject) -> float:
    linears = {name for name, module in subject.network.named_modules() if isinstance(module, nn.Linear)}
    return sum(subject.macs[name] for name in linears) / sum(subject.macs.values())


@pytest.mark.parametrize("name", TOOLS)
def test_what_a_tool_ships_runs_and_is_near_to_float(name: str, tmp_path: Path) -> None:
    pytest.importorskip(TOOLS[name])
    pipeline = open_pipeline(tiny_pipeline())
    x_t = torch.randn((8, *pipeline.picture_shape), generator=torch.Generator().manual_seed(1))
    t = torch.arange(0, 1000, 125)
    subject = Subject(pipeline, CalibrationSet(x_t, t, t, {"law": "ndtc"}), vnni=True)
    PEERS[name].ship(subject, tmp_path)
    deployed = PEERS[name].deploy(subject, tmp_path, x_t[:2], t[4])
    expected = subject.network(x_t[:2], t[4]).sample
    error = float((deployed.run(x_t[:2], t[4]) - expected).norm() / expected.norm())
    assert 1e-6 < error < 0.3
    if name in ("quanto", "torchao"):  # convolutions run in float there
        assert deployed.int8_share == pytest.approx(share_of_linears(subject))
    else:
        assert 0.5 < deployed.int8_share <= 1
    simulation = PEERS[name].simulation
    if simulation is not None:
        in_float = simulation.deploy(subject, tmp_path, x_t[:2], t[4])
        assert in_float.int8_share == 0
        found = in_float.run(x_t[:2], t[4])
        assert 1e-6 < float((found - expected).norm() / expected.norm()) < 0.3
        assert "aten::_int_mm" not in in_float.executed


def test_a_quick_run_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for package in TOOLS.values():
        pytest.importorskip(package)
    tiny = bench_peers.Setting(tiny_pipeline, 4, bench_peers.QUICK)
    monkeypatch.setattr(bench_peers, "NETWORKS", {"tiny": tiny})
    arguments = ["--quick", "--network", "tiny", "--isa", "native", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *arguments])
    bench_peers.main()
    (path,) = tmp_path.glob("peers-tiny-*-quick.json")
    result = read_json(path)
    rows, simulated = result["rows"], result["simulated"]
    assert set(simulated) == {"ptq4dm", *TOOLS} - {"torchao"} and not [r for r in simulated.values() if "reason" in r]
    assert {item["name"] for item in result["beaten"]} == set(TOOLS)
    assert set(rows) == {"eager", "openvino", "ptq4dm", *TOOLS}
    assert not [row for row in rows.values() if "reason" in row]
    assert all(row["bytes"] > 0 and row["seconds"]["median"] > 0 for row in rows.values())
    assert "written to" in capsys.readouterr().out
