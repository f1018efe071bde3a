"""Projections of features, and the features that are projected."""

from __future__ import annotations

import sys

import numpy as np
import paddle
import pytest

from passl.analysis.embeddings import draw_embeddings, pooled_features, projected
from passl.analysis.layers import find_point
from passl.errors import ConfigError
from tests.attention_nets import CVT, images_of, model_of


def test_features_are_those_of_the_backbone():
    model, images = model_of(CVT), images_of(3, 32, 32)
    arrays = list(images.numpy())
    with paddle.no_grad():
        wanted = model.backbone(images).numpy()
        map_BCYX = model.backbone.forward_features(images, [1])[0].numpy()
    np.testing.assert_allclose(pooled_features(model, arrays), wanted, rtol=1e-5, atol=1e-6)
    of_stage = pooled_features(model, arrays, find_point(model.backbone, "1"))
    np.testing.assert_allclose(of_stage, map_BCYX.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_principal_components():
    """Points of a turned plane come back, but for signs."""
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((50, 2)) * [5, 2]
    plane -= plane.mean(0)
    plane = plane @ np.linalg.svd(plane, full_matrices=False)[2].T
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0][:2]
    points, note = projected(plane @ turn + 3, "pca")
    assert "100 %" in note
    np.testing.assert_allclose(np.abs(points), np.abs(plane), atol=1e-6)
    with pytest.raises(ConfigError, match="take at least 3"):
        projected(np.zeros((2, 4)), "pca")


def test_tsne_needs_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        projected(np.random.default_rng(0).standard_normal((20, 4)), "tsne")


def test_many_classes_and_names():
    """Of more classes than there are colors and markers, the rarest are grey."""
    labels = np.concatenate([np.arange(60), np.arange(55)])
    points = np.random.default_rng(0).standard_normal((len(labels), 2))
    figure = draw_embeddings(points, labels, [f"类别 {i}" * 9 for i in range(60)], "a", "b")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 50
    assert texts[-1] == "11 more"
