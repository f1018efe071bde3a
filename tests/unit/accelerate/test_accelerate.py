"""Kernels are put into a finished model and taken out; nothing else about it changes."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

import passl.accelerate
from passl.accelerate import FAST_CLASSES, SWITCH, accelerate, cpu_layers, restore
from passl.modeling.backbones import build_backbone
from tests.numerics import GRADIENTS, check_network

SMALL = {
    "ConViT": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "local_up_to_layer": 1,
    },
    "CvT": {"embed_dim": [8, 12, 16], "depth": [1, 1, 1], "num_heads": [1, 2, 4]},
}
FAST = set(FAST_CLASSES.values())


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture(params=SMALL)
def network(request):
    paddle.seed(0)
    return build_backbone({"name": request.param, **SMALL[request.param]})


def normal(*shape):
    array = np.random.default_rng(0).standard_normal(shape).astype("float32")
    return paddle.to_tensor(array)


def is_fast(model) -> bool:
    return any(type(layer) in FAST for layer in model.sublayers(include_self=True))


def gradients(model) -> dict[str, np.ndarray]:
    model.train()
    model.clear_gradients()
    paddle.seed(1)
    (model(normal(4, 3, 32, 32)) * normal(4, 16)).sum().backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient}


def test_parameters_names_and_hooks_are_kept(network):
    parameters, keys = dict(network.named_parameters()), list(network.state_dict())
    names, called = [p.name for p in network.parameters()], []
    network.norm.register_forward_post_hook(lambda *_: called.append(True))
    assert accelerate(network) is network
    assert is_fast(network)
    found = dict(network.named_parameters())
    assert all(found[name] is parameter for name, parameter in parameters.items())
    assert list(found) == list(parameters)
    assert list(network.state_dict()) == keys
    assert [p.name for p in network.parameters()] == names
    network(normal(1, 3, 32, 32))
    assert called == [True]


def test_restored_network_computes_as_before(network):
    network.eval()
    images = normal(2, 3, 32, 32)
    expected, classes = network(images).numpy(), [type(layer) for layer in network.sublayers()]
    check_network(accelerate(network)(images), expected)
    assert restore(network) is network
    assert [type(layer) for layer in network.sublayers()] == classes
    np.testing.assert_array_equal(network(images).numpy(), expected)


def test_gradients_in_training_are_the_same(network):
    """With drop path, whose draws are the same. In units of the largest gradient: some are zero in
    exact arithmetic.
    """
    plain, fast = gradients(network), gradients(accelerate(network))
    assert plain.keys() == fast.keys()
    largest = max(np.abs(gradient).max() for gradient in plain.values())
    for name, expected in plain.items():
        check_network(fast[name], expected, GRADIENTS, largest)


def test_accelerating_twice_changes_nothing(network):
    classes = [type(layer) for layer in accelerate(network).sublayers()]
    assert [type(layer) for layer in accelerate(network).sublayers()] == classes


def test_a_copy_is_accelerated_and_independent(network):
    other = copy.deepcopy(accelerate(network))
    assert is_fast(other)
    restore(network)
    assert is_fast(other)


def test_environment_switches_it_off(network, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    assert not is_fast(accelerate(network))


def test_model_on_another_device_stays_plain(network, monkeypatch):
    class GPUPlace:
        def is_cpu_place(self):
            return False

    class OnGPU:
        place = GPUPlace()

    monkeypatch.setattr(network, "parameters", lambda: [OnGPU()])
    assert not is_fast(accelerate(network))


def test_subclasses_are_left_alone():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer = Twice(3, 2)
    x = normal(4, 3)
    expected = layer(x).numpy()
    np.testing.assert_array_equal(accelerate(layer)(x).numpy(), expected)
    assert type(layer) is Twice


LAYERS = {
    "no bias": lambda: nn.Linear(6, 4, bias_attr=False),
    "bias": lambda: nn.Linear(6, 4),
    "no affine": lambda: nn.LayerNorm(6, weight_attr=False, bias_attr=False),
    "two axes": lambda: nn.LayerNorm([6, 6]),
    "approximation": lambda: nn.GELU(approximate=True),
    "dilation": lambda: nn.Conv2D(3, 4, 2, dilation=2),
    "stride": lambda: nn.Conv2D(3, 4, 3, stride=[1, 2], padding=1),
    "padding of each side": lambda: nn.Conv2D(3, 4, 3, padding=[1, 0]),
    "padding by name": lambda: nn.Conv2D(3, 4, 3, padding="SAME"),
    "reflected padding": lambda: nn.Conv2D(3, 4, 3, padding=1, padding_mode="reflect"),
    "channels last": lambda: nn.Conv2D(6, 4, 3, data_format="NHWC"),
    "kernel of two sides": lambda: nn.Conv2D(3, 4, [3, 1]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_options_of_paddles_layers(name):
    """Users' networks have them too."""
    layer, x = LAYERS[name](), normal(2, 3, 6, 6)
    expected = layer(x).numpy()
    x.stop_gradient = False
    check_network(accelerate(layer)(x), expected)


def test_activation_between_plain_layers_trains():
    """Tensors that graphs return share one version counter, so they must not be written to."""
    act = accelerate(passl.modeling.layers.QuickGELU())
    first, second, third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    out = third(act(second(act(first(normal(3, 4))))))
    out.sum().backward()
    assert first.weight.grad is not None


def test_paddles_convolution_where_onednn_is_not_usable(monkeypatch):
    monkeypatch.setattr(cpu_layers.onednn, "usable", lambda: False)
    layer, x = nn.Conv2D(4, 4, 3, padding=1), normal(1, 4, 5, 5)
    expected = layer(x).numpy()
    np.testing.assert_array_equal(accelerate(layer)(x).numpy(), expected)


def test_a_frozen_norm_passes_the_right_gradient():
    """Paddle 3.3.1's own LayerNorm gives its input another one if its weight is frozen."""
    inputs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    found = []
    for is_frozen in (False, True):
        norm = accelerate(nn.Sequential(nn.LayerNorm(6)))
        norm[0].weight.set_value(np.linspace(0.5, 2, 6, dtype=np.float32))
        for parameter in norm.parameters():
            parameter.stop_gradient = is_frozen
        x = paddle.to_tensor(inputs, stop_gradient=False)
        (norm(x) ** 2).sum().backward()
        found.append(x.grad.numpy())
    np.testing.assert_array_equal(*found)
