"""Predictions for many image files: finding the files, and writing the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passl.data.datasets.class_file import read_lines
from passl.data.datasets.walk import SUFFIXES, walk_images, warn_unusable
from passl.deploy.inputs import check_several
from passl.deploy.predictor import Classifier, Prediction
from passl.errors import ConfigError, RunError
from passl.evaluation.predictions import BEST


@dataclass(frozen=True)
class FilePredictions:
    """The predictions for one image file.

    Args:
        name: the file, as it was named.
        best: the best predictions, best first; none for a file that cannot be read.
        error: why it cannot be read, in one line.
    """

    name: str
    best: Sequence[Prediction]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data: the name with the predictions or with the error."""
        if self.error is not None:
            return {"name": self.name, "error": self.error}
        best = [{**asdict(each), "probability": round(each.probability, 6)} for each in self.best]
        return {"name": self.name, "best": best}


def find_images(arguments: Sequence[str]) -> list[str]:
    """The image files that arguments name, in order.

    Args:
        arguments: files; folders, for every image below them, sorted, with links followed; and
            `@LIST`, a text file that names one file per line.

    Raises:
        ConfigError: one of them does not exist, or there is no image.
    """
    found: list[str] = []
    problems = []
    for argument in arguments:
        if argument.startswith("@"):
            found += read_lines(argument[1:])
        elif Path(argument).is_dir():
            folders = list(walk_images(argument))
            inside = sorted(image for folder in folders for image in folder.images)
            warn_unusable(argument, [path for folder in folders for path in folder.unusable])
            found += inside
            if not inside:
                problems.append(f"{argument}: the folder has no image ({', '.join(SUFFIXES)})")
        elif Path(argument).exists():
            found.append(argument)
        else:
            problems.append(f"{argument}: there is no such image or folder")
    if not problems and not found:
        problems.append("no image is named")
    if problems:
        raise ConfigError(*problems)
    return found


def predict_files(
    classifier: Classifier, files: Sequence[str], k: int | None, batch_size: int
) -> Iterator[FilePredictions]:
    """The predictions for each file, in order. A file that cannot be read is reported and left out
    of its batch.

    Args:
        k: the best predictions that are returned; null for 5, or for the predicted labels of a
            multi-label network.

    Raises:
        ConfigError: the batch size or k is below 1.
        RunError: a batch does not fit into memory.
    """
    classifier.check_batch(batch_size)
    check_several(files)
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        images, errors = {}, {}
        for file in batch:
            try:
                images[file] = classifier.prepare(file)
            except RunError as error:
                errors[file] = str(error)
        best: dict[str, Sequence[Prediction]] = {}
        if images:
            rows = classifier.probabilities(list(images.values()))
            predicted = [classifier.best(row, k or BEST) for row in rows]
            if k is None and classifier.description.task == "multilabel":
                predicted = [classifier.above(row) for row in rows]
            best = dict(zip(images, predicted, strict=True))
        for file in batch:
            yield FilePredictions(file, best.get(file, ()), errors.get(file))
