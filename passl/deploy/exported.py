"""An exported folder: its files, its description, and the check that it is complete.

model.json, model.pdiparams    Paddle's graph and weights
model.onnx                     the same as ONNX, if it was asked for
model.int8.onnx                quantized to int8, if it was asked for
passl.json                     the description, with the hashes of the others

An engine needs the description and its own files; others may be left out of a deployment. Reading
needs neither the config system nor pydantic: a folder runs with few packages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from passl import __version__
from passl.data.datasets.images import CHANNELS, check_mode
from passl.deploy.preprocess import Preprocessing
from passl.errors import CheckpointError, ConfigError
from passl.evaluation.thresholds import read_thresholds
from passl.io.files import sha256_of, to_json, write_text
from passl.utils.imports import import_stored

FORMAT = 1
DESCRIPTION = "passl.json"
GRAPH, WEIGHTS, ONNX = "model.json", "model.pdiparams", "model.onnx"
ONNX_INT8 = "model.int8.onnx"
_OPTIONS = {ONNX: "--onnx", ONNX_INT8: "--int8 --calibrate DATA"}
"""What `passl export` writes a file for."""
Task = Literal["classification", "multilabel", "segmentation"]


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
        int8: of a folder with `model.int8.onnx`: how it was quantized, and its scores; see
            `passl.deploy.quantize.quantize`.
    """

    model: Mapping[str, Any]
    transforms: Sequence[Mapping[str, Any]]  # each with its `name`
    input: Sequence[int]
    classes: Sequence[str]
    numerics: Mapping[str, Any]
    parameters: int
    weights: str
    exif_turn: bool
    # Folders of passl 0.1 may lack these.
    mode: str = "RGB"
    background: Sequence[int] | None = None
    min_side: int | None = None
    imports: Sequence[str] = field(default_factory=list)
    task: Task = "classification"
    thresholds: Sequence[float] | None = None
    int8: Mapping[str, Any] | None = None


def write_description(folder: Path, description: Description) -> None:
    """Describe the folder's files as they are now."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    head = {"format": FORMAT, "passl": __version__}
    text = to_json({**head, **asdict(description), "files": files}, indent=1)
    write_text(folder / DESCRIPTION, text + "\n")


def read_folder(
    folder: Path, needed: Sequence[str] | None = None, allow_imports: bool = False
) -> Description:
    """Read the description of an exported folder, and compare its files with their hashes.

    Args:
        needed: the files that are used, which alone are looked at; null for all.
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
    _check_values(path, data, allow_imports)
    needed = list(data["files"]) if needed is None else needed
    missing = [name for name in needed if name not in data["files"]]
    if missing:
        option = _OPTIONS.get(missing[0])
        raise ConfigError(
            f"{folder}: has no {missing[0]}; export again" + (f" with {option}" if option else "")
        )
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; export again")
        if sha256_of(folder / name) != data["files"][name]:
            raise CheckpointError(
                f"{folder / name}: not the file that was exported, its sha256 differs from "
                f"{DESCRIPTION}; export again"
            )
    known = {each.name for each in fields(Description)}
    return Description(**{key: value for key, value in data.items() if key in known})


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


def _check_values(path: Path, data: Mapping[str, Any], allow_imports: bool) -> None:
    """Check the values of a description. Other keys are ignored."""
    optional = {each.name for each in fields(Description) if not _is_required(each)}
    for key, rule in _RULES.items():
        is_right = rule(data[key]) if key in data else key in optional
        if not is_right:
            raise CheckpointError(f"{path}: damaged: {key} is missing or wrong; export again")
    mode = data.get("mode", "RGB")
    try:
        check_mode(mode, data.get("background"))
    except ValueError:
        raise CheckpointError(f"{path}: damaged: mode is missing or wrong; export again") from None
    thresholds = data.get("thresholds")
    if thresholds is not None and len(thresholds) != len(data["classes"]):
        raise CheckpointError(f"{path}: damaged: thresholds is missing or wrong; export again")
    import_stored(data.get("imports", []), path, allow_imports)
    preprocessing = Preprocessing(data["transforms"])
    try:
        preprocessing.check(mode, data["input"])
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: transforms: {error}; export again") from None


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _is_whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(of, value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _is_probability(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


_RULES: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_mapping,
    "transforms": lambda value: _is_list(value, _is_node),
    "input": lambda value: _is_list(value, lambda n: _is_whole(n, 1)) and len(value) == 3,
    "classes": lambda value: _is_list(value, _is_text),
    "numerics": _is_mapping,
    "parameters": _is_whole,
    "weights": _is_text,
    "exif_turn": lambda value: isinstance(value, bool),
    "mode": lambda value: _is_text(value) and value in CHANNELS,
    "background": lambda value: value is None or _is_list(value, _is_whole),
    "min_side": lambda value: value is None or _is_whole(value, 1),
    "imports": lambda value: _is_list(value, _is_text),
    "task": lambda value: value in get_args(Task),
    "thresholds": lambda value: value is None or _is_list(value, _is_probability),
    "int8": lambda value: value is None or _is_mapping(value),
    "files": lambda value: (
        _is_mapping(value) and all("/" not in k and _is_text(v) for k, v in value.items())
    ),
}
"""What each value must be."""
