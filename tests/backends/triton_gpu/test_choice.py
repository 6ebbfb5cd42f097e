"""The choice between INT8 and float with a timer that is given: no GPU, and no clock."""

import json
import types

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from int8_layers import int8_form, quantized_copy
from timed import banded
from torch import nn

pytest.importorskip("triton")
from triton.runtime.errors import OutOfResources

from ptq4dm.backends.triton_gpu import choice, operators, run, self_check, timer
from ptq4dm.backends.triton_gpu import timings as timings_module
from ptq4dm.backends.triton_gpu.kernels import launching
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLinear, triton_form
from ptq4dm.backends.triton_gpu.run import samples_of
from ptq4dm.backends.triton_gpu.timings import Timing, Timings
from ptq4dm.errors import BackendError, BackendWarning
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import bands_of

CPU = torch.device("cpu")
SLOW_TILE, FAST_TILE = Settings(16, 16, 32), Settings(64, 64, 32)


@pytest.fixture(autouse=True)
def no_measured_tiles(monkeypatch):
    monkeypatch.setattr(launching, "MEASURED", {})
    monkeypatch.setattr(choice, "MEASURED", launching.MEASURED)
    monkeypatch.setattr(choice, "ROTATED_BYTES", 1)  # two sets of inputs are enough here
    monkeypatch.setattr(choice, "TURNS", 1)


class Clock:
    """A timer that runs each call once and tells times by what was called: INT8 linears are slow, convolutions fast."""

    def __init__(self):
        self.calls = []

    def __call__(self, call, sets):
        outputs = [call(index) for index in range(sets)]
        assert len({float(y.sum()) for y in outputs}) == sets  # inputs differ: they are rotated
        kernel = next(
            (cell.cell_contents for cell in call.__closure__ if isinstance(cell.cell_contents, nn.Module)), None
        )
        tile = launching.FORCED[-1] if launching.FORCED else None
        self.calls.append((type(kernel).__name__, tile))
        seconds = {"TritonConv": 1e-3, "TritonLinear": 9e-3, "Conv2d": 2e-3, "Linear": 3e-3}[type(kernel).__name__]
        return seconds * (0.5 if tile == FAST_TILE and "Triton" in type(kernel).__name__ else 1)


def network():
    return quantized_copy(
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(2),
        nn.Linear(12, 5))
    )  # fmt: skip


def chosen(strict=False, timings=None, clock=None, net=None):
    net = net or network()
    layers = {name: module for name, module in net.named_modules() if isinstance(module, QuantizedLayer)}
    works = choice.works_of(net, layers, Call((torch.randn(2, 8, 3, 4),)))
    timings = Timings(None, {}) if timings is None else timings
    clock = clock or Clock()
    return choice.choose(
        layers, works, timings, clock, lambda *_: [SLOW_TILE, FAST_TILE], strict, CPU
    ), works, clock, timings  # fmt: skip


def test_the_faster_form_runs_and_layers_alike_are_measured_once():
    choice.TURNS = 2  # put back by the fixture
    (forms, choices), works, clock, timings = chosen()
    assert [type(forms[name]) for name in ("0", "2", "4")] == [TritonConv, TritonConv, nn.Linear]
    assert [one.int8 for one in choices] == [True, True, False] and choices[2].reason == "float is faster"
    assert (choices[0].int8_ms, choices[0].float_ms, choices[0].tile) == (0.5, 2.0, FAST_TILE.name)
    kinds = [kind for kind, _ in clock.calls]
    assert (
        kinds[:8] == ["TritonConv"] * 3 + ["Conv2d", "TritonConv", "Conv2d"] + ["TritonLinear"] * 2
    )  # two tiles, then in turns
    assert kinds.count("TritonConv") == 4 and all(tile == FAST_TILE for _, tile in clock.calls[2:6] if tile)
    assert len(timings) == 2 and works["0"] == choice.Work((2, 8, 3, 4), torch.float32)


def test_strict_keeps_int8():
    (forms, choices), *_ = chosen(strict=True)
    assert type(forms["4"]) is TritonLinear and choices[2].int8
    assert choices[2].reason == "float is faster; strict keeps INT8" and choices[2].int8_ms == 4.5


def test_the_kernels_take_the_fastest_tile_for_such_a_product_and_no_other():
    chosen(strict=True)
    assert launching.settings_for(24, 8, 8, 9, CPU) == FAST_TILE
    assert launching.settings_for(48, 8, 8, 9, CPU) == FAST_TILE
    default = launching.default_settings(100, 8, 8, CPU)
    assert launching.settings_for(100, 8, 8, 9, CPU) == default != FAST_TILE
    assert launching.settings_for(24, 8, 8, 1, CPU) == launching.default_settings(24, 8, 8, CPU)


def test_times_are_kept_on_disk_for_the_same_hardware_and_versions(tmp_path):
    path, hardware = tmp_path / "cache" / "times.json", {"gpu": "H100", "torch": "2"}
    chosen(timings=Timings(path, hardware))
    assert len(json.loads(path.read_text())["timings"]) == 2
    (_, choices), _, clock, _ = chosen(timings=Timings(path, hardware))
    assert clock.calls == [] and choices[0].tile == FAST_TILE.name and choices[0].int8_ms == 0.5
    assert len(Timings(path, {**hardware, "torch": "3"})) == 0
    path.write_text('{"hardware": ')
    assert len(Timings(path, hardware)) == 0


def test_a_kept_tile_that_is_not_tried_here_is_measured_again():
    """One that is too large for this card, say: a launch would end in an error of the driver."""
    *_, timings = chosen()
    for key, item in list(timings.items()):
        timings[key] = Timing(item.int8_ms, item.float_ms, Settings(4096, 4096, 128))
    (_, choices), _, clock, timings = chosen(timings=timings)
    assert clock.calls and {one.tile for one in choices} == {FAST_TILE.name}


def test_times_that_cannot_be_kept_are_told_of_once(tmp_path):
    (tmp_path / "file").write_text("")
    timings = Timings(tmp_path / "file" / "times.json", {})
    with pytest.warns(BackendWarning, match="measured again next time: cannot write"):
        timings["a"] = Timing(1.0, 2.0, FAST_TILE)
    timings["b"] = Timing(3.0, 4.0, FAST_TILE)
    assert set(timings) == {"a", "b"}


def test_two_processes_keep_each_others_times(tmp_path):
    first, second = (Timings(tmp_path / "times.json", {}) for _ in range(2))
    first["a"], second["b"] = Timing(1.0, 2.0, FAST_TILE), Timing(3.0, 4.0, SLOW_TILE)
    assert set(Timings(tmp_path / "times.json", {})) == {"a", "b"}
    assert Timings(tmp_path / "times.json", {})["b"] == Timing(3.0, 4.0, SLOW_TILE)


def test_a_layer_that_the_example_does_not_call_stays_in_int8():
    net = network()
    net.add_module("spare", int8_form(nn.Linear(8, 8)))
    net.forward = lambda x: nn.Sequential.forward(net[:5], x)
    (forms, choices), *_ = chosen(net=net)
    assert isinstance(forms["spare"], TritonLinear) and choices[-1].reason == "not called by the example"


def test_rounding_is_not_timed_where_a_normalisation_does_it(monkeypatch):
    """In a residual block; elsewhere the layer's own rounding is part of its time."""
    block = ResnetBlock2D(in_channels=8, temb_channels=None, groups=4)
    net = quantized_copy(nn.Sequential(block, nn.Conv2d(8, 8, 3, padding=1)))
    net.forward = lambda x: net[1](net[0](x, None))
    layers = {name: module for name, module in net.named_modules() if isinstance(module, QuantizedLayer)}
    works = choice.works_of(net, layers, Call((torch.randn(2, 8, 3, 4),)))
    assert {name: work.rounded for name, work in works.items()} == {"0.conv1": True, "0.conv2": True, "1": False}
    counted, timings = [], Timings(None, {})
    quantize = operators.quantize
    monkeypatch.setattr(operators, "quantize", lambda *arguments: counted.append(1) or quantize(*arguments))

    def timer(call, sets):
        before = len(counted)
        assert torch.is_tensor(call(0))
        return 1e-3 * (1 + len(counted) - before)

    choice.choose(layers, works, timings, timer, lambda *_: [SLOW_TILE], False, CPU)
    assert [("rounded in front" in key, item.int8_ms) for key, item in timings.items()] == [(True, 1), (False, 2)]


def test_a_tile_that_gives_other_numbers_is_refused(monkeypatch):
    """As on a GPU whose compiler errs for one tile."""
    right = operators.linear
    wrong = lambda q, *rest: right(q, *rest) + (launching.FORCED[-1:] == [FAST_TILE])  # noqa: E731
    monkeypatch.setattr(operators, "linear", wrong)
    with pytest.raises(
        BackendError, match=f"with the tile {FAST_TILE.name} a product of .* than with {SLOW_TILE.name}"
    ):
        chosen()


def test_a_device_that_has_room_for_no_tile_is_told_of(monkeypatch):
    def too_large(*arguments):
        raise OutOfResources(200_000, 101_376, "shared memory")

    monkeypatch.setattr(operators, "convolution", too_large)
    with pytest.raises(
        BackendError,
        match=r"product of \(2, 8, 3, 4\) by 8 outputs runs with none of the 2 tiles .* on cpu: 64x64x32.* takes "
        r"200,000 of shared memory, of which there are 101,376\. Keep that layer in float \(keep_float\)",
    ):
        chosen()


@pytest.mark.parametrize("rows", [65536, 16384, 8192])
@pytest.mark.parametrize("columns", [256, 320, 1280])
def test_tiles_of_which_two_share_a_multiprocessor_are_tried_beside_the_largest(monkeypatch, rows, columns):
    """On a Hopper: 132 multiprocessors, 227 KiB of shared memory."""
    for name, value in {"shared_memory": 232_448, "sums_a_thread": 128, "multiprocessors": 132}.items():
        monkeypatch.setattr(choice, name, lambda device, value=value: value)
    tried = {(one.rows, one.columns, one.depth): one for one in choice.fitting_on(CPU)(rows, columns, 1280, 9)}
    assert tried.keys() >= {(128, 128, 64), (128, 64, 128), (64, 128, 128)}
    for size in ((128, 128, 64), (128, 64, 128), (64, 128, 128)):
        assert tried[size].warps == 4 and 2 * tried[size].shared_bytes <= 232_448
    assert len(tried) < len(choice.fitting_on(CPU, None)(rows, columns, 1280, 9))


def test_every_tile_that_was_measured_is_checked(monkeypatch):
    net = network()
    layers = {name: module for name, module in net.named_modules() if isinstance(module, QuantizedLayer)}
    forms, asked = {name: triton_form(layer) for name, layer in layers.items()}, []
    other = torch.device("cuda", 0)  # a tile of another device is none of ours
    monkeypatch.setitem(launching.MEASURED, (other, *forms["0"].product_kind), {24: Settings(128, 256, 128, 8, 4)})
    monkeypatch.setitem(launching.MEASURED, (CPU, *forms["0"].product_kind), {24: SLOW_TILE, 4096: FAST_TILE})
    monkeypatch.setattr(self_check, "MEASURED", launching.MEASURED)
    right = operators.convolution
    monkeypatch.setattr(operators, "convolution", lambda *a: asked.append(tuple(launching.FORCED)) or right(*a))
    self_check.self_check(layers, forms, CPU)
    assert asked == [(SLOW_TILE,), (FAST_TILE,)] and launching.FORCED == []


def test_work_for_another_batch():
    works = {"a": choice.Work((2, 8, 3, 4), torch.float16), "b": choice.Work((48, 5), torch.float16)}
    scaled = choice.with_batch(works, samples_of(Call((torch.zeros(()), torch.zeros(2, 3)), {})), 64)
    assert scaled["a"].shape == (64, 8, 3, 4) and scaled["b"].shape == (1536, 5)


def test_times_hold_for_one_source_of_the_backend(tmp_path, monkeypatch):
    properties = types.SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timings_module.timings_of(CPU)["a"] = Timing(1.0, 2.0, FAST_TILE)
    assert set(timings_module.timings_of(CPU)) == {"a"} and (tmp_path / "ptq4dm" / "triton-nvidia-h100.json").exists()
    monkeypatch.setattr(timings_module, "source_hash", lambda: "of another day")
    assert set(timings_module.timings_of(CPU)) == set()


def test_small_inputs_are_rotated_among_few_sets(monkeypatch):
    monkeypatch.setattr(choice, "ROTATED_BYTES", 1 << 20)
    for shape, sets in (((1, 8, 4, 4), 16), ((4, 8, 64, 64), 4), ((64, 8, 64, 64), 2)):
        assert len(choice.rotated_inputs(choice.Work(shape, torch.float16), CPU)) == sets


@pytest.mark.parametrize("options", [{}, {"batch": 6}, {"batch": 1, "strict": True}])
def test_on_a_gpu_layers_are_timed_there_with_its_tiles_in_one_band(monkeypatch, options):
    """The branch of a GPU, its device and clock made up; what is timed runs here."""
    network, gpu, given = banded(), torch.device("cuda", 1), {}
    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
    timings, choose = Timings(None, {}), choice.choose

    def clock(call, sets, device):
        given.update(timed_on=device, band=bands_of(network).index.tolist())
        return Clock()(call, sets)

    def chosen_here(layers, works, *rest):
        given.update(works=works, timings=rest[0], device=rest[-1])
        return choose(layers, works, *rest[:-1], CPU)

    monkeypatch.setattr(run, "placement", lambda network: (gpu, torch.float32))
    monkeypatch.setattr(timer, "seconds_on_gpu", clock)
    monkeypatch.setattr(choice, "fitting_on", lambda device: given.update(tiles_of=device) or (lambda *_: [FAST_TILE]))
    monkeypatch.setattr(timings_module, "timings_of", lambda device: given.update(kept_for=device) or timings)
    monkeypatch.setattr(choice, "choose", chosen_here)
    example = Call((torch.randn(3, 6, 5, 5), torch.tensor([0, 499, 999])))
    forms, choices = run.TritonBackend(**options).chosen(network, layers, example)
    assert {given[name] for name in ("device", "timed_on", "tiles_of", "kept_for")} == {gpu} and given["band"] == 0
    batch = options.get("batch", 3)
    assert {name: work.shape for name, work in given["works"].items()} == {
        "conv": (batch, 6, 5, 5), "linear": (batch, 5, 5, 8),
    }  # fmt: skip
    assert [one.int8 for one in choices] == [True, options.get("strict", False)]  # linears are slow in INT8
    assert type(forms["linear"]) is (TritonLinear if options.get("strict") else nn.Linear)
    assert given["timings"] is timings and len(timings) == 2 and {one.tile for one in choices} == {FAST_TILE.name}
    assert choices[0].int8_ms == 0.5


def test_on_a_gpu_nothing_is_timed_without_a_call_or_where_that_is_not_wanted(monkeypatch):
    monkeypatch.setattr(run, "placement", lambda network: (torch.device("cuda", 0), torch.float32))
    monkeypatch.setattr(choice, "choose", lambda *arguments: pytest.fail("timed"))
    net = network()
    layers = {name: module for name, module in net.named_modules() if isinstance(module, QuantizedLayer)}
    call = Call((torch.randn(2, 8, 3, 4),))
    for backend, example, reason in (
        (run.TritonBackend(), None, "no call is known"),
        (run.TritonBackend(tune=False), call, "the backend was told not to tune"),
    ):
        forms, choices = backend.chosen(net, layers, example)
        assert all(one.int8 and one.reason == f"not measured: {reason}" for one in choices) and len(forms) == 3


@pytest.mark.parametrize(("int8", "reason"), [(0.96, ""), (0.98, "INT8 gains less than 3 %"), (1.1, "float is faster")])
def test_a_gain_within_noise_stays_in_float(int8, reason):
    net = quantized_copy(nn.Sequential(nn.Linear(8, 5)))
    works, timings = {"0": choice.Work((2, 8), torch.float32)}, Timings(None, {})
    timings[choice.key_of(triton_form(net[0]), works["0"])] = Timing(int8, 1.0, FAST_TILE)
    _, (one,) = choice.choose({"0": net[0]}, works, timings, Clock(), lambda *_: [FAST_TILE], False, CPU)
    assert one.reason == reason and one.int8 == (not reason)


@torch.no_grad()
def test_a_layer_is_timed_with_what_stands_in_front_of_it(monkeypatch):
    """Readers of a normalisation do not round; a convolution behind an upsampler reads the small picture."""
    block = BasicTransformerBlock(8, 2, 4, cross_attention_dim=6)
    resnet = ResnetBlock2D(in_channels=4, temb_channels=None, groups=2, up=True)
    net = quantized_copy(nn.Sequential(block, Upsample2D(4, use_conv=True), resnet))
    net.forward = lambda x, h, s: (net[2](net[1](x), None), net[0](h, encoder_hidden_states=s))
    layers = {name: module for name, module in net.named_modules() if isinstance(module, QuantizedLayer)}
    call = Call((torch.randn(1, 4, 2, 2), torch.randn(1, 3, 8), torch.randn(1, 2, 6)))
    works = choice.works_of(net, layers, call)
    rounded = {name for name, work in works.items() if work.rounded}
    attention = {"0.attn1.to_q", "0.attn1.to_k", "0.attn1.to_v", "0.attn2.to_q"}
    assert rounded == attention | {"0.ff.net.0.proj", "0.ff.net.2", "2.conv1", "2.conv2"}
    enlarged = {name: work.given for name, work in works.items() if work.upsample == 2}
    assert enlarged == {"1.conv": (1, 4, 2, 2), "2.conv1": (1, 4, 4, 4)} and works["1.conv"].shape == (1, 4, 4, 4)
    net[0].attn1.to_k.input_scale.mul_(2)  # rounded for each, by an attention with a processor for that
    assert choice.works_of(net, layers, call)["0.attn1.to_q"].rounded
    net[0].attn1.set_processor(AttnProcessor())
    assert not choice.works_of(net, layers, call)["0.attn1.to_q"].rounded
    seen, timings = [], Timings(None, {})
    convolution = operators.convolution
    monkeypatch.setattr(operators, "convolution", lambda q, *rest: seen.append(tuple(q.shape)) or convolution(q, *rest))
    timer = lambda call, sets: float(call(0).shape[0])  # noqa: E731
    one = {"1.conv": works["1.conv"]}
    choice.choose({"1.conv": layers["1.conv"]}, one, timings, timer, lambda *_: [SLOW_TILE], False, CPU)
    assert set(seen) == {(1, 1, 2, 2, 4)} and "upsampled 2" in next(iter(timings))
    choice.measure(layers["0.ff.net.0.proj"], triton_form(layers["0.ff.net.0.proj"]), works["0.ff.net.0.proj"], timer,
                   lambda *_: [SLOW_TILE], CPU)  # fmt: skip
