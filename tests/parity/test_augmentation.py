"""Augmentation against timm and torchvision, where these are installed (`make test-parity`).

Both sides draw from one stream of random numbers, so whole policies must agree bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image, ImageOps

from passl.data.transforms.auto_augment import AutoAugment, RandAugment, ThreeAugment
from passl.data.transforms.color import ColorJitter, RandomGrayscale
from passl.data.transforms.geometry import RandomResizedCrop
from passl.data.transforms.mixup import Mixup
from passl.data.transforms.random_erasing import RandomErasing

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "transforms"


class Stream:
    """Python's `random` and the part of `numpy.random` that timm uses, on a generator."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.random, self.uniform, self.gauss = rng.random, rng.uniform, rng.normal

    def choice(self, items):
        return items[self.rng.integers(len(items))]

    def choices(self, items, count, replace, p):
        return [items[index] for index in self.rng.choice(len(items), count, replace, p)]

    def randint(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def numpy_randint(self, low, high, size):
        assert size is None
        return int(self.rng.integers(low, high))


@pytest.fixture(scope="module", autouse=True)
def _torchvision_without_its_operators():
    """timm imports torchvision; a build for another torch asks for two operators then."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm.data  # noqa: F401
    import torchvision  # noqa: F401

    yield
    library._destroy()


@pytest.fixture
def timm_auto_augment(monkeypatch):
    """timm's module, with the one thing that ours does otherwise: a bit is kept."""
    from timm.data import auto_augment

    def posterize(image, bits, **_):
        return image if bits >= 8 else ImageOps.posterize(image, max(bits, 1))

    for name in ("Posterize", "PosterizeIncreasing", "PosterizeOriginal"):
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, posterize)
    return auto_augment


@pytest.fixture(scope="module")
def image():
    with Image.open(GOLDEN / "flower.jpg") as file:
        return file.convert("RGB").resize((48, 40))


def check_policy(ours, theirs, module, image, monkeypatch, seeds: int) -> None:
    for seed in range(seeds):
        stream = Stream(np.random.default_rng(seed))
        monkeypatch.setattr(module, "random", stream)
        monkeypatch.setattr(np.random, "choice", stream.choices)
        expected = theirs(image)
        actual = ours(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), f"seed {seed}")


RAND_POLICIES = [
    "rand",
    "rand-m9-mstd0.5-inc1",
    "rand-m9-mstd0.5-inc0",
    "rand-m7-n3-mstd0.5",
    "rand-n4-p1-m10",
    "rand-m9-p0.25-n5-inc1",
    "rand-m0-n5-p1.0",
    "rand-m15-mstd3-inc1-n4-p0.9",
    "rand-m15-mmax20-mstd3-inc1-n4-p0.9",
    "rand-mmax18-m14-n4-p0.9",
    "rand-m9-mstd101-n5",
]


@pytest.mark.parametrize("policy", RAND_POLICIES)
def test_rand_augment_equals_timm(timm_auto_augment, image, monkeypatch, policy):
    hparams = {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    theirs = timm_auto_augment.rand_augment_transform(policy, dict(hparams))
    ours = RandAugment(policy=policy)
    check_policy(ours, theirs, timm_auto_augment, image, monkeypatch, 150)


@pytest.mark.parametrize(
    ("policy", "timms"),
    [
        ("original", "original"),
        ("autoaug-mstd0.5", "original-mstd0.5"),
    ],
)
def test_auto_augment_equals_timm(timm_auto_augment, image, monkeypatch, policy, timms):
    # Without "interpolation", timm draws bilinear or bicubic for each op.
    theirs = timm_auto_augment.auto_augment_transform(timms, {"img_mean": (124, 116, 104)})
    ours = AutoAugment(policy=policy, interpolation="random")
    check_policy(ours, theirs, timm_auto_augment, image, monkeypatch, 400)


def test_every_auto_augment_layer_equals_timms(timm_auto_augment):
    from passl.data.transforms.auto_augment import ORIGINAL

    theirs = timm_auto_augment.auto_augment_policy("original")
    assert [[tuple(layer) for layer in pair] for pair in ORIGINAL] == [
        [(op.name.removesuffix("Rel"), op.prob, op.magnitude) for op in pair] for pair in theirs
    ]


def test_three_augment_equals_timm(timm_auto_augment, image, monkeypatch):
    theirs = timm_auto_augment.auto_augment_transform("3a", {"img_mean": (124, 116, 104)})
    check_policy(ThreeAugment(), theirs, timm_auto_augment, image, monkeypatch, 60)


@pytest.mark.parametrize("magnitude", [half / 2 for half in range(32)])
def test_every_op_equals_timm_at_every_level(timm_auto_augment, image, monkeypatch, magnitude):
    from passl.data.transforms.augment_ops import OPS, Geometry

    geometry = Geometry((1, 2, 3), "bilinear", None)
    timms = {name: f"{name}Rel" for name in ("TranslateX", "TranslateY")}
    hparams = {"img_mean": (1, 2, 3), "interpolation": Image.Resampling.BILINEAR}
    for name, op in OPS.items():
        theirs = timm_auto_augment.AugmentOp(
            timms.get(name, name), 1.0, magnitude, {**hparams, "magnitude_max": 20}
        )
        for seed in range(4):
            stream = Stream(np.random.default_rng(seed))
            monkeypatch.setattr(timm_auto_augment, "random", stream)
            actual = op(image, magnitude / 10, np.random.default_rng(seed), geometry)
            np.testing.assert_array_equal(np.asarray(actual), np.asarray(theirs(image)), name)


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translate_const_is_timms_absolute_shift(timm_auto_augment, image, monkeypatch, name):
    from passl.data.transforms.augment_ops import OPS, Geometry

    hparams = {"interpolation": Image.Resampling.BICUBIC, "translate_const": 17}
    theirs = timm_auto_augment.AugmentOp(name, 1.0, 7, {**hparams, "img_mean": (0, 0, 0)})
    for seed in range(4):
        monkeypatch.setattr(timm_auto_augment, "random", Stream(np.random.default_rng(seed)))
        rng = np.random.default_rng(seed)
        actual = OPS[name](image, 0.7, rng, Geometry((0, 0, 0), "bicubic", 17))
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(theirs(image)))


# -------------------------------------------------------------------------------------------------
# RandomErasing
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_count": 4},
        {"min_count": 3},
        {"min_area": 0.2, "max_area": 0.9, "min_aspect": 0.1, "max_aspect": 2.0},
    ],
)
def test_random_erasing_equals_timm(monkeypatch, mode, options):
    from timm.data import random_erasing

    theirs = random_erasing.RandomErasing(0.7, mode=mode, device="cpu", **options)
    ours = RandomErasing(p=0.7, mode=mode, **options)
    array = np.random.default_rng(0).standard_normal((3, 24, 40), dtype=np.float32)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        monkeypatch.setattr(random_erasing, "random", Stream(rng))

        def normal(tensor, rng=rng):
            return torch.from_numpy(rng.standard_normal(tensor.shape, dtype=np.float32))

        monkeypatch.setattr(torch.Tensor, "normal_", normal)
        expected = theirs(torch.from_numpy(array.copy())).numpy()
        np.testing.assert_array_equal(ours(array, np.random.default_rng(seed)), expected)


# -------------------------------------------------------------------------------------------------
# Mixup
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prob": 0.5},
        {"cutmix_alpha": 0.0, "mixup_alpha": 0.2},
        {"mixup_alpha": 0.0},
        {"cutmix_minmax": (0.2, 0.8)},
        {"cutmix_minmax": (0.3, 0.9), "cutmix_alpha": 0.0, "mixup_alpha": 0.0},
    ],
    ids=str,
)
def test_mixup_equals_timm(monkeypatch, mode, options):
    """With the same draws of Beta; where boxes lie is timm's own computation."""
    from timm.data import mixup as timm_mixup

    classes, batch = 11, 6
    ours = Mixup(classes, mode=mode, **options)
    theirs = timm_mixup.Mixup(
        **{"mixup_alpha": 0.8, "cutmix_alpha": 1.0, **options},
        mode=mode,
        label_smoothing=0.0,
        num_classes=classes,
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, 20, 28), dtype=np.float32)
    labels = rng.integers(classes, size=batch)
    mixed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        kept, cut = ours.draw(batch, rng)
        monkeypatch.setattr(theirs, "_params_per_batch", lambda k=kept, c=cut: (float(k[0]), c[0]))
        monkeypatch.setattr(theirs, "_params_per_elem", lambda _, k=kept, c=cut: (k.copy(), c))
        monkeypatch.setattr(np.random, "randint", Stream(rng).numpy_randint)
        expected = theirs(torch.from_numpy(images.copy()), torch.from_numpy(labels))
        actual = ours(
            paddle.to_tensor(images), paddle.to_tensor(labels), 0, np.random.default_rng(seed)
        )
        if actual[1].ndim == 1:
            np.testing.assert_array_equal(expected[0].numpy(), images)
            np.testing.assert_array_equal(expected[1].argmax(1).numpy(), labels)
            continue
        mixed += 1
        for tensor, reference in zip(actual, expected, strict=True):
            np.testing.assert_allclose(tensor.numpy(), reference.numpy(), rtol=0, atol=1e-6)
    assert mixed > 15


@pytest.mark.parametrize(("mixup_alpha", "cutmix_alpha"), [(0.8, 1.0), (0.2, 0.0), (0.0, 1.0)])
def test_mixup_draws_as_timm_does(mixup_alpha, cutmix_alpha):
    """Two samples of one distribution, by Kolmogorov's and Smirnov's statistic."""
    from timm.data.mixup import Mixup as TimmMixup

    count, options = 20_000, {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}
    options |= {"prob": 0.7, "switch_prob": 0.3, "mode": "elem"}
    np.random.seed(1)
    theirs = TimmMixup(**options)._params_per_elem(count)
    ours = Mixup(10, **options).draw(count, np.random.default_rng(2))
    kept = [np.where(lam == 1, 2.0, np.where(cut, lam, lam - 1)) for lam, cut in (ours, theirs)]
    points = np.sort(np.concatenate(kept))
    ranks = [np.searchsorted(np.sort(sample), points, side="right") / count for sample in kept]
    # Passed by one pair of samples in a thousand.
    assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * (2 / count) ** 0.5


# -------------------------------------------------------------------------------------------------
# Images, against torchvision and timm
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("option", ["brightness", "contrast", "saturation", "hue"])
def test_color_jitter_equals_torchvision(image, option):
    from torchvision.transforms import ColorJitter as Theirs
    from torchvision.transforms import functional

    for amount in (0.1, 0.4, 0.5):
        theirs = Theirs(**{option: amount})
        assert ColorJitter(**{option: amount}).range_of(option) == getattr(theirs, option)
    for step in range(1, 21):  # not 0: torchvision's own ColorJitter leaves that out
        factor = step / 20 - 0.525 if option == "hue" else step / 8
        expected = getattr(functional, f"adjust_{option}")(image, factor)
        actual = ColorJitter(**{option: [factor, factor]})(image, np.random.default_rng(0))
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


def test_grayscale_equals_torchvision(image):
    from torchvision.transforms import functional

    actual = RandomGrayscale(p=1.0)(image, np.random.default_rng(0))
    expected = functional.to_grayscale(image, num_output_channels=3)
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


@pytest.mark.parametrize("interpolation", ["random", "bilinear"])
def test_random_resized_crop_resamples_as_timm_does(image, monkeypatch, interpolation):
    from timm.data import transforms

    ours = RandomResizedCrop(size=32, interpolation=interpolation)
    theirs = transforms.RandomResizedCropAndInterpolation(32, interpolation=interpolation)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        left, top, width, height = ours.box(*image.size, rng)
        monkeypatch.setattr(theirs, "get_params", lambda *_: (top, left, height, width))  # noqa: B023
        monkeypatch.setattr(transforms, "random", Stream(rng))
        actual = ours(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(theirs(image)))
