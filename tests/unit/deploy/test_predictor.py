from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, StringIO
from traceback import format_exception

import numpy as np
import pytest
from PIL import Image

from passl.data.datasets.images import read_image
from passl.deploy.exported import Description
from passl.deploy.predictor import Classifier
from passl.errors import ConfigError, RunError
from tests.numerics import Rounded

DESCRIBED = Description(
    model={},
    transforms=[
        {"name": "Resize", "size": [4, 6]},
        {"name": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    ],
    input=[3, 4, 6],
    classes=["n02099601", "red", "green"],
    numerics={},
    parameters=0,
    weights="",
    exif_turn=False,
)


def colours(images: np.ndarray) -> np.ndarray:
    """Logits: 0, and how red and how green an image is."""
    means = images.mean((2, 3))
    return np.stack([np.zeros(len(images)), means[:, 0], means[:, 1]], 1).astype(np.float32)


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(colours, DESCRIBED)


def flat(red: int, green: int, blue: int = 0) -> Image.Image:
    return Image.new("RGB", (11, 7), (red, green, blue))


def test_prepare_applies_the_transforms(classifier):
    image = classifier.prepare(flat(255, 0, 51))
    assert (image.shape, image.dtype) == ((3, 4, 6), np.float32)
    pixels = Rounded(np.array([255, 0, 51])[:, None, None] + np.zeros((3, 4, 6)))
    ((pixels / 255 - 0.5) / 0.25).check(image)


def test_probabilities_are_the_softmax(classifier):
    (row,) = classifier.predict([flat(255, 0)])
    logits = np.array([0, 2, -2])  # (1 - 0.5) / 0.25, (0 - 0.5) / 0.25
    Rounded(logits).softmax().check(row)


def test_large_logits_do_not_overflow(classifier):
    huge = Classifier(lambda images: 1e4 * colours(images), DESCRIBED)
    np.testing.assert_array_equal(huge.predict([flat(255, 0)]), [[0, 1, 0]])


def test_labels_of_a_multilabel_network_are_above_their_thresholds():
    """Logits 0, 2 and -2: by the sigmoid 0.5, 0.88 and 0.12. A probability equal to its threshold
    is not above it.
    """
    for thresholds, expected in ((None, [1]), ([0.4, 0.9, 0.1], [0, 2]), ([0.9, 0.9, 0.9], [])):
        described = {**vars(DESCRIBED), "task": "multilabel", "thresholds": thresholds}
        classifier = Classifier(colours, Description(**described))
        (row,) = classifier.predict([flat(255, 0)])
        (1 / (1 + (-Rounded(np.array([0.0, 2, -2]))).exp())).check(row)
        (labels,) = classifier.labels([flat(255, 0)])
        assert [each.label for each in labels] == expected


def test_top_is_sorted_and_named(classifier):
    ((first, second),) = classifier.top([flat(255, 0)], k=2)
    assert (first.label, first.name) == (1, "red")
    assert (second.label, second.name) == (0, "golden retriever")
    assert first.probability > second.probability
    (every,) = classifier.top([flat(255, 0)], k=9)
    assert [prediction.label for prediction in every] == [1, 0, 2]


def test_equal_probabilities_are_ordered_by_label(classifier):
    assert [g.label for g in classifier.best(np.array([0.25, 0.5, 0.25]), 3)] == [1, 0, 2]


def test_every_kind_of_image_is_the_same(classifier, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8))
    path = tmp_path / "image.png"
    image.save(path)
    opaque = np.asarray(image.convert("RGBA"))
    content = path.read_bytes()
    kinds = [image, path, str(path), np.asarray(image), opaque]
    kinds += [content, bytearray(content), memoryview(content), BytesIO(content)]
    with path.open("rb") as file:
        found = classifier.predict([*kinds, file])
    assert found.shape == (10, 3)
    np.testing.assert_array_equal(found, np.broadcast_to(found[0], (10, 3)))
    with path.open("rb") as file:
        assert classifier.top([file], 1) == classifier.top([image], 1)


def test_images_may_come_from_an_iterator(classifier, tmp_path):
    """Read a batch at a time: a generator over a large folder takes no more memory than a list."""
    images = [flat(50 * i, 0) for i in range(5)]
    expected = classifier.predict(images)
    np.testing.assert_array_equal(classifier.predict(image for image in images), expected)
    stacked = np.stack([np.asarray(image) for image in images])
    np.testing.assert_array_equal(classifier.predict(stacked), expected)
    asked = []

    def endless():
        while True:
            asked.append(1)
            if len(asked) > 4:
                raise RuntimeError("far enough")
            yield images[0]

    with pytest.raises(RuntimeError, match="far enough"):
        classifier.predict(endless(), batch_size=2)


def single(kind: str, tmp_path):
    path = tmp_path / "cat.png"
    flat(255, 0).save(path)
    return {
        "str": str(path),
        "path": path,
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "file": BytesIO(path.read_bytes()),
        "pil": flat(255, 0),
        "pixels": np.asarray(flat(255, 0)),
        "grey pixels": np.zeros((4, 6), np.uint8),
    }[kind]


SINGLES = ("str", "path", "bytes", "bytearray", "file", "pil", "pixels", "grey pixels")


@pytest.mark.parametrize("kind", SINGLES)
def test_one_image_where_several_are_wanted(classifier, tmp_path, kind):
    image = single(kind, tmp_path)
    for call in (classifier.predict, classifier.top):
        with pytest.raises(ConfigError, match=r"one image \(.*put it into a list") as caught:
            call(image)
        assert len(str(caught.value)) < 200
    assert classifier.prepare(image).shape == (3, 4, 6)
    with pytest.raises(ConfigError, match="list is no image; give paths, bytes"):
        classifier.prepare([image])


@pytest.mark.parametrize("thing", [None, 7, object()])
def test_inputs_that_are_not_images(classifier, thing):
    kind = type(thing).__name__
    with pytest.raises(ConfigError, match=f"{kind} is no image; give paths"):
        classifier.prepare(thing)
    with pytest.raises(ConfigError, match="give .*paths, bytes"):
        classifier.predict(thing)


def test_messages_do_not_show_the_content(classifier, tmp_path):
    """Of a content that is no image, of one taken for a path, of one taken for an array."""
    content = b"\x89PNG secret" * 100_000
    latin = content.decode("latin-1")
    calls = [
        (lambda: classifier.predict([content]), RunError, "a file's content .1100000 bytes.: cann"),
        (lambda: classifier.predict([BytesIO(content)]), RunError, "an open file .*cannot be read"),
        (lambda: classifier.predict([latin]), ConfigError, "a path of 1100000 .*content as bytes"),
        (lambda: classifier.predict([StringIO(latin)]), ConfigError, "open it in binary mode"),
        (lambda: classifier.run([content]), ConfigError, "of type list are no array of numbers"),
    ]
    for call, kind, message in calls:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "secret" not in "".join(format_exception(caught.value))
    path = tmp_path / "no.png"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(RunError, match=r"no\.png .*cannot be read"):
        classifier.predict([file])


GREY = 82  # 0.299 * 120 + 0.587 * 40 + 0.114 * 200


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", (GREY,)), ("RGB", (120, 40, 200)), ("RGBA", (120, 40, 200, 255))]
)
def test_every_kind_of_image_becomes_the_networks_mode(tmp_path, mode, expected):
    normalize = {"name": "Normalize", "mean": [0.0] * len(expected), "std": [1.0] * len(expected)}
    told = {"mode": mode, "transforms": [normalize], "input": [len(expected), 7, 11]}
    classifier = Classifier(colours, Description(**{**vars(DESCRIBED), **told}))
    colour = flat(120, 40, 200)
    pixels = np.asarray(colour)
    colour.save(tmp_path / "x.png")
    opaque = np.dstack([pixels, np.full((7, 11), 255, np.uint8)])
    for image in (tmp_path / "x.png", colour, pixels, colour.convert("RGBA"), opaque):
        image = classifier.prepare(image)
        assert image.shape == (len(expected), 7, 11)
        np.testing.assert_allclose(255 * image[:, 0, 0], expected, rtol=0, atol=1e-4)
    grey = (GREY, *[GREY] * (len(expected) > 1) * 2, *expected[3:])
    pixels = np.full((7, 11), GREY, np.uint8)
    sixteen = Image.fromarray(pixels.astype(np.uint16) * 257)
    for image in (pixels, pixels[..., None], Image.fromarray(pixels), sixteen):
        image = classifier.prepare(image)
        np.testing.assert_allclose(255 * image[:, 0, 0], grey, rtol=0, atol=1e-4)


def test_the_background_that_the_network_was_trained_with(tmp_path):
    clear = Image.new("RGBA", (11, 7), (120, 40, 200, 0))
    clear.save(tmp_path / "x.png")
    for background, expected in ((None, (120, 40, 200)), ([10, 20, 30], (10, 20, 30))):
        described = Description(**{**vars(DESCRIBED), "background": background})
        classifier = Classifier(colours, described)
        for image in (clear, tmp_path / "x.png", np.asarray(clear)):
            image = classifier.prepare(image).mean((1, 2)) * 0.25 + 0.5
            np.testing.assert_allclose(255 * image, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_defined_white(classifier, mode):
    with pytest.raises(ConfigError, match=f"mode {mode}.* does not define which value is white"):
        classifier.prepare(Image.new(mode, (4, 4)))


def test_results_do_not_depend_on_the_batch_size(classifier):
    images = [flat(50 * i, 255 - 50 * i) for i in range(5)]
    together = classifier.predict(images, batch_size=5)
    for size in (1, 2, 99):
        np.testing.assert_array_equal(classifier.predict(images, size), together)
    assert classifier.predict([]).shape == (0, 3)


def test_exif_turn_where_it_was_trained_with(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half = Image.new("RGB", (12, 8))
    half.paste((255, 255, 255), (0, 0, 12, 4))
    half.save(path, exif=exif, quality=95)
    tops = []
    for turn in (False, True):
        described = Description(**{**vars(DESCRIBED), "exif_turn": turn})
        tops.append(Classifier(colours, described).prepare(path)[:, 0].mean())
    assert tops[0] > 1.5
    assert tops[1] < -1.5


def test_min_side_where_it_was_trained_with(tmp_path):
    """The decoder's half size, for a file and for its content; other forms have no decoder."""
    path = tmp_path / "large.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    described = Description(**{**vars(DESCRIBED), "min_side": 32})
    halved = Classifier(colours, described)
    expected = read_image(str(path), "x", min_side=32)
    assert expected.size == (40, 32)
    for image in (path, path.read_bytes()):
        np.testing.assert_array_equal(halved.prepare(image), halved.prepare(expected))
    whole = Classifier(colours, DESCRIBED).prepare(path)
    assert np.abs(halved.prepare(path) - whole).max() > 0.01


def test_threads_share_a_classifier():
    """Whatever transforms draw, an answer is that of the image alone."""
    transforms = [{"name": "RandomResizedCrop", "size": [4, 6]}, DESCRIBED.transforms[1]]
    shared = Classifier(colours, Description(**{**vars(DESCRIBED), "transforms": transforms}))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(100)]
    expected = [shared.prepare(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.prepare, images))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((2, 4, 6, 3), np.uint8),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
    ],
)
def test_wrong_pixels(classifier, pixels):
    with pytest.raises(ConfigError, match=r"pixels .*\["):
        classifier.prepare(pixels)


@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 1, 4, 6), (1, 3, 6, 4), (0, 3, 4, 6)])
def test_wrong_images(classifier, shape):
    with pytest.raises(ConfigError, match=r"are not \[batch, 3, 4, 6\]"):
        classifier.run(np.zeros(shape, np.float32))


def test_an_unreadable_file(classifier, tmp_path):
    path = tmp_path / "no.jpg"
    path.write_text("hello")
    with pytest.raises(RunError, match=r"no\.jpg: cannot be read as an image"):
        classifier.predict([path])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("ResourceExhaustedError: Fail to alloc memory of 9 size")],
)
def test_a_batch_that_does_not_fit(error):
    def engine(images):
        raise error

    with pytest.raises(RunError, match="batch of 2 images does not fit.*smaller batch size"):
        Classifier(engine, DESCRIBED).predict([flat(0, 0)] * 2)


def test_another_failure_of_the_engine_is_not_of_memory():
    def engine(images):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Classifier(engine, DESCRIBED).predict([flat(0, 0)])


def test_impossible_batch_size(classifier):
    with pytest.raises(ConfigError, match="batch size 0 must be at least 1"):
        classifier.predict([flat(0, 0)], batch_size=0)
