"""Which artifact and arithmetic the fidelity benchmark takes, and where its results go."""

import sys

import bench_fidelity
import pytest
from tiny import tiny_pipeline

import ptq4dm
from ptq4dm.files import read_json


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--arithmetic", "qdq"], "none is built in: make one"),
        (["--arithmetic", "float-out", "--artifact", "{int8}"], "the artifact's is 'qdq'"),
    ],
)
def test_an_artifact_of_another_arithmetic_is_refused(folder, monkeypatch, capsys, arguments, says):
    given = [argument.format(int8=folder / "int8") for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["bench_fidelity.py", *given])
    with pytest.raises(SystemExit) as stopped:
        bench_fidelity.main()
    assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_the_second_arithmetic_has_a_result_of_its_own(folder, monkeypatch, tmp_path):
    """On its simulated twin, which defines it: the engine's answers differ by float rounding."""
    options = ["--model", folder / "float", "--artifact", folder / "int8", "--out", tmp_path, "--backend", "simulated"]
    command = ["bench_fidelity.py", "--quick", "--count", "2", "--arithmetic", "qdq", *map(str, options)]
    monkeypatch.setattr(sys, "argv", command)
    bench_fidelity.main()
    (path,) = tmp_path.glob("fidelity-qdq-*-quick.json")
    found = read_json(path)
    assert found["recipe"]["arithmetic"] == "qdq" and found["what"].endswith("arithmetic qdq")
    assert 0 < found["fidelity"]["call"]["relative_l2_mean"] < 0.3 and found["fidelity"]["pictures"]["n"] == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny pipeline and its artifact of the second arithmetic."""
    place = tmp_path_factory.mktemp("qdq")
    tiny_pipeline().save_pretrained(place / "float")
    recipe = ptq4dm.load_recipe("w8a8-minmax").replace(arithmetic="qdq", calibration={"samples": 4, "steps": 3})
    ptq4dm.quantize(place / "float", recipe).save(place / "int8")
    return place
