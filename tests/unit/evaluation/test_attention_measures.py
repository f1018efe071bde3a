"""Measures of attention, against brute force and planted cases."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from passl.analysis.attention import attention_maps
from passl.evaluation import attention_measures as module
from passl.evaluation.attention import attention_blocks
from passl.evaluation.attention_measures import measure_attention, position_measures
from passl.modeling.gpsa import GPSA
from tests.attention_nets import CONVIT, CVT, images_of, model_of

NO_CLASS_TOKEN = {**CONVIT, "local_up_to_layer": 3, "global_pool": "avg"}


def grid_points(rows: int, columns: int) -> np.ndarray:
    """(y, x) of each patch, row by row."""
    return np.array([(y, x) for y in range(rows) for x in range(columns)], float)


def key_points(block) -> np.ndarray:
    """The published convolutions of CvT have kernel 3, stride 2 and padding 1: key j lies on query
    2 j.
    """
    return grid_points(*block.key_grid) * (2 if block.kind == "ConvAttention" else 1)


def by_brute_force(found) -> dict[str, list[float]]:
    """The definitions, from the dense maps, one query after the other."""
    block, first = found.block, int(found.block.has_class_token)
    distances = np.zeros(block.heads)
    entropies = np.zeros(block.heads)
    queries, keys = grid_points(*block.query_grid), key_points(block)
    maps_BHNM = found.maps_BHNM.astype(np.float64)
    for image in maps_BHNM:
        for head, attention in enumerate(image):
            for query, row in zip(queries, attention[first:], strict=True):
                to_patches = row[first:] / row[first:].sum()
                distances[head] += to_patches @ np.linalg.norm(keys - query, axis=1)
                entropies[head] -= row[row > 0] @ np.log(row[row > 0])
    count = len(maps_BHNM) * len(queries)
    return {
        "distance": distances / count * block.stride,
        "nonlocality": distances / count,
        "entropy": entropies / count,
    }


@pytest.mark.parametrize("part", [2**22, 100], ids=["at-once", "in-parts"])
@pytest.mark.parametrize(
    ("architecture", "size"),
    [(CONVIT, (40, 24)), (NO_CLASS_TOKEN, (24, 40)), (CVT, (35, 61))],
    ids=["convit", "no-class-token", "cvt"],
)
def test_measures_equal_brute_force(architecture, size, part, monkeypatch):
    """On odd rectangles, in two batches of different size."""
    monkeypatch.setattr(module, "_PART", part)
    model, images = model_of(architecture), images_of(3, *size)
    model.train()
    measured = measure_attention(model, [images[:2], images[2:]])
    assert model.training
    for found in attention_maps(model, images):
        ours = measured[found.block.name]
        assert ours["kind"] == found.block.kind
        for name, expected in by_brute_force(found).items():
            np.testing.assert_allclose(ours[name], expected, rtol=1e-5, err_msg=name)


def test_no_more_weights_are_held_than_a_part(monkeypatch):
    monkeypatch.setattr(module, "_PART", 700)
    held = []
    weights = GPSA.weights

    def held_weights(*args):
        held.append(weights(*args))
        return held[-1]

    monkeypatch.setattr(GPSA, "weights", held_weights)
    measure_attention(model_of(NO_CLASS_TOKEN), [images_of(2, 64, 64)])
    assert len(held) == 3 * 64  # 2 images, 4 heads and 64 keys: one query at a time
    assert max(one.size for one in held) == 2 * 4 * 64
    held.clear()
    measure_attention(model_of(NO_CLASS_TOKEN), [images_of(1, 32, 32)])
    assert [one.shape[2] for one in held] == 3 * [10, 6]


def position_by_brute_force(weight_3H: np.ndarray, rows: int, columns: int) -> dict[str, list]:
    """The measures of a softmax over w_x dx + w_y dy + w_d d^2, one query after the other."""
    points, heads = grid_points(rows, columns), weight_3H.shape[1]
    found = {name: np.zeros(heads) for name in ("y", "x", "variance", "distance")}
    for head, (of_x, of_y, of_d) in enumerate(weight_3H.T):
        for query in points:
            dy, dx = (points - query).T
            score = of_x * dx + of_y * dy + of_d * (dx**2 + dy**2)
            attention = np.exp(score - score.max())
            attention /= attention.sum()
            y, x = attention @ dy, attention @ dx
            found["y"][head] += y
            found["x"][head] += x
            found["variance"][head] += attention @ ((dy - y) ** 2 + (dx - x) ** 2) / 2
            found["distance"][head] += attention @ np.hypot(dy, dx)
    means = {name: values / len(points) for name, values in found.items()}
    return {
        "offset_y": means["y"],
        "offset_x": means["x"],
        "width": np.sqrt(means["variance"]),
        "position_distance": means["distance"],
    }


@pytest.mark.parametrize("grid", [(5, 7), (1, 4), (1, 1)])
def test_position_measures_equal_brute_force(grid):
    paddle.seed(0)
    attn = GPSA(18, 9, qkv_bias=False, scale=1.0)
    rng = np.random.default_rng(0)
    weight_3H = rng.normal(size=(3, 9)).astype("float32")
    attn.pos_proj.weight.set_value(weight_3H)
    attn.gating_param.set_value(rng.normal(size=9).astype("float32"))
    ours = position_measures(attn, grid)
    for name, expected in position_by_brute_force(weight_3H.astype(float), *grid).items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    gate = 1 / (1 + np.exp(-attn.gating_param.numpy().astype(float)))
    np.testing.assert_allclose(ours["gate"], gate, rtol=1e-6)
    # The score is -s (d - c)^2 plus a constant: c is where its derivative is zero.
    is_peak = weight_3H[2] < 0
    assert 0 < is_peak.sum() < 9
    for axis, name in enumerate(("center_x", "center_y")):
        assert np.isnan(ours[name]).tolist() == (~is_peak).tolist()
        slope = weight_3H[axis] + 2 * weight_3H[2] * ours[name]
        np.testing.assert_allclose(slope[is_peak], 0, atol=1e-6)


def test_at_initialisation_a_head_attends_as_its_kernel():
    """With a large locality strength each of nine heads attends to the one patch at its offset of a
    3 x 3 kernel, or at the border to the patch next to it. Of Y rows, Y - 1 have a neighbour.
    """
    paddle.seed(0)
    attn = GPSA(18, 9, qkv_bias=False, scale=1.0)
    attn.local_init_(40.0)
    rows, columns = 5, 7
    ours = position_measures(attn, (rows, columns))
    centers = sorted(zip(ours["center_y"], ours["center_x"], strict=True))
    assert centers == [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    np.testing.assert_allclose(ours["strength"], 40)
    np.testing.assert_allclose(ours["gate"], 1 / (1 + math.exp(-1)), rtol=1e-6)
    share_y, share_x = (rows - 1) / rows, (columns - 1) / columns
    for head, (y, x) in enumerate(zip(ours["center_y"], ours["center_x"], strict=True)):
        np.testing.assert_allclose(ours["offset_y"][head], y * share_y, atol=1e-6)
        np.testing.assert_allclose(ours["offset_x"][head], x * share_x, atol=1e-6)
        both, only_y, only_x = share_y * share_x, share_y * (1 - share_x), (1 - share_y) * share_x
        expected = both * math.hypot(y, x) + only_y * abs(y) + only_x * abs(x)
        np.testing.assert_allclose(ours["position_distance"][head], expected, atol=1e-6)
    np.testing.assert_allclose(ours["width"], 0, atol=1e-3)


@pytest.mark.parametrize(
    ("heads", "offsets"), [(4, (-0.5, 0.5)), (9, (-1, 0, 1))], ids=["2x2", "3x3"]
)
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_at_initialisation_a_head_is_a_discrete_gaussian(heads, offsets, strength):
    """Of weights exp(-s |d - c|^2), for c on the kernel's grid."""
    rows, columns = 5, 7
    attn = GPSA(2 * heads, heads, qkv_bias=False, scale=1.0)
    attn.local_init_(strength)
    ours = position_measures(attn, (rows, columns))
    points = grid_points(rows, columns)
    d_NN2 = points - points[:, None]
    for head, center in enumerate((y, x) for x in offsets for y in offsets):
        gaussian = np.exp(-strength * ((d_NN2 - center) ** 2).sum(-1))
        gaussian /= gaussian.sum(-1, keepdims=True)
        mean_N2 = (gaussian[..., None] * d_NN2).sum(1)
        variance = (gaussian[..., None] * (d_NN2 - mean_N2[:, None]) ** 2).sum(1).mean()
        expected = {
            "center_y": center[0],
            "center_x": center[1],
            "strength": strength,
            "offset_y": mean_N2[:, 0].mean(),
            "offset_x": mean_N2[:, 1].mean(),
            "width": math.sqrt(variance),
            "position_distance": (gaussian * np.linalg.norm(d_NN2, axis=-1)).sum(-1).mean(),
        }
        found = {name: ours[name][head] for name in expected}
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def forced(gate: float):
    """A network whose heads have this gating parameter."""
    model = model_of(NO_CLASS_TOKEN)
    for block in model.backbone.blocks:
        block.attn.gating_param.set_value(np.full(4, gate, "float32"))
    return model


def test_gates_forced_to_1_and_to_0():
    """The distance is that of the positional attention alone, and of the content alone."""
    images = images_of(2, 40, 24)
    for block in measure_attention(forced(30.0), [images]).values():
        np.testing.assert_allclose(block["gate"], 1)
        np.testing.assert_allclose(block["nonlocality"], block["position_distance"], rtol=1e-5)
    model = forced(-30.0)
    measured = measure_attention(model, [images])
    for block, x_BNC in model.backbone.attention_inputs(images):
        q, k = (t.numpy().astype(np.float64) for t in block.attn.project_qkv(x_BNC, (5, 3))[:2])
        score = np.einsum("bnhd,bmhd->bhnm", q, k) * block.attn.attend.scale
        content = np.exp(score - score.max(-1, keepdims=True))
        content /= content.sum(-1, keepdims=True)
        points = grid_points(5, 3)
        distance = np.linalg.norm(points[:, None] - points, axis=-1)
        expected = (content * distance).sum(-1).mean((0, 2))
        np.testing.assert_allclose(measured[block.name]["gate"], 0, atol=1e-12)
        np.testing.assert_allclose(measured[block.name]["nonlocality"], expected, rtol=1e-5)


@pytest.mark.parametrize("architecture", [CONVIT, CVT], ids=["convit", "cvt"])
def test_entropy_of_uniform_attention_is_the_logarithm_of_the_keys(architecture):
    model = model_of(architecture)
    for name, parameter in model.backbone.named_parameters():
        if "gating" in name:
            parameter.set_value(np.full(parameter.shape, -30, "float32"))
        elif ".qk" in name or "proj_q" in name:
            parameter.set_value(np.zeros(parameter.shape, "float32"))
    measured = measure_attention(model, [images_of(2, 40, 64)])
    for block in attention_blocks(model, 40, 64):
        np.testing.assert_allclose(measured[block.name]["entropy"], math.log(block.keys), rtol=1e-5)


@pytest.mark.parametrize("method", ["dw_bn", "avg", "linear"])
def test_keys_of_cvt_lie_at_the_centers_of_their_windows(method):
    """A window's mean of a map of coordinates is its center, but at the border, where zeros are
    part of it.
    """
    model = model_of({**CVT, "method": method, "kernel_size": 5, "padding_q": 2, "padding_kv": 1})
    attn = model.backbone.stage0.blocks[0].attn
    if method == "dw_bn":
        attn.conv_proj_k.conv.weight.set_value(np.full([8, 1, 5, 5], 1 / 25, "float32"))
    window = attn.conv_proj_k.conv if method == "dw_bn" else attn.conv_proj_k
    y_YX, x_YX = np.mgrid[:13, :18].astype("float32")
    for axis, coordinates in enumerate((y_YX, x_YX)):
        map_BCYX = paddle.to_tensor(np.broadcast_to(coordinates, (1, 8, 13, 18)).copy())
        means = window(map_BCYX).numpy()[0, 0]
        assert means.shape == tuple(attn.key_grid((13, 18)))
        inside = means[:, 2] if axis == 0 else means[2]
        places = attn.key_places((13, 18))[axis]
        np.testing.assert_allclose(places[1:-2], inside[1:-2], rtol=1e-5)


def test_fb_is_the_original_formula():
    """Every block gets the patch embeddings, and distances are summed over pairs of patches."""
    model, images = model_of(CONVIT), images_of(2, 32, 32)
    measured = measure_attention(model, [images[:1], images[1:]], "fb")
    ours = measure_attention(model, [images])
    backbone = model.backbone
    x_BNC = backbone.patch_embed(images).flatten(2).transpose([0, 2, 1])
    points = grid_points(4, 4)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    for index, block in enumerate(backbone.blocks):
        mean_HNN = block.attn.attention_map(x_BNC, (4, 4)).numpy().mean(0)
        expected = np.einsum("nm,hnm->h", distance, mean_HNN) / 16
        found = measured[f"blocks.{index}"]
        np.testing.assert_allclose(found["nonlocality"], expected, rtol=1e-5)
        assert found["entropy"] == pytest.approx(ours[f"blocks.{index}"]["entropy"], rel=1e-6)
        assert found["nonlocality"] != pytest.approx(ours[f"blocks.{index}"]["nonlocality"])
    gpsa = backbone.blocks[1].attn
    span = -1 / gpsa.pos_proj.weight.numpy()[2]
    x, y = (weight * span / 2 for weight in gpsa.pos_proj.weight.numpy()[:2])
    np.testing.assert_allclose(measured["blocks.1"]["distances"], np.sqrt(x**2 + y**2), rtol=1e-5)
    np.testing.assert_allclose(
        measured["blocks.1"]["gating_params"], gpsa.gating_param.numpy(), rtol=1e-6
    )
    assert "gating_params" not in measured["blocks.2"]
