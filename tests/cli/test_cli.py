"""The command line as a user meets it: one line for a mistake, exit code 2, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import import_module

import pytest
from tiny import tiny_pipeline

from ptq4dm.cli.main import VERBS, main
from ptq4dm.errors import ArtifactError
from ptq4dm.evaluation.text import executed_line
from ptq4dm.quantization.quantized_model import QuantizedModel

RECIPE = "[calibration]\nsamples = 4\nsteps = 3\nbatch_size = 4\n"

UNREADABLE = "/proc/self/mem"
"""A file for everyone, root too, of which the first byte cannot be read."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny_pipeline().save_pretrained(folder / "float")
    (folder / "tiny.toml").write_text(RECIPE)
    names = [str(folder / name) for name in ("float", "int8", "tiny.toml")]
    assert main(["quantize", names[0], "--out", names[1], "--recipe", names[2], "--json"]) == 0
    return folder


def printed(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("ptq4dm: error: "), err
    return lines[0]


def test_inspect_lists_every_layer(place, capsys):
    data = printed(capsys, "inspect", place / "int8", "--json")
    assert data["layers"] == len(data["plan"]) and data["quantized"] > 10
    assert all(layer["quantized"] or layer["reason"] for layer in data["plan"])
    assert main(["inspect", str(place / "int8")]) == 0
    shown = capsys.readouterr().out
    assert "conv_in" in shown and data["float_by_method"]["attention products and softmax"] > 0
    assert "in float by the method: " in shown and " attention products and softmax" in shown
    made, saved, searched = (data[key] for key in ("calls_made", "calls_saved", "sensitivity_calls"))
    assert made and searched and f"calibration: {made} calls of the network for pictures" in shown
    assert (f" ({saved} more saved: " in shown) == (saved > 0) and f", {searched} to find sensitive layers" in shown
    assert data["smoothed"] == data["quantized"] and data["folded"] == 0


def test_sample_draws_the_same_pictures_for_the_same_seed(place, capsys, tmp_path):
    common = ["--count", 3, "--steps", 3, "--backend", "simulated", "--seed", 5, "--json"]
    data = printed(capsys, "sample", place / "int8", "--out", tmp_path / "a.png", *common)
    assert data["pictures"] == 3 and data["backend"] == "simulated"
    printed(capsys, "sample", place / "int8", "--out", tmp_path / "b.png", *common)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_sample_tells_what_ran_in_int8(place, capsys, tmp_path):
    pytest.importorskip("openvino")
    layers = printed(capsys, "inspect", place / "int8", "--json")["quantized"]
    arguments = ["sample", place / "int8", "--out", tmp_path / "a.png", "--count", 2, "--steps", 2]
    assert main([str(item) for item in [*arguments, "--backend", "openvino"]]) == 0
    assert f"openvino ran {layers} of {layers} quantized layers in INT8\n" in capsys.readouterr().err


def test_layers_that_an_engine_left_in_float_are_named():
    layers = [{"layer": name, "int8": name != "b"} for name in "abc"]
    assert executed_line({"engine": "onnxruntime", "layers": layers}) == (
        "onnxruntime ran 2 of 3 quantized layers in INT8, not b"
    )
    assert executed_line(None) == ""


@pytest.mark.parametrize("wrong", [["--scheduler", "magic"], ["--steps", "1001"]])
def test_what_cannot_be_drawn_is_told_before_anything_is_compiled(place, capsys, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(QuantizedModel, "to_module", lambda *args: pytest.fail("compiled"))
    drawn = ["sample", place / "int8", "--out", tmp_path / "a.png"]
    compared = ["evaluate", place / "int8", "--float", place / "float", "--out", tmp_path / "r"]
    for command in (drawn, compared):
        assert main([*map(str, command), *wrong]) == 2
        assert wrong[1] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (UNET, {"sample_size": 7}, "the network fails at pictures of 3 x 7 x 7"),
        (UNET, {"sample_size": [16, 9]}, "the network fails at pictures of 3 x 16 x 9"),
        (SCHEDULER, {"timestep_spacing": "odd"}, "cannot be set to 3 steps (odd is not supported"),
        (SCHEDULER, {"steps_offset": 2000}, "would visit time-step 2666: accepted are 0 to 999"),
        (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "2 trained_betas for num_train_timesteps = 1000"),
        (SCHEDULER, {"trained_betas": 3}, "1 trained_betas for num_train_timesteps = 1000"),
        (SCHEDULER, {"clip_sample_range": "x"}, "DDIMScheduler fails at time-step 666"),
        (SCHEDULER, {"num_train_timesteps": 0}, "num_train_timesteps is 0, not a whole number above 0"),
    ],
)
def test_a_config_that_cannot_be_drawn_with_is_one_line(place, capsys, tmp_path, file, change, says):
    shutil.copytree(place / "float", tmp_path / "float")
    config = tmp_path / "float" / file
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    quantized = ["quantize", tmp_path / "float", "--recipe", place / "tiny.toml", "--out", tmp_path / "int8"]
    drawn = ["sample", tmp_path / "float", "--float", "--count", 1, "--steps", 3, "--out", tmp_path / "a.png"]
    for command in (quantized, drawn):
        assert says in refused(capsys, *command, "--json")
    assert [item.name for item in tmp_path.iterdir()] == ["float"]


def test_export_says_what_the_default_arithmetic_means_elsewhere(place, capsys, tmp_path):
    assert main(["export", str(place / "int8"), "--out", str(tmp_path / "m.onnx")]) == 0
    assert 'quantize with a recipe of arithmetic = "qdq"' in capsys.readouterr().err.replace("'", '"')
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_bench_asks_for_its_steps_before_anything_is_compiled(place, capsys, monkeypatch):
    monkeypatch.setattr(QuantizedModel, "to_module", lambda *args: pytest.fail("compiled"))
    monkeypatch.setattr("ptq4dm.cli.bench.STEPS", 1001)
    command = ["bench", place / "int8", "--float", place / "float", "--pictures", 1]
    assert main([*map(str, command)]) == 2
    assert "steps = 1001" in capsys.readouterr().err


def test_sample_draws_with_the_float_model_too(place, capsys, tmp_path):
    common = ["--count", 2, "--steps", 2, "--scheduler", "euler", "--json"]
    data = printed(capsys, "sample", place / "float", "--float", "--out", tmp_path / "f.png", *common)
    assert data["backend"] == "float" and (tmp_path / "f.png").stat().st_size > 100


def test_zoo_names_the_built_in_model(capsys):
    assert [row["name"] for row in printed(capsys, "zoo", "--json")["models"]] == ["emoji-32"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quantize", "{place}/none", "--out", "{tmp}/a"], "no model"),
        (["quantize", "{place}", "--out", "{tmp}/a"], "model_index.json"),
        (["quantize", "{place}/int8", "--out", "{tmp}/a"], "ptq4dm.load"),
        (["quantize", "{place}/float", "--out", "{tmp}/a", "--recipe", "w9a9"], "no recipe 'w9a9'"),
        (["quantize", "{place}/float", "--out", "{place}/float"], "will not replace"),
        (["quantize", "{place}/float", "--out", "/proc/nowhere/a", "--recipe", "{place}/tiny.toml"], "/proc/nowhere"),
        (["quantize", "{place}/float", "--out", "{tmp}/a", "--device", "warp9"], "device 'warp9'"),
        (["quantize", "{place}/float", "--out", "{tmp}/a", "--device", "meta"], "device 'meta'"),
        (["sample", "{place}/int8", "--out", "{tmp}/a.png", "--device", "warp9"], "device 'warp9'"),
        (["evaluate", "{place}/int8", "--float", "{place}/float", "--out", "{tmp}/r", "--device", "warp9"], "'warp9'"),
        (["bench", "{place}/int8", "--float", "{place}/float", "--device", "warp9"], "device 'warp9'"),
        (
            ["demo", "--model", "{place}/float", "--recipe", "{place}/tiny.toml", "--out", "{tmp}/d", "--device", "w9"],
            "'w9'",
        ),
        (["sample", "{place}/float", "--out", "{tmp}/a.png"], "no ptq4dm.json"),
        (["sample", "{place}/int8", "--out", "{tmp}/a.png", "--scheduler", "magic"], "magic"),
        (["sample", "{place}/int8", "--out", "{tmp}/a.png", "--backend", "tpu"], "no backend 'tpu'"),
        (
            ["quantize", "{place}/float", "--out", "{tmp}/a", "--recipe", UNREADABLE],
            f"{UNREADABLE} cannot be read: Inp",
        ),
        (["quantize", "{place}/float", "--out", "{tmp}/a", "--samples", "1000000000000"], "should be at most 1000000"),
        (
            ["sample", "{place}/float", "--float", "--out", "{tmp}/a.png", "--backend", "tpu"],
            "backend 'tpu' beside --f",
        ),
        (
            ["evaluate", "{place}/int8", "--float", "{place}/float", "--out", "{tmp}/r", "--inception", "{tmp}/none"],
            "/none",
        ),
        (["report", "{tmp}"], "results.json"),
        (["evaluate", "{place}/int8", "--float", "{place}/none", "--out", "{tmp}/r"], "no model"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(place, capsys, tmp_path, arguments, says):
    line = refused(capsys, *[item.format(place=place, tmp=tmp_path) for item in arguments])
    assert says in line
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".work")] == []


def test_ctrl_c_leaves_no_artifact_and_the_run_resumes(place, tmp_path):
    (tmp_path / "long.toml").write_text("[calibration]\nsamples = 400\nsteps = 30\nbatch_size = 4\n")
    program = [sys.executable, "-m", "ptq4dm.cli.main", "quantize", str(place / "float")]
    command = [*program, "--out", str(tmp_path / "int8"), "--recipe", str(tmp_path / "long.toml")]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell may have told its children to ignore it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    work = tmp_path / "int8.work"
    deadline = time.time() + 120
    while not list(work.rglob("chunk-*")) and time.time() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert not (tmp_path / "int8").exists()
    assert list(work.rglob("chunk-*.safetensors")), "finished chunks are kept, so that the next run goes on"
    assert not list(tmp_path.rglob("*.tmp"))


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize", LONG, "--out", "{tmp}/a"],
        ["quantize", "{place}/float", "--out", LONG, "--recipe", "{place}/tiny.toml"],
        ["quantize", "{place}/float", "--out", "{tmp}/a", "--recipe", LONG],
        ["quantize", "{place}/float", "--out", "{tmp}/a", "--recipe", "{place}/tiny.toml", "--pictures", LONG],
        ["quantize", "{place}/float", "--out", "{tmp}/a", "--recipe", "{place}/tiny.toml", "--json", "--work", LONG],
        ["sample", LONG],
        ["sample", LONG, "--float"],
        ["sample", "{place}/int8", "--count", "1", "--steps", "1", "--backend", "simulated", "--json", "--out", LONG],
        ["evaluate", LONG],
        ["evaluate", "{place}/int8", "--float", LONG],
        ["evaluate", "{place}/int8", "--float", "{place}/float", "--out", LONG],
        ["evaluate", "{place}/int8", "--float", "{place}/float", "--out", "{tmp}/r", "--inception", LONG],
        ["evaluate", "{place}/int8", "--float", "{place}/float", "--out", "{tmp}/r", "--reference", LONG],
        ["bench", LONG],
        ["bench", "{place}/int8", "--float", LONG],
        ["inspect", LONG],
        ["report", LONG],
        ["export", LONG],
        ["export", "{place}/int8", "--out", LONG],
        ["demo", "--model", LONG, "--out", "{tmp}/d"],
        ["demo", "--out", LONG],
    ],
)
def test_a_name_too_long_for_a_file_is_one_line(place, capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert LONG in refused(capsys, *[item.format(place=place, tmp=tmp_path) for item in arguments])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/a/file"), "cannot use '/a/file': Permission denied: name another"),
        (OSError(28, "No space left on device", "/a/file"), "'/a/file': No space left on device: free some space"),
        (OSError(28, "No space left on device"), "the disk is full, or where the output goes: free some space"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys, monkeypatch, error, says):
    def run(args):
        raise error

    monkeypatch.setattr("ptq4dm.cli.zoo.run", run)
    assert says in refused(capsys, "zoo")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_one_line(unbuffered):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ptq4dm.cli.main", "zoo"]
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    says = "ptq4dm: error: the disk is full, or where the output goes: free some space\n"
    assert (done.returncode, done.stderr) == (2, says)


@pytest.mark.parametrize("during", ["diffusers", "torch"])
def test_ctrl_c_while_libraries_are_imported_is_one_line(during):
    """The finder stands for a Ctrl-C at that moment."""
    program = f"""
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == {during!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from ptq4dm.cli.main import main
sys.exit(main(["inspect", "a model"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == "ptq4dm: interrupted; nothing half-written was left behind\n"


@pytest.mark.parametrize("becomes", [RuntimeError("initialization failed"), ArtifactError("it is damaged")])
def test_ctrl_c_that_a_library_turns_into_another_error_is_still_an_interrupt(capsys, monkeypatch, becomes):
    """As imports of compiled modules do; the file that was being read was then called damaged."""

    def run(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise becomes from None

    monkeypatch.setattr("ptq4dm.cli.zoo.run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told these tests to ignore it
    try:
        assert main(["zoo"]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "ptq4dm: interrupted; nothing half-written was left behind\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample", "{place}/int8", "--out", "{place}"], "it is a folder: name a file"),
        (["sample", "{place}/int8", "--out", "/proc/nowhere/a.png"], "cannot write /proc/nowhere/a.png"),
        (["sample", "{place}/int8", "--out", "{tmp}/a.jpg"], "name a .png file"),
        (["bench", "{place}/int8", "--out", "/proc/nowhere/a.json"], "cannot write /proc/nowhere/a.json"),
        (["demo", "--model", "{place}/float", "--out", "{place}/tiny.toml"], "Not a directory"),
        (["quantize", "{place}/float", "--out", "/"], "will not replace /"),
        (["quantize", "{place}/float", "--out", "{tmp}/a", "--work", "/proc/nowhere"], "cannot write /proc/nowhere"),
        (["plan", "{place}/float", "--out", "", "--keep-float", "1"], "it is a folder: name a file"),
        (["plan", "{place}/float", "--out", "{tmp}/a", "--keep-float", "1", "--recipe", "{place}/m.toml"], "'msee'"),
        (["quantize", "{place}/float", "--out", "{tmp}/a", "--recipe", "{place}/m.toml"], "unknown metric 'msee'"),
    ],
)
def test_what_can_be_told_at_once_is_told_before_the_long_work(place, capsys, tmp_path, monkeypatch, arguments, says):
    def long_work(*_, **__):
        pytest.fail("the long work was begun")

    (place / "m.toml").write_text(RECIPE + "[ranges]\nmetric = 'msee'\n")
    for work in ("workflow.collect", "studies.mixed_plan.collect", "cli.sample.sample", "cli.bench.network_speed"):
        monkeypatch.setattr(f"ptq4dm.{work}", long_work)
    assert says in refused(capsys, *[item.format(place=place, tmp=tmp_path) for item in arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["fly"], ["sample"], ["sample", "x", "--count", "0"], ["quantize", "x"]])
def test_usage_mistakes_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("ptq4dm: error: ") and "--help`)" in err


@pytest.mark.parametrize("arguments", [["--help"], ["fly"], []])
def test_what_needs_no_libraries_does_not_wait_for_them(arguments):
    without = "import sys\nsys.modules |= dict.fromkeys(('torch', 'diffusers'))\n"
    program = f"{without}from ptq4dm.cli.main import main\nmain({arguments!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in arguments else 2) and "Traceback" not in done.stderr
    assert all(verb in done.stdout + done.stderr for verb in VERBS) or not arguments


def test_the_help_says_of_every_verb_what_its_module_does():
    found = {verb: import_module(f"ptq4dm.cli.{verb}").__doc__.split("\n")[0] for verb in VERBS}
    assert found == VERBS


def test_help_has_a_line_for_every_verb_and_its_own_arguments(capsys):
    for arguments, told in ((["--help"], "List the built-in models."), (["bench", "--help"], "--backend BACKEND")):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0 and told in capsys.readouterr().out
