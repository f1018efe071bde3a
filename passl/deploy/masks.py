"""Masks for image files, by a segmentation network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from passl.deploy.predictor import Classifier
from passl.errors import ConfigError, RunError
from passl.io.files import obstacles
from passl.io.masks import write_mask


class FileMask(NamedTuple):
    """The mask of an image file.

    Args:
        name: the file, as it was named.
        path: the mask that was written; null for a file that cannot be read.
        shares: labels and their part of the pixels, largest first.
        error: why the file cannot be read, in one line.
    """

    name: str
    path: Path | None
    shares: Sequence[tuple[int, float]]
    error: str | None


def mask_files(files: Sequence[str], folder: Path) -> list[Path]:
    """The masks that will be written: FOLDER/NAME.png for each image NAME.jpg. Existing files are
    never overwritten.

    Raises:
        ConfigError: a mask or its folder cannot be written, or two images have one name.
    """
    if not folder.is_dir():
        problems = [f"--masks {folder}: {rule}" for rule in obstacles(folder)]
        if problems:
            raise ConfigError(*problems)
    masks: dict[Path, str] = {}
    for file in files:
        path = folder / f"{Path(file).stem}.png"
        if path in masks:
            raise ConfigError(
                f"--masks {folder}: {masks[path]} and {file} have one name, and so would their "
                "masks; write them into two folders"
            )
        if path.exists():
            raise ConfigError(f"--masks {path}: exists already; choose another folder")
        masks[path] = file
    return list(masks)


def predict_masks(
    classifier: Classifier, files: Sequence[str], masks: Sequence[Path]
) -> Iterator[FileMask]:
    """Predict and write the masks of image files. A file that cannot be read is reported.

    Args:
        masks: of `mask_files`; their folder is created.
    """
    masks[0].parent.mkdir(exist_ok=True)
    for file, path in zip(files, masks, strict=True):
        try:
            labels = classifier.mask(file)
        except RunError as error:
            yield FileMask(file, None, (), str(error))
            continue
        write_mask(path, labels)
        counts = np.bincount(labels.ravel())
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
        yield FileMask(file, path, [(k, counts[k] / labels.size) for k in order], None)
