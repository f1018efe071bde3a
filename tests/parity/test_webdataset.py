"""TarShards against WebDataset, where that is installed: what it writes is read, and its reader
finds the same samples.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from passl.data.datasets.tar_members import _split
from passl.data.datasets.tar_shards import TarShards, expand_braces

webdataset = pytest.importorskip("webdataset")
pytestmark = [
    pytest.mark.parity,
    # Its reader leaves files for the garbage collector to close.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def written(tmp_path):
    """Shards by WebDataset's writer: the arguments of TarShards."""
    (tmp_path / "classes.txt").write_text("\n".join("abcdefg"))
    rng = np.random.default_rng(0)
    pattern = str(tmp_path / "train-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=8, verbose=0) as sink:
        for index in range(30):
            image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
            sink.write(
                {
                    "__key__": f"{'deep/' * (index % 2)}sample{index:04d}",
                    "png": image,
                    "cls": int(rng.integers(7)),
                    "txt": "a caption",
                    "json": {"label": int(rng.integers(7))},
                }
            )
    return {
        "shards": str(tmp_path / "train-{000..003}.tar"),
        "class_file": str(tmp_path / "classes.txt"),
    }


@pytest.mark.parametrize("label_key", ["cls", "json"])
def test_the_samples_of_its_reader(written, label_key):
    dataset = TarShards(**written, label_key=label_key)
    theirs = list(webdataset.WebDataset(written["shards"], shardshuffle=False))
    assert len(dataset) == len(theirs) == 30
    decoded = list(webdataset.WebDataset(written["shards"], shardshuffle=False).decode())
    for index, (raw, sample) in enumerate(zip(theirs, decoded, strict=True)):
        image, label = dataset[index]
        expected = np.asarray(Image.open(io.BytesIO(raw["png"])))
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert label == (sample["cls"] if label_key == "cls" else sample["json"]["label"])
        assert dataset.members[index] == f"{raw['__key__']}.png"


@pytest.mark.parametrize(
    "name", ["a.png", "a.seg.png", "x/a.seg.PNG", "x.y/a.b.c", "x/y.z/a.jpg", "a"]
)
def test_its_keys(name):
    from webdataset.tariterators import base_plus_ext

    key, ending = base_plus_ext(name)
    # It gives nothing for a name without an ending, where we give an ending that nobody asks for.
    assert _split(name) == ((key, ending.lower()) if key else (name, ""))


@pytest.mark.parametrize(
    "pattern", ["a", "a{000..012}.tar", "{a,b}-{8..11}", "{a,}.tar", "x{1..3}y{01..02}z{p,q}"]
)
def test_its_braces(pattern):
    from braceexpand import braceexpand

    assert expand_braces(pattern) == list(braceexpand(pattern))
