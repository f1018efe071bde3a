"""Features of a dataset as points of a plane, in colors of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import paddle
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from paddle import nn

from passl.analysis.features import principal_components
from passl.analysis.figures import COLORS
from passl.analysis.layers import LayerPoint, recorded
from passl.errors import ConfigError
from passl.evaluation.attention import evaluating
from passl.logging import printable, shortened

Method = Literal["pca", "tsne"]
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")
_BATCH = 32
_PERPLEXITY = 30
"""scikit-learn's default."""
MOST_CLASSES = len(COLORS) * len(_MARKERS)
"""Classes up to which each has a color and marker of its own."""


def pooled_features(
    model: nn.Layer, images: Sequence[np.ndarray], point: LayerPoint | None = None
) -> np.ndarray:
    """Compute one vector for each image, [N, C]: what the classifier gets of the backbone, or the
    mean of a layer's map.

    Args:
        model: with a `backbone`.
        images: [channels, height, width], all of one size.
        point: the layer; null for the output of the backbone.
    """
    rows = []
    with evaluating(model), paddle.no_grad():
        for start in range(0, len(images), _BATCH):
            batch = paddle.to_tensor(np.stack(images[start : start + _BATCH]))
            with recorded([point] if point else []) as outputs:
                features = model.backbone(batch)
            if outputs:
                features = outputs[0].as_map().mean([2, 3])
            rows.append(features.astype("float32").numpy())
    return np.concatenate(rows)


def projected(features_NC: np.ndarray, method: Method) -> tuple[np.ndarray, str]:
    """Project features onto a plane.

    Args:
        features_NC: at least 3.
        method: `pca`, the first two principal components; or `tsne`, t-SNE (van der Maaten and
            Hinton, 2008) of scikit-learn from PCA's start, so that it is reproducible.

    Returns:
        Points [N, 2], and what to say of them.

    Raises:
        ConfigError: there are too few features, or scikit-learn is not installed.
    """
    count = len(features_NC)
    if count < 3:
        raise ConfigError(f"{count} images are too few to project; take at least 3")
    if method == "tsne":
        return _tsne(features_NC - features_NC.mean(0, dtype=np.float64)), (
            "t-SNE keeps neighbors near; distances between groups, their sizes and the axes have "
            "no meaning"
        )
    points, shares = principal_components(features_NC, 2)
    return points, (
        f"the first two principal components hold {100 * shares.sum():.0f} % of the variance; "
        "classes that overlap here may be apart in the other directions"
    )


def _tsne(centered: np.ndarray) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ConfigError(
            "--method tsne needs scikit-learn; install it (pip install scikit-learn), or choose "
            "--method pca"
        ) from None
    perplexity = min(_PERPLEXITY, (len(centered) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(centered)


def draw_embeddings(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, note: str
) -> Figure:
    """Draw points in colors and markers of their classes, those with the most points first.

    Args:
        points: [N, 2].
        labels: [N].
        classes: names. Beyond `MOST_CLASSES`, the rarest classes are gray.
        title: above.
        note: below.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    counts = np.bincount(labels, minlength=len(classes))
    order = [label for label in np.argsort(-counts, kind="stable") if counts[label]]
    shown, others = sorted(order[:MOST_CLASSES]), order[MOST_CLASSES:]
    is_other = np.isin(labels, others)
    others_at = points[is_other]
    axes.scatter(others_at[:, 0], others_at[:, 1], s=8, color="0.8", linewidths=0)
    handles = []
    for place, label in enumerate(shown):
        color, marker = COLORS[place % len(COLORS)], _MARKERS[place // len(COLORS)]
        chosen = points[labels == label]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=14, color=color, marker=marker, linewidths=0, alpha=0.75
        )
        name = shortened(printable(classes[label]), 20)
        handles.append(Line2D([], [], color=color, marker=marker, linestyle="", label=name))
    if others:
        text = f"{len(others)} more"
        handles.append(Line2D([], [], color="0.8", marker="o", linestyle="", label=text))
    columns = -(-len(handles) // 30)
    figure.legend(handles=handles, loc="outside right upper", ncols=columns, fontsize=8)
    axes.set(xticks=[], yticks=[], title=title)
    axes.set_xlabel(note, fontsize=8, color="0.35", wrap=True)
    return figure
