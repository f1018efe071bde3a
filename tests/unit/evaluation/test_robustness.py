"""Scores on corrupted images: which images are seen, and what is made of the scores."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from passl.data.loader import Loader, build_loader
from passl.data.transforms.corruption import KINDS, SEVERITIES, Corruption
from passl.data.transforms.normalize import Normalize
from passl.errors import ConfigError
from passl.evaluation.robustness import Robustness, check_corruptible, measure, write_robustness

NORMALIZE = {"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}


def loader_of(*transforms, batch_size=7, workers=0, seed=0, rank=0, world=1, **sampler) -> Loader:
    nodes = list(transforms) or [{"name": "Resize", "size": 28}, NORMALIZE]
    section = {
        "dataset": {"name": "Digits", "split": "val", "fraction": 0.05, "transforms": nodes},
        "sampler": {"batch_size": batch_size, **sampler},
        "loader": {"num_workers": workers},
    }
    return build_loader(section, seed, rank, world)


def images_of(loader: Loader) -> dict[int, np.ndarray]:
    return {
        int(index): image
        for images, _, indices in loader.epoch(0)
        for index, image in zip(indices.numpy(), images.numpy(), strict=True)
    }


def seen(kinds=KINDS, severities=SEVERITIES, **options) -> dict[tuple, str]:
    """The SHA-256 of each image that an evaluation reads, by corruption, severity and index."""
    loader, found = loader_of(**options), {}
    names = iter([(kind, severity) for kind in kinds for severity in severities])

    def evaluate() -> float:
        kind, severity = next(names)
        for index, image in images_of(loader).items():
            found[kind, severity, index] = hashlib.sha256(image.tobytes()).hexdigest()
        return 1.0

    measure(loader, evaluate, "top1", 1.0, kinds, severities)
    return found


def test_images_do_not_depend_on_how_they_are_read():
    """Batch size, workers, ranks and the run's seed make no difference."""
    expected = seen()
    assert len(expected) == len(KINDS) * 5 * len(loader_of().dataset)
    assert seen(batch_size=3, seed=9) == expected
    assert seen(rank=1, world=2) | seen(rank=0, world=2) == expected
    # Each call of `epoch` starts workers, so fewer of them.
    some = {"kinds": ["gaussian_noise", "pixelate"], "severities": [5]}
    chosen = {key: value for key, value in expected.items() if key[0] in some["kinds"]}
    assert seen(workers=2, **some) == {k: v for k, v in chosen.items() if k[1] == 5}


def test_images_are_corrupted_in_the_size_of_the_network():
    """After the resize to 28 x 28 and before Normalize; the loader is as before afterwards."""
    loader = loader_of()
    samples, clean, found = loader.samples, images_of(loader), {}

    def evaluate() -> float:
        found.update(images_of(loader))
        return 50.0

    measure(loader, evaluate, "top1", 60.0, ["contrast"], [4])
    assert loader.samples is samples
    assert all((images_of(loader)[index] == image).all() for index, image in clean.items())
    for index, image in found.items():
        small = loader.dataset[index][0].resize((28, 28), Image.Resampling.BICUBIC)
        expected = Corruption(kind="contrast", severity=4)(small, np.random.default_rng(0))
        array = Normalize(mean=[0.5] * 3, std=[0.5] * 3)(expected, np.random.default_rng(0))
        assert (image == array).all()


def test_images_have_different_noise():
    node = {"name": "Resize", "size": 28}
    loader, noises = loader_of(node, NORMALIZE), []
    clean = images_of(loader)

    def evaluate() -> float:
        noises.extend(image - clean[index] for index, image in images_of(loader).items())
        return 1.0

    measure(loader, evaluate, "top1", 1.0, ["gaussian_noise"], [5])
    # Where images are in between, nothing is clipped.
    middle = np.stack([(image > -0.5) & (image < 0.5) for image in clean.values()])
    flat = np.stack(noises)
    for first, second in ((0, 1), (2, 5)):
        both = middle[first] & middle[second]
        values = [flat[index][both] for index in (first, second)]
        assert abs(np.corrcoef(values)[0, 1]) < 5 / np.sqrt(both.sum())


def test_samples_are_restored_after_an_error():
    loader = loader_of()
    before = loader.samples
    with pytest.raises(KeyboardInterrupt):
        measure(loader, lambda: (_ for _ in ()).throw(KeyboardInterrupt), "top1", 1.0)
    assert loader.samples is before


def test_means_and_drops(tmp_path):
    scores = iter([80.0, 60.0, 40.0, 20.0])
    found = measure(
        *(loader_of(), lambda: next(scores), "top1", 90.0),
        *(["pixelate", "contrast"], [1, 5]),
    )
    result = found.to_dict()
    assert (result["clean"], result["mean"]) == (90, 50)
    assert result["relative_drop"] == pytest.approx(100 * 40 / 90)
    assert result["corruptions"]["contrast"] == {
        "mean": 30,
        "relative_drop": pytest.approx(100 * 60 / 90),
        "severities": {"1": 40, "5": 20},
    }
    assert "ImageNet-C" in result["definition"] and "28 x 28" in result["definition"]
    write_robustness(tmp_path / "c.csv", found)
    with (tmp_path / "c.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:2] == ["corruption", "score"]
    assert head[2:-1] == ["severity_1", "severity_5", "mean", "relative_drop"]
    assert [row[0] for row in rows] == ["clean", "pixelate", "contrast", "mean"]
    assert [[float(cell or 0) for cell in row[2:5]] for row in rows] == [
        [0, 0, 90],
        [80, 60, 70],
        [40, 20, 30],
        [60, 40, 50],
    ]
    assert all(row[-1] == result["definition"] for row in rows)


def test_a_clean_score_of_zero_has_no_drop(tmp_path):
    found = Robustness("top1", "of a test", 0.0, {"contrast": {1: 0.0}})
    assert found.to_dict()["relative_drop"] is None
    write_robustness(tmp_path / "c.csv", found)
    assert "contrast,top1,0.0000,0.0000,,of a test" in (tmp_path / "c.csv").read_text()


@pytest.mark.parametrize(
    ("transforms", "sampler", "message"),
    [
        ([{"name": "Resize", "size": 28}], {}, "has no Normalize"),
        (
            [{"name": "Corruption", "kind": "contrast", "severity": 1}, NORMALIZE],
            {},
            "has a Corruption already",
        ),
        ([NORMALIZE], {"shuffle": True}, "shuffle is true"),
    ],
)
def test_data_that_cannot_be_corrupted(transforms, sampler, message):
    with pytest.raises(ConfigError, match=message):
        check_corruptible(loader_of(*transforms, **sampler))
