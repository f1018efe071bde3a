"""Images with masks and boxes for the tests: cut-outs of Debian's package tuxpaint-stamps-default
(GPL, so they are not part of this repository), pasted on crops of scikit-learn's two photographs
and on color fields, both with grain. The alpha channel gives the mask, and the mask the box.

The last fifth of the stamps, and the right third of the photographs, are in the validation set
only.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

STAMPS = Path("/usr/share/tuxpaint/stamps")
KINDS = ("animals", "clothes", "food", "household", "plants", "sports", "vehicles")
"""Folders with objects; the others have letters, signs, landscapes and drawings."""
SIZE = 64
"""Side of an image in pixels."""


def load_stamps() -> list[Image.Image]:
    """The cut-outs in an order that mixes their kinds, without their transparent margins."""
    stamps = []
    for path in sorted(path for kind in KINDS for path in (STAMPS / kind).rglob("*.png")):
        with Image.open(path) as image:
            stamp = image.convert("RGBA")
        box = stamp.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()
        if box is None:
            continue
        stamp = stamp.crop(box)
        opaque = (np.asarray(stamp.getchannel("A")) > 127).mean()
        # Without transparency it is a photograph, and thin lines vanish when they shrink.
        if 0.4 < opaque < 0.97 and max(stamp.size) < 3 * min(stamp.size):
            stamp.thumbnail((SIZE, SIZE))
            stamps.append(stamp)
    order = np.random.default_rng(0).permutation(len(stamps))
    return [stamps[index] for index in order]


def background(rng: np.random.Generator, photographs: list[np.ndarray]) -> Image.Image:
    """A crop of a photograph, or a field of random colors, with grain, which objects do not have:
    a network that starts from random weights learns to tell them apart in a few hundred steps.
    """
    if rng.random() < 0.5:
        photograph = photographs[rng.integers(len(photographs))]
        side = int(rng.integers(SIZE, 2 * SIZE))
        top = rng.integers(photograph.shape[0] - side + 1)
        left = rng.integers(photograph.shape[1] - side + 1)
        image = Image.fromarray(photograph[top : top + side, left : left + side])
    else:
        cells = int(rng.choice([2, 8, 32]))
        colors = rng.normal(rng.uniform(0, 255, 3), rng.uniform(10, 60), (cells, cells, 3))
        image = Image.fromarray(colors.clip(0, 255).astype(np.uint8))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(12, 25), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def compose(
    rng: np.random.Generator, stamps: list[Image.Image], photographs: list[np.ndarray]
) -> tuple[Image.Image, np.ndarray, list[list[int]]]:
    """An image with one or two objects, its mask [SIZE, SIZE] and their boxes [x, y, w, h]."""
    image = background(rng, photographs)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    boxes: list[list[int]] = []
    for _ in range(rng.integers(1, 3)):
        stamp = stamps[rng.integers(len(stamps))]
        scale = rng.uniform(0.45, 0.8) * SIZE / max(stamp.size)
        stamp = stamp.resize([max(8, round(side * scale)) for side in stamp.size])
        if rng.random() < 0.5:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        w, h = stamp.size
        x, y = int(rng.integers(SIZE - w + 1)), int(rng.integers(SIZE - h + 1))
        if mask[y : y + h, x : x + w].any():
            continue  # objects do not overlap
        image.paste(stamp, (x, y), stamp)
        mask[y : y + h, x : x + w] |= np.asarray(stamp.getchannel("A")) > 127
        rows, columns = np.nonzero(mask[y : y + h, x : x + w])
        left, top = int(columns.min()), int(rows.min())
        boxes.append([x + left, y + top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top])
    return image, mask, boxes


def write_split(
    folder: Path,
    split: str,
    count: int,
    seed: int,
    stamps: list[Image.Image],
    photographs: list[np.ndarray],
) -> None:
    """Write images, masks, the list that PaddleSeg reads and the annotations that PaddleDetection
    reads.
    """
    rng = np.random.default_rng(seed)
    images, annotations, lines = [], [], []
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, mask, boxes = compose(rng, stamps, photographs)
        name = f"{split}_{index:05d}.png"
        image.save(folder / "images" / name)
        Image.fromarray(mask).save(folder / "masks" / name)
        lines.append(f"images/{name} masks/{name}\n")
        images.append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
        for box in boxes:
            row = {"id": len(annotations) + 1, "image_id": index, "category_id": 1, "bbox": box}
            annotations.append({**row, "area": box[2] * box[3], "iscrowd": 0})
    (folder / f"{split}.txt").write_text("".join(lines))
    categories = [{"id": 1, "name": "object"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(coco))


def write_dataset(folder: Path, train: int = 1600, val: int = 100) -> Path:
    """The dataset of the tests, in `folder`."""
    from sklearn.datasets import load_sample_images

    stamps = load_stamps()
    photographs = [np.asarray(photograph) for photograph in load_sample_images().images]
    cut = len(stamps) * 4 // 5
    parts = [
        [p[:, : p.shape[1] * 2 // 3] for p in photographs],
        [p[:, p.shape[1] * 2 // 3 :] for p in photographs],
    ]
    write_split(folder, "train", train, 1, stamps[:cut], parts[0])
    write_split(folder, "val", val, 2, stamps[cut:], parts[1])
    return folder
