"""Full-size networks with random weights against timm and transformers, where these are installed
(`make test-parity`).
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import passl
from passl.porting import load_weights, read_file

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
# Relative to the largest logit: what two correct float32 implementations agree to.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _torchvision_without_its_operators():
    """timm and transformers import torchvision; a build for another torch asks for two operators
    then.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def randomised(network):
    """Norms, gates and statistics away from their initial ones and zeros, so that none can be left
    out unseen.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return network.eval()


def compare(network, logits_of, name: str, tmp_path, **numerics) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype("float32")
    with torch.no_grad():
        expected = logits_of(torch.from_numpy(images)).numpy()
    model = passl.create_model(name, pretrained=path)
    for key, value in numerics.items():
        assert read_file(path).numerics[key] == value
    model.eval()
    with paddle.no_grad():
        ours = model(paddle.to_tensor(images)).numpy()
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()
    load_weights(model, path)


@pytest.mark.parametrize(
    ("name", "heads", "width"),
    [
        ("convit_tiny", 4, 48),
        ("convit_tiny_plus", 4, 64),
        ("convit_small", 9, 48),
        ("convit_small_plus", 9, 64),
        ("convit_base", 16, 48),
        ("convit_base_plus", 16, 64),
    ],
)
def test_convit_against_timm(name, heads, width, tmp_path):
    timm_convit = pytest.importorskip("timm.models.convit")
    torch.manual_seed(0)
    network = timm_convit.ConVit(embed_dim=width, num_heads=heads, local_up_to_layer=10)
    compare(randomised(network), network, name, tmp_path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cvt_13_224", {"depth": [1, 2, 10]}),
        ("cvt_21_224", {"depth": [1, 4, 16]}),
        (
            "cvt_w24_384",
            {"depth": [2, 2, 20], "embed_dim": [192, 768, 1024], "num_heads": [3, 12, 16]},
        ),
    ],
)
def test_cvt_against_transformers(name, shape, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CvtConfig(num_labels=1000, **shape)
    network = randomised(transformers.CvtForImageClassification(config))
    compare(network, lambda images: network(images).logits, name, tmp_path, act="gelu")
