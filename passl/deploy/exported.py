"""An exported folder: its files, its description, and the check that it is complete.

model.json, model.pdiparams    Paddle's graph and weights
model.onnx                     the same as ONNX, if it was asked for
passl.json                     the description, with the hashes of the others
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from passl import __version__
from passl.data import TRANSFORMS
from passl.data.datasets.images import check_mode
from passl.errors import CheckpointError, ConfigError
from passl.evaluation.thresholds import read_thresholds
from passl.io.files import sha256_of, to_json, write_text
from passl.utils.imports import import_stored
from passl.utils.types import Probability

FORMAT = 1
DESCRIPTION = "passl.json"
GRAPH, WEIGHTS, ONNX = "model.json", "model.pdiparams", "model.onnx"


@dataclass(frozen=True)
class Description:
    """What a user of a network must know.

    Args:
        model: `architecture` and `head`, the nodes of a config.
        transforms: a config's list that turns an image into the input.
        input: channels, height and width.
        classes: names of the labels.
        numerics: the backbone's options that the weights need.
        parameters: number of trained values.
        weights: where they come from.
        exif_turn: whether images are turned as their EXIF orientation says.
        mode: that images are converted to, see `passl.data.datasets.images.convert_image`.
        background: red, green and blue behind transparent pixels; null for none.
        min_side: JPEG files are decoded at a reduced size whose sides both keep this many pixels;
            null for their full size.
        imports: modules that register transforms which are not passl's own.
        task: of the head, see `passl.data.datasets.base.ImageDataset`.
        thresholds: of a multi-label network: the probability above which each label is predicted;
            null for 0.5.
    """

    model: Mapping[str, Any]
    transforms: Sequence[Mapping[str, Any]]  # each with its `name`
    input: Annotated[Sequence[PositiveInt], Field(min_length=3, max_length=3)]
    classes: Sequence[str]
    numerics: Mapping[str, Any]
    parameters: int
    weights: str
    exif_turn: bool
    # Folders of passl 0.1 may lack these.
    mode: str = "RGB"
    background: Sequence[int] | None = None
    min_side: PositiveInt | None = None
    imports: Sequence[str] = field(default_factory=list)
    task: Literal["classification", "multilabel", "segmentation"] = "classification"
    thresholds: Sequence[Probability] | None = None


def write_description(folder: Path, description: Description) -> None:
    """Describe the folder's files as they are now."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    head = {"format": FORMAT, "passl": __version__}
    text = to_json({**head, **asdict(description), "files": files}, indent=1)
    write_text(folder / DESCRIPTION, text + "\n")


def read_folder(
    folder: Path, needed: Sequence[str] = (), allow_imports: bool = False
) -> Description:
    """Read the description of an exported folder, and compare every file with its hash.

    Args:
        needed: files that must be among them.
        allow_imports: whether modules that register its transforms may be imported, which runs
            their code.

    Raises:
        ConfigError: it is no exported folder, has another format, or lacks a needed file.
        CheckpointError: a file is missing or damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ConfigError(
            f"{folder}: not an exported folder, it has no {DESCRIPTION}; make one with "
            "`passl export` (tools/export.py)"
        )
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
        version = data["format"]
    except (OSError, ValueError, TypeError, KeyError):
        raise CheckpointError(f"{path}: damaged, it cannot be read; export again") from None
    if version != FORMAT:
        raise ConfigError(
            f"{path}: format {version!r}, of passl {data.get('passl')}; this passl {__version__} "
            f"reads format {FORMAT}: export again, or use that version"
        )
    stored = _checked(path, text, allow_imports)
    for name, digest in stored.files.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; export again")
        if sha256_of(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name}: not the file that was exported, its sha256 differs from "
                f"{DESCRIPTION}; export again"
            )
    missing = [name for name in needed if name not in stored.files]
    if missing:
        raise ConfigError(
            f"{folder}: has no {missing[0]}; export again"
            + (" with --onnx" if missing[0] == ONNX else "")
        )
    return Description(**{each.name: getattr(stored, each.name) for each in fields(Description)})


def with_thresholds(description: Description, option: str | None) -> Description:
    """The description with the thresholds of the option --thresholds.

    Args:
        option: see `passl.evaluation.thresholds.read_thresholds`; null keeps those that it has.

    Raises:
        ConfigError: they are wrong, or the network has no thresholds.
    """
    if option is None:
        return description
    if description.task != "multilabel":
        raise ConfigError(
            f"--thresholds {option}: is for multi-label networks; this one is for "
            f"{description.task}: leave it out"
        )
    return replace(description, thresholds=read_thresholds(option, description.classes))


@dataclass(frozen=True, kw_only=True)
class _Stored(Description):
    """A description as its file has it, with the SHA-256 of each file. Other keys are ignored."""

    files: Mapping[Annotated[str, Field(pattern=r"^[^/]+$")], str]


def _checked(path: Path, text: str, allow_imports: bool) -> _Stored:
    try:
        stored = TypeAdapter(_Stored).validate_json(text, strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]["loc"][0]
        raise CheckpointError(
            f"{path}: damaged: {wrong} is missing or wrong; export again"
        ) from None
    try:
        check_mode(stored.mode, stored.background)
    except ValueError:
        raise CheckpointError(f"{path}: damaged: mode is missing or wrong; export again") from None
    if stored.thresholds is not None and len(stored.thresholds) != len(stored.classes):
        raise CheckpointError(f"{path}: damaged: thresholds is missing or wrong; export again")
    import_stored(stored.imports, path, allow_imports)
    for node in stored.transforms:
        TRANSFORMS.build(node)
    return stored
