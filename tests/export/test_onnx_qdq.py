"""The QDQ export against ONNX's own reference implementation and against unoptimized ONNX Runtime."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.version_converter import convert_version
from randomized import randomized
from tiny import tiny_unet
from torch import nn

from ptq4dm.backends.cpu.onnxruntime.session import open_session
from ptq4dm.errors import ArtifactError, BackendError, MissingDependencyError
from ptq4dm.export.onnx_qdq import export_qdq
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedConv
from ptq4dm.quantization.layers_qdq import OutputQuantized, replaced

LAYERS = {
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1), (4, 7, 6)),
    "odd channels, stride": (nn.Conv2d(5, 3, 3, stride=2, padding=1), (5, 7, 7)),
    "dilation, no bias": (nn.Conv2d(4, 4, 3, dilation=2, bias=False), (4, 9, 8)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, padding=1), (6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, padding=1), (6, 5, 5)),
    "same padding": (nn.Conv2d(4, 4, (3, 5), padding="same"), (4, 6, 5)),
    "conv1d": (nn.Conv1d(4, 5, 3, padding=1), (4, 9)),
    "conv1d pointwise": (nn.Conv1d(5, 4, 1), (5, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 4, 3, 3)),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (4, 4, 3)),
    "linear": (nn.Linear(7, 5), (7,)),
    "linear on tokens, no bias": (nn.Linear(6, 4, bias=False), (3, 6)),
}


def randomized_network(network, rounded):
    """The network with every convolution and linear layer randomized; with rounded outputs if asked."""
    kinds = (nn.Conv2d, nn.Linear)
    layers = {name: randomized(m) for name, m in network.named_modules() if isinstance(m, kinds)}
    if rounded:
        layers = {name: OutputQuantized(m) if isinstance(m, QuantizedConv) else m for name, m in layers.items()}
        for layer in layers.values():
            if isinstance(layer, OutputQuantized):
                layer.output_scale.fill_(0.05)
                layer.output_zero_point.fill_(120)
    return replaced(network, layers)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_each_kind_of_layer_means_the_same_to_onnx(kind, rounded, tmp_path):
    source, shape = LAYERS[kind]
    layer = randomized(source)
    step = 0.1
    if rounded:
        layer = OutputQuantized(layer)
        layer.output_scale.fill_(step)
        layer.output_zero_point.fill_(120)
    network = nn.Sequential(layer)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)) * 12 - 4  # beyond both ends of the range
    path = export_qdq(network, Call((x[:1],)), tmp_path / "layer.onnx")
    model = convert_version(onnx.load(str(path)), 19)  # the reference has no QuantizeLinear of opset 17
    found = ReferenceEvaluator(model).run(None, {"input": x.numpy()})[0]
    exact = network(x.double()).numpy()
    if not rounded:
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-4)
        return
    assert np.abs(found - exact).max() <= 1.001 * step  # a float32 sum may fall on the other side of a tie
    assert (np.abs(found - exact) > 1e-5).mean() < 0.01


def test_a_grouped_transposed_convolution_means_the_same_to_onnx_runtime(tmp_path):
    """ONNX's reference takes one group only."""
    layer = randomized(nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1, groups=2))
    x = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)) * 12 - 4
    path = export_qdq(nn.Sequential(layer), Call((x[:1],)), tmp_path / "layer.onnx")
    found = open_session(path, optimize=False).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, layer(x.double()).numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("source", "shape"), [(nn.Linear(6, 4), (3, 6)), (nn.Conv2d(6, 4, 1), (6, 5, 4))])
def test_a_smoothed_layer_means_the_same_to_onnx(source, shape, tmp_path):
    layer = randomized(source)
    layer.smoothing = torch.tensor([0.25, 8.0, 1.0, 0.1, 3.0, 40.0])
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)) * 60 - 20
    path = export_qdq(nn.Sequential(layer), Call((x[:1],)), tmp_path / "layer.onnx")
    model = convert_version(onnx.load(str(path)), 19)
    found = ReferenceEvaluator(model).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, layer(x.double()).numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rounded", [False, True], ids=["float-out", "qdq"])
def test_a_whole_network_means_the_same_to_onnx_runtime(rounded, tmp_path):
    network = randomized_network(tiny_unet((4, 8), 8, attention=True), rounded)
    path = export_qdq(network, Call((torch.randn(2, 3, 8, 8), torch.tensor([5, 6]))), tmp_path / "net.onnx")
    session = open_session(path, optimize=False)
    assert [item.name for item in session.get_inputs()] == ["sample", "timestep"]
    for batch in (1, 5):
        x, t = torch.randn(batch, 3, 8, 8), torch.randint(0, 1000, (batch,))
        found = torch.from_numpy(session.run(None, {"sample": x.numpy(), "timestep": t.numpy()})[0])
        expected = network(x, t).sample
        # float rounding flips an 8-bit step here and there; a wrong scale, axis or padding would be off by the whole
        assert float((found - expected).norm() / expected.norm()) < 0.05


def test_the_file_is_standard_qdq(tmp_path):
    network = randomized_network(tiny_unet((4, 8), 8), rounded=True)
    path = export_qdq(network, Call((torch.randn(2, 3, 8, 8), 5)), tmp_path / "net.onnx")
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain for item in model.opset_import} == {""} and model.opset_import[0].version >= 17
    initializers = {item.name: item for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    seen = 0
    for node in model.graph.node:
        weights = node.input[1] if node.op_type == "Conv" else None
        if weights is None:
            continue
        activation, weight = producers[node.input[0]], producers[weights]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert producers[activation.input[0]].op_type == "QuantizeLinear"
        assert initializers[activation.input[2]].data_type == onnx.TensorProto.UINT8
        assert list(initializers[activation.input[1]].dims) == []
        integers = initializers[weight.input[0]]
        assert integers.data_type == onnx.TensorProto.INT8
        assert list(initializers[weight.input[1]].dims) == [integers.dims[0]]
        assert weight.attribute[0].name == "axis" and weight.attribute[0].i == 0
        assert integers.name.removesuffix(".layer.weight") in dict(network.named_modules())
        assert initializers[node.input[2]].data_type == onnx.TensorProto.FLOAT
        seen += 1
    assert seen == sum(isinstance(module, QuantizedConv) for module in network.modules())
    dims = [item.type.tensor_type.shape.dim for item in model.graph.input]
    assert dims[0][0].dim_param and [d.dim_value for d in dims[0]][1:] == [3, 8, 8] and len(dims[1]) == 0


class Untold(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


def test_what_onnx_cannot_say_is_refused(tmp_path):
    with pytest.raises(BackendError, match=r"Untold cannot be said in ONNX .*eigvals.*: use another backend"):
        export_qdq(Untold(), Call((torch.randn(2, 3, 3),)), tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    network = nn.Sequential(randomized(nn.Linear(2, 2)))
    with pytest.raises(ArtifactError, match=r"cannot write .*net\.onnx"):
        export_qdq(network, Call((torch.randn(2, 2),)), tmp_path / "file" / "net.onnx")


def test_without_onnx_the_mend_is_named_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # an import of it fails
    network, call = nn.Sequential(randomized(nn.Linear(2, 2))), Call((torch.randn(2, 2),))
    with pytest.raises(MissingDependencyError, match=r"needs onnx: pip install 'ptq4dm\[onnxruntime\]'"):
        export_qdq(network, call, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
