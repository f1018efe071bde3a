from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl.analysis.drawn_predictions import Drawn, figure_of_predictions
from passl.deploy.predictor import Prediction
from passl.io.figures import save_figure


def drawn(name: str, probabilities: list[float], value: int = 0) -> Drawn:
    image = Image.fromarray(np.full((5, 7), value, np.uint8))
    names = ["短靴", "a class with a very long name of many words", "$x$"]
    best = [Prediction(i, names[i], p) for i, p in enumerate(probabilities)]
    return Drawn(name, image, best)


def test_each_image_is_beside_its_predictions():
    shown = [drawn("a/b.png", [0.7, 0.2, 0.1], 10), drawn("c.png", [0.6, 0.4], 20)]
    left, bars, second, others = figure_of_predictions(shown).axes
    assert (left.get_title(), second.get_title()) == ("b.png", "c.png")
    assert np.unique(left.images[0].get_array()) == 10
    assert np.unique(second.images[0].get_array()) == 20
    assert [bar.get_width() for bar in bars.patches] == [0.7, 0.2, 0.1]
    assert [bar.get_width() for bar in others.patches] == [0.6, 0.4]
    assert bars.texts[0].get_text() == "短靴  70.0 %"
    # The best prediction is at the top.
    assert bars.patches[0].get_y() < bars.patches[1].get_y()
    assert bars.yaxis_inverted()


@pytest.mark.parametrize("images", [1, 5])
def test_any_number_of_images(tmp_path, images):
    """Some have no prediction, as of a multi-label network."""
    shown = [drawn(f"{i}.png", [0.9, 0.1] if i % 2 else []) for i in range(images)]
    save_figure(figure_of_predictions(shown), tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as image:
        assert image.format == "PNG"
        assert image.width > 400
