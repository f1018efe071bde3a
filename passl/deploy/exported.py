"""An exported folder: which files it has, what its description says, and whether it is whole.

model.json, model.pdiparams    Paddle's graph and weights
model.onnx                     the same as ONNX, if it was asked for
passl.json                     the description, with the hashes of the others
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from passl import __version__
from passl.data import TRANSFORMS
from passl.data.datasets.images import check_mode
from passl.errors import CheckpointError, ConfigError
from passl.io.files import sha256_of, to_json, write_text

FORMAT = 1
DESCRIPTION = "passl.json"
GRAPH, WEIGHTS, ONNX = "model.json", "model.pdiparams", "model.onnx"


@dataclass(frozen=True)
class Description:
    """What a user of a network must know.

    Args:
        model: `architecture` and `head`, the nodes of a config.
        transforms: a config's list that makes a picture into the input.
        input: channels, height and width.
        classes: names of the labels.
        numerics: what the weights wanted of the backbone's constructor.
        parameters: how many numbers were trained.
        weights: where they come from.
        exif_turn: whether pictures are turned as their EXIF orientation says.
        mode: that pictures are converted to, see `passl.data.datasets.images.convert_image`.
        background: red, green and blue of what lies behind transparent pixels; null for none.
        min_side: JPEG files are read at a part of their size, whose sides both keep this many
            pixels; null for their whole size.
    """

    model: Mapping[str, Any]
    transforms: Sequence[Mapping[str, Any]]
    input: Sequence[int]
    classes: Sequence[str]
    numerics: Mapping[str, Any]
    parameters: int
    weights: str
    exif_turn: bool
    # What folders of passl 0.1 do not have.
    mode: str = "RGB"
    background: Sequence[int] | None = None
    min_side: int | None = None


def write_description(folder: Path, description: Description) -> None:
    """Describe the folder's files as they are now."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    head = {"format": FORMAT, "passl": __version__}
    text = to_json({**head, **asdict(description), "files": files}, indent=1)
    write_text(folder / DESCRIPTION, text + "\n")


def read_folder(folder: Path, needed: Sequence[str] = ()) -> Description:
    """The description of an exported folder, after every file has been compared with its hash.

    Args:
        needed: files that must be among them.

    Raises:
        ConfigError: it is no exported folder, of a format that is not known here, or has not what
            is needed.
        CheckpointError: a file is missing or damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ConfigError(
            f"{folder}: not an exported folder, it has no {DESCRIPTION}; make one with "
            "tools/export.py"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["format"]
    except (OSError, ValueError, TypeError, KeyError):
        raise CheckpointError(f"{path}: damaged, it cannot be read; export again") from None
    if version != FORMAT:
        raise ConfigError(
            f"{path}: format {version!r}, of passl {data.get('passl')}; this passl {__version__} "
            f"reads format {FORMAT}: export again, or use that version"
        )
    description, files = _checked(path, data)
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; export again")
        if sha256_of(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name}: not the file that was exported, its sha256 differs from "
                f"{DESCRIPTION}; export again"
            )
    missing = [name for name in needed if name not in files]
    if missing:
        raise ConfigError(
            f"{folder}: has no {missing[0]}; export again"
            + (" with --onnx" if missing[0] == ONNX else "")
        )
    return description


def _checked(path: Path, data: Mapping[str, Any]) -> tuple[Description, dict[str, str]]:
    names = [field.name for field in fields(Description)]
    optional = [field.name for field in fields(Description) if field.default is not MISSING]
    files = data.get("files")
    sizes, classes, transforms = (data.get(key) for key in ("input", "classes", "transforms"))
    min_side = data.get("min_side")
    right = {
        "files": isinstance(files, dict)
        and all(Path(n).name == n and isinstance(h, str) for n, h in files.items()),
        "input": isinstance(sizes, list)
        and len(sizes) == 3
        and all(type(size) is int and size > 0 for size in sizes),
        "classes": isinstance(classes, list) and all(isinstance(name, str) for name in classes),
        "exif_turn": isinstance(data.get("exif_turn"), bool),
        "min_side": min_side is None or (type(min_side) is int and min_side > 0),
        "transforms": isinstance(transforms, list)
        and all(isinstance(n, dict) and isinstance(n.get("name"), str) for n in transforms),
        "mode": _is_mode(data.get("mode", "RGB"), data.get("background")),
    }
    wrong = [name for name in names if name not in data and name not in optional]
    wrong += [name for name, is_right in right.items() if not is_right]
    if wrong:
        raise CheckpointError(f"{path}: damaged: {wrong[0]} is missing or wrong; export again")
    for node in transforms:
        TRANSFORMS.build(node)
    return Description(**{name: data[name] for name in names if name in data}), files


def _is_mode(mode: Any, background: Any) -> bool:
    try:
        check_mode(mode, background)
    except (ValueError, TypeError):
        return False
    return True


def image_bytes(description: Description) -> int:
    """Bytes of one input."""
    return 4 * math.prod(description.input)
