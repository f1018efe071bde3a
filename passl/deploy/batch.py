"""Many pictures: which ones, and what was guessed for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passl.data.datasets.class_file import read_lines
from passl.data.datasets.walk import SUFFIXES, walk_images, warn_unusable
from passl.deploy.predictor import Classifier, Guess, check_several
from passl.errors import ConfigError, RunError


@dataclass(frozen=True)
class Predicted:
    """A picture and what it is.

    Args:
        name: its file, as it was named.
        best: the best guesses, best first; none for a picture that cannot be read.
        error: why it cannot be read, in one line.
    """

    name: str
    best: Sequence[Guess]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data: its name with its guesses, or with its error."""
        if self.error is not None:
            return {"name": self.name, "error": self.error}
        return {"name": self.name, "best": [asdict(guess) for guess in self.best]}


def find_pictures(arguments: Sequence[str]) -> list[str]:
    """The files that are meant, in order.

    Args:
        arguments: files; folders, for every picture below them, sorted, with links followed; and
            `@LIST`, a text file that names one file a line.

    Raises:
        ConfigError: one of them does not exist, or there is no picture.
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
                problems.append(f"{argument}: the folder has no picture ({', '.join(SUFFIXES)})")
        elif Path(argument).exists():
            found.append(argument)
        else:
            problems.append(f"{argument}: there is no such picture or folder")
    if not problems and not found:
        problems.append("no picture is named")
    if problems:
        raise ConfigError(*problems)
    return found


def predict_files(
    classifier: Classifier, files: Sequence[str], k: int, batch_size: int
) -> Iterator[Predicted]:
    """The k best guesses for each file, in order. A file that cannot be read is told, and left out
    of its batch.

    Raises:
        ConfigError: there is no such batch size, or k is below 1.
        RunError: a batch does not fit into memory.
    """
    classifier.check_batch(batch_size)
    check_several(files)
    for start in range(0, len(files), batch_size):
        images, errors = {}, {}
        for file in files[start : start + batch_size]:
            try:
                images[file] = classifier.prepare(file)
            except RunError as error:
                errors[file] = str(error)
        rows = classifier.probabilities(list(images.values())) if images else []
        best = {file: classifier.best(row, k) for file, row in zip(images, rows, strict=True)}
        for file in files[start : start + batch_size]:
            yield Predicted(file, best.get(file, ()), errors.get(file))
