"""RandAugment, AutoAugment and 3-Augment do what timm and the papers say."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from passl.data import TRANSFORMS
from passl.data.transforms import auto_augment
from passl.data.transforms.augment_ops import OPS, Geometry
from passl.data.transforms.auto_augment import (
    ORIGINAL,
    AutoAugment,
    Noise,
    RandAugment,
    ThreeAugment,
    read_auto_policy,
    read_rand_policy,
)
from passl.errors import ConfigError

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "transforms"
CASES = json.loads((GOLDEN / "case.json").read_text(encoding="utf-8"))["ops"]
PLAIN = Geometry((124, 116, 104), "bicubic", None)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "rand_augment_ops.npz") as file:
        return dict(file)


@pytest.fixture
def image(golden):
    return Image.fromarray(golden["input"])


class Coin:
    """A generator whose every draw is the same number."""

    def __init__(self, number: float):
        self.number = number

    def random(self) -> float:
        return self.number


# -------------------------------------------------------------------------------------------------
# Ops
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c['op']}/{c['magnitude']:g}/{'-' if c['negative'] else '+'}"
)
def test_op_equals_timm_bit_for_bit(golden, image, case):
    op = OPS[case["op"].removesuffix("Rel")]
    changed = op(image, case["magnitude"] / 10, Coin(1.0 if case["negative"] else 0.0), PLAIN)
    sign = "negative" if case["negative"] else "positive"
    expected = golden[f"{case['op']}/{case['magnitude']:g}/{sign}"]
    np.testing.assert_array_equal(np.asarray(changed), expected)


def test_every_golden_op_is_compared(golden):
    assert len(CASES) == len(golden) - 1 == 60
    increasing = [layer.op for layer in read_rand_policy("rand-inc1").layers]
    assert increasing == list(dict.fromkeys(case["op"].removesuffix("Rel") for case in CASES))


@pytest.mark.parametrize(
    ("op", "level", "bits"),
    [
        ("Posterize", 0.0, 1),  # timm: 0
        ("Posterize", 0.2, 1),  # timm: 0
        ("Posterize", 0.5, 2),
        ("Posterize", 1.0, 4),
        ("PosterizeIncreasing", 0.0, 4),
        ("PosterizeIncreasing", 0.9, 1),
        ("PosterizeIncreasing", 1.0, 1),  # timm: 0
        ("PosterizeIncreasing", 1.5, 1),  # timm: -2
        ("PosterizeOriginal", 0.0, 4),
        ("PosterizeOriginal", 0.8, 7),
        ("PosterizeOriginal", 1.0, 8),
        ("PosterizeOriginal", 1.5, 8),  # timm: 10
    ],
)
def test_posterize_keeps_one_bit_at_least(image, op, level, bits):
    changed = OPS[op](image, level, Coin(0.0), PLAIN)
    dropped = 8 - bits
    expected = np.asarray(image) >> dropped << dropped
    np.testing.assert_array_equal(np.asarray(changed), expected)


@pytest.mark.parametrize("op", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_colour_ops_change_nothing_at_half_level(image, op):
    assert OPS[op](image, 0.5, Coin(0.0), PLAIN).tobytes() == image.tobytes()


def test_geometry_ops_use_fill(image):
    geometry = Geometry((1, 2, 3), "nearest", None)
    pixels = np.asarray(OPS["TranslateX"](image, 1.0, Coin(0.0), geometry))
    shift = round(0.45 * image.width)
    np.testing.assert_array_equal(pixels[:, :-shift], np.asarray(image)[:, shift:])
    assert (pixels[:, -shift:] == (1, 2, 3)).all()


@pytest.mark.parametrize(("op", "axis"), [("TranslateX", 1), ("TranslateY", 0)])
def test_translate_const_is_pixels(image, op, axis):
    geometry = Geometry((0, 0, 0), "nearest", 20)
    pixels = np.moveaxis(np.asarray(OPS[op](image, 0.5, Coin(1.0), geometry)), axis, 0)
    original = np.moveaxis(np.asarray(image), axis, 0)
    np.testing.assert_array_equal(pixels[10:], original[:-10])
    assert (pixels[:10] == 0).all()


# -------------------------------------------------------------------------------------------------
# Policies
# -------------------------------------------------------------------------------------------------
def test_rand_augment_policy_is_parsed():
    policy = read_rand_policy("rand-m9-mstd0.5-inc1")
    assert {layer[1:] for layer in policy.layers} == {(0.5, 9)}
    assert (policy.draws, policy.noise) == (2, Noise(0.5, 10))
    policy = read_rand_policy("rand-p0.3-mmax30-n4-mstd101-m20")
    assert {layer[1:] for layer in policy.layers} == {(0.3, 20)}
    assert (policy.draws, policy.noise) == (4, Noise(math.inf, 30))


def test_rand_augment_defaults_equal_timm():
    policy = read_rand_policy("rand")
    assert {layer[1:] for layer in policy.layers} == {(0.5, 10)}
    assert (policy.draws, policy.noise) == (2, Noise(0, 10))
    assert read_rand_policy("rand-inc0").layers == policy.layers
    assert [layer.op for layer in policy.layers] == [
        layer.op.removesuffix("Increasing") for layer in read_rand_policy("rand-inc1").layers
    ]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "must begin with rand"),
        ("m9-mstd0.5", "must begin with rand"),
        ("rand-x5", "'x5' is none of its parts"),
        ("rand-", "'' is none of its parts"),
        ("rand-M9", "'M9' is none of its parts"),
        ("rand-m9 ", "m needs a whole number, not '9 '"),
        ("rand-m9.5", "m needs a whole number, not '9.5'"),
        ("rand-m1_0", "m needs a whole number, not '1_0'"),
        ("rand-mstd.5", "mstd needs a number, not '.5'"),
        ("rand-mstd1e", "mstd needs a number, not '1e'"),
        ("rand-inc", "inc needs a whole number, not ''"),
        ("rand-m9-m7", "'m7' sets m twice"),
        ("rand-p1.5", "p must be at most 1"),
        ("rand-n0", "n and mmax at least 1"),
        ("rand-t3a", "'t3a' is none of its parts"),
    ],
)
def test_wrong_rand_augment_policy_is_an_error(policy, message):
    with pytest.raises(ConfigError, match="RandAugment: policy") as raised:
        TRANSFORMS.build({"name": "RandAugment", "policy": policy})
    assert message in str(raised.value)
    assert policy in str(raised.value)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "must begin with original or autoaug"),
        ("rand-m9", "must begin with original or autoaug"),
        ("original0", "must begin with original or autoaug"),
        ("original-m9", "'m9' is none of its parts"),
        ("original-mstd", "mstd needs a number, not ''"),
        ("original-mstd1-mstd2", "'mstd2' sets mstd twice"),
    ],
)
def test_wrong_auto_augment_policy_is_an_error(policy, message):
    with pytest.raises(ConfigError, match="AutoAugment: policy") as raised:
        TRANSFORMS.build({"name": "AutoAugment", "policy": policy})
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["RandAugment", "AutoAugment"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("fill", [0, 0, 256]), ("fill", [-1, 0, 0]), ("translate_const", -1)],
)
def test_wrong_fill_or_translate_const_is_an_error(name, option, value):
    policy = {"RandAugment": "rand", "AutoAugment": "original"}[name]
    with pytest.raises(ConfigError, match=option):
        TRANSFORMS.build({"name": name, "policy": policy, option: value})


def test_auto_augment_policies_are_those_of_the_paper():
    """The first and last lines of table 9 of arXiv 1805.09501, and their number."""
    assert len(ORIGINAL) == 25
    assert ORIGINAL[0] == [("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)]
    assert ORIGINAL[17] == [("Sharpness", 0.4, 7), ("Invert", 0.6, 8)]
    assert ORIGINAL[-1] == [("Equalize", 0.8, 8), ("Equalize", 0.6, 3)]


def test_auto_augment_layers_equal_timm():
    """By the digest of timm's table."""
    table = [[list(layer) for layer in pair] for pair in ORIGINAL]
    digest = hashlib.sha256(json.dumps(table).encode()).hexdigest()
    assert digest.startswith("e6b32fadae45177a")


def test_auto_augment_policy_is_parsed():
    assert read_auto_policy("original") == Noise(0, 10)
    assert read_auto_policy("autoaug-mstd0.5") == Noise(0.5, 10)  # MindCV's name


# -------------------------------------------------------------------------------------------------
# Draws
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def calls(monkeypatch):
    """What ops were called with, instead of calling them: [(op, level), ...]."""
    seen = []

    def recorder(name):
        def op(image, level, rng, geometry):
            seen.append((name, level))
            return image

        return op

    monkeypatch.setattr(auto_augment, "OPS", {name: recorder(name) for name in OPS})
    return seen


def assert_share(count: int, total: int, p: float) -> None:
    """`count` of `total` is what draws of probability p give, but for one time in 16,000."""
    assert abs(count / total - p) < 4 * math.sqrt(p * (1 - p) / total), (count / total, p)


@pytest.mark.parametrize(("policy", "n", "p"), [("rand", 2, 0.5), ("rand-n3-p0.2", 3, 0.2)])
def test_drawn_ops_are_applied_with_probability_p(calls, rng, policy, n, p):
    augment, total, numbers = RandAugment(policy=policy), 3000, Counter()
    for _ in range(total):
        before = len(calls)
        augment(None, rng)
        numbers[len(calls) - before] += 1
    for k in range(n + 1):  # the binomial distribution
        assert_share(numbers[k], total, math.comb(n, k) * p**k * (1 - p) ** (n - k))
    assert sum(numbers.values()) == total


def test_ops_are_drawn_uniformly_with_replacement(calls, rng):
    augment, total = RandAugment(policy="rand-n2-p1-inc1"), 6000
    for _ in range(total):
        augment(None, rng)
    names = [name for name, _ in calls]
    for count in Counter(names).values():
        assert_share(count, 2 * total, 1 / 15)
    twice = sum(first == second for first, second in zip(names[::2], names[1::2], strict=True))
    assert_share(twice, total, 1 / 15)


def test_magnitude_noise_is_normal(rng):
    draws = np.array([Noise(0.5, 10).draw(6, rng) for _ in range(8000)])
    assert abs(draws.mean() - 6) < 4 * 0.5 / math.sqrt(8000)
    assert abs(draws.std() / 0.5 - 1) < 4 / math.sqrt(2 * 8000)


def test_magnitudes_are_clipped(rng):
    draws = np.array([Noise(3, 10).draw(9, rng) for _ in range(4000)])
    assert draws.max() == 10
    below = math.erfc((10 - 9) / 3 / math.sqrt(2)) / 2
    assert_share(int((draws == 10).sum()), 4000, below)
    assert min(Noise(3, 10).draw(0, rng) for _ in range(100)) == 0
    assert Noise(0, 10).draw(15, rng) == 10
    assert Noise(0, 20).draw(15, rng) == 15


def test_magnitudes_are_uniform_with_infinite_noise(rng):
    draws = np.sort([Noise(math.inf, 10).draw(8, rng) / 8 for _ in range(4000)])
    steps = np.arange(4001) / 4000
    # Kolmogorov and Smirnov's statistic, passed by one sample in a thousand.
    distance = max(np.abs(draws - steps[:-1]).max(), np.abs(draws - steps[1:]).max())
    assert distance < 1.95 / math.sqrt(4000)


def test_level_is_a_tenth_of_the_magnitude(calls, rng):
    RandAugment(policy="rand-m7-n4-p1")(None, rng)
    assert [level for _, level in calls] == [0.7] * 4


def test_auto_augment_draws_pairs_uniformly(calls, rng):
    augment, total = AutoAugment(policy="original"), 8000
    for _ in range(total):
        augment(None, rng)
    # Ops that stand in the table once: one pair of 25, times p.
    once = {("Sharpness", 0.7): 0.4, ("ShearX", 0.5): 0.6, ("Rotate", 0.3): 0.2}
    counts = Counter(calls)
    for call, p in once.items():
        assert_share(counts[call], total, p / 25)
    assert_share(counts["Contrast", 0.8], total, 2 / 25)  # in two pairs, certain


def test_three_augment_is_one_of_three(image, rng):
    pixels = np.asarray(image)
    solarized = np.where(pixels < 128, pixels, 255 - pixels)
    grey = np.asarray(image.convert("L"))[:, :, None].repeat(3, axis=2)
    softest, strongest = (
        np.asarray(image.filter(ImageFilter.GaussianBlur(radius))).std() for radius in (0.1, 2)
    )
    numbers, total = Counter(), 1200
    for _ in range(total):
        changed = np.asarray(ThreeAugment()(image, rng))
        if (changed == solarized).all():
            numbers["solarize"] += 1
        elif (changed == grey).all():
            numbers["grey"] += 1
        else:
            assert strongest <= changed.std() <= softest
            numbers["blur"] += 1
    for name in ("solarize", "grey", "blur"):
        assert_share(numbers[name], total, 1 / 3)


@pytest.mark.parametrize(
    "transform",
    [
        RandAugment(policy="rand-m9-mstd0.5-inc1"),
        RandAugment(policy="rand-m2-mstd3-n4-p1", interpolation="random", translate_const=9),
        AutoAugment(policy="original-mstd3", fill=[0, 0, 0]),
        ThreeAugment(),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_result_depends_on_the_generator_only(image, transform):
    def result(seed):
        changed = transform(image, np.random.default_rng(seed))
        assert (changed.size, changed.mode) == (image.size, "RGB")
        return changed.tobytes()

    results = [result(seed) for seed in range(60)]
    assert results == [result(seed) for seed in range(60)]
    assert len(set(results)) > 10


def test_policies_that_raise_in_timm_with_pillow_13(image, rng):
    """It asks for 0 bits in them."""
    for transform in (AutoAugment(policy="original"), RandAugment(policy="rand-m10-n5-p1-inc1")):
        for _ in range(150):
            assert transform(image, rng).size == image.size


def test_random_interpolation_is_bilinear_or_bicubic(image):
    rotations = {
        name: OPS["Rotate"](image, 0.5, Coin(0.0), Geometry((0, 0, 0), name, None)).tobytes()
        for name in ("nearest", "bilinear", "bicubic")
    }
    drawn = Counter()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        changed = OPS["Rotate"](image, 0.5, rng, Geometry((0, 0, 0), "random", None)).tobytes()
        drawn[changed] += 1
    assert rotations["nearest"] not in drawn
    # Half of the rotations are the other way.
    assert_share(drawn[rotations["bilinear"]], 400, 1 / 4)
    assert_share(drawn[rotations["bicubic"]], 400, 1 / 4)
    assert len(drawn) == 4
